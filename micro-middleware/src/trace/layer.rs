//! The layer that makes [`Trace`].

use tower_layer::Layer;

use super::Trace;
use crate::Direction;

/// Gives each request a tracing span and hands the trace context on.
///
/// The span `request` has the fields `flow`, `direction`, `operation`, `trace_id`, `span_id`,
/// `parent_span_id` and, at its end, `outcome`: `ok` or the [`ErrorKind`](micro_core::ErrorKind).
/// It says nothing of the peer. It is entered whenever the request's future or its response's body
/// is polled.
///
/// # Contract
///
/// - `a_valid_traceparent_is_continued`: same trace, a new span id, the sampled flag kept.
/// - `a_malformed_traceparent_starts_a_new_trace`.
/// - `a_traceparent_is_forwarded_when_nobody_listens`: unchanged, for without a span of ours there
///   is no id of ours to name; and where none came none is made up.
/// - `an_outgoing_call_carries_the_trace_of_its_metadata`.
/// - `messages_with_a_traceparent_keep_it`: those of a batch without one get the batch's.
/// - `a_call_is_recorded_once_after_its_body`.
///
/// # How inner code reaches the context
///
/// The layer writes the request's own context to its `traceparent`. Of a call served, the
/// [`ServerDeadlineLayer`](crate::ServerDeadlineLayer) copies it with the other headers into the
/// [`Metadata`](micro_core::Metadata) among the request's extensions; what makes a call or records
/// an event is given that `Metadata`. What was received from a broker is data: its handler reads
/// the `Traceparent` header of its delivery.
///
/// Source: <https://www.w3.org/TR/trace-context/>, level 1.
#[derive(Clone, Copy, Debug)]
pub struct TraceLayer {
    direction: Direction,
}

impl TraceLayer {
    /// For requests that somebody makes to this process.
    pub fn incoming() -> Self {
        Self { direction: Direction::In }
    }

    /// For requests that this process makes.
    pub fn outgoing() -> Self {
        Self { direction: Direction::Out }
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Trace<S> {
        Trace::new(inner, self.direction)
    }
}
