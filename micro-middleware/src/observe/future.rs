//! The response future that records.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use micro_core::flow::Outcome;
use pin_project_lite::pin_project;

use super::{Observe, Record, Recording};

pin_project! {
    /// Polls the inner future in the record's scope and hands the recording to the answer.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, it is recorded as cancelled.
    #[derive(Debug)]
    pub struct ResponseFuture<F, R: Record> {
        #[pin]
        inner: F,
        recording: Option<Recording<R>>,
    }
}

impl<F, R: Record> ResponseFuture<F, R> {
    pub(crate) fn new(inner: F, recording: Recording<R>) -> Self {
        Self { inner, recording: Some(recording) }
    }
}

impl<F, R, T, E> Future for ResponseFuture<F, R>
where
    F: Future<Output = Result<T, E>>,
    R: Record,
    T: Observe,
    E: Outcome,
{
    type Output = Result<T::Observed<R>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let recording = this.recording.as_ref().expect("a future is not polled after it was ready");
        let answer = ready!(recording.scope(|| this.inner.poll(context)));
        let mut recording = this.recording.take().expect("it was there a line above");
        Poll::Ready(match answer {
            Ok(answer) => Ok(answer.observe(recording)),
            Err(error) => {
                recording.finish(error.error_kind());
                Err(error)
            }
        })
    }
}
