//! The layer that makes [`Metrics`].

use tower_layer::Layer;

use super::Metrics;
use crate::Direction;

/// Measures each request.
///
/// | Metric | Kind | Labels |
/// |---|---|---|
/// | `micro_request_total` | counter | `flow`, `direction`, `operation`, `outcome` |
/// | `micro_request_duration_seconds` | histogram | `flow`, `direction`, `operation` |
/// | `micro_requests_in_flight` | gauge | `flow`, `direction` |
///
/// `outcome` is `ok` or the [`ErrorKind`](micro_core::ErrorKind); a request that is dropped before
/// its outcome is known is `cancelled`. A call lasts until its response's body ended.
///
/// Handles are taken from the recorder at the first request of an operation and kept: install the
/// recorder before the first request, or what came before it stays unmeasured.
///
/// # Contract
///
/// - `a_request_is_counted_once_with_its_outcome`: the status in the trailers counts.
/// - `in_flight_returns_to_zero`: also when requests are dropped or panic.
/// - `unknown_operations_do_not_multiply_series`: what is not offered here, names that are too
///   long, and whatever comes after [`OPERATION_COUNT_MAX`](super::OPERATION_COUNT_MAX) names is
///   `other`.
#[derive(Clone, Copy, Debug)]
pub struct MetricsLayer {
    direction: Direction,
}

impl MetricsLayer {
    /// For requests that somebody makes to this process.
    pub fn incoming() -> Self {
        Self { direction: Direction::In }
    }

    /// For requests that this process makes.
    pub fn outgoing() -> Self {
        Self { direction: Direction::Out }
    }
}

impl<S> Layer<S> for MetricsLayer {
    type Service = Metrics<S>;

    fn layer(&self, inner: S) -> Metrics<S> {
        Metrics::new(inner, self.direction)
    }
}
