//! What happens to each call around the stack of layers: its place among those in hand, its limits.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{Request, Response};
use hyper::body::Incoming;
use tonic::{Status, body::Body, transport::server::TcpConnectInfo};
use tower::ServiceExt as _;

use super::{BoxedStack, GrpcServerConfig};
use crate::{
    body::{Answered, Received},
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
        request.extensions_mut().insert(self.peer.clone());
        let response = match shared.stack.clone().oneshot(request).await {
            Ok(response) => response,
            Err(error) => status_of(error).into_http(),
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
