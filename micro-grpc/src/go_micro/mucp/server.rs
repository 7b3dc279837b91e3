//! Each message in mucp as a call of the server's stack, and its answer back.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use tokio::time::timeout;
use tonic::Status;

use super::{
    super::{GoMicroError, error::decode},
    MICRO_ERROR, PREFIX, framed,
    headers::{content_type, echoed, no_streams, of_grpc, understand},
};
use crate::{
    body::Answered,
    server::{Calls, Place, Refusal},
};

const X_MICRO_ERROR: HeaderName = HeaderName::from_static("x-micro-error");
const SERVER_ID: &str = "go.micro.server";

/// The longest error that stands in both headers; a longer one stands in `Micro-Error` alone, which is
/// what clients read.
const ERROR_BYTES_MAX: usize = 2 << 10;
/// What is read of a message that is too long, in messages of just the limit: a client that is still
/// sending when the answer comes may never read it.
const DISCARDED_MESSAGES_MAX: usize = 8;

/// How long the message of a call that is refused is read.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

type Reading = Pin<Box<dyn Future<Output = Result<Frame<Bytes>, Status>> + Send>>;

/// Takes the messages of connections on. Cheap to clone.
#[derive(Clone)]
pub(crate) struct MucpCalls {
    calls: Calls,
    message_bytes_max: usize,
}

impl MucpCalls {
    pub(crate) fn new(calls: Calls, message_bytes_max: usize) -> Self {
        Self { calls, message_bytes_max }
    }

    async fn answer(self, request: Request<Incoming>) -> Response<Whole> {
        if request.uri().path() != "/" {
            return of_http(StatusCode::NOT_FOUND, "mucp has one path, expected POST /\n");
        }
        if request.method() != Method::POST {
            let mut response = of_http(StatusCode::METHOD_NOT_ALLOWED, "expected POST /, a message in mucp\n");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
            return response;
        }
        let (head, body) = request.into_parts();
        let mut understood = understand(&head.headers);
        let has_stream = understood.as_ref().ok().and_then(|understood| self.calls.has_stream(understood.path.path()));
        if has_stream == Some(true) {
            understood = Err(no_streams());
        }
        let is_json = understood.as_ref().is_ok_and(|understood| understood.is_json);
        let message_bytes_max = self.message_bytes_max;
        let message: Reading = match has_stream {
            // Within the call's time limit and its place among those in hand, as tonic reads gRPC's.
            Some(false) => Box::pin(async move { read(body, message_bytes_max).await.map(Frame::data) }),
            // Nobody will read it, and with an unread message hyper ends the connection.
            _ => {
                let _ = timeout(DISCARD_TIMEOUT, read(body, message_bytes_max)).await;
                Box::pin(async { Ok(Frame::data(Bytes::new())) })
            }
        };
        let mut call = Request::new(StreamBody::new(stream::once(message)));
        *call.method_mut() = Method::POST;
        *call.headers_mut() = of_grpc(&head.headers, is_json);
        match understood {
            Ok(understood) => *call.uri_mut() = understood.path.into(),
            // It is answered in its handler's place: so it is traced and counted as any other.
            Err(status) => {
                call.extensions_mut().insert(Refusal(status));
            }
        }
        let response = self.calls.answer(call).await;
        answered(response, &head.headers, is_json).await
    }
}

