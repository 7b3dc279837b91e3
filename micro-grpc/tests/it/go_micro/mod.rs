//! go-micro v4 on the other side: recorded calls, and its real server and client.

mod client;
mod content_types;
mod greeter;
mod http1;
mod keepalive;
mod mucp;
mod mucp_client;
mod mucp_vectors;
mod never_panics;
mod order;
mod peer;
pub(crate) mod protos;
pub(crate) mod raw;
mod reflection;
mod server;
mod streams;
mod vectors;
