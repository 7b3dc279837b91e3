//! The integration tests of micro-etcd, in one binary, on real servers.

mod server;

mod auth;
mod conformance;
mod connect;
mod keys;
mod leases;
#[cfg(feature = "tls")]
mod tls;
mod watch;
