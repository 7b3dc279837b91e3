//! The layer that makes [`Retry`].

use std::{sync::Arc, time::Duration};

use tower::retry::budget::TpsBudget;
use tower_layer::Layer;

use super::{Retry, RetryConfig};

/// Tries a request again that failed in a way that can pass.
///
/// A call is tried again on `Unavailable` and `ResourceExhausted`, or on every retryable kind where
/// it is declared idempotent; and only if its request is one message, small enough to be kept, and
/// its answer had no body yet (gRPC's "trailers-only"). Streams are not tried again. A batch that is
/// consumed is tried again on every retryable kind.
///
/// All services of one layer share a budget: retries for 20 % of the requests of the last 10 s, and
/// 10 a second besides, so that an outage is not answered with a multiple of the load.
///
/// # Contract
///
/// - `a_failure_that_can_pass_is_tried_again_at_most_so_often`.
/// - `what_cannot_pass_is_not_tried_again`.
/// - `a_call_is_only_tried_again_on_kinds_that_say_it_was_not_taken_up`: unless it is idempotent.
/// - `never_after_the_deadline`: and `grpc-timeout` shrinks from attempt to attempt.
/// - `an_empty_budget_stops_retries`.
/// - `streams_and_large_bodies_are_sent_once_and_unchanged`.
///
/// Source of the rules for calls: <https://github.com/grpc/proposal/blob/master/A6-client-retries.md>.
#[derive(Clone, Debug)]
pub struct RetryLayer {
    config: RetryConfig,
    budget: Arc<TpsBudget>,
}

impl RetryLayer {
    /// With these limits and a budget of its own.
    pub fn new(config: RetryConfig) -> Self {
        Self { config, budget: Arc::new(TpsBudget::new(Duration::from_secs(10), 10, 0.2)) }
    }

    /// With this budget, to share it among layers or to change its size.
    #[must_use]
    pub fn with_budget(mut self, budget: Arc<TpsBudget>) -> Self {
        self.budget = budget;
        self
    }
}

impl Default for RetryLayer {
    fn default() -> Self {
        Self::new(RetryConfig::default())
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = Retry<S>;

    fn layer(&self, inner: S) -> Retry<S> {
        Retry::new(inner, self.config.clone(), self.budget.clone())
    }
}
