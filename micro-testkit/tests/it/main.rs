//! Shows that each suite function passes on an honest adapter and fails on one that breaks its
//! promise.

mod broker;
mod codec;
mod contracts;
mod database;
mod registry;
mod selector;
