//! One call: its instance, and another instance where that one cannot be reached.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use micro_core::{Error, ErrorKind, Result, selector::Selector};
use tonic::body::Body;
use tower::{BoxError, Service};

use super::{
    GrpcClientConfig,
    endpoint::Failure,
    snapshot::{Snapshot, Snapshots},
};
use crate::{
    body::{ResponseBody, drop_malformed_details},
    go_micro::copy_request,
};

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
    is_go_micro: bool,
    in_flight_count: AtomicUsize,
}

impl Transport {
    pub(crate) fn new(
        service: Arc<str>,
        snapshots: Snapshots,
        selector: Arc<dyn Selector>,
        config: GrpcClientConfig,
        is_go_micro: bool,
    ) -> Self {
        let in_flight_count = AtomicUsize::new(0);
        Self { shared: Arc::new(Shared { service, snapshots, selector, config, is_go_micro, in_flight_count }) }
    }
}

impl<B> Service<Request<B>> for Transport
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let shared = self.shared.clone();
        let mut request = Box::new(request.map(Body::new));
        Box::pin(async move {
            let _place = shared.take_place()?;
            if shared.is_go_micro {
                copy_request(&shared.service, &mut request)?;
            }
            shared.send(request).await
        })
    }
}

impl Shared {
    async fn send(&self, mut request: Box<Request<Body>>) -> Result<Response<ResponseBody>> {
        let snapshot = self.snapshots.current();
        let Some(picked) = self.selector.pick(&snapshot.instances) else {
            return Err(self.nowhere());
        };
        let mut unreached = None;
        for index in route(&snapshot, picked).take(1 + self.config.reroute_count_max) {
            match snapshot.endpoints[index].send(request).await {
                Ok(mut response) => {
                    drop_malformed_details(response.headers_mut());
                    return Ok(response);
                }
                Err(Failure::Broken(status)) => return Ok(Response::new(ResponseBody::ending_with(status))),
                Err(Failure::Refused(error)) => return Err(error.with_context("service", &self.service)),
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

    fn nowhere(&self) -> Error {
        let error = Error::new(ErrorKind::Unavailable, "grpc.call", "the registry knows no instance of the service")
            .with_context("service", &self.service);
        match self.snapshots.registry_error() {
            Some(why) => error.with_context("registry", why),
            None => error.with_context("registry", "answers"),
        }
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
