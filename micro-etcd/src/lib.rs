//! The registry port on etcd, 3.4 or newer.
//!
//! [`EtcdRegistry`] keeps instances as keys under leases, in the layout of go-micro or in that of
//! go-zero, so that services of such a fleet find them and are found.
//!
//! ```no_run
//! use micro_core::registry::{Instance, RegisterOptions, Registry};
//! use micro_etcd::{EtcdConfig, EtcdRegistry};
//!
//! # async fn run() -> micro_core::Result<()> {
//! let registry = EtcdRegistry::connect(EtcdConfig::from_url("etcd://127.0.0.1:2379")?).await?;
//! let instance = Instance::new("greeter", "10.0.0.7:9000").with_version("1.2.0");
//! let registration = registry.register(instance, RegisterOptions::default()).await?;
//! // … `etcdctl get --prefix /micro/registry/greeter/` shows the greeter …
//! registration.close().await
//! # }
//! ```
//!
//! # Building it
//!
//! etcd's client compiles etcd's proto files: `protoc` and Google's own proto files must be there
//! (Debian's `protobuf-compiler` and `libprotobuf-dev`).
//!
//! # Features
//!
//! `tls`: TLS to the servers, with rustls on ring. Without it, `etcd+tls://` is refused.

#![forbid(unsafe_code)]

mod config;
mod registry;

mod client;
mod complaints;
mod error;
mod keeper;
mod layout;
mod limits;
mod places;
mod record;
mod servers;
mod watch;

#[cfg(test)]
mod vectors;

pub use config::{EtcdConfig, Layout};
pub use registry::EtcdRegistry;

/// What reads what others wrote, for tests that hand it all that bytes can be.
#[doc(hidden)]
pub mod reading {
    pub use crate::record::{Reader, service_name};
}
