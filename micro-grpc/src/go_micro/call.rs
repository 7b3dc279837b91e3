//! A call as go-micro's client makes it.

use std::time::Duration;

use http::{HeaderValue, Request, Uri, header::CONTENT_TYPE};
use micro_core::{Error, ErrorKind, Result};
use micro_middleware::deadline::grpc_timeout;

use super::receive::{TIMEOUT, X_CONTENT_TYPE};

const PROTO: HeaderValue = HeaderValue::from_static("application/grpc+proto");

/// Gives a call Go's path, `/<service in the registry>.<Handler>/<Method>`, and the headers that its
/// servers read.
pub(crate) fn copy_request<B>(service: &str, request: &mut Request<B>) -> Result<()> {
    let path = go_path(service, request.uri().path());
    let uri = path.parse::<Uri>().map_err(|error| {
        Error::new(ErrorKind::InvalidArgument, "grpc.call", "the service's name does not fit into a path")
            .with_context("service", service)
            .with_source(error)
    })?;
    *request.uri_mut() = uri;
    let timeout = grpc_timeout::read(request.headers())?;
    let headers = request.headers_mut();
    if let Some(timeout) = timeout {
        headers.insert(TIMEOUT, nanoseconds_of(timeout));
    }
    headers.insert(CONTENT_TYPE, PROTO);
    headers.insert(X_CONTENT_TYPE, PROTO);
    Ok(())
}

/// A time limit as the header `timeout` has it.
pub(crate) fn nanoseconds_of(timeout: Duration) -> HeaderValue {
    HeaderValue::from(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX).min(NANOSECONDS_MAX))
}

/// Go reads the number into one with a sign.
const NANOSECONDS_MAX: u64 = i64::MAX as u64;

/// `/peer.Greeter/Hello` of `go.micro.service.greeter` → `/go.micro.service.greeter.Greeter/Hello`.
fn go_path(service: &str, path: &str) -> String {
    let (package_and_handler, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
    let handler = package_and_handler.rsplit('.').next().unwrap_or(package_and_handler);
    format!("/{service}.{handler}/{method}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_begins_with_the_services_name_in_the_registry() {
        let service = "go.micro.service.greeter";
        for path in ["/peer.Greeter/Hello", "/Greeter/Hello", "/a.b.Greeter/Hello"] {
            assert_eq!(go_path(service, path), "/go.micro.service.greeter.Greeter/Hello");
        }
    }

    #[test]
    fn the_headers_are_those_of_gos_client() {
        let mut request = Request::get("http://127.0.0.1:1/peer.Greeter/Hello").body(()).unwrap();
        request.headers_mut().insert("grpc-timeout", HeaderValue::from_static("29997936u"));
        request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        copy_request("go.micro.service.greeter", &mut request).unwrap();
        assert_eq!(request.uri().path(), "/go.micro.service.greeter.Greeter/Hello");
        for (name, value) in [
            ("timeout", "29997936000"),
            ("content-type", "application/grpc+proto"),
            ("x-content-type", "application/grpc+proto"),
        ] {
            assert_eq!(request.headers()[name], value);
        }
        let longest = "99999999H";
        request.headers_mut().insert("grpc-timeout", HeaderValue::from_static(longest));
        copy_request("go.micro.service.greeter", &mut request).unwrap();
        assert_eq!(request.headers()["timeout"], i64::MAX.to_string());
        assert_eq!(copy_request("a b", &mut request).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}
