//! What a server does to a call before its layers see it: path, content type, time limit.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Request, Uri, header::CONTENT_TYPE, uri::PathAndQuery};
use micro_middleware::deadline::grpc_timeout;
use tonic::Status;

use super::{ErrorForm, GoMicroConfig, GoMicroError};
use crate::{
    branch,
    server::{Method, Methods, Named, Refusal},
};

/// The time limit in nanoseconds, in decimal.
pub(super) const TIMEOUT: HeaderName = HeaderName::from_static("timeout");
/// The content type that the caller asked its client for.
pub(super) const X_CONTENT_TYPE: HeaderName = HeaderName::from_static("x-content-type");

const GRPC: &str = "application/grpc";
const GRPC_PROTO: &str = "application/grpc+proto";
const GRPC_JSON: &str = "application/grpc+json";
const GRPC_BYTES: &str = "application/grpc+bytes";

/// Receives the calls of a server that speaks go-micro's gRPC.
pub(crate) struct Receiver {
    methods: Arc<Methods>,
    proto_content_types: Vec<String>,
    form: Arc<ErrorForm>,
    branch_form: Arc<ErrorForm>,
}

/// What is to be done with a call's bodies and its answer.
#[derive(Default)]
pub(crate) struct Received {
    /// Where both sides' messages are JSON.
    pub(crate) json: Option<Arc<Method>>,
    /// The request ends after one message, whatever its client says.
    pub(crate) takes_one_message: bool,
    /// What the answer repeats of the request; none: gRPC's own.
    pub(crate) content_type: Option<HeaderValue>,
    /// None for a call that is no go-micro client's matter.
    pub(crate) form: Option<Arc<ErrorForm>>,
}

impl Receiver {
    pub(crate) fn new(service: &str, config: &GoMicroConfig, methods: Arc<Methods>) -> Self {
        let status_compat = config.status_compat;
        let form = |is_of_branch| Arc::new(ErrorForm { service: service.to_owned(), status_compat, is_of_branch });
        let proto_content_types = config.proto_content_types.clone();
        Self { methods, proto_content_types, form: form(false), branch_form: form(true) }
    }

    /// Looks at a call and makes a plain gRPC one of it; one that is refused carries the
    /// [`Refusal`], which its handler's place answers: so it is traced and counted as any other.
    pub(crate) fn receive<B>(&self, request: &mut Request<B>) -> Received {
        take_timeout(request);
        let x_content_type = request.headers_mut().remove(X_CONTENT_TYPE);
        let path = request.uri().path();
        // Health and reflection speak plain gRPC with whoever asks.
        if self.methods.is_of_the_server(path) {
            return Received::default();
        }
        let content_type = request.headers().get(CONTENT_TYPE).cloned().or(x_content_type);
        let echoed = content_type.filter(|name| name.as_bytes() != GRPC.as_bytes());
        let form = if branch::is_branch(request.headers()) { &self.branch_form } else { &self.form };
        let mut received = Received { form: Some(form.clone()), content_type: echoed, ..Received::default() };
        match self.method(path) {
            Ok(method) => {
                let encoding = self.encoding(received.content_type.as_ref());
                set_path(request, &method.path);
                received.takes_one_message = method.takes_one_message;
                match encoding {
                    Ok(Encoding::Proto) => {}
                    Ok(Encoding::Json) => received.json = Some(method.clone()),
                    Err(status) => refuse(request, status),
                }
            }
            Err(status) => {
                if status.code() == tonic::Code::InvalidArgument {
                    // Of a path that is none every peer can think of thousands: it names nothing.
                    set_path(request, &PathAndQuery::from_static("/"));
                }
                refuse(request, status);
            }
        }
        received
    }

    /// Whether the method of this path has a stream; `None` where there is no such method.
    pub(crate) fn has_stream(&self, path: &str) -> Option<bool> {
        self.method(path).ok().map(|method| method.has_stream)
    }

    /// The method by its own path or by what Go's clients make of it.
    fn method(&self, path: &str) -> Result<&Arc<Method>, Status> {
        if let Some(method) = self.methods.at(path) {
            return Ok(method);
        }
        let malformed = || Status::invalid_argument(format!("malformed method name: {path:?}"));
        let (service, method) = parts(path).ok_or_else(malformed)?;
        let handler = service.rsplit('.').next().unwrap_or(service);
        match self.methods.named(handler) {
            Some(Named::One(methods)) => {
                methods.get(method).ok_or_else(|| Status::unimplemented(format!("unknown service {handler}.{method}")))
            }
            Some(Named::Several(names)) => Err(Status::unimplemented(format!(
                "unknown service {handler}: several services have this name, expected {}",
                names.join(" or ")
            ))),
            None => Err(Status::unimplemented(format!("unknown service {handler}"))),
        }
    }

