//! The integration tests of micro-core, in one binary.

mod app;
mod barrier;
mod broker;
mod codec;
mod consumer;
mod database;
mod does_not_compile;
mod inbox_service;
mod panics;
mod probe;
mod registry;
mod relay;
mod run_is_spawnable;
mod saga;
mod saga_model;
mod selector;
mod world;
