//! What a tower layer may know of a request and of its answer, whatever flows: an RPC request, a
//! batch to publish, a batch received.

use std::{
    convert::Infallible,
    error::Error as StdError,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use futures_util::future::BoxFuture;
use tower_service::Service;

use crate::{
    Error, ErrorKind, Metadata, Result,
    broker::{Broker, Message, Receipt},
    consume::DeliveryBatch,
};

/// The three things that flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flow {
    /// A call.
    Rpc,
    /// Messages on their way to the broker.
    Publish,
    /// Deliveries on their way to their handlers.
    Consume,
}

impl Flow {
    /// The word in metrics and spans.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rpc => "rpc",
            Self::Publish => "publish",
            Self::Consume => "consume",
        }
    }
}

/// What a layer may know of a request.
pub trait Operation {
    /// Which of the three flows it belongs to.
    const FLOW: Flow;

    /// Its name, of few values: a gRPC path, a topic, a group. For metrics and spans.
    fn operation(&self) -> &str;

    /// A value that travels beside it: of an RPC its metadata, of a batch that of its first message.
    fn metadata(&self, name: &str) -> Option<&str>;

    /// Sets such a value; on each message of a batch that does not have it yet.
    fn set_metadata(&mut self, name: &str, value: &str);

    /// By when it must be answered.
    fn deadline(&self) -> Option<Instant>;
}

/// What a layer may know of an answer: whether it is a failure, and of which kind.
///
/// A gRPC failure is an `Ok` response whose status stands in a header or trailer; the failure of
/// a publish is per message, and the first one counts.
pub trait Outcome {
    /// The kind of the failure, `None` for success.
    fn error_kind(&self) -> Option<ErrorKind>;

    /// Whether it is a failure that says that what was asked for was not taken up: a call may be made
    /// again though it is not idempotent.
    ///
    /// A kind alone does not say it: an HTTP status 504 is `Unavailable` to gRPC, and what is behind
    /// the proxy that sent it may be at work.
    fn is_not_taken_up(&self) -> bool;
}

/// The kinds by which who answers says that it did not take a call up.
const fn says_not_taken_up(kind: Option<ErrorKind>) -> bool {
    matches!(kind, Some(ErrorKind::Unavailable | ErrorKind::ResourceExhausted))
}

impl Outcome for () {
    fn error_kind(&self) -> Option<ErrorKind> {
        None
    }

    fn is_not_taken_up(&self) -> bool {
        false
    }
}

impl Outcome for Vec<Result<Receipt>> {
    fn error_kind(&self) -> Option<ErrorKind> {
        self.iter().find_map(|result| result.as_ref().err()).map(Error::kind)
    }

    fn is_not_taken_up(&self) -> bool {
        says_not_taken_up(self.error_kind())
    }
}

impl Outcome for Error {
    fn error_kind(&self) -> Option<ErrorKind> {
        Some(self.kind())
    }

    fn is_not_taken_up(&self) -> bool {
        says_not_taken_up(self.error_kind())
    }
}

impl Outcome for Infallible {
    fn error_kind(&self) -> Option<ErrorKind> {
        match *self {}
    }

    fn is_not_taken_up(&self) -> bool {
        match *self {}
    }
}

/// Looks for an [`Error`] in the box and in its causes; `Unknown` where there is none.
impl Outcome for Box<dyn StdError + Send + Sync> {
    fn error_kind(&self) -> Option<ErrorKind> {
        let mut cause: Option<&(dyn StdError + 'static)> = Some(self.as_ref());
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<Error>() {
                return Some(error.kind());
            }
            cause = error.source();
        }
        Some(ErrorKind::Unknown)
    }

    fn is_not_taken_up(&self) -> bool {
        says_not_taken_up(self.error_kind())
    }
}

impl<T: Outcome, E: Outcome> Outcome for Result<T, E> {
    fn error_kind(&self) -> Option<ErrorKind> {
        match self {
            Ok(answer) => answer.error_kind(),
            Err(error) => error.error_kind(),
        }
    }

    fn is_not_taken_up(&self) -> bool {
        match self {
            Ok(answer) => answer.is_not_taken_up(),
            Err(error) => error.is_not_taken_up(),
        }
    }
}

/// A gRPC call: its operation is the path, its metadata the headers and, where a header is
/// missing, the [`Metadata`] among its extensions; its deadline is that `Metadata`'s.
impl<B> Operation for http::Request<B> {
    const FLOW: Flow = Flow::Rpc;

