//! The service that catches panics.

use std::task::{Context, Poll};

use micro_core::Error;
use tower_service::Service;

use super::{Guard, ResponseFuture, panic::caught};
use crate::Refuse;

/// Catches the panics of the inner service; made by [`RecoverLayer`](super::RecoverLayer).
#[derive(Debug)]
pub struct Recover<S> {
    inner: S,
    /// A panic of `poll_ready`, answered at the next `call`: `poll_ready` has no request to refuse
    /// and, where the error is `Infallible`, no word to say so.
    panicked: Option<Error>,
}

impl<S> Recover<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, panicked: None }
    }
}

impl<S: Clone> Clone for Recover<S> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone())
    }
}

impl<S, Request> Service<Request> for Recover<S>
where
    S: Service<Request>,
    S::Response: Guard,
    <S::Response as Guard>::Guarded: Refuse<S::Error>,
{
    type Response = <S::Response as Guard>::Guarded;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        match caught(|| self.inner.poll_ready(context)) {
            Ok(ready) => ready,
            Err(error) => {
                self.panicked = Some(error);
                Poll::Ready(Ok(()))
            }
        }
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let inner = match self.panicked.take() {
            Some(error) => Err(error),
            None => caught(|| self.inner.call(request)),
        };
        ResponseFuture::new(inner)
    }
}
