//! What the headers of a message in mucp say, as a call of gRPC says it.

use http::{HeaderMap, HeaderName, HeaderValue, header, uri::PathAndQuery};
use tonic::Status;

use super::{JSON, MICRO_ENDPOINT, MICRO_ERROR, MICRO_ID, MICRO_METHOD, MICRO_SERVICE, MICRO_STREAM, MICRO_TOPIC};

const GRPC_JSON: HeaderValue = HeaderValue::from_static("application/grpc+json");
const GRPC_PROTO: HeaderValue = HeaderValue::from_static("application/grpc+proto");

/// What is called, and in which encoding.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Understood {
    /// `/Handler/Method`.
    pub(super) path: PathAndQuery,
    /// The messages are JSON.
    pub(super) is_json: bool,
}

/// Reads what is called; the refusal of what cannot be is told to the caller.
pub(super) fn understand(headers: &HeaderMap) -> Result<Understood, Status> {
    if headers.contains_key(MICRO_TOPIC) {
        return Err(Status::unimplemented("a message of a topic, expected a call: events come through a broker"));
    }
    if either(headers, &MICRO_STREAM).is_some() {
        return Err(no_streams());
    }
    let is_json = is_json(headers)?;
    let endpoint = either(headers, &MICRO_ENDPOINT).or_else(|| either(headers, &MICRO_METHOD)).ok_or_else(|| {
        Status::invalid_argument(
            "the header Micro-Endpoint is missing, expected Handler.Method, as mucp's clients send",
        )
    })?;
    let path = path(endpoint).ok_or_else(|| {
        let shown = String::from_utf8_lossy(&endpoint.as_bytes()[..endpoint.len().min(SHOWN_BYTES_MAX)]).into_owned();
        Status::invalid_argument(format!("Micro-Endpoint is {shown:?}, expected Handler.Method"))
    })?;
    Ok(Understood { path, is_json })
}

const SHOWN_BYTES_MAX: usize = 100;

pub(super) fn no_streams() -> Status {
    Status::unimplemented("mucp has no streams here, expected a unary call: streams need gRPC, with go-micro's plugin")
}

/// A header by its name or by that name after `X-`, as go-micro reads its own.
fn either<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let value = headers.get(name).filter(|value| !value.is_empty());
    value.or_else(|| headers.get(format!("x-{name}"))).filter(|value| !value.is_empty())
}

fn is_json(headers: &HeaderMap) -> Result<bool, Status> {
    let content_type = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let name = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    if is("application/json") {
        return Ok(true);
    }
    if is("application/protobuf") {
        return Ok(false);
    }
    let shown = String::from_utf8_lossy(&name[..name.len().min(SHOWN_BYTES_MAX)]);
    if is("application/json-rpc") || is("application/proto-rpc") {
        return Err(Status::unimplemented(format!(
            "{shown} is go-micro's oldest form, expected application/json or application/protobuf: its client sends \
             them to a node whose metadata has protocol=mucp, as the registry has it, and not to a bare address"
        )));
    }
    Err(Status::unimplemented(format!(
        "the content type is {shown:?}, expected application/json or application/protobuf"
    )))
}

/// `Handler.Method`, two identifiers, as a path.
fn path(endpoint: &HeaderValue) -> Option<PathAndQuery> {
    let (handler, method) = endpoint.to_str().ok()?.split_once('.')?;
    let is_name =
        |name: &str| !name.is_empty() && name.bytes().all(|letter| letter.is_ascii_alphanumeric() || letter == b'_');
    (is_name(handler) && is_name(method)).then(|| PathAndQuery::try_from(format!("/{handler}/{method}")).ok())?
}

/// The headers of the call: those of the caller, the time limit, and gRPC's own in place of mucp's.
pub(super) fn of_grpc(headers: &HeaderMap, is_json: bool) -> HeaderMap {
    let mut call = caller_headers(headers);
    call.insert(header::CONTENT_TYPE, if is_json { GRPC_JSON } else { GRPC_PROTO });
    call.insert(header::TE, HeaderValue::from_static("trailers"));
    call
}

/// The headers that a caller sets: without HTTP's of this connection, gRPC's and mucp's.
pub(crate) fn caller_headers(headers: &HeaderMap) -> HeaderMap {
    let is_callers = |name: &HeaderName| {
        let own = name.as_str().strip_prefix("x-").unwrap_or(name.as_str());
        let is_mucps = [MICRO_SERVICE, MICRO_ENDPOINT, MICRO_METHOD, MICRO_ID, MICRO_ERROR, MICRO_STREAM, MICRO_TOPIC]
            .iter()
            .any(|known| known == own);
        let is_of_message = [header::ACCEPT, header::CONTENT_TYPE, header::CONTENT_ENCODING].contains(name);
        !is_mucps && !is_of_message && !is_of_connection(name) && !name.as_str().starts_with("grpc-")
    };
    kept(headers, is_callers)
}

/// The head of an answer repeats what the request said, as Go's server does; but for an error that its
/// caller passed on, which would be read as this call's.
pub(super) fn echoed(headers: &HeaderMap) -> HeaderMap {
    kept(headers, |name| !is_of_connection(name) && !name.as_str().ends_with(MICRO_ERROR.as_str()))
}

