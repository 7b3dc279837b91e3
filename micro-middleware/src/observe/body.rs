//! The response body that records: a gRPC call's outcome stands in its trailers.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, header::CONTENT_TYPE};
use http_body::{Body, Frame, SizeHint};
use micro_core::{ErrorKind, flow::grpc_outcome};
use pin_project_lite::pin_project;

use super::{Record, Recording};

pin_project! {
    /// Passes a body on and records its outcome: that of the head where it has `grpc-status`, else
    /// that of the trailers. A gRPC body that ends without either is `unknown`, one that breaks is
    /// `unavailable`, one that is dropped before its end `cancelled`.
    #[derive(Debug)]
    pub struct ObservedBody<B, R: Record> {
        #[pin]
        inner: B,
        recording: Recording<R>,
        without_trailers: Option<ErrorKind>,
    }
}

impl<B: Body, R: Record> ObservedBody<B, R> {
    pub(super) fn new(
        headers: &HeaderMap,
        has_status: bool,
        of_head: Option<ErrorKind>,
        inner: B,
        mut recording: Recording<R>,
    ) -> Self {
        let is_grpc =
            headers.get(CONTENT_TYPE).is_some_and(|media_type| media_type.as_bytes().starts_with(b"application/grpc"));
        let without_trailers = match of_head {
            None if is_grpc && !has_status => Some(ErrorKind::Unknown),
            of_head => of_head,
        };
        // A body that is at its end is never polled by hyper, so its outcome is what is known now.
        if has_status || inner.is_end_stream() {
            recording.finish(without_trailers);
        }
        Self { inner, recording, without_trailers }
    }
}

impl<B: Body, R: Record> Body for ObservedBody<B, R> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.recording.scope(|| this.inner.as_mut().poll_frame(context)));
        match &frame {
            None => this.recording.finish(*this.without_trailers),
            Some(Err(_)) => this.recording.finish(Some(ErrorKind::Unavailable)),
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    this.recording.finish(grpc_outcome(trailers).unwrap_or(*this.without_trailers));
                } else if this.inner.is_end_stream() {
                    this.recording.finish(*this.without_trailers);
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
