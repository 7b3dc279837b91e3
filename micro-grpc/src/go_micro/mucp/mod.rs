//! mucp, go-micro's own RPC: one HTTP/1.1 `POST /` for each message, what it is told by headers.
//!
//! Unary calls alone: its streams send answers that belong to no request, which breaks HTTP's rules.
//! Sources: `server`, `client` and `transport` of go-micro v4.11.0, and calls between them that were
//! recorded (`tests/vectors`).

mod headers;
mod server;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderName, HeaderValue};

pub(crate) use self::{headers::caller_headers, server::MucpCalls};

/// The metadata of an instance that speaks it: `protocol` = `mucp`.
pub(crate) const PROTOCOL: &str = "mucp";

pub(crate) const MICRO_SERVICE: HeaderName = HeaderName::from_static("micro-service");
/// `Handler.Method`.
pub(crate) const MICRO_ENDPOINT: HeaderName = HeaderName::from_static("micro-endpoint");
/// The same, by its name of old.
pub(crate) const MICRO_METHOD: HeaderName = HeaderName::from_static("micro-method");
/// The number of a call among those of its client.
pub(crate) const MICRO_ID: HeaderName = HeaderName::from_static("micro-id");
/// Why a call failed; its presence is the failure.
pub(crate) const MICRO_ERROR: HeaderName = HeaderName::from_static("micro-error");
const MICRO_STREAM: HeaderName = HeaderName::from_static("micro-stream");
const MICRO_TOPIC: HeaderName = HeaderName::from_static("micro-topic");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(crate) const PROTOBUF: HeaderValue = HeaderValue::from_static("application/protobuf");

/// A flag and a length before each message.
const PREFIX: usize = 5;

/// A message with gRPC's prefix; `None` for one that is longer than it can say.
fn framed(message: &[u8]) -> Option<Bytes> {
    let length = u32::try_from(message.len()).ok()?;
    let mut frame = BytesMut::with_capacity(PREFIX + message.len());
    frame.put_u8(0);
    frame.put_u32(length);
    frame.put_slice(message);
    Some(frame.freeze())
}
