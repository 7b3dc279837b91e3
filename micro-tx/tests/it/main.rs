//! The integration tests of micro-tx, in one binary.

mod cancel;
mod conformance;
mod database;
mod inbox_service;
mod server;
mod sqlite;
