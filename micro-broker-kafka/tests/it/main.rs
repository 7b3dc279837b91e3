//! The Kafka broker against real servers.

mod anew;
mod captured;
#[cfg(feature = "tls")]
mod certificates;
mod conformance;
mod faults;
mod go_micro;
mod groups;
mod heard;
mod positions;
mod publishing;
#[cfg(feature = "tls")]
mod secured;
mod sizes;
mod world;
