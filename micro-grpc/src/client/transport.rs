//! One call: its deadline, its instance, and another instance where that one cannot be reached.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{Request, Response};
use hyper::body::Incoming;
use micro_core::{Error, ErrorKind, Metadata, Result, selector::Selector};
use tokio::time::{Sleep, sleep_until};
use tonic::body::Body;
use tower::Service;

use super::{
    GrpcClientConfig,
    endpoint::Failure,
    snapshot::{Snapshot, Snapshots},
};
use crate::{
    body::ResponseBody,
    deadline::{GRPC_TIMEOUT, read_timeout, write_timeout},
};

/// Kept back of the caller's remaining time, so that it hears of our failure before its own deadline.
const HOP: Duration = Duration::from_millis(10);
/// With less time than this nothing is sent: no answer could come back.
const REMAINING_MIN: Duration = Duration::from_millis(5);

/// The innermost service of a client's stack. Cheap to clone.
#[derive(Clone)]
pub struct Transport {
    shared: Arc<Shared>,
}

struct Shared {
    service: Arc<str>,
    snapshots: Snapshots,
    selector: Arc<dyn Selector>,
    config: GrpcClientConfig,
    in_flight_count: AtomicUsize,
}

impl Transport {
    pub(crate) fn new(
        service: Arc<str>,
        snapshots: Snapshots,
        selector: Arc<dyn Selector>,
        config: GrpcClientConfig,
    ) -> Self {
        let in_flight_count = AtomicUsize::new(0);
        Self { shared: Arc::new(Shared { service, snapshots, selector, config, in_flight_count }) }
    }
}

impl Service<Request<Body>> for Transport {
    type Response = Response<ResponseBody>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let shared = self.shared.clone();
        Box::pin(async move { shared.call(request).await })
    }
}

impl Shared {
    async fn call(&self, mut request: Request<Body>) -> Result<Response<ResponseBody>> {
        let _place = self.take_place()?;
        let timeout = self.timeout(&request)?;
        request.headers_mut().insert(GRPC_TIMEOUT, write_timeout(timeout));
        let mut sleep = Box::pin(sleep_until(tokio::time::Instant::now() + timeout));
        let response = tokio::select! {
            biased;
            response = self.send(Box::new(request)) => response?,
            () = sleep.as_mut() => return Err(self.late(timeout)),
        };
        Ok(with_deadline(response, sleep))
    }

    /// What the request says, or else our own; never more than is left to the caller.
    fn timeout(&self, request: &Request<Body>) -> Result<Duration> {
        let own = read_timeout(request.headers()).unwrap_or(self.config.call_timeout);
        let deadline = request.extensions().get::<Metadata>().and_then(Metadata::deadline);
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()).saturating_sub(HOP));
        let timeout = left.map_or(own, |left| left.min(own));
        if timeout >= REMAINING_MIN {
            return Ok(timeout);
        }
        Err(Error::new(ErrorKind::DeadlineExceeded, "grpc.call", "too little time is left to send the call")
            .with_context("service", &self.service)
            .with_context("left", format_args!("{timeout:?}")))
    }

    async fn send(&self, mut request: Box<Request<Body>>) -> Result<Response<Incoming>> {
        let snapshot = self.snapshots.current();
        let Some(picked) = self.selector.pick(&snapshot.instances) else {
            return Err(self.nowhere(&snapshot));
        };
        let mut unreached = None;
        for index in route(&snapshot, picked).take(1 + self.config.reroute_count_max) {
            match snapshot.endpoints[index].send(request).await {
                Ok(response) => return Ok(response),
                Err(Failure::Sent(error)) => return Err(error.with_context("service", &self.service)),
                Err(Failure::NotSent(unsent, error)) => {
                    request = unsent;
                    unreached = Some(error);
                }
            }
        }
        let error = unreached.expect("a route has at least the picked instance");
        Err(error.with_context("service", &self.service).with_context("instances", snapshot.instances.len()))
    }

    fn take_place(&self) -> Result<Place<'_>> {
        let place = Place(&self.in_flight_count);
        if self.in_flight_count.fetch_add(1, Ordering::AcqRel) < self.config.in_flight_count_max {
            return Ok(place);
        }
        Err(Error::new(ErrorKind::ResourceExhausted, "grpc.call", "too many calls wait for an answer")
            .with_context("service", &self.service)
            .with_context("limit", self.config.in_flight_count_max))
    }

    fn nowhere(&self, snapshot: &Snapshot) -> Error {
        let error = Error::new(ErrorKind::Unavailable, "grpc.call", "the registry knows no instance of the service")
            .with_context("service", &self.service);
        match &snapshot.registry_error {
            Some(why) => error.with_context("registry", why),
            None => error.with_context("registry", "answers"),
        }
    }

    fn late(&self, timeout: Duration) -> Error {
        Error::new(ErrorKind::DeadlineExceeded, "grpc.call", "no answer came before the deadline")
            .with_context("service", &self.service)
            .with_context("timeout", format_args!("{timeout:?}"))
    }
}

/// The picked instance, then the others from a random one on; those that could not be reached only
/// just now come last, so that a dead instance costs no call anything.
fn route(snapshot: &Snapshot, picked: usize) -> impl Iterator<Item = usize> + Send + '_ {
    let is_lost = |index: usize| snapshot.endpoints[index].is_lost();
    let first = Some(picked).filter(|picked| !is_lost(*picked));
    // The rest is put in order only when it is needed.
    let rest = std::iter::once_with(move || {
        let count = snapshot.endpoints.len();
        let turn = fastrand::usize(..count);
        let mut rest: Vec<_> =
            (0..count).map(|step| (turn + step) % count).filter(|index| Some(*index) != first).collect();
        rest.sort_by_key(|index| is_lost(*index));
        rest
    });
    first.into_iter().chain(rest.flatten())
}

fn with_deadline(response: Response<Incoming>, sleep: Pin<Box<Sleep>>) -> Response<ResponseBody> {
    response.map(|body| ResponseBody::new(body, sleep))
}

/// A place among the calls in hand, given back on drop.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("service", &self.shared.service).finish_non_exhaustive()
    }
}
