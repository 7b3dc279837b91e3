//! The deadline of a call made.

use std::{
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http_body::Body;
use micro_core::{Error, ErrorKind, Metadata, Result, flow::Operation};
use tower_layer::Layer;
use tower_service::Service;

use super::{CallFuture, DeadlineBody, future::Limited, grpc_timeout, now};

/// What is kept back of the caller's time for the way there and back, so that it is us who learn
/// of the callee's deadline and not our caller who learns of ours.
const RESERVE: Duration = Duration::from_millis(10);
/// With less than this a call is not sent: it would cost the callee work nobody waits for.
const REMAINING_MIN: Duration = Duration::from_millis(5);

/// Gives each call a deadline and tells it to the callee in `grpc-timeout`.
///
/// The timeout is the request's own `grpc-timeout` or else the limit (default 2 s), and never more
/// than what remains of the deadline in the [`Metadata`] among the request's extensions, less 10 ms
/// (less half of what remains, where that is less). The deadline covers the whole call and is
/// written back to that `Metadata`, where the retry layer finds it. A stream that is to live longer
/// sets its `grpc-timeout`.
///
/// # Contract
///
/// - `a_call_made_always_carries_a_timeout`: the least of limit, own `grpc-timeout` and what
///   remains.
/// - `too_little_time_left_refuses_to_send`: less than 5 ms.
/// - `a_callee_that_does_not_answer_is_given_up_at_the_deadline`: answer and body.
/// - `a_malformed_grpc_timeout_is_refused`.
#[derive(Clone, Copy, Debug)]
pub struct ClientDeadlineLayer {
    limit: Duration,
}

impl ClientDeadlineLayer {
    /// Calls that do not say otherwise end after `limit`.
    pub fn new(limit: Duration) -> Self {
        Self { limit }
    }
}

impl Default for ClientDeadlineLayer {
    fn default() -> Self {
        Self::new(Duration::from_secs(2))
    }
}

impl<S> Layer<S> for ClientDeadlineLayer {
    type Service = ClientDeadline<S>;

    fn layer(&self, inner: S) -> ClientDeadline<S> {
        ClientDeadline { inner, limit: self.limit }
    }
}

/// Gives each call to the inner service a deadline; made by [`ClientDeadlineLayer`].
#[derive(Clone, Debug)]
pub struct ClientDeadline<S> {
    inner: S,
    limit: Duration,
}

impl<S, B, Answer> Service<http::Request<B>> for ClientDeadline<S>
where
    S: Service<http::Request<B>, Response = http::Response<Answer>>,
    Answer: Body,
{
    type Response = http::Response<DeadlineBody<Answer>>;
    type Error = S::Error;
    type Future = CallFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let now = now();
        let timeout = match timeout(&request, self.limit, now) {
            Ok(timeout) => timeout,
            Err(error) => return CallFuture::refused(error),
        };
        grpc_timeout::write(request.headers_mut(), timeout);
        let deadline = now.checked_add(timeout);
        if let Some(deadline) = deadline {
            request.extensions_mut().get_or_insert_default::<Metadata>().limit_deadline(deadline);
        }
        CallFuture::new(Limited::until(deadline, self.inner.call(request)), deadline)
    }
}

fn timeout<B>(request: &http::Request<B>, limit: Duration, now: Instant) -> Result<Duration> {
    let wanted = grpc_timeout::read(request.headers())?.unwrap_or(limit);
    let Some(deadline) = request.deadline() else { return Ok(wanted) };
    let remaining = deadline.saturating_duration_since(now);
    if remaining < REMAINING_MIN {
        let error = Error::new(ErrorKind::DeadlineExceeded, "deadline", "too little time is left to make the call");
        return Err(error.with_context("remaining_us", remaining.as_micros()));
    }
    Ok(wanted.min(remaining - RESERVE.min(remaining / 2)))
}
