//! How a layer answers in the place of its inner service.

use http::{HeaderValue, header::CONTENT_TYPE};
use micro_core::{Error, Result, broker::Receipt};

/// An answer that can say "no" in the words of its flow: an `Err` for messages, for a call a
/// response with `grpc-status` and no body, for a gRPC service answers `Ok` on errors.
pub trait Refuse<E>: Sized {
    /// The answer that says `error`.
    fn refuse(error: Error) -> Result<Self, E>;
}

impl Refuse<Error> for () {
    fn refuse(error: Error) -> Result<Self> {
        Err(error)
    }
}

impl Refuse<Error> for Vec<Result<Receipt>> {
    fn refuse(error: Error) -> Result<Self> {
        Err(error)
    }
}

/// The peer is told kind and message; context and causes stay here, they speak of our inside.
impl<B: Default, E> Refuse<E> for http::Response<B> {
    fn refuse(error: Error) -> Result<Self, E> {
        let mut response = http::Response::new(B::default());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        write_status(headers, &error);
        Ok(response)
    }
}

/// Writes `grpc-status` and `grpc-message` to headers or trailers.
pub(crate) fn write_status(headers: &mut http::HeaderMap, error: &Error) {
    headers.insert("grpc-status", HeaderValue::from(u16::from(error.kind().code())));
    headers.insert("grpc-message", percent_encode(error.message()));
}

/// Source: "Percent-Encoded" in <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.
fn percent_encode(message: &str) -> HeaderValue {
    let mut text = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b'%' | ..0x20 | 0x7f.. => text.push_str(&format!("%{byte:02X}")),
            printable => text.push(char::from(printable)),
        }
    }
    HeaderValue::from_str(&text).expect("printable ASCII is a header value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(percent_encode("50% off\né"), "50%25 off%0A%C3%A9");
    }
}
