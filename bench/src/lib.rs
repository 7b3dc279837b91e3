//! The payment chain measured: the contestants take turns on the same servers, driven by one load
//! generator over plain gRPC.

pub mod contestant;
pub mod load;
pub mod process;
pub mod report;
pub mod round;
pub mod shop;
pub mod topics;

/// Messages, client and server, as tonic generates them.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod wire {
    tonic::include_proto!("go.micro.service");
}

/// What goes wrong here ends the run with its text.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Text, or what was to be had.
pub type Result<T> = std::result::Result<T, Failure>;
