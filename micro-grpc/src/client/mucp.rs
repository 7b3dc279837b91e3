//! One instance that speaks mucp, go-micro's own RPC: unary calls as posts of HTTP/1.1.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use micro_core::{Error, ErrorKind, registry::Instance};
use micro_middleware::deadline::grpc_timeout;
use tonic::{Status, body::Body};

use super::{
    GrpcClientConfig,
    endpoint::{Backoff, Failure},
};
use crate::{
    body::{MessageBody, ResponseBody},
    go_micro::{
        error_of_text,
        mucp::{
            MICRO_ENDPOINT, MICRO_ERROR, MICRO_ID, MICRO_METHOD, MICRO_SERVICE, PROTOBUF, PROTOCOL, caller_headers,
        },
        nanoseconds_of,
    },
};

/// The time limit in nanoseconds, in decimal.
const TIMEOUT: HeaderName = HeaderName::from_static("timeout");
/// A flag and a length before each message.
const PREFIX: usize = 5;
/// The least that hyper takes for the headers of an answer.
const HEADER_BYTES_MIN: usize = 8 << 10;
/// Connections to one instance that wait for a call; each carries one call at a time.
const IDLE_COUNT_MAX: usize = 64;
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

type Result<T, E = Failure> = std::result::Result<T, E>;

/// Whether an instance is to be called in mucp.
pub(super) fn is_mucp(instance: &Instance) -> bool {
    instance.metadata.get("protocol").is_some_and(|protocol| protocol == PROTOCOL)
}

/// Where an instance is reached that speaks mucp.
pub(crate) struct MucpEndpoint {
    service: String,
    address: String,
    /// `Handler.Method` of those that the registry says to have a stream.
    streams: HashSet<String>,
    client: Client<HttpConnector, Full<Bytes>>,
    backoff: Backoff,
    next_id: AtomicU64,
}

impl MucpEndpoint {
    pub(super) fn new(instance: &Instance, config: &GrpcClientConfig) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(config.connect_timeout));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_COUNT_MAX)
            .http1_max_buf_size((config.header_bytes_max as usize).max(HEADER_BYTES_MIN))
            // As Go writes them, for those who read both.
            .http1_title_case_headers(true)
            .build(connector);
        let is_stream = |metadata: &std::collections::BTreeMap<String, String>| {
            metadata.get("stream").is_some_and(|value| value == "true")
        };
        let streams = instance.endpoints.iter().filter(|endpoint| is_stream(&endpoint.metadata));
        Self {
            service: instance.service.clone(),
            address: instance.address.clone(),
            streams: streams.map(|endpoint| endpoint.name.clone()).collect(),
            client,
            backoff: Backoff::new(config),
            next_id: AtomicU64::new(0),
        }
    }

    pub(super) fn is_lost(&self) -> bool {
        self.backoff.is_waiting()
    }

    pub(super) async fn send(&self, request: Box<Request<Body>>) -> Result<Response<ResponseBody>> {
        let (head, body) = request.into_parts();
        let endpoint = endpoint_of(head.uri.path());
        let message = match one_message(body) {
            Ok(message) if !self.streams.contains(&endpoint) => message,
            Ok(_) => return Ok(refused(&no_streams(&endpoint))),
            Err(status) => return Ok(refused(&status)),
        };
        let unsent = |error: Error| {
            let body = Body::new(Full::new(framed_again(&message)));
            Failure::NotSent(Box::new(Request::from_parts(head.clone(), body)), error)
        };
        let post = self.post(&endpoint, &head.headers, message.clone()).map_err(&unsent)?;
        match self.client.request(post).await {
            Ok(response) => {
                self.backoff.reset();
                Ok(understood(response))
            }
            Err(error) if error.is_connect() => {
                self.backoff.grow();
                Err(unsent(
                    Error::new(ErrorKind::Unavailable, "grpc.connect", "the instance cannot be reached")
                        .with_context("address", &self.address)
                        .with_source(error),
                ))
            }
            Err(error) => Err(Failure::Broken(broken(&error))),
        }
    }

    fn post(&self, endpoint: &str, of_call: &HeaderMap, message: Bytes) -> micro_core::Result<Request<Full<Bytes>>> {
        let refuse = |what: &'static str, value: &str| {
            Error::new(ErrorKind::InvalidArgument, "grpc.call", what).with_context("value", value)
        };
        let value =
            |text: &str| HeaderValue::from_str(text).map_err(|_| refuse("a name does not fit into a header", text));
        let mut headers = caller_headers(of_call);
        if let Some(timeout) = grpc_timeout::read(of_call)? {
            headers.insert(TIMEOUT, nanoseconds_of(timeout));
        }
        headers.insert(header::CONTENT_TYPE, PROTOBUF);
        headers.insert(header::ACCEPT, PROTOBUF);
        headers.insert(MICRO_SERVICE, value(&self.service)?);
        headers.insert(MICRO_ENDPOINT, value(endpoint)?);
        headers.insert(MICRO_METHOD, value(endpoint)?);
        headers.insert(MICRO_ID, HeaderValue::from(self.next_id.fetch_add(1, Ordering::Relaxed)));
        let mut post = Request::new(Full::new(message));
        *post.method_mut() = Method::POST;
        *post.uri_mut() = format!("http://{}/", self.address)
            .parse()
            .map_err(|_| refuse("the instance's address is not host:port", &self.address))?;
        *post.headers_mut() = headers;
        Ok(post)
    }
}

