//! Conformance suites, one per port: a function per contract sentence, named as it is there.
//!
//! An adapter's tests write a fixture and one line; each promise becomes a test of its name:
//!
//! ```text
//! mod memory_broker {
//!     micro_testkit::broker_conformance!(MemoryBrokerFixture);
//! }
//! ```
//!
//! Per port there is one decorator that breaks a promise on demand (`BrokenBroker` …), with which
//! this crate's tests show that each suite function can fail.
//!
//! A suite assumes nothing of memory: names are unique, what must happen is waited for up to the
//! fixture's patience, and what must not happen is watched for a twentieth of it.

mod eventually;
mod fixture;

pub mod broker;
pub mod codec;
pub mod registry;
pub mod selector;

pub use eventually::{Verdict, eventually};
pub use fixture::{Fixture, Missing, breaks, ready, unique};
