//! The order service on each database, called over gRPC on loopback, with the product service beside it.

mod calls;
mod chain;
#[path = "../../../product/tests/it/databases.rs"]
mod databases;
mod events;
mod field_numbers;
#[cfg(feature = "tx-mysql")]
mod health;
#[cfg(all(feature = "broker-kafka", feature = "registry-consul", feature = "tx-mysql"))]
mod process;
#[cfg(all(feature = "broker-kafka", feature = "registry-consul", feature = "tx-mysql"))]
mod process_document;
mod program;
mod shop;
mod sigterm;
mod wires;
