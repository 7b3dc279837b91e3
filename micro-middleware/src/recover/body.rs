//! The response body that catches panics: a stream of answers is the handler's code too.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::panic::caught;
use crate::refuse::write_status;

pin_project! {
    /// Passes a body on; a panic ends it with trailers that say `Internal`.
    ///
    /// The default is empty, the body of a refusal.
    #[derive(Debug)]
    pub struct RecoverBody<B> {
        #[pin]
        inner: Option<B>,
        is_over: bool,
    }
}

impl<B> RecoverBody<B> {
    pub(super) fn new(inner: B) -> Self {
        Self { inner: Some(inner), is_over: false }
    }
}

impl<B> Default for RecoverBody<B> {
    fn default() -> Self {
        Self { inner: None, is_over: true }
    }
}

impl<B: Body> Body for RecoverBody<B> {
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
        caught(|| inner.poll_frame(context)).unwrap_or_else(|error| {
            *this.is_over = true;
            let mut trailers = HeaderMap::new();
            write_status(&mut trailers, &error);
            Poll::Ready(Some(Ok(Frame::trailers(trailers))))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
