//! What happens to each call around the stack of layers: its place, its deadline, its limits.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use micro_core::Metadata;
use tokio::time::timeout_at;
use tonic::{Status, body::Body, transport::server::TcpConnectInfo};
use tower::ServiceExt as _;

use super::{BoxedStack, GrpcServerConfig};
use crate::{
    body::{Answered, Received},
    deadline::read_timeout,
    status::status_of,
};

/// Takes calls on: the outermost part of every call. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Calls {
    shared: Arc<Shared>,
    peer: TcpConnectInfo,
}

struct Shared {
    stack: BoxedStack,
    in_flight_count: Arc<AtomicUsize>,
    in_flight_count_max: usize,
    message_bytes_max: usize,
    call_timeout: Duration,
}

/// A place among the calls in hand, given back on drop.
pub(crate) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Calls {
    pub(crate) fn new(stack: BoxedStack, config: &GrpcServerConfig) -> Self {
        let shared = Shared {
            stack,
            in_flight_count: Arc::default(),
            in_flight_count_max: config.in_flight_count_max,
            message_bytes_max: config.message_bytes_max,
            call_timeout: config.call_timeout,
        };
        Self { shared: Arc::new(shared), peer: TcpConnectInfo { local_addr: None, remote_addr: None } }
    }

    /// The same for the calls of one connection.
    pub(crate) fn of_connection(&self, local_addr: Option<SocketAddr>, remote_addr: SocketAddr) -> Self {
        Self { shared: self.shared.clone(), peer: TcpConnectInfo { local_addr, remote_addr: Some(remote_addr) } }
    }

    pub(crate) fn in_flight_count(&self) -> usize {
        self.shared.in_flight_count.load(Ordering::Acquire)
    }

    async fn answer(self, request: Request<Incoming>) -> Response<Answered<Place>> {
        let shared = &*self.shared;
        let place = shared.take_place();
        if shared.in_flight_count.load(Ordering::Acquire) > shared.in_flight_count_max && !is_health_check(&request) {
            return shared.finish(overloaded(shared.in_flight_count_max).into_http(), place);
        }
        let mut request = request.map(|body| Body::new(Received::new(body, shared.message_bytes_max)));
        let deadline = Instant::now() + read_timeout(request.headers()).unwrap_or(shared.call_timeout);
        let metadata = metadata(request.headers(), deadline);
        request.extensions_mut().insert(metadata);
        request.extensions_mut().insert(self.peer.clone());

        // At the deadline the handler is dropped, for nobody waits for its answer.
        let response = match timeout_at(deadline.into(), shared.stack.clone().oneshot(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => status_of(error).into_http(),
            Err(_) => {
                Status::deadline_exceeded("grpc.serve: the deadline passed before the handler answered").into_http()
            }
        };
        shared.finish(response, place)
    }
}

impl Shared {
    fn take_place(&self) -> Place {
        self.in_flight_count.fetch_add(1, Ordering::AcqRel);
        Place(self.in_flight_count.clone())
    }

    fn finish(&self, response: Response<Body>, place: Place) -> Response<Answered<Place>> {
        response.map(|body| Answered::new(body, self.message_bytes_max, place))
    }
}

impl hyper::service::Service<Request<Incoming>> for Calls {
    type Response = Response<Answered<Place>>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(this.answer(request).await) })
    }
}

/// An overloaded server must still be able to say that it lives.
fn is_health_check(request: &Request<Incoming>) -> bool {
    request.uri().path().starts_with("/grpc.health.v1.Health/")
}

fn overloaded(in_flight_count_max: usize) -> Status {
    Status::resource_exhausted(format!("grpc.serve: too many calls in hand (limit={in_flight_count_max})"))
}

/// What the caller sent beside the call: its own headers, not those of HTTP and gRPC.
fn metadata(headers: &HeaderMap, deadline: Instant) -> Metadata {
    let mut metadata = Metadata::new();
    metadata.limit_deadline(deadline);
    for (name, value) in headers {
        if let Some(value) = value.to_str().ok().filter(|_| !is_of_the_protocol(name.as_str())) {
            metadata.insert(name.as_str(), value);
        }
    }
    metadata
}

fn is_of_the_protocol(name: &str) -> bool {
    matches!(name, "te" | "user-agent" | "content-type" | "content-length" | "authorization" | "cookie")
        || name.starts_with("grpc-")
        || name.ends_with("-bin")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_holds_the_callers_headers_and_no_credentials() {
        let mut headers = HeaderMap::new();
        for name in ["te", "content-type", "grpc-timeout", "authorization", "trace-bin", "x-region", "traceparent"] {
            headers.insert(name, "v".parse().unwrap());
        }
        let metadata = metadata(&headers, Instant::now());
        assert_eq!(metadata.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["traceparent", "x-region"]);
        assert!(metadata.deadline().is_some());
    }
}
