//! Which handler a path belongs to.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use micro_core::Error;
use tonic::{Status, body::Body};
use tower::Service;

use super::{
    methods::service_of,
    shared::{Answering, Shared},
};
use crate::{branch, go_micro::AsItIs};

type Handler = Arc<dyn Shared<Request<Body>, Response<Body>, Infallible>>;

/// The innermost service of a server's stack: the generated servers, by name.
///
/// Cheap to clone. It never fails; its error is micro-core's so that layers over it have one to
/// refuse with.
#[derive(Clone, Default)]
pub struct Handlers {
    by_service: Arc<HashMap<&'static str, Handler>>,
}

impl Handlers {
    pub(crate) fn add<S>(&mut self, name: &'static str, service: S)
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        Arc::make_mut(&mut self.by_service).insert(name, Arc::new(service));
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.by_service.keys().copied()
    }
}

impl Service<Request<Body>> for Handlers {
    type Response = Response<Body>;
    type Error = Error;
    type Future = HandlersFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // Generated servers are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> HandlersFuture {
        if let Some(Refusal(status)) = request.extensions_mut().remove() {
            return HandlersFuture(Err(Some(as_it_is(status))));
        }
        if branch::is_branch(request.headers()) {
            let called = request.uri().path().trim_start_matches('/').to_owned();
            request.extensions_mut().insert(branch::Called(called.into()));
        }
        let handler = service_of(request.uri().path()).and_then(|service| self.by_service.get(service));
        HandlersFuture(match handler {
            Some(handler) => Ok(handler.answer(request)),
            None => Err(Some(unknown(request.uri().path()))),
        })
    }
}

fn unknown(path: &str) -> Response<Body> {
    Status::unimplemented(format!("grpc.route: no such service here (path={path})")).into_http()
}

/// Stands among the extensions of a call that was refused before the layers saw it: the status that
/// it is answered in its handler's place, in this form.
#[derive(Clone, Debug)]
pub(crate) struct Refusal(pub(crate) Status);

fn as_it_is(status: Status) -> Response<Body> {
    let mut response = status.into_http();
    response.extensions_mut().insert(AsItIs);
    response
}

/// The future of [`Handlers`].
pub struct HandlersFuture(Result<Answering<Response<Body>, Infallible>, Option<Response<Body>>>);

impl Future for HandlersFuture {
    type Output = Result<Response<Body>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Ok(answer) => answer.as_mut().poll(cx).map(|answer| answer.map_err(|never| match never {})),
            Err(refusal) => Poll::Ready(Ok(refusal.take().expect("a future is not polled after it is ready"))),
        }
    }
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_service.keys()).finish()
    }
}

impl fmt::Debug for HandlersFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlersFuture").finish_non_exhaustive()
    }
}
