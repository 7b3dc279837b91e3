//! The service that tries again.

use std::{
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use micro_core::flow::Outcome;
use tower::{
    ServiceExt,
    retry::budget::{Budget, TpsBudget},
};
use tower_service::Service;

use super::{Repeat, RetryConfig, config::may_repeat};
use crate::deadline::now;

/// Tries requests to the inner service again; made by [`RetryLayer`](super::RetryLayer).
#[derive(Clone, Debug)]
pub struct Retry<S> {
    inner: S,
    config: RetryConfig,
    budget: Arc<TpsBudget>,
}

impl<S> Retry<S> {
    pub(super) fn new(inner: S, config: RetryConfig, budget: Arc<TpsBudget>) -> Self {
        Self { inner, config, budget }
    }
}

impl<S, Request> Service<Request> for Retry<S>
where
    Request: Repeat + Send + 'static,
    Request::Attempt: Send,
    S: Service<Request::Attempt> + Clone + Send + 'static,
    S::Future: Send,
    S::Response: Outcome + Send,
    S::Error: Outcome + Send,
{
    type Response = S::Response;
    type Error = S::Error;
    // One box a request, so that the loop below reads as what it does.
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let next = self.inner.clone();
        // The one that was found ready makes the first attempt.
        let ready = mem::replace(&mut self.inner, next.clone());
        let (config, budget) = (self.config.clone(), self.budget.clone());
        Box::pin(attempts(ready, next, request, config, budget))
    }
}

async fn attempts<S, Request>(
    mut ready: S,
    next: S,
    request: Request,
    config: RetryConfig,
    budget: Arc<TpsBudget>,
) -> Result<S::Response, S::Error>
where
    Request: Repeat,
    S: Service<Request::Attempt> + Clone,
    S::Response: Outcome,
    S::Error: Outcome,
{
    let is_idempotent = config.is_idempotent(request.operation());
    let deadline = request.deadline();
    let (attempt, kept) = request.keep(config.body_bytes_max).await;
    budget.deposit();
    let mut answer = ready.call(attempt).await;
    for retry in 0..config.retry_count_max {
        let Some(kind) = answer.error_kind() else { break };
        if !may_repeat(Request::FLOW, kind, answer.is_not_taken_up(), is_idempotent) {
            break;
        }
        let Some(kept) = kept.as_ref() else { break };
        let delay = config.delay(retry);
        let is_too_late = deadline.is_some_and(|deadline| now() + delay >= deadline);
        if is_too_late || !budget.withdraw() {
            break;
        }
        tracing::debug!(retry, kind = kind.as_str(), ?delay, "trying again");
        tokio::time::sleep(delay).await;
        answer = next.clone().oneshot(Request::again(kept)).await;
    }
    answer
}
