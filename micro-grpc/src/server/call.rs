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

use bytes::Bytes;
use http::{Request, Response, header::CONTENT_TYPE};
use hyper::body::Incoming;
use tonic::{Status, body::Body, transport::server::TcpConnectInfo};
use tower::BoxError;

use super::{BoxedStack, GrpcServerConfig, methods::Methods};
use crate::{
    body::{Answered, Received},
    branch,
    go_micro::{self, FromJson, Receiver, ToJson},
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
    methods: Arc<Methods>,
    go_micro: Option<Receiver>,
}

/// A place among the calls in hand, given back on drop.
pub(crate) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Calls {
    pub(crate) fn new(
        stack: BoxedStack,
        config: &GrpcServerConfig,
        methods: Arc<Methods>,
        go_micro: Option<Receiver>,
    ) -> Self {
        let shared = Shared {
            stack,
            in_flight_count: Arc::default(),
            in_flight_count_max: config.in_flight_count_max,
            message_bytes_max: config.message_bytes_max,
            methods,
            go_micro,
        };
        Self { shared: Arc::new(shared), peer: TcpConnectInfo { local_addr: None, remote_addr: None } }
    }

    /// The same for the calls of one connection.
    pub(crate) fn of_connection(&self, local_addr: Option<SocketAddr>, remote_addr: SocketAddr) -> Self {
        Self { shared: self.shared.clone(), peer: TcpConnectInfo { local_addr, remote_addr: Some(remote_addr) } }
    }

    /// How many calls are in hand, as a count that goes on.
    pub(crate) fn in_hand(&self) -> Arc<AtomicUsize> {
        self.shared.in_flight_count.clone()
    }

    pub(crate) fn in_flight_count(&self) -> usize {
        self.shared.in_flight_count.load(Ordering::Acquire)
    }

    /// Whether the method that go-micro's clients call by this path has a stream; `None` where there is
    /// no such method.
    pub(crate) fn has_stream(&self, path: &str) -> Option<bool> {
        self.shared.go_micro.as_ref()?.has_stream(path)
    }

    pub(crate) async fn answer<B>(self, mut request: Request<B>) -> Response<Answered<Place>>
    where
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
    {
        let shared = &*self.shared;
        let place = shared.take_place();
        let received = shared.receive(&mut request);
        if shared.in_flight_count.load(Ordering::Acquire) > shared.in_flight_count_max && !is_health_check(&request) {
            return shared.finish(of_the_server(overloaded(shared.in_flight_count_max)), received, place);
        }
        let mut request = request.map(|body| shared.opened(body, &received));
        request.extensions_mut().insert(self.peer.clone());
        let response = match shared.stack.answer(request).await {
            Ok(response) => response,
            Err(error) => of_the_server(status_of(error)),
        };
        shared.finish(response, received, place)
    }
}

impl Shared {
    fn take_place(&self) -> Place {
        self.in_flight_count.fetch_add(1, Ordering::AcqRel);
        Place(self.in_flight_count.clone())
    }

    fn receive<B>(&self, request: &mut Request<B>) -> go_micro::Received {
        match &self.go_micro {
            Some(receiver) => receiver.receive(request),
            None => go_micro::Received {
                takes_one_message: self.methods.takes_one_message(request.uri().path()),
                content_type: branch::echoed_content_type(request.headers()),
                ..go_micro::Received::default()
            },
        }
    }

    fn opened<B>(&self, body: B, received: &go_micro::Received) -> Body
    where
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
    {
        let body = Received::new(body, self.message_bytes_max).ending_after_one_message(received.takes_one_message);
        match &received.json {
            Some(method) => Body::new(FromJson::new(body, method)),
            None => Body::new(body),
        }
    }

    fn finish(
        &self,
        mut response: Response<Body>,
        received: go_micro::Received,
        place: Place,
    ) -> Response<Answered<Place>> {
        if let Some(content_type) = received.content_type {
            response.headers_mut().insert(CONTENT_TYPE, content_type);
        }
        if let Some(form) = &received.form {
            form.dress_head(&mut response);
        }
        response.map(|body| {
            let body = match &received.json {
                Some(method) => Body::new(ToJson::new(body, method)),
                None => body,
            };
            Answered::new(body, self.message_bytes_max, place).in_form(received.form)
        })
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
fn is_health_check<B>(request: &Request<B>) -> bool {
    request.uri().path().starts_with("/grpc.health.v1.Health/")
}

/// An answer that no handler gave.
fn of_the_server(status: Status) -> Response<Body> {
    let mut response = status.into_http();
    response.extensions_mut().remove::<Status>();
    response
}

fn overloaded(in_flight_count_max: usize) -> Status {
    Status::resource_exhausted(format!("grpc.serve: too many calls in hand (limit={in_flight_count_max})"))
}
