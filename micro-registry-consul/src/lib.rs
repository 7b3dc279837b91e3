//! The registry port on Consul.
//!
//! [`ConsulRegistry`] speaks the HTTP API of one Consul agent, 1.7 or newer, usually the one on the
//! same host: it registers instances there with a check, keeps the check passing, registers again
//! what the agent has forgotten, and watches services by blocking queries. [`ConsulKv`] reads
//! values of Consul's key/value store.
//!
//! ```no_run
//! use micro_core::registry::{Instance, RegisterOptions, Registry};
//! use micro_registry_consul::{ConsulConfig, ConsulRegistry};
//!
//! # async fn run() -> micro_core::Result<()> {
//! let registry = ConsulRegistry::connect(ConsulConfig::from_url("consul://127.0.0.1:8500?dc=dc1")?).await?;
//! let instance = Instance::new("greeter", "10.0.0.7:9000").with_version("1.2.0");
//! let registration = registry.register(instance, RegisterOptions::default()).await?;
//! // … the agent's UI and `consul catalog services` list the greeter …
//! registration.close().await
//! # }
//! ```
//!
//! # What a stock Consul shows
//!
//! A service of the instance's name and id, its address and port, the metadata as the service's
//! meta, and tags by which go-micro's programs read it: `t-…` for each pair of metadata, `e-…` for each
//! endpoint, `v-…` for the version, each the hex of a zlib stream. Consul takes in a meta at most 64
//! names of letters, digits, `-` and `_`, and values up to 512 bytes: what is beyond that stands in the
//! tags only. Instances that somebody else registered are read alike, the plain tags of older go-micro
//! programs (`t=…`, `e=…`, `v=…`) too; one without tags has the version "".
//!
//! # Features
//!
//! `tls`: HTTPS to the agent, with rustls on ring. Without it, `consul+https://` is refused.

#![forbid(unsafe_code)]

mod config;
mod kv;
mod registry;

mod client;
mod complaints;
mod encoding;
mod error;
mod go_duration;
mod keeper;
mod limits;
mod tags;
#[cfg(feature = "tls")]
mod tls;
mod watch;

#[cfg(test)]
mod vectors;

pub use config::{CheckKind, ConsulConfig};
pub use kv::ConsulKv;
pub use registry::ConsulRegistry;

/// What reads what others wrote, for tests that hand it all that bytes can be.
#[doc(hidden)]
pub mod reading {
    pub use crate::{
        complaints::Complaint,
        encoding::{Reading, instances},
        limits::Left,
        tags::{Tags, decode},
    };
}
