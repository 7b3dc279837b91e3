//! The integration tests of micro-redis, in one binary, on real servers.

mod server;

mod barrier;
mod cluster;
mod connect;
mod go_client;
mod reconnect;
#[cfg(feature = "tls")]
mod tls;
