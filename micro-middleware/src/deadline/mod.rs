//! Every wait has an end: deadlines of calls served, of calls made, and of anything else.

mod body;
mod client;
mod config;
mod future;
pub mod grpc_timeout;
mod layer;
mod metadata;
mod server;

pub use body::DeadlineBody;
pub use client::{ClientDeadline, ClientDeadlineLayer};
pub use config::DeadlineConfig;
pub use future::{CallFuture, ResponseFuture};
pub use layer::{Deadline, DeadlineLayer};
// Pure, and open to fuzzing; no part of the interface.
#[doc(hidden)]
pub use metadata::add_headers;
pub use server::{ServerDeadline, ServerDeadlineLayer};

use std::time::Instant;

use micro_core::{Error, ErrorKind};

/// The header that carries what is left of a call's time.
pub(crate) static GRPC_TIMEOUT: http::HeaderName = http::HeaderName::from_static("grpc-timeout");

/// Now, by the clock that a test can hold.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn passed() -> Error {
    Error::new(ErrorKind::DeadlineExceeded, "deadline", "the deadline passed before the answer")
}
