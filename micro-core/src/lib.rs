//! The ports of micro-rs, their in-memory adapters, and all logic that needs no driver.
//!
//! A port is a small dyn-safe trait with a written contract; each bullet of a `# Contract` is a
//! conformance test of that name in `micro-testkit`. This crate opens no socket and names no
//! driver, so everything in it runs in a doctest.

pub mod app;
pub mod barrier;
pub mod batch;
pub mod branch;
pub mod broker;
pub mod codec;
pub mod consume;
pub mod error;
pub mod event;
pub mod flow;
pub mod health;
pub mod inbox;
pub mod metadata;
pub mod millis;
pub mod outbox;
pub mod parked;
pub mod registry;
pub mod saga;
pub mod selector;
mod share;
pub mod trace;
pub mod transaction;

pub use error::{Error, ErrorKind, Result};
pub use health::{Health, HealthStatus};
pub use metadata::Metadata;
pub use trace::TraceContext;
pub use transaction::{TransactionManager, TransactionManagerExt, Tx};
