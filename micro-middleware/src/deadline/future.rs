//! The response futures that end at a deadline.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use futures_util::ready;
use micro_core::Error;
use pin_project_lite::pin_project;
use tokio::time::Sleep;

use super::{DeadlineBody, passed};
use crate::Refuse;

pin_project! {
    /// Polls the inner future until the deadline; then drops it and answers `DeadlineExceeded`.
    /// An answer that is ready in the same poll wins.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: Option<F>,
        deadline: Option<Instant>,
        // Made when the inner future first waits: most calls to a service in memory never do.
        #[pin]
        sleep: Option<Sleep>,
        refusal: Option<Error>,
    }
}

impl<F> ResponseFuture<F> {
    pub(super) fn until(deadline: Option<Instant>, inner: F) -> Self {
        Self { inner: Some(inner), deadline, sleep: None, refusal: None }
    }

    pub(super) fn refused(error: Error) -> Self {
        Self { inner: None, deadline: None, sleep: None, refusal: Some(error) }
    }
}

impl<F, T, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<T, E>>,
    T: Refuse<E>,
{
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Ready(T::refuse(this.refusal.take().expect("a future is not polled after it was ready")));
        };
        if let Poll::Ready(answer) = inner.poll(context) {
            return Poll::Ready(answer);
        }
        let Some(deadline) = *this.deadline else { return Poll::Pending };
        if this.sleep.is_none() {
            this.sleep.set(Some(tokio::time::sleep_until(deadline.into())));
        }
        ready!(this.sleep.as_pin_mut().expect("it was set a line above").poll(context));
        // Dropped now, not with this future: what it holds must not wait for a slow reader.
        this.inner.set(None);
        Poll::Ready(T::refuse(passed()))
    }
}

pin_project! {
    /// As [`ResponseFuture`], of a call: the body that follows the head has a deadline too.
    #[derive(Debug)]
    pub struct CallFuture<F> {
        #[pin]
        head: ResponseFuture<F>,
        body_deadline: Option<Instant>,
    }
}

impl<F> CallFuture<F> {
    pub(super) fn new(head: ResponseFuture<F>, body_deadline: Option<Instant>) -> Self {
        Self { head, body_deadline }
    }
}

impl<F, B, E> Future for CallFuture<F>
where
    F: Future<Output = Result<http::Response<B>, E>>,
    B: Default,
{
    type Output = Result<http::Response<DeadlineBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.head.poll(context))?;
        Poll::Ready(Ok(response.map(|body| DeadlineBody::new(body, *this.body_deadline))))
    }
}
