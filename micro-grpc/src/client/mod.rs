//! The client: a tower service that generated tonic clients take, over the instances that a
//! registry knows.

mod config;
pub(crate) mod endpoint;
mod keepalive;
mod mucp;
mod snapshot;
mod transport;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use micro_core::{
    Error, ErrorKind, Result,
    registry::Registry,
    selector::{RandomSelector, Selector},
};
use micro_middleware::stack::{RpcClientStack, rpc_client_stack};
use tonic::{Status, body::Body};
use tower::{BoxError, Layer, Service, layer::util::Stack, util::BoxCloneSyncService};

use self::snapshot::Snapshots;
use crate::status::status_of;

pub use self::{config::GrpcClientConfig, transport::Transport};
pub use crate::body::ResponseBody;

/// Calls one service, wherever its instances are. Cheap to clone; clones share the connections.
///
/// An instance whose metadata says `protocol` = `mucp`, go-micro's own RPC over HTTP/1.1, is called in
/// it, with messages in protobuf; a call of a method with a stream is `Unimplemented` there.
///
/// A generated client takes it: `GreeterClient::new(client)`. Each call has a deadline, is sent to
/// the instance the selector picks, and goes to another one where that one cannot be reached. A call
/// whose connection broke after it was sent is not repeated: it may have taken effect. While the registry is away, the last instances it
/// told of go on being called.
#[derive(Clone)]
pub struct GrpcClient {
    stack: BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>,
    service: Arc<str>,
}

impl GrpcClient {
    /// A client of a service in `registry`.
    pub fn builder(registry: Arc<dyn Registry>) -> GrpcClientBuilder {
        GrpcClientBuilder {
            registry,
            service: String::new(),
            selector: Arc::new(RandomSelector),
            config: GrpcClientConfig::default(),
            is_go_micro: false,
            layer: rpc_client_stack(),
        }
    }
}

impl Service<Request<Body>> for GrpcClient {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Call;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.stack.poll_ready(cx).map_err(status_of)
    }

    fn call(&mut self, request: Request<Body>) -> Call {
        Call(self.stack.call(request))
    }
}

/// The future of a call through a [`GrpcClient`].
pub struct Call(Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>);

impl Future for Call {
    type Output = Result<Response<Body>, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map_err(status_of)
    }
}

/// How a service is called, before anything is connected.
#[must_use = "a builder does nothing until it connects"]
pub struct GrpcClientBuilder<L = RpcClientStack> {
    registry: Arc<dyn Registry>,
    service: String,
    selector: Arc<dyn Selector>,
    config: GrpcClientConfig,
    is_go_micro: bool,
    layer: L,
}

impl<L> GrpcClientBuilder<L> {
    /// Sets the service's name in the registry.
    pub fn service(mut self, name: impl Into<String>) -> Self {
        self.service = name.into();
        self
    }

    /// Sets what picks the instance of each call; default [`RandomSelector`].
    pub fn selector(mut self, selector: impl Selector) -> Self {
        self.selector = Arc::new(selector);
        self
    }

    /// Sets the settings.
    pub fn config(mut self, config: GrpcClientConfig) -> Self {
        self.config = config;
        self
    }

    /// Calls as go-micro v4's client does: the path is `/<service's name in the registry>.<Handler>/
    /// <Method>`, and the headers `timeout` (nanoseconds) and `x-content-type` stand beside gRPC's.
    ///
    /// Without it a call has its proto package's path, which go-micro's servers answer as well; they
    /// read the time limit in `grpc-timeout` too. It is for callees that look at the path: a gateway's
    /// rules, a log. Failures of go-micro's servers are understood either way, by
    /// [`from_status`](crate::from_status).
    ///
    /// It also sends no HTTP/2 pings, of which Go's servers permit few: see
    /// [`sends_pings`](GrpcClientConfig::sends_pings), which a client without it sets to the same end.
    pub fn go_micro(mut self) -> Self {
        self.is_go_micro = true;
        self
    }

    /// Replaces the layers around the transport, [`rpc_client_stack`] where nothing is said: trace,
    /// metrics, deadline, retry. Clients made of clones of one stack share its retry budget.
    pub fn stack<M>(self, stack: M) -> GrpcClientBuilder<M> {
        GrpcClientBuilder {
            registry: self.registry,
            service: self.service,
            selector: self.selector,
            config: self.config,
            is_go_micro: self.is_go_micro,
            layer: stack,
        }
    }

    /// Adds a layer inside of those there are: the first added sees a call first.
    pub fn layer<M>(self, layer: M) -> GrpcClientBuilder<Stack<M, L>> {
        GrpcClientBuilder {
            registry: self.registry,
            service: self.service,
            selector: self.selector,
            config: self.config,
            is_go_micro: self.is_go_micro,
            layer: Stack::new(layer, self.layer),
        }
    }

    /// Watches the registry and waits for its first word, at most for the connect timeout; a
    /// registry that is away is asked again and again. Connections are made when they are needed.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` without a service name.
    pub async fn connect<B>(mut self) -> Result<GrpcClient>
    where
        L: Layer<Transport>,
        L::Service: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        <L::Service as Service<Request<Body>>>::Error: Into<BoxError>,
        <L::Service as Service<Request<Body>>>::Future: Send + 'static,
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if self.service.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArgument, "grpc.connect", "the service name is empty"));
        }
        self.config.sends_pings.get_or_insert(!self.is_go_micro);
        let service: Arc<str> = self.service.into();
        let snapshots = Snapshots::watch(self.registry, &service, self.config.clone());
        snapshots.wait_for_first(self.config.connect_timeout).await;
        let transport = Transport::new(service.clone(), snapshots, self.selector, self.config, self.is_go_micro);
        let stack = tower::ServiceBuilder::new()
            .map_response(|response: Response<B>| response.map(Body::new))
            .map_err(Into::into)
            .service(self.layer.layer(transport));
        Ok(GrpcClient { stack: BoxCloneSyncService::new(stack), service })
    }
}

impl fmt::Debug for GrpcClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcClient").field("service", &self.service).finish_non_exhaustive()
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").finish_non_exhaustive()
    }
}

impl<L> fmt::Debug for GrpcClientBuilder<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcClientBuilder")
            .field("service", &self.service)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