    fn operation(&self) -> &str {
        self.uri().path()
    }

    fn metadata(&self, name: &str) -> Option<&str> {
        let header = match is_traceparent(name) {
            true => self.headers().get(&TRACEPARENT_NAME),
            false => self.headers().get(name),
        };
        let header = header.and_then(|value| value.to_str().ok());
        header.or_else(|| self.extensions().get::<Metadata>().and_then(|metadata| metadata.get(name)))
    }

    // What HTTP cannot carry (a control character in a value) is left out, as a bad header would
    // fail the whole call. Metadata that is there already must not contradict the header.
    fn set_metadata(&mut self, name: &str, value: &str) {
        if let Some(metadata) = self.extensions_mut().get_mut::<Metadata>() {
            metadata.insert(name, value);
        }
        let Ok(mut value) = value.parse::<http::HeaderValue>() else { return };
        if is_traceparent(name) {
            // Another value each time: in HTTP/2's table of known headers it would only push out
            // those that come again.
            value.set_sensitive(true);
            self.headers_mut().insert(&TRACEPARENT_NAME, value);
        } else if let Ok(name) = name.parse::<http::HeaderName>() {
            self.headers_mut().insert(name, value);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.extensions().get::<Metadata>().and_then(Metadata::deadline)
    }
}

/// The one name that is looked for in every call; known, it need not be read each time.
static TRACEPARENT_NAME: http::HeaderName = http::HeaderName::from_static("traceparent");

fn is_traceparent(name: &str) -> bool {
    name.eq_ignore_ascii_case(TRACEPARENT_NAME.as_str())
}

/// What the head of the answer says: a gRPC status in the headers ("trailers-only"), or else the
/// HTTP status. A status in the trailers comes later: read them with [`grpc_outcome`].
impl<B> Outcome for http::Response<B> {
    fn error_kind(&self) -> Option<ErrorKind> {
        grpc_outcome(self.headers()).unwrap_or_else(|| http_error_kind(self.status()))
    }

    // Without a status of gRPC's a proxy answers. By 429 and 503 it says that it passed nothing on; by
    // 502 and 504, that no answer came back.
    fn is_not_taken_up(&self) -> bool {
        match grpc_outcome(self.headers()) {
            Some(outcome) => says_not_taken_up(outcome),
            None => matches!(self.status().as_u16(), 429 | 503),
        }
    }
}

/// Reads `grpc-status` from headers or trailers: `None` where it is missing, else the outcome.
pub fn grpc_outcome(headers: &http::HeaderMap) -> Option<Option<ErrorKind>> {
    static GRPC_STATUS: http::HeaderName = http::HeaderName::from_static("grpc-status");
    let status = headers.get(&GRPC_STATUS)?;
    let code = status.to_str().ok().and_then(|code| code.parse().ok());
    Some(code.map_or(Some(ErrorKind::Unknown), ErrorKind::from_code))
}

/// Source: <https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>.
fn http_error_kind(status: http::StatusCode) -> Option<ErrorKind> {
    match status.as_u16() {
        100..400 => None,
        400 => Some(ErrorKind::Internal),
        401 => Some(ErrorKind::Unauthenticated),
        403 => Some(ErrorKind::PermissionDenied),
        404 => Some(ErrorKind::Unimplemented),
        429 | 502 | 503 | 504 => Some(ErrorKind::Unavailable),
        _ => Some(ErrorKind::Unknown),
    }
}

impl Operation for DeliveryBatch {
    const FLOW: Flow = Flow::Consume;

    fn operation(&self) -> &str {
        &self.group
    }

    fn metadata(&self, name: &str) -> Option<&str> {
        self.deliveries.first().and_then(|delivery| delivery.message.headers.get_str(name))
    }

    // What was received is data; a layer adds nothing to it.
    fn set_metadata(&mut self, _name: &str, _value: &str) {}

    fn deadline(&self) -> Option<Instant> {
        None
    }
}

/// Messages on their way to the broker, in order.
#[derive(Clone, Debug)]
pub struct PublishBatch(pub Vec<Message>);

impl Operation for PublishBatch {
    const FLOW: Flow = Flow::Publish;

    fn operation(&self) -> &str {
        self.0.first().map_or("", |message| &message.topic)
    }

    fn metadata(&self, name: &str) -> Option<&str> {
        self.0.first().and_then(|message| message.headers.get_str(name))
    }

