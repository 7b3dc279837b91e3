//! The server: an application's component that serves tonic services, health and reflection.

mod accept;
mod call;
mod config;
mod endpoints;
mod health;
mod methods;
mod routes;
mod shared;

use std::{
    collections::BTreeSet,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use http::{Request, Response};
use micro_core::{
    Error, ErrorKind, Health, HealthStatus, Result,
    app::Component,
    registry::{Endpoint, Instance},
};
use micro_middleware::stack::{RpcServerStack, rpc_server_stack};
use tokio::net::TcpListener;
use tonic::{body::Body, server::NamedService};
use tower::{BoxError, Layer, Service, layer::util::Stack};

use self::{
    accept::{Acceptor, Protocol},
    health::HealthService,
    shared::Shared,
};
use crate::go_micro::{GoMicroConfig, Receiver, mucp};

pub(crate) use self::{
    call::{Calls, Place},
    methods::{Method, Methods, Named},
    routes::Refusal,
};
pub use self::{
    config::GrpcServerConfig,
    endpoints::endpoints_of,
    routes::{Handlers, HandlersFuture},
};

/// The server's stack of layers over its handlers, boxed once.
type BoxedStack = Arc<dyn Shared<Request<Body>, Response<Body>, BoxError>>;

/// A gRPC server as a component of an [`App`](micro_core::app::App).
///
/// It binds and serves at `start`, announces one instance, answers `grpc.health.v1` from the
/// application's [`Health`], and ends within the drain deadline whatever its clients do.
pub struct GrpcServer {
    name: String,
    service: String,
    config: GrpcServerConfig,
    stack: BoxedStack,
    health: HealthService,
    methods: Arc<Methods>,
    go_micro: Option<GoMicroConfig>,
    endpoints: Arc<Vec<Endpoint>>,
    running: Mutex<Option<Running>>,
}

struct Running {
    acceptor: Acceptor,
    address: SocketAddr,
    mucp: Option<(Acceptor, SocketAddr)>,
    instance: Instance,
}

impl Running {
    fn acceptors(&self) -> Vec<Acceptor> {
        let mucp = self.mucp.iter().map(|(acceptor, _)| acceptor.clone());
        std::iter::once(self.acceptor.clone()).chain(mucp).collect()
    }
}

impl GrpcServer {
    /// A server that is known in the registry as `service`.
    pub fn builder(service: impl Into<String>) -> GrpcServerBuilder {
        let health = HealthService::new();
        GrpcServerBuilder {
            service: service.into(),
            config: GrpcServerConfig::default(),
            handlers: Handlers::default(),
            health,
            descriptors: Vec::new(),
            reflected: Vec::new(),
            go_micro: None,
            topics: BTreeSet::new(),
            layer: rpc_server_stack(),
        }
    }

    /// The address it listens on; `None` before it started.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.running().as_ref().map(|running| running.address)
    }

    /// The address where it takes calls in mucp; `None` before it started and where it takes none.
    pub fn mucp_local_addr(&self) -> Option<SocketAddr> {
        self.running().as_ref().and_then(|running| running.mucp.as_ref().map(|(_, address)| *address))
    }

    /// Calls in hand now.
    pub fn in_flight_count(&self) -> usize {
        self.running().as_ref().map_or(0, |running| running.acceptor.in_flight_count())
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn acceptors(&self) -> Vec<Acceptor> {
        self.running().as_ref().map(Running::acceptors).unwrap_or_default()
    }

    async fn listen(&self, address: &str) -> Result<(TcpListener, SocketAddr)> {
        let refuse = |message: &'static str, error: std::io::Error| {
            Error::new(io_kind(&error), "grpc.start", message).with_context("address", address).with_source(error)
        };
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| refuse("cannot listen on the address, expected a free host:port", error))?;
        let address = listener.local_addr().map_err(|error| refuse("the listener has no address", error))?;
        Ok((listener, address))
    }

    fn mucp_address(&self) -> Option<&str> {
        self.go_micro.as_ref().and_then(|config| config.mucp_address.as_deref())
    }

    fn instance(&self, address: SocketAddr) -> Result<Instance> {
        let address = match &self.config.advertise {
            Some(advertise) => advertise.clone(),
            None if address.ip().is_unspecified() => {
                return Err(Error::new(
                    ErrorKind::InvalidArgument,
                    "grpc.start",
                    "listening on every address needs the setting advertise, the host:port that callers reach",
                )
                .with_context("address", address));
            }
            None => address.to_string(),
        };
        let (protocol, transport) = match self.mucp_address() {
            Some(_) => (mucp::PROTOCOL, "http"),
            None => ("grpc", "grpc"),
        };
        let mut instance = Instance::new(&self.service, address)
            .with_version(&self.config.version)
            .with_metadata("protocol", protocol)
            .with_metadata("server", protocol)
            .with_metadata("transport", transport);
        if let Some(id) = &self.config.id {
            instance = instance.with_id(format!("{}-{id}", self.service));
        }
        for (name, value) in &self.config.metadata {
            instance.metadata.entry(name.clone()).or_insert_with(|| value.clone());
        }
        instance.endpoints = self.endpoints.clone();
        Ok(instance)
    }
}

