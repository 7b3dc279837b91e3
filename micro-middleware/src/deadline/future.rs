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

use super::{DeadlineBody, now, passed};
use crate::Refuse;

pin_project! {
    /// Polls the inner future until the deadline; then drops it and answers `DeadlineExceeded`.
    /// An answer that is ready in the same poll wins.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        limited: Limited<F>,
    }
}

impl<F> ResponseFuture<F> {
    pub(super) fn new(limited: Limited<F>) -> Self {
        Self { limited }
    }
}

impl<F, T, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<T, E>>,
    T: Refuse<E>,
{
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().limited.poll(context).map(|answer| answer.unwrap_or_else(T::refuse))
    }
}

pin_project! {
    /// As [`ResponseFuture`], of a call: the body that follows the head has a deadline too.
    #[derive(Debug)]
    pub struct CallFuture<F> {
        #[pin]
        head: Limited<F>,
        body_deadline: Option<Instant>,
    }
}

impl<F> CallFuture<F> {
    pub(super) fn new(head: Limited<F>, body_deadline: Option<Instant>) -> Self {
        Self { head, body_deadline }
    }

    pub(super) fn refused(error: Error) -> Self {
        Self::new(Limited::refused(error), None)
    }
}

impl<F, B, E> Future for CallFuture<F>
where
    F: Future<Output = Result<http::Response<B>, E>>,
{
    type Output = Result<http::Response<DeadlineBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        Poll::Ready(match ready!(this.head.poll(context)) {
            Ok(answer) => answer.map(|response| response.map(|body| DeadlineBody::new(body, *this.body_deadline))),
            Err(refusal) => Refuse::refuse(refusal),
        })
    }
}

pin_project! {
    /// The inner future's answer, or why there is none.
    #[derive(Debug)]
    pub(super) struct Limited<F> {
        #[pin]
        inner: Option<F>,
        deadline: Option<Instant>,
        // Made when the inner future first waits: most calls to a service in memory never do.
        #[pin]
        sleep: Option<Sleep>,
        refusal: Option<Error>,
    }
}

impl<F> Limited<F> {
    pub(super) fn until(deadline: Option<Instant>, inner: F) -> Self {
        Self { inner: Some(inner), deadline, sleep: None, refusal: None }
    }

    pub(super) fn refused(error: Error) -> Self {
        Self { inner: None, deadline: None, sleep: None, refusal: Some(error) }
    }
}

impl<F: Future> Future for Limited<F> {
    type Output = Result<F::Output, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Ready(Err(this.refusal.take().expect("a future is not polled after it was ready")));
        };
        if let Poll::Ready(answer) = inner.poll(context) {
            return Poll::Ready(Ok(answer));
        }
        let Some(deadline) = *this.deadline else { return Poll::Pending };
        if this.sleep.is_none() {
            this.sleep.set(Some(tokio::time::sleep_until(deadline.into())));
        }
        let sleep = this.sleep.as_pin_mut().expect("it was set a line above");
        // A deadline of the same instant further out may be what wakes us, before our own timer
        // does; then the outcome must not be lost to it as a cancelled one.
        if sleep.poll(context).is_pending() && now() < deadline {
            return Poll::Pending;
        }
        // Dropped now, not with this future: what it holds must not wait for a slow reader.
        this.inner.set(None);
        Poll::Ready(Err(passed()))
    }
}
