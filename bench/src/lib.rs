//! Contestants take turns on the same servers: the payment chain, driven by one load generator over
//! plain gRPC, and processes of ours, of go-micro v4 and of the libraries beneath that call and publish.

pub mod contestant;
pub mod duel;
pub mod load;
pub mod process;
pub mod report;
pub mod round;
pub mod shop;
pub mod topics;
pub mod worker;

/// Messages, client and server, as tonic generates them.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod wire {
    tonic::include_proto!("go.micro.service");
}

/// The peers' greeter, as tonic generates it, and its descriptors.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod greeter {
    tonic::include_proto!("peer");

    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/greeter.bin"));
}

/// The branches of sagas, as tonic generates them.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod busi {
    tonic::include_proto!("busi");
}

/// What goes wrong here ends the run with its text.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Text, or what was to be had.
pub type Result<T> = std::result::Result<T, Failure>;
