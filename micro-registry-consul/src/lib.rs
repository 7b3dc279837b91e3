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
//! meta, and a tag `version=1.2.0`. Instances that somebody else registered are read alike; one
//! without such a tag has the version `latest`. Consul takes metadata names of letters, digits,
//! `-` and `_` only, at most 64 of them, values up to 512 bytes.
//!
//! # Features
//!
//! `tls`: HTTPS to the agent, with rustls on ring. Without it, `consul+https://` is refused.

#![forbid(unsafe_code)]

mod config;
mod kv;
mod registry;

mod client;
mod encoding;
mod error;
mod keeper;
mod outage;
#[cfg(feature = "tls")]
mod tls;
mod watch;

pub use config::{CheckKind, ConsulConfig};
pub use kv::ConsulKv;
pub use registry::ConsulRegistry;
