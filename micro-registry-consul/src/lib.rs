//! The registry port on Consul.
