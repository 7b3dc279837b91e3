//! go-micro v4's gRPC: what its servers and clients say beyond the protocol; and mucp, its own RPC.
//!
//! Sources: the plugins `server/grpc` v1.2.0 and `client/grpc` v1.2.1 of go-micro v4.11.0, and calls
//! between them that were recorded (`tests/vectors`).

mod answer;
mod call;
mod config;
mod error;
mod json;
pub(crate) mod mucp;
mod receive;
mod status_text;
mod undecoded;

pub use config::{GoMicroConfig, StatusCompat};
pub use error::GoMicroError;
// Pure, and open to fuzzing; no part of the interface.
#[doc(hidden)]
pub use self::{error::decode, receive::nanoseconds, status_text::unflattened};

pub(crate) use answer::{AsItIs, ErrorForm, Refuser};
pub(crate) use call::{copy_request, nanoseconds_of};
pub(crate) use error::{error_of_text, understood};
pub(crate) use json::{FromJson, ToJson};
pub(crate) use receive::{Received, Receiver};