fn kept(headers: &HeaderMap, is_kept: impl Fn(&HeaderName) -> bool) -> HeaderMap {
    let pairs = headers.iter().filter(|(name, _)| is_kept(name));
    let mut kept = HeaderMap::new();
    for (name, value) in pairs {
        kept.append(name, value.clone());
    }
    kept
}

/// What HTTP says of one connection or one message's length. Source: RFC 9110 §7.6.1.
fn is_of_connection(name: &HeaderName) -> bool {
    use header::{
        CONNECTION, CONTENT_LENGTH, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
        TRANSFER_ENCODING, UPGRADE,
    };
    let known = [
        CONNECTION,
        CONTENT_LENGTH,
        EXPECT,
        HOST,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    known.contains(name) || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

pub(super) fn content_type(is_json: bool) -> HeaderValue {
    if is_json { JSON } else { super::PROTOBUF }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tonic::Code;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn an_endpoint_is_a_path_by_each_of_its_names() {
        for name in ["micro-endpoint", "micro-method", "x-micro-endpoint", "x-micro-method"] {
            for (content_type, is_json) in
                [("application/json", true), ("Application/JSON; charset=utf-8", true), ("application/protobuf", false)]
            {
                let said = headers(&[("content-type", content_type), (name, "Greeter.Hello")]);
                let expected = Understood { path: PathAndQuery::from_static("/Greeter/Hello"), is_json };
                assert_eq!(understand(&said).unwrap(), expected);
            }
        }
    }

    #[test]
    fn what_cannot_be_called_is_told_with_what_was_expected() {
        let json = ("content-type", "application/json");
        let hello = ("micro-endpoint", "Greeter.Hello");
        for (said, code, text) in [
            (&[json][..], Code::InvalidArgument, "Micro-Endpoint is missing"),
            (&[json, ("micro-endpoint", "")], Code::InvalidArgument, "Micro-Endpoint is missing"),
            (&[json, ("micro-endpoint", "Greeter")], Code::InvalidArgument, "expected Handler.Method"),
            (&[json, ("micro-endpoint", "a.Greeter.Hello")], Code::InvalidArgument, "expected Handler.Method"),
            (&[json, ("micro-endpoint", "/Greeter.Hello?a")], Code::InvalidArgument, "expected Handler.Method"),
            (&[hello], Code::Unimplemented, "expected application/json"),
            (&[hello, ("content-type", "text/html")], Code::Unimplemented, "\"text/html\", expected"),
            (&[hello, ("content-type", "application/json-rpc")], Code::Unimplemented, "protocol=mucp"),
            (&[hello, ("content-type", "application/proto-rpc")], Code::Unimplemented, "protocol=mucp"),
            (&[hello, json, ("micro-stream", "1")], Code::Unimplemented, "no streams"),
            (&[json, ("micro-topic", "orders")], Code::Unimplemented, "through a broker"),
        ] {
            let status = understand(&headers(said)).unwrap_err();
            assert_eq!(status.code(), code, "{said:?}");
            assert!(status.message().contains(text), "{said:?}: {}", status.message());
        }
    }

    #[test]
    fn a_call_has_its_callers_headers_and_an_answer_repeats_the_requests() {
        let said = headers(&[
            ("host", "127.0.0.1:1"),
            ("connection", "keep-alive"),
            ("content-length", "7"),
            ("accept", "application/json"),
            ("content-type", "application/json"),
            ("micro-endpoint", "Greeter.Hello"),
            ("micro-id", "0"),
            ("micro-error", "an older failure"),
            ("x-micro-error", "an older failure"),
            ("grpc-timeout", "1n"),
            ("timeout", "5000000000"),
            ("x-peer-trace", "abc"),
        ]);
        let names = |headers: HeaderMap| {
            let mut names: Vec<_> = headers.keys().map(ToString::to_string).collect();
            names.sort_unstable();
            names
        };
        assert_eq!(names(of_grpc(&said, true)), ["content-type", "te", "timeout", "x-peer-trace"]);
        let repeated =
            ["accept", "content-type", "grpc-timeout", "micro-endpoint", "micro-id", "timeout", "x-peer-trace"];
        assert_eq!(names(echoed(&said)), repeated);
    }

    proptest! {
        #[test]
        fn whatever_a_message_says_it_is_understood_or_refused(
            endpoint in prop::collection::vec(any::<u8>(), 0..30),
            content_type in "(application/(json|protobuf|json-rpc)|.{0,20})(;.{0,5})?",
            name in "(x-)?(micro-[a-z]{1,9}|grpc-[a-z]{1,9}|connection|[a-z-]{1,12})",
            value in ".{0,40}",
        ) {
            let mut headers = HeaderMap::new();
            for (name, value) in [
                ("micro-endpoint", &endpoint[..]),
                ("content-type", content_type.as_bytes()),
                (&name, value.as_bytes()),
            ] {
                // What http itself refuses reaches no server.
                let pair = HeaderName::try_from(name).ok().zip(HeaderValue::from_bytes(value).ok());
                headers.extend(pair.map(|(name, value)| (Some(name), value)));
            }
            let understood = understand(&headers);
            if let Ok(Understood { path, .. }) = &understood {
                prop_assert_eq!(path.path().matches('/').count(), 2);
                prop_assert!(path.query().is_none());
            }
            prop_assert!(caller_headers(&headers).keys().all(|name| !name.as_str().starts_with("grpc-")));
            prop_assert!(!echoed(&headers).contains_key(MICRO_ERROR));
        }
    }
}
