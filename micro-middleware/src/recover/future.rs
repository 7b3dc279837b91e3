//! The response future that catches panics.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use micro_core::Error;
use pin_project_lite::pin_project;

use super::{Guard, panic::caught};
use crate::Refuse;

pin_project! {
    /// Polls the inner future; a panic ends it with a refusal.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: Option<F>,
        panicked: Option<Error>,
    }
}

impl<F> ResponseFuture<F> {
    pub(super) fn new(inner: Result<F, Error>) -> Self {
        match inner {
            Ok(inner) => Self { inner: Some(inner), panicked: None },
            Err(error) => Self { inner: None, panicked: Some(error) },
        }
    }
}

impl<F, T, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<T, E>>,
    T: Refuse<E> + Guard,
{
    type Output = Result<T::Guarded, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = match this.inner.as_pin_mut() {
            Some(inner) => match caught(|| inner.poll(context)) {
                Ok(poll) => ready!(poll),
                Err(panicked) => T::refuse(panicked),
            },
            None => T::refuse(this.panicked.take().expect("a future is not polled after it was ready")),
        };
        Poll::Ready(answer.map(Guard::guard))
    }
}
