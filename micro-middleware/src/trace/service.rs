//! The service that spans each request.

use std::task::{Context, Poll};

use micro_core::{
    TraceContext,
    broker::header::TRACEPARENT,
    flow::{Operation, Outcome},
};
use tower_service::Service;
use tracing::{Span, field};

use super::SpanRecord;
use crate::{
    Direction,
    observe::{Observe, Recording, ResponseFuture},
    operation,
};

/// Spans each request of the inner service; made by [`TraceLayer`](super::TraceLayer).
#[derive(Clone, Debug)]
pub struct Trace<S> {
    inner: S,
    direction: Direction,
}

impl<S> Trace<S> {
    pub(super) fn new(inner: S, direction: Direction) -> Self {
        Self { inner, direction }
    }
}

impl<S, Request> Service<Request> for Trace<S>
where
    S: Service<Request>,
    Request: Operation,
    S::Response: Observe,
    S::Error: Outcome,
{
    type Response = <S::Response as Observe>::Observed<SpanRecord>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, SpanRecord>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let span = open_span(&request, self.direction);
        hand_on(&mut request, &span, self.direction);
        let recording = Recording::new(SpanRecord(span));
        let inner = recording.scope(|| self.inner.call(request));
        ResponseFuture::new(inner, recording)
    }
}

/// Without a span of ours our id would name nothing: the parent's goes on, as the specification wants
/// it of those who take no part in the trace, and where there is none nobody begins one.
fn forward<Request: Operation>(request: &mut Request, parent: Option<TraceContext>, direction: Direction) {
    match parent {
        // It came in the place where its receiver looks for it.
        Some(_) if direction == Direction::In => {}
        Some(parent) => request.set_metadata(TRACEPARENT, &parent.to_string()),
        // What is no trace context goes no further, wherever it would be written to.
        None if request.metadata(TRACEPARENT).is_some() => {
            request.set_metadata(TRACEPARENT, &TraceContext::new(false).to_string());
        }
        None => {}
    }
}

fn open_span<Request: Operation>(request: &Request, direction: Direction) -> Span {
    tracing::info_span!(
        "request",
        flow = Request::FLOW.as_str(),
        direction = direction.as_str(),
        operation = operation::cut(request.operation()),
        trace_id = field::Empty,
        span_id = field::Empty,
        parent_span_id = field::Empty,
        outcome = field::Empty,
    )
}

/// Writes the request's own context where its receiver looks for it.
fn hand_on<Request: Operation>(request: &mut Request, span: &Span, direction: Direction) {
    let parent = request.metadata(TRACEPARENT).and_then(|text| text.parse::<TraceContext>().ok());
    if span.is_disabled() {
        return forward(request, parent, direction);
    }
    let own = parent.map_or_else(|| TraceContext::new(true), |parent| parent.child());
    span.record("trace_id", field::display(format_args!("{:032x}", own.trace_id())));
    span.record("span_id", field::display(format_args!("{:016x}", own.span_id())));
    if let Some(parent) = parent {
        span.record("parent_span_id", field::display(format_args!("{:016x}", parent.span_id())));
    }
    request.set_metadata(TRACEPARENT, &own.to_string());
}