/// The whole message of a request, framed.
async fn read(mut body: Incoming, message_bytes_max: usize) -> Result<Bytes, Status> {
    let mut message = BytesMut::new();
    let mut count = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::invalid_argument(format!("the body of the message: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        count += data.len();
        if count <= message_bytes_max {
            message.extend_from_slice(&data);
        } else if count > message_bytes_max.saturating_mul(DISCARDED_MESSAGES_MAX) {
            break;
        }
    }
    if count > message_bytes_max {
        return Err(Status::out_of_range(format!(
            "the message has {count} bytes or more, the limit is {message_bytes_max}"
        )));
    }
    framed(&message).ok_or_else(|| Status::out_of_range("the message is longer than four bytes of length can say"))
}

/// The answer of a call as mucp has it; its place among the calls in hand is given back once it is
/// written.
async fn answered(response: Response<Answered<Place>>, request: &HeaderMap, is_json: bool) -> Response<Whole> {
    let (head, mut body) = response.into_parts();
    let mut status = Status::from_header_map(&head.headers);
    let mut message = BytesMut::new();
    while let Some(Ok(frame)) = body.frame().await {
        match frame.into_data() {
            Ok(data) => message.extend_from_slice(&data),
            Err(frame) => status = frame.trailers_ref().and_then(Status::from_header_map).or(status),
        }
    }
    let mut response = Response::new(Whole { message: Full::default(), _place: Some(body) });
    *response.headers_mut() = echoed(request);
    match status {
        Some(status) if status.code() == tonic::Code::Ok => match one_message(message, is_json) {
            Ok(message) => {
                response.headers_mut().insert(header::CONTENT_TYPE, content_type(is_json));
                response.body_mut().message = Full::new(message);
            }
            Err(status) => fail(response.headers_mut(), &status),
        },
        Some(status) => fail(response.headers_mut(), &status),
        None => fail(response.headers_mut(), &Status::internal("the handler's answer has no status")),
    }
    response
}

fn one_message(mut frames: BytesMut, is_json: bool) -> Result<Bytes, Status> {
    let length = frames.len().checked_sub(PREFIX).and_then(|length| u32::try_from(length).ok());
    let is_one = length.is_some_and(|length| frames[0] == 0 && frames[1..PREFIX] == length.to_be_bytes());
    if !is_one {
        return Err(Status::internal("the handler's answer is not one plain message"));
    }
    let mut message = frames.split_off(PREFIX);
    if is_json {
        message.extend_from_slice(b"\n");
    }
    Ok(message.freeze())
}

fn fail(headers: &mut HeaderMap, status: &Status) {
    let text = error_text(status);
    let value = header_value(&text);
    if text.len() <= ERROR_BYTES_MAX {
        headers.insert(X_MICRO_ERROR, value.clone());
    }
    headers.insert(MICRO_ERROR, value);
}

/// go-micro's error as JSON; the text alone of a status that has the form of v4, as Go's server sends.
fn error_text(status: &Status) -> String {
    match decode(status.message(), status.details()) {
        Some(error) => error.to_json(),
        None if status.code() == tonic::Code::Unknown && !status.message().is_empty() => status.message().to_owned(),
        None => GoMicroError::of_code(SERVER_ID, status.code(), status.message()).to_json(),
    }
}

/// JSON has no control characters but this one; a text may have others, which Go writes as spaces.
fn header_value(text: &str) -> HeaderValue {
    let text: String = text.chars().map(|letter| if letter.is_ascii_control() { ' ' } else { letter }).collect();
    HeaderValue::from_bytes(text.as_bytes()).expect("a text without control characters is a header's value")
}

fn of_http(status: StatusCode, text: &'static str) -> Response<Whole> {
    let mut response = Response::new(Whole { message: Full::new(Bytes::from_static(text.as_bytes())), _place: None });
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

impl hyper::service::Service<Request<Incoming>> for MucpCalls {
    type Response = Response<Whole>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(this.answer(request).await) })
    }
}

/// The body of an answer.
pub(crate) struct Whole {
    message: Full<Bytes>,
    _place: Option<Answered<Place>>,
}

impl Body for Whole {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.message).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.message.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.message.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tonic::Code;

    use super::*;

    #[test]
    fn a_failure_is_go_micros_json_or_the_text_that_v4_sends() {
        let micro = GoMicroError::new("go.micro.service.greeter", 404, "nope");
        let json = r#"{"id":"go.micro.service.greeter","code":404,"detail":"nope","status":"Not Found"}"#;
        assert_eq!(error_text(&Status::from(micro)), json);
        let flattened = "rpc error: code = NotFound desc = nope";
        assert_eq!(error_text(&Status::unknown(flattened)), flattened);
        let refused = error_text(&Status::unimplemented("unknown service Nope"));
        assert!(refused.contains("\"code\":501,\"detail\":\"unknown service Nope\""), "{refused}");
    }

    #[test]
    fn a_long_failure_stands_in_one_header() {
        for (length, is_in_both) in [(10, true), (ERROR_BYTES_MAX + 1, false)] {
            let mut headers = HeaderMap::new();
            fail(&mut headers, &Status::unknown("x".repeat(length)));
            assert_eq!(headers[MICRO_ERROR].len(), length);
            assert_eq!(headers.contains_key(X_MICRO_ERROR), is_in_both);
        }
    }

    #[test]
    fn one_plain_message_is_an_answer() {
        let one = |bytes: &[u8], is_json| one_message(BytesMut::from(bytes), is_json).ok();
        assert_eq!(one(b"\0\0\0\0\x02ab", false).unwrap(), "ab");
        assert_eq!(one(b"\0\0\0\0\x02{}", true).unwrap(), "{}\n");
        assert_eq!(one(b"\0\0\0\0\0", false).unwrap(), "");
        for bytes in [&b""[..], b"\0\0\0\0", b"\x01\0\0\0\0", b"\0\0\0\0\x02a", b"\0\0\0\0\0\0\0\0\0\0"] {
            assert_eq!(one(bytes, false), None, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_handler_says_it_is_told(code in 1..17_i32, text in any::<String>()) {
            let mut headers = HeaderMap::new();
            fail(&mut headers, &Status::new(Code::from(code), text));
            prop_assert!(!headers[MICRO_ERROR].is_empty());
        }
    }
}
