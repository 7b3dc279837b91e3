//! The integration tests of micro-registry-consul, in one binary, on real agents.

mod agent;
mod proxy;

mod access;
mod bytes;
mod checks;
mod conformance;
mod connect;
mod kv;
mod restarts;
mod stock;
mod strange;
#[cfg(feature = "tls")]
mod tls;
mod watch;