#[async_trait]
impl Component for GrpcServer {
    fn name(&self) -> &str {
        &self.name
    }

    async fn start(&self, health: &Health) -> Result<()> {
        let (listener, address) = self.listen(&self.config.address).await?;
        let of_mucp = match self.mucp_address() {
            Some(address) => Some(self.listen(address).await?),
            None => None,
        };
        // Callers pick an instance by its name and speak their own protocol to it: one is announced.
        let instance = self.instance(of_mucp.as_ref().map_or(address, |(_, address)| *address))?;

        self.health.feed(health.clone());
        health.set(&self.name, HealthStatus::Serving);
        let go_micro = self.go_micro.as_ref();
        let receiver = go_micro.map(|config| Receiver::new(&self.service, config, self.methods.clone()));
        let calls = Calls::new(self.stack.clone(), &self.config, self.methods.clone(), receiver);
        let start = |listener, protocol, name| {
            Acceptor::start(listener, calls.clone(), protocol, &self.config, health.clone(), name)
        };
        let acceptor = start(listener, Protocol::grpc(&self.config), self.name.clone());
        let mucp = of_mucp.map(|(listener, address)| {
            let name = format!("mucp {}", self.service);
            health.set(&name, HealthStatus::Serving);
            tracing::info!(service = self.service, %address, "serving mucp");
            (start(listener, Protocol::mucp(&self.config), name), address)
        });
        *self.running() = Some(Running { acceptor, address, mucp, instance });
        tracing::info!(service = self.service, %address, "serving gRPC");
        Ok(())
    }

    fn instances(&self) -> Vec<Instance> {
        self.running().iter().map(|running| running.instance.clone()).collect()
    }

    async fn drain(&self, deadline: Duration) -> Result<()> {
        let acceptors = self.acceptors();
        if acceptors.is_empty() {
            return Ok(());
        }
        self.health.withdraw();
        // They count the same calls.
        let drained = acceptors.iter().map(|acceptor| acceptor.drain(deadline));
        let cut_count = futures_util::future::join_all(drained).await.into_iter().max().unwrap_or_default();
        if cut_count == 0 {
            return Ok(());
        }
        Err(Error::new(ErrorKind::DeadlineExceeded, "grpc.drain", "calls were cut at the drain deadline")
            .with_context("calls", cut_count)
            .with_context("deadline", format_args!("{deadline:?}")))
    }

    async fn flush(&self, _deadline: Duration) -> Result<()> {
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        for acceptor in self.acceptors() {
            acceptor.close().await;
        }
        *self.running() = None;
        Ok(())
    }
}

impl std::fmt::Debug for GrpcServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrpcServer")
            .field("service", &self.service)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// What a server serves, before it starts.
#[must_use = "a builder does nothing until it is built"]
pub struct GrpcServerBuilder<L = RpcServerStack> {
    service: String,
    config: GrpcServerConfig,
    handlers: Handlers,
    health: HealthService,
    descriptors: Vec<Vec<u8>>,
    reflected: Vec<Vec<u8>>,
    go_micro: Option<GoMicroConfig>,
    topics: BTreeSet<String>,
    layer: L,
}

