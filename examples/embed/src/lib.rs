//! An ordinary axum and sqlx service that takes just the outbox and the broker of micro-rs: no
//! `App`; main function, runtime, logger, signals, pool and migrations are its own.
//!
//! What micro-rs adds is `events.rs`, twenty lines, and the lines of `shop.rs` and `main.rs` that are
//! marked, ten more; a test counts them. `broker.rs` chooses between brokers by URL, which a service
//! that knows its broker need not do, and `follower.rs` stands for another service.

pub mod broker;
pub mod events;
pub mod follower;
pub mod shop;
