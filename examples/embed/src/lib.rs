//! An ordinary axum and sqlx service that takes just the outbox and the broker of micro-rs: no
//! `App`; main function, runtime, logger, signals, pool and migrations are its own.
//!
//! `events.rs` has all of the integration.

pub mod broker;
pub mod events;
pub mod shop;