    fn encoding(&self, content_type: Option<&HeaderValue>) -> Result<Encoding, Status> {
        let Some(content_type) = content_type else { return Ok(Encoding::Proto) };
        let is = |name: &str| content_type.as_bytes().eq_ignore_ascii_case(name.as_bytes());
        if is(GRPC_PROTO) || is(GRPC) || self.proto_content_types.iter().any(|known| is(known)) {
            return Ok(Encoding::Proto);
        }
        if is(GRPC_JSON) {
            return Ok(Encoding::Json);
        }
        if is(GRPC_BYTES) {
            // In Go too a handler of protobuf messages cannot be called with raw bytes.
            return Err(Status::internal("grpc: failed to unmarshal the received message: invalid message"));
        }
        let detail = format!("Unsupported Content-Type: {}", String::from_utf8_lossy(content_type.as_bytes()));
        // Go sends the error's text alone, with no detail.
        Err(Status::unknown(Status::from(GoMicroError::new("go.micro.server", 500, detail)).message()))
    }
}

enum Encoding {
    Proto,
    Json,
}

/// `/package.Service/Method` → `package.Service`, `Method`.
fn parts(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    (!service.is_empty() && !method.is_empty() && !method.contains('/')).then_some((service, method))
}

/// Nanoseconds become `grpc-timeout`, which the layers read; the smaller of the two counts. A value
/// that is no number is ignored, as Go's server does.
fn take_timeout<B>(request: &mut Request<B>) {
    let Some(value) = request.headers_mut().remove(TIMEOUT) else { return };
    let Some(timeout) = value.to_str().ok().and_then(nanoseconds) else { return };
    grpc_timeout::limit(request.headers_mut(), timeout);
}

#[doc(hidden)]
pub fn nanoseconds(text: &str) -> Option<Duration> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok().map(Duration::from_nanos))?
}

fn set_path<B>(request: &mut Request<B>, path: &PathAndQuery) {
    if request.uri().path() == path.path() {
        return;
    }
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.path_and_query = Some(path.clone());
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_else(|_| Uri::from(path.clone()));
}

/// A call that was refused already is refused for the first reason.
fn refuse<B>(request: &mut Request<B>, status: Status) {
    if request.extensions().get::<Refusal>().is_some() {
        return;
    }
    request.extensions_mut().insert(Refusal(status));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_a_call_says_it_is_received(
            path in "/[!-~]{0,40}",
            content_type in "(application/grpc(\\+[a-zé]{0,8})?|.{0,30})",
            timeout in ".{0,25}",
        ) {
            let receiver = Receiver::new("s", &GoMicroConfig::default(), Arc::default());
            let request = Request::builder()
                .uri(path)
                .header(CONTENT_TYPE, content_type.as_bytes())
                .header(TIMEOUT, timeout.as_bytes())
                .body(());
            // What http itself refuses reaches no server.
            let Ok(mut request) = request else { return Ok(()) };
            let received = receiver.receive(&mut request);
            prop_assert!(received.form.is_some() && received.json.is_none());
            prop_assert!(request.extensions().get::<Refusal>().is_some());
            prop_assert!(request.headers().get(TIMEOUT).is_none());
        }
    }

    #[test]
    fn a_path_has_a_service_and_a_method() {
        assert_eq!(
            parts("/go.micro.service.order.Order/PayNotify"),
            Some(("go.micro.service.order.Order", "PayNotify"))
        );
        assert_eq!(parts("/Order/PayNotify"), Some(("Order", "PayNotify")));
        for path in ["", "/", "//", "/Order", "/Order/", "//PayNotify", "/a/b/c", "Order/PayNotify"] {
            assert_eq!(parts(path), None, "{path:?}");
        }
    }

    #[test]
    fn a_time_limit_is_whole_nanoseconds() {
        assert_eq!(nanoseconds("30000000000"), Some(Duration::from_secs(30)));
        assert_eq!(nanoseconds("0"), Some(Duration::ZERO));
        assert_eq!(nanoseconds("18446744073709551615"), Some(Duration::from_nanos(u64::MAX)));
        for text in ["", "-1", "+1", "1s", "1.5", "18446744073709551616", " 1"] {
            assert_eq!(nanoseconds(text), None, "{text:?}");
        }
    }
}