impl<L> GrpcServerBuilder<L> {
    /// Sets the settings.
    pub fn config(mut self, config: GrpcServerConfig) -> Self {
        self.config = config;
        self
    }

    /// Sets `host:port` to listen on, of the settings.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.config.address = address.into();
        self
    }

    /// Adds a generated server, `GreeterServer::new(greeter)`.
    pub fn add_service<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.health.add_service_name(S::NAME);
        self.handlers.add(S::NAME, service);
        self
    }

    /// Offers reflection of these file descriptor sets, as `micro-build` writes them, and knows its
    /// methods by them: [`descriptors`](Self::descriptors).
    pub fn reflection(mut self, descriptors: impl Into<Vec<u8>>) -> Self {
        let descriptors = descriptors.into();
        self.reflected.push(descriptors.clone());
        self.descriptors(descriptors)
    }

    /// Knows its methods and their messages by these file descriptor sets, without offering
    /// reflection.
    ///
    /// With them a method that answers one message with a stream begins to answer after that message;
    /// without them, once its client has ended its side, which go-micro's clients never do.
    pub fn descriptors(mut self, descriptors: impl Into<Vec<u8>>) -> Self {
        self.descriptors.push(descriptors.into());
        self
    }

    /// Answers go-micro v4's gRPC clients beside all others.
    ///
    /// - A method is found by the last part of its service's name, whatever stands before it:
    ///   `/go.micro.service.order.Order/PayNotify` and `/Order/PayNotify` reach
    ///   `/shop.Order/PayNotify`. Layers, spans and metrics see the method's own path.
    /// - The header `timeout`, in nanoseconds, limits a call as `grpc-timeout` does.
    /// - The content type's encoding is `proto`, `json` or one of the settings, and is repeated in the
    ///   answer.
    /// - A failure has the form that go-micro's clients read:
    ///   [`StatusCompat`](crate::StatusCompat). Its first detail is go-micro's error and no other, for
    ///   at another one they end with a panic.
    /// - The registry is told of its methods and the shapes of their messages: [`endpoints_of`].
    ///
    /// It is no default, for proxies in front of a server allow and forbid by path: a server that takes
    /// `/x.Order/PayNotify` for `/shop.Order/PayNotify` must be known to do so.
    pub fn go_micro(mut self, config: GoMicroConfig) -> Self {
        self.go_micro = Some(config);
        self
    }

    /// Tells the registry which topics the service is subscribed to, where go-micro's clients are
    /// answered: an endpoint for each, [`Endpoint::subscriber`], behind those of the methods, as
    /// go-micro's servers do. It subscribes to nothing.
    pub fn subscribed<T: Into<String>>(mut self, topics: impl IntoIterator<Item = T>) -> Self {
        self.topics.extend(topics.into_iter().map(Into::into));
        self
    }

    /// Replaces the layers around the handlers, [`rpc_server_stack`] where nothing is said:
    /// trace, metrics, recover, deadline. `tower::layer::util::Identity` is none at all.
    pub fn stack<M>(self, stack: M) -> GrpcServerBuilder<M> {
        GrpcServerBuilder {
            service: self.service,
            config: self.config,
            handlers: self.handlers,
            health: self.health,
            descriptors: self.descriptors,
            reflected: self.reflected,
            go_micro: self.go_micro,
            topics: self.topics,
            layer: stack,
        }
    }

    /// Adds a layer inside of those there are: the first added sees a call first.
    ///
    /// A layer that ends a call with an error has it answered as its status: see
    /// [`to_status`](crate::to_status).
    pub fn layer<M>(self, layer: M) -> GrpcServerBuilder<Stack<M, L>> {
        GrpcServerBuilder {
            service: self.service,
            config: self.config,
            handlers: self.handlers,
            health: self.health,
            descriptors: self.descriptors,
            reflected: self.reflected,
            go_micro: self.go_micro,
            topics: self.topics,
            layer: Stack::new(layer, self.layer),
        }
    }

    /// The server, not yet listening.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an empty service name, for a descriptor set that is none, and for a
    /// service without descriptors where go-micro's clients are to be answered.
    pub fn build<B>(mut self) -> Result<GrpcServer>
    where
        L: Layer<Handlers>,
        L::Service: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        <L::Service as Service<Request<Body>>>::Error: Into<BoxError>,
        <L::Service as Service<Request<Body>>>::Future: Send + 'static,
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if self.service.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArgument, "grpc.build", "the service name is empty"));
        }
        let methods = self.methods()?;
        let endpoints = self.endpoints()?;
        self.add_reflection()?;
        let health = self.health.clone();
        self.handlers.add(
            tonic_health::pb::health_server::SERVICE_NAME,
            tonic_health::pb::health_server::HealthServer::new(health.clone()),
        );
        let stack = self.layer.layer(self.handlers);
        let stack = tower::ServiceBuilder::new()
            .map_response(|response: Response<B>| response.map(Body::new))
            .map_err(Into::into)
            .service(stack);
        Ok(GrpcServer {
            name: format!("grpc {}", self.service),
            service: self.service,
            config: self.config,
            stack: Arc::new(stack),
            health,
            methods: Arc::new(methods),
            go_micro: self.go_micro,
            endpoints: Arc::new(endpoints),
            running: Mutex::new(None),
        })
    }

    fn methods(&self) -> Result<Methods> {
        let mut methods = Methods::read(&self.descriptors, self.handlers.names())?;
        for service in OF_THE_SERVER {
            methods.add_of_the_server(service);
        }
        let unknown = self.handlers.names().find(|service| !methods.has_service(service));
        match unknown.filter(|_| self.go_micro.is_some()) {
            Some(service) => Err(Error::new(
                ErrorKind::InvalidArgument,
                "grpc.build",
                "a service that go-micro's clients call needs its descriptors, expected them by reflection or descriptors",
            )
            .with_context("service", service)),
            None => Ok(methods),
        }
    }

    /// Those of the user's services, as go-micro tells its registry; others are not asked for them.
    fn endpoints(&self) -> Result<Vec<Endpoint>> {
        if self.go_micro.is_none() {
            return Ok(Vec::new());
        }
        let services: Vec<&str> = self.handlers.names().collect();
        let mut endpoints = endpoints_of(self.descriptors.iter().map(Vec::as_slice), &services)?;
        // As go-micro has them: the last topic first.
        endpoints.extend(self.topics.iter().rev().map(Endpoint::subscriber));
        Ok(endpoints)
    }

    fn add_reflection(&mut self) -> Result<()> {
        if self.reflected.is_empty() {
            return Ok(());
        }
        let refuse = |error: tonic_reflection::server::Error| {
            Error::new(ErrorKind::InvalidArgument, "grpc.build", "expected encoded file descriptor sets for reflection")
                .with_source(error)
        };
        let builder = || {
            let health = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
            self.reflected.iter().fold(health, |builder, set| builder.register_encoded_file_descriptor_set(set))
        };
        let (v1, v1alpha) = (builder().build_v1().map_err(refuse)?, builder().build_v1alpha().map_err(refuse)?);
        self.handlers.add(name_of(&v1), v1);
        self.handlers.add(name_of(&v1alpha), v1alpha);
        Ok(())
    }
}

impl<L> std::fmt::Debug for GrpcServerBuilder<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrpcServerBuilder").field("service", &self.service).finish_non_exhaustive()
    }
}

/// What a server adds to its user's services.
const OF_THE_SERVER: [&str; 3] = [
    tonic_health::pb::health_server::SERVICE_NAME,
    tonic_reflection::pb::v1::server_reflection_server::SERVICE_NAME,
    tonic_reflection::pb::v1alpha::server_reflection_server::SERVICE_NAME,
];

fn name_of<S: NamedService>(_: &S) -> &'static str {
    S::NAME
}

fn io_kind(error: &std::io::Error) -> ErrorKind {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => ErrorKind::AlreadyExists,
        std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        std::io::ErrorKind::InvalidInput | std::io::ErrorKind::AddrNotAvailable => ErrorKind::InvalidArgument,
        _ => ErrorKind::Unavailable,
    }
}
