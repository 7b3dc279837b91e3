//! The response future that catches panics.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
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
    T: Guard,
    T::Guarded: Refuse<E>,
{
    type Output = Result<T::Guarded, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let panicked = match this.inner.as_pin_mut() {
            Some(inner) => match caught(|| inner.poll(context)) {
                Ok(poll) => return poll.map(|answer| answer.map(Guard::guard)),
                Err(panicked) => panicked,
            },
            None => this.panicked.take().expect("a future is not polled after it was ready"),
        };
        Poll::Ready(T::Guarded::refuse(panicked))
    }
}
