//! The order service on SQLite, called over gRPC on loopback, with the product service beside it.

mod calls;
mod chain;
mod events;
mod program;
mod shop;
mod sigterm;
