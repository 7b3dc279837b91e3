//! Conformance suites, one per port: a function per contract sentence, named as it is there.
//!
//! An adapter's tests write a fixture and one line; each promise becomes a test of its name:
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//! use micro_core::registry::{MemoryRegistry, Registry};
//! use micro_testkit::{Fixture, Missing, registry::RegistryFixture};
//!
//! struct MemoryRegistryFixture(Arc<MemoryRegistry>);
//!
//! impl Fixture for MemoryRegistryFixture {
//!     // A fixture on a server answers `Missing` where there is none: the test says so and is skipped.
//!     async fn start() -> Result<Self, Missing> {
//!         Ok(Self(Arc::new(MemoryRegistry::new())))
//!     }
//!
//!     fn patience(&self) -> Duration {
//!         Duration::from_secs(5)
//!     }
//! }
//!
//! impl RegistryFixture for MemoryRegistryFixture {
//!     fn registry(&self) -> Arc<dyn Registry> {
//!         self.0.clone()
//!     }
//! }
//!
//! mod memory_registry {
//!     micro_testkit::registry_conformance!(super::MemoryRegistryFixture);
//! }
//! # fn main() {}
//! ```
//!
//! Per port there is one decorator that breaks a promise on demand (`BrokenBroker` …), with which
//! this crate's tests show that each suite function can fail.
//!
//! A suite assumes nothing of memory: names are unique, what must happen is waited for up to the
//! fixture's patience, and what must not happen is watched for a twentieth of it.

mod eventually;
mod fixture;
mod logged;

pub mod barrier;
pub mod broker;
pub mod codec;
pub mod inbox;
pub mod outbox;
pub mod parked;
pub mod registry;
pub mod saga;
pub mod selector;
pub mod transaction;

pub(crate) use eventually::in_time;
pub use eventually::{Verdict, eventually};
pub use fixture::{Fixture, Missing, breaks, ready, unique};
pub use logged::Logged;
