//! The Kafka broker against real servers.

mod conformance;
mod faults;
mod groups;
mod heard;
mod positions;
mod publishing;
mod world;
