//! The Kafka broker against real servers.

mod conformance;
mod world;
