//! The deadline of any flow: a limit, and the request's own deadline where it has one.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use micro_core::flow::Operation;
use tower_layer::Layer;
use tower_service::Service;

use super::{ResponseFuture, future::Limited, now, passed};
use crate::Refuse;

/// Answers `DeadlineExceeded` when the inner service has not answered in time and drops its future.
///
/// For calls there are [`ServerDeadlineLayer`](super::ServerDeadlineLayer) and
/// [`ClientDeadlineLayer`](super::ClientDeadlineLayer), which speak `grpc-timeout`.
///
/// # Contract
///
/// - `the_earlier_of_limit_and_deadline_ends_a_request`.
#[derive(Clone, Copy, Debug)]
pub struct DeadlineLayer {
    limit: Duration,
}

impl DeadlineLayer {
    /// Each request ends after `limit`, or at its own deadline if that is earlier.
    pub fn new(limit: Duration) -> Self {
        Self { limit }
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner, limit: self.limit }
    }
}

/// Ends each request of the inner service in time; made by [`DeadlineLayer`].
#[derive(Clone, Debug)]
pub struct Deadline<S> {
    inner: S,
    limit: Duration,
}

impl<S, Request> Service<Request> for Deadline<S>
where
    S: Service<Request>,
    Request: Operation,
    S::Response: Refuse<S::Error>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let now = now();
        let deadline = [request.deadline(), now.checked_add(self.limit)].into_iter().flatten().min();
        if deadline.is_some_and(|deadline| deadline <= now) {
            return ResponseFuture::new(Limited::refused(passed()));
        }
        ResponseFuture::new(Limited::until(deadline, self.inner.call(request)))
    }
}