/// `/peer.Greeter/Hello` → `Greeter.Hello`.
fn endpoint_of(path: &str) -> String {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
    format!("{}.{method}", service.rsplit('.').next().unwrap_or(service))
}

/// The message of a unary call. It is there at once and ends there; what waits, or goes on, is a stream.
fn one_message(mut body: Body) -> Result<Bytes, Status> {
    let stream = || no_streams("the call");
    let mut frames = BytesMut::new();
    while let Some(frame) = body.frame().now_or_never().ok_or_else(stream)? {
        let Ok(data) = frame?.into_data() else { continue };
        if whole_length(&frames) == Some(frames.len()) && !data.is_empty() {
            return Err(stream());
        }
        frames.extend_from_slice(&data);
    }
    match whole_length(&frames) {
        Some(length) if length == frames.len() && frames[0] == 0 => Ok(frames.split_off(PREFIX).freeze()),
        Some(length) if length == frames.len() => {
            Err(Status::unimplemented("mucp has no compression here, expected a plain message"))
        }
        Some(length) if length > frames.len() => Err(Status::internal("the request ends within a message")),
        Some(_) => Err(stream()),
        None => Err(Status::internal("the request has no message")),
    }
}

/// The bytes of the first message with its prefix.
fn whole_length(frames: &[u8]) -> Option<usize> {
    let [_, length @ ..] = *frames.first_chunk::<PREFIX>()?;
    Some(PREFIX + u32::from_be_bytes(length) as usize)
}

fn framed_again(message: &Bytes) -> Bytes {
    let length = u32::try_from(message.len()).expect("it came with a prefix that says its length");
    [&[0], &length.to_be_bytes()[..], message].concat().into()
}

fn no_streams(what: &str) -> Status {
    Status::unimplemented(format!(
        "grpc.call: {what} has a stream, and the instance speaks mucp, which is unary here: streams need gRPC, with \
         go-micro's plugin"
    ))
}

/// The answer of a call that was not sent.
fn refused(status: &Status) -> Response<ResponseBody> {
    in_head(status)
}

fn in_head(status: &Status) -> Response<ResponseBody> {
    let mut response = status.clone().into_http();
    response.extensions_mut().clear();
    response.map(|_: Body| ResponseBody::default())
}

/// What an answer says, as gRPC's says it.
fn understood(response: Response<Incoming>) -> Response<ResponseBody> {
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        let text = format!("the instance answered {} of HTTP, expected 200: is it one that speaks mucp?", head.status);
        return Response::new(ResponseBody::ending_with(Status::unknown(text)));
    }
    if let Some(error) = head.headers.get(MICRO_ERROR).filter(|error| !error.is_empty()) {
        return in_head(&error_of_text(&String::from_utf8_lossy(error.as_bytes())));
    }
    let Some(message) = MessageBody::new(body) else {
        let text = "the instance's answer does not say its length by Content-Length, expected as mucp's servers do";
        return Response::new(ResponseBody::ending_with(Status::internal(text)));
    };
    let mut response = Response::new(ResponseBody::of_message(message));
    *response.headers_mut() = caller_headers(&head.headers);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn broken(error: &hyper_util::client::legacy::Error) -> Status {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    Status::unavailable(format!("the connection broke: {cause}"))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{StreamExt as _, stream};
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tonic::Code;

    use super::*;

    fn body(parts: &[&'static [u8]], ends: bool) -> Body {
        let parts: Vec<_> =
            parts.iter().map(|part| Ok::<_, Infallible>(Frame::data(Bytes::from_static(part)))).collect();
        let parts = stream::iter(parts);
        if ends {
            Body::new(StreamBody::new(parts))
        } else {
            Body::new(StreamBody::new(parts.chain(stream::pending())))
        }
    }

    #[test]
    fn a_unary_call_is_one_message_that_is_there_at_once() {
        for parts in [&[&b"\0\0\0\0\x02ab"[..]][..], &[b"\0\0", b"\0\0\x02", b"ab"]] {
            assert_eq!(one_message(body(parts, true)).unwrap(), "ab");
        }
        assert_eq!(one_message(body(&[b"\0\0\0\0\0"], true)).unwrap(), "");
    }

    #[test]
    fn what_is_no_unary_call_is_refused_and_never_waited_for() {
        for (parts, ends, code) in [
            (&[][..], false, Code::Unimplemented),
            (&[&b"\0\0\0\0\0"[..]], false, Code::Unimplemented),
            (&[b"\0\0\0\0\0", b"\0\0\0\0\0"], true, Code::Unimplemented),
            (&[b"\0\0\0\0\0\0\0\0\0\0"], true, Code::Unimplemented),
            (&[b"\x01\0\0\0\0"], true, Code::Unimplemented),
            (&[b"\0\0\0\0\x02a"], true, Code::Internal),
            (&[], true, Code::Internal),
        ] {
            assert_eq!(one_message(body(parts, ends)).unwrap_err().code(), code, "{parts:?}");
        }
    }

    #[test]
    fn an_endpoint_is_handler_and_method_whatever_the_package_is() {
        for path in ["/peer.Greeter/Hello", "/Greeter/Hello", "/a.b.Greeter/Hello"] {
            assert_eq!(endpoint_of(path), "Greeter.Hello");
        }
    }
}
