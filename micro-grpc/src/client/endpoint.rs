//! One instance, by the protocol that it speaks; and its connections of gRPC: made when needed, by one
//! attempt at a time, and left alone for a while after one that failed.

use std::{
    error::Error as _,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use http::{Request, Response, Uri, uri::Authority};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use micro_core::{Error, ErrorKind, Result, registry::Instance};
use tokio::{net::TcpStream, time::timeout};
use tonic::{Status, body::Body};

use super::{
    GrpcClientConfig,
    keepalive::Keepalive,
    mucp::{MucpEndpoint, is_mucp},
};
use crate::{
    body::{ResponseBody, broken},
    gathered::Gathered,
};

type Sender = http2::SendRequest<Body>;

/// Why a call came to no answer.
pub(crate) enum Failure {
    /// Nothing was sent: the request is whole and may go to another instance.
    NotSent(Box<Request<Body>>, Error),
    /// The instance said that it did not take it up, but the request is spent.
    Refused(Error),
    /// It may have taken effect.
    Broken(Status),
}

/// Where one instance is reached.
pub(crate) enum Endpoint {
    Grpc(GrpcEndpoint),
    /// The registry says that it speaks go-micro's own RPC.
    Mucp(Box<MucpEndpoint>),
}

impl Endpoint {
    pub(crate) fn new(instance: &Instance, config: &GrpcClientConfig) -> Self {
        if is_mucp(instance) {
            return Self::Mucp(Box::new(MucpEndpoint::new(instance, config)));
        }
        Self::Grpc(GrpcEndpoint::new(&instance.address, config))
    }

    /// Whether the last attempt to connect failed only just now.
    pub(crate) fn is_lost(&self) -> bool {
        match self {
            Self::Grpc(endpoint) => endpoint.is_lost(),
            Self::Mucp(endpoint) => endpoint.is_lost(),
        }
    }

    pub(crate) async fn send(
        &self,
        request: Box<Request<Body>>,
    ) -> std::result::Result<Response<ResponseBody>, Failure> {
        match self {
            Self::Grpc(endpoint) => endpoint.send(request).await.map(|response| response.map(ResponseBody::new)),
            Self::Mucp(endpoint) => endpoint.send(request).await,
        }
    }
}

/// Where an instance is reached that speaks gRPC.
pub(crate) struct GrpcEndpoint {
    target: Arc<Target>,
    connections: Vec<Arc<Connection>>,
    next: AtomicUsize,
}

struct Target {
    address: String,
    authority: std::result::Result<Authority, http::uri::InvalidUri>,
    protocol: http2::Builder<TokioExecutor>,
    keepalive: Keepalive,
    connect_timeout: Duration,
    backoff: Backoff,
}

#[derive(Default)]
struct Connection {
    current: ArcSwapOption<Sender>,
    /// Its calls without an answer.
    calls_in_hand: Arc<AtomicUsize>,
    connecting: Arc<tokio::sync::Mutex<()>>,
}

impl GrpcEndpoint {
    pub(crate) fn new(address: &str, config: &GrpcClientConfig) -> Self {
        let keepalive = Keepalive::new(config);
        let target = Target {
            address: address.to_owned(),
            authority: Authority::try_from(address),
            protocol: protocol(config, keepalive),
            keepalive,
            connect_timeout: config.connect_timeout,
            backoff: Backoff::new(config),
        };
        let connections = (0..config.connection_count.max(1)).map(|_| Arc::default()).collect();
        Self { target: Arc::new(target), connections, next: AtomicUsize::new(0) }
    }

    fn is_lost(&self) -> bool {
        self.target.backoff.is_waiting()
    }

    pub(crate) fn address(&self) -> &str {
        &self.target.address
    }

    pub(crate) async fn send(
        &self,
        mut request: Box<Request<Body>>,
    ) -> std::result::Result<Response<Incoming>, Failure> {
        if let Err(error) = self.target.address_to(&mut request) {
            return Err(Failure::NotSent(request, error));
        }
        let connection = &self.connections[self.next.fetch_add(1, Ordering::Relaxed) % self.connections.len()];
        let _call = InHand::new(&connection.calls_in_hand);
        // A connection may end between the look at it and its use; then there is one more, a new one.
        for _ in 0..2 {
            let mut sender = match connection.sender(&self.target).await {
                Ok(sender) => sender,
                Err(error) => return Err(Failure::NotSent(request, error)),
            };
            let mut error = match sender.try_send_request(*request).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            match error.take_message() {
                Some(unsent) => request = Box::new(unsent),
                None => return Err(self.target.failure(&error.into_error())),
            }
        }
        let error = Error::new(ErrorKind::Unavailable, "grpc.call", "the instance closes its connections at once")
            .with_context("address", &self.target.address);
        Err(Failure::NotSent(request, error))
    }
}

/// A call without an answer, which the connection counts.
struct InHand<'a>(&'a AtomicUsize);