    fn set_metadata(&mut self, name: &str, value: &str) {
        for message in self.0.iter_mut().filter(|message| message.headers.get(name).is_none()) {
            message.headers.append(name, value.to_owned());
        }
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }
}

/// The innermost service of the publish stack: hands the batch to the broker before it first
/// awaits, so that a stack whose layers do not await before the inner call keeps the order.
#[derive(Clone)]
pub struct BrokerService {
    broker: Arc<dyn Broker>,
}

impl BrokerService {
    /// A service over `broker`.
    pub fn new(broker: Arc<dyn Broker>) -> Self {
        Self { broker }
    }
}

impl Service<PublishBatch> for BrokerService {
    type Response = Vec<Result<Receipt>>;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, batch: PublishBatch) -> Self::Future {
        let broker = self.broker.clone();
        Box::pin(async move { Ok(broker.publish(batch.0).await) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_with_line_breaks_is_no_header_and_the_call_goes_on_without_it() {
        let mut request = http::Request::builder().uri("http://a/p.S/M").body(()).unwrap();
        request.extensions_mut().insert(Metadata::new());
        for value in ["a\r\nx-admin: yes", "a\nb", "a\rb", "a\0b"] {
            request.set_metadata("x-user", value);
            assert!(request.headers().is_empty(), "{:?}", request.headers());
            assert_eq!(request.metadata("x-user"), Some(value));
        }
        request.set_metadata("x-us\ner", "a");
        assert!(request.headers().is_empty());
    }

    #[test]
    fn metadata_of_a_call_is_its_headers_then_its_extension() {
        let mut metadata = Metadata::new();
        metadata.insert("x-region", "cn-east");
        metadata.insert("x-user", "from extension");
        let mut request =
            http::Request::builder().uri("http://a/p.S/M").header("x-user", "from header").body(()).unwrap();
        request.extensions_mut().insert(metadata);
        assert_eq!(request.operation(), "/p.S/M");
        assert_eq!(request.metadata("x-user"), Some("from header"));
        assert_eq!(request.metadata("x-region"), Some("cn-east"));
        request.set_metadata("x-user", "line\nbreak");
        assert_eq!(request.metadata("x-user"), Some("from header"));
        request.set_metadata("x-region", "cn-west");
        assert_eq!(request.headers()["x-region"], "cn-west");
        assert_eq!(request.extensions().get::<Metadata>().unwrap().get("x-region"), Some("cn-west"));
    }

    #[test]
    fn outcome_of_a_response_is_its_grpc_status_before_its_http_status() {
        let response = |status: u16, grpc: Option<&str>| {
            let mut response = http::Response::builder().status(status);
            if let Some(grpc) = grpc {
                response = response.header("grpc-status", grpc);
            }
            response.body(()).unwrap().error_kind()
        };
        assert_eq!(response(200, None), None);
        assert_eq!(response(200, Some("0")), None);
        assert_eq!(response(200, Some("5")), Some(ErrorKind::NotFound));
        assert_eq!(response(200, Some("five")), Some(ErrorKind::Unknown));
        assert_eq!(response(503, None), Some(ErrorKind::Unavailable));
    }

    #[test]
    fn a_proxy_without_an_answer_does_not_say_that_nobody_took_the_call_up() {
        let response = |status: u16, grpc: Option<&str>| {
            let mut response = http::Response::builder().status(status);
            if let Some(grpc) = grpc {
                response = response.header("grpc-status", grpc);
            }
            response.body(()).unwrap().is_not_taken_up()
        };
        for (status, grpc, expected) in [
            (200, None, false),
            (200, Some("0"), false),
            (200, Some("14"), true),
            (200, Some("8"), true),
            (200, Some("10"), false),
            (429, None, true),
            (502, None, false),
            (503, None, true),
            (504, None, false),
            (504, Some("14"), true),
            (503, Some("4"), false),
        ] {
            assert_eq!(response(status, grpc), expected, "{status} {grpc:?}");
        }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("transport")]
    struct Transport(#[source] Error);

    #[test]
    fn a_boxed_error_is_known_by_its_cause() {
        let cause = Error::new(ErrorKind::Unavailable, "channel.call", "no instance answers");
        let boxed: Box<dyn StdError + Send + Sync> = Box::new(Transport(cause));
        assert_eq!(boxed.error_kind(), Some(ErrorKind::Unavailable));
        let boxed: Box<dyn StdError + Send + Sync> = "connection refused".into();
        assert_eq!(boxed.error_kind(), Some(ErrorKind::Unknown));
    }
}
