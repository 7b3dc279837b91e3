//! The service that measures each request.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use micro_core::flow::{Operation, Outcome};
use tower_service::Service;

use super::{RequestRecord, instruments::Instruments};
use crate::{
    Direction,
    observe::{Observe, Recording, ResponseFuture},
};

/// Measures each request of the inner service; made by [`MetricsLayer`](super::MetricsLayer).
/// Clones share their handles.
#[derive(Clone)]
pub struct Metrics<S> {
    inner: S,
    instruments: Arc<Instruments>,
}

impl<S> Metrics<S> {
    pub(super) fn new(inner: S, direction: Direction) -> Self {
        Self { inner, instruments: Arc::new(Instruments::new(direction)) }
    }
}

impl<S: fmt::Debug> fmt::Debug for Metrics<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, Request> Service<Request> for Metrics<S>
where
    S: Service<Request>,
    Request: Operation,
    S::Response: Observe,
    S::Error: Outcome,
{
    type Response = <S::Response as Observe>::Observed<RequestRecord>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, RequestRecord>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let record = RequestRecord::new(&self.instruments, Request::FLOW, request.operation());
        let recording = Recording::new(record);
        ResponseFuture::new(self.inner.call(request), recording)
    }
}
