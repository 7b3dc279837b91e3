//! The deadline of a call served.

use std::task::{Context, Poll};

use http_body::Body;
use micro_core::{Metadata, flow::Operation};
use tower_layer::Layer;
use tower_service::Service;

use super::{CallFuture, DeadlineBody, DeadlineConfig, future::Limited, grpc_timeout, metadata, now, passed};

/// Ends a served call at its caller's deadline or at our own limit, and puts the
/// [`Metadata`] with the deadline among the request's extensions.
///
/// The caller's `grpc-timeout` covers the whole call. Our own limits
/// ([`DeadlineConfig`]) cover the time to the response's head only, so that a stream (a health
/// watch) may live as long as its caller wants.
///
/// # Contract
///
/// - `a_call_ends_at_its_callers_deadline`: with `DEADLINE_EXCEEDED`, the handler's future dropped.
/// - `a_call_without_timeout_ends_at_the_default_and_none_lives_longer_than_the_maximum`.
/// - `a_stream_ends_at_its_callers_deadline_with_trailers`.
/// - `the_handler_finds_metadata_and_deadline_in_the_extensions`: every header that is text, not
///   HTTP's or gRPC's own and no credential, the trace context among them, beside what is there.
/// - `a_malformed_grpc_timeout_is_refused`: `INTERNAL`, as grpc-go's server does.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerDeadlineLayer {
    config: DeadlineConfig,
}

impl ServerDeadlineLayer {
    /// With these limits.
    pub fn new(config: DeadlineConfig) -> Self {
        Self { config }
    }
}

impl<S> Layer<S> for ServerDeadlineLayer {
    type Service = ServerDeadline<S>;

    fn layer(&self, inner: S) -> ServerDeadline<S> {
        ServerDeadline { inner, config: self.config }
    }
}

/// Ends each call of the inner service in time; made by [`ServerDeadlineLayer`].
#[derive(Clone, Debug)]
pub struct ServerDeadline<S> {
    inner: S,
    config: DeadlineConfig,
}

impl<S, B, Answer> Service<http::Request<B>> for ServerDeadline<S>
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
        let timeout = match grpc_timeout::read(request.headers()) {
            Ok(timeout) => timeout,
            Err(error) => return CallFuture::refused(error),
        };
        let now = now();
        let of_caller = timeout.and_then(|timeout| now.checked_add(timeout));
        if of_caller.is_some_and(|deadline| deadline <= now) {
            return CallFuture::refused(passed());
        }
        let own_limit = if timeout.is_some() { self.config.max } else { self.config.default };
        // The server around us may have set a deadline before: the earliest counts, to the instant,
        // or the call would end there and be recorded here as cancelled.
        let deadline = [request.deadline(), of_caller, now.checked_add(own_limit)].into_iter().flatten().min();

        let mut metadata = request.extensions_mut().remove::<Metadata>().unwrap_or_default();
        metadata::add_headers(&mut metadata, request.headers());
        if let Some(deadline) = deadline {
            metadata.limit_deadline(deadline);
        }
        request.extensions_mut().insert(metadata);
        CallFuture::new(Limited::until(deadline, self.inner.call(request)), of_caller)
    }
}