impl<'a> InHand<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connection {
    async fn sender(self: &Arc<Self>, target: &Arc<Target>) -> Result<Sender> {
        if let Some(sender) = self.live() {
            return Ok(sender);
        }
        let attempt = self.connecting.clone().lock_owned().await;
        if let Some(sender) = self.live() {
            return Ok(sender);
        }
        // In a task of its own, so that a caller who gives up does not end the attempt of all others,
        // and its outcome is known to those who come later.
        let (this, target) = (self.clone(), target.clone());
        let connecting = tokio::spawn(async move {
            let _attempt = attempt;
            let connected = target.connect(this.calls_in_hand.clone()).await;
            match &connected {
                Ok(sender) => {
                    target.backoff.reset();
                    this.current.store(Some(Arc::new(sender.clone())));
                }
                Err(_) => target.backoff.grow(),
            }
            connected
        });
        connecting.await.unwrap_or_else(|error| {
            Err(Error::new(ErrorKind::Internal, "grpc.connect", "the attempt to connect ended early")
                .with_source(error))
        })
    }

    fn live(&self) -> Option<Sender> {
        self.current.load().as_deref().filter(|sender| !sender.is_closed()).cloned()
    }
}

impl Target {
    async fn connect(&self, calls_in_hand: Arc<AtomicUsize>) -> Result<Sender> {
        let refuse = |message: &'static str| {
            Error::new(ErrorKind::Unavailable, "grpc.connect", message).with_context("address", &self.address)
        };
        let connecting = async {
            let stream = TcpStream::connect(&self.address).await?;
            stream.set_nodelay(true)?;
            if let Err(error) = self.keepalive.set_stream(&stream) {
                tracing::warn!(address = self.address, %error, "a dead peer is found late: no probes can be set");
            }
            self.protocol.handshake(TokioIo::new(Gathered::new(stream, calls_in_hand))).await.map_err(io::Error::other)
        };
        let (sender, connection) = match timeout(self.connect_timeout, connecting).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => return Err(refuse("the instance cannot be reached").with_source(error)),
            Err(_) => {
                return Err(refuse("the instance does not answer")
                    .with_context("timeout", format_args!("{:?}", self.connect_timeout)));
            }
        };
        let address = self.address.clone();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(address, %error, "a connection ended");
            }
        });
        Ok(sender)
    }

    fn failure(&self, error: &hyper::Error) -> Failure {
        if !is_refused(error) {
            return Failure::Broken(broken(error));
        }
        let error = Error::new(ErrorKind::Unavailable, "grpc.call", "the instance did not take up the call");
        Failure::Refused(error.with_context("address", &self.address))
    }

    /// HTTP/2 wants scheme and authority, which a generated client does not know.
    fn address_to(&self, request: &mut Request<Body>) -> Result<()> {
        let authority = self.authority.as_ref().map_err(|_| {
            Error::new(ErrorKind::InvalidArgument, "grpc.call", "the instance's address is not host:port")
                .with_context("address", &self.address)
        })?;
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(http::uri::Scheme::HTTP);
        parts.authority = Some(authority.clone());
        *request.uri_mut() = Uri::from_parts(parts).map_err(|error| {
            Error::new(ErrorKind::InvalidArgument, "grpc.call", "the request has no path").with_source(error)
        })?;
        Ok(())
    }
}

/// A stream reset with REFUSED_STREAM was not processed. Source: RFC 9113 §8.7.
fn is_refused(error: &hyper::Error) -> bool {
    let h2 = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    h2.and_then(h2::Error::reason) == Some(h2::Reason::REFUSED_STREAM)
}

fn protocol(config: &GrpcClientConfig, keepalive: Keepalive) -> http2::Builder<TokioExecutor> {
    let mut protocol = http2::Builder::new(TokioExecutor::new());
    protocol.timer(TokioTimer::new()).max_header_list_size(config.header_bytes_max);
    keepalive.set_protocol(&mut protocol);
    protocol
}

/// Source of the growth: gRPC's connection-backoff.md, with waits for one data centre.
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    state: Mutex<BackoffState>,
    /// Lets the calls of a healthy endpoint look without the lock.
    failure_count: AtomicUsize,
}

#[derive(Default)]
struct BackoffState {
    wait: Duration,
    until: Option<Instant>,
}

impl Backoff {
    pub(super) fn new(config: &GrpcClientConfig) -> Self {
        Self {
            first: config.reconnect_backoff,
            longest: config.reconnect_backoff_max,
            state: Mutex::default(),
            failure_count: AtomicUsize::new(0),
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.failure_count.load(Ordering::Acquire) > 0 && self.state().until.is_some_and(|until| Instant::now() < until)
    }

    pub(super) fn grow(&self) {
        let mut state = self.state();
        state.wait = if state.wait.is_zero() { self.first } else { state.wait.mul_f64(1.6).min(self.longest) };
        state.until = Some(Instant::now() + state.wait.mul_f64(0.8 + 0.4 * fastrand::f64()));
        self.failure_count.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn reset(&self) {
        *self.state() = BackoffState::default();
        self.failure_count.store(0, Ordering::Release);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, BackoffState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
