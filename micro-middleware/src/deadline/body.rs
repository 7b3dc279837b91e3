//! The response body that ends at a deadline: a gRPC deadline covers the whole call.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Sleep;

use super::passed;
use crate::refuse::write_status;

pin_project! {
    /// Passes a body on until the deadline; then ends it with trailers that say
    /// `DeadlineExceeded`.
    ///
    /// The default is empty, the body of a refusal.
    #[derive(Debug)]
    pub struct DeadlineBody<B> {
        #[pin]
        inner: Option<B>,
        deadline: Option<Instant>,
        // Boxed and made when the body first waits: the body of a unary answer never does.
        sleep: Option<Pin<Box<Sleep>>>,
        is_over: bool,
    }
}

impl<B> DeadlineBody<B> {
    pub(super) fn new(inner: B, deadline: Option<Instant>) -> Self {
        Self { inner: Some(inner), deadline, sleep: None, is_over: false }
    }
}

impl<B> Default for DeadlineBody<B> {
    fn default() -> Self {
        Self { inner: None, deadline: None, sleep: None, is_over: true }
    }
}

impl<B: Body> Body for DeadlineBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        let Some(inner) = this.inner.as_pin_mut().filter(|_| !*this.is_over) else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(frame) = inner.poll_frame(context) {
            return Poll::Ready(frame);
        }
        let Some(deadline) = *this.deadline else { return Poll::Pending };
        let sleep = this.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())));
        ready!(sleep.as_mut().poll(context));
        *this.is_over = true;
        let mut trailers = HeaderMap::new();
        write_status(&mut trailers, &passed());
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
