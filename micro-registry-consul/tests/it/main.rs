//! The integration tests of micro-registry-consul, in one binary, on real agents.

mod agent;
mod proxy;

mod access;
mod checks;
mod conformance;
mod connect;
mod kv;
mod restarts;
mod stock;
#[cfg(feature = "tls")]
mod tls;
mod watch;
