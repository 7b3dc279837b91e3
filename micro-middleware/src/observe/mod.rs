//! One record of one request, written when its outcome is known: what trace and metrics share.

mod body;
mod future;

pub use body::ObservedBody;
pub use future::ResponseFuture;

use micro_core::{
    ErrorKind, Result,
    broker::Receipt,
    flow::{Outcome, grpc_outcome},
};

/// What is recorded of one request.
pub trait Record: Sized {
    /// Runs a piece of the request's work: a poll of its future or of its response's body.
    fn scope<T>(&self, work: impl FnOnce() -> T) -> T;

    /// Writes the record, `None` for success.
    fn write(self, outcome: Option<ErrorKind>);
}

/// Holds a [`Record`] and sees to it that it is written once: with the outcome, or as cancelled
/// when the request is dropped before it has one.
#[derive(Debug)]
pub struct Recording<R: Record>(Option<R>);

impl<R: Record> Recording<R> {
    /// Starts to watch over `record`.
    pub fn new(record: R) -> Self {
        Self(Some(record))
    }

    /// Runs a piece of the request's work.
    pub fn scope<T>(&self, work: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(record) => record.scope(work),
            None => work(),
        }
    }

    /// Writes the record, the first time only.
    pub fn finish(&mut self, outcome: Option<ErrorKind>) {
        if let Some(record) = self.0.take() {
            record.write(outcome);
        }
    }
}

impl<R: Record> Drop for Recording<R> {
    fn drop(&mut self) {
        self.finish(Some(ErrorKind::Cancelled));
    }
}

/// An answer whose outcome can be observed, be it known now or at the end of its body.
pub trait Observe {
    /// The answer with the recording inside.
    type Observed<R: Record>;

    /// Hands the recording to the answer.
    fn observe<R: Record>(self, recording: Recording<R>) -> Self::Observed<R>;
}

impl Observe for () {
    type Observed<R: Record> = ();

    fn observe<R: Record>(self, mut recording: Recording<R>) {
        recording.finish(None);
    }
}

impl Observe for Vec<Result<Receipt>> {
    type Observed<R: Record> = Self;

    fn observe<R: Record>(self, mut recording: Recording<R>) -> Self {
        recording.finish(self.error_kind());
        self
    }
}

impl<B: http_body::Body> Observe for http::Response<B> {
    type Observed<R: Record> = http::Response<ObservedBody<B, R>>;

    fn observe<R: Record>(self, recording: Recording<R>) -> Self::Observed<R> {
        let of_status = grpc_outcome(self.headers());
        let of_head = of_status.unwrap_or_else(|| self.error_kind());
        let (head, body) = self.into_parts();
        let body = ObservedBody::new(&head.headers, of_status.is_some(), of_head, body, recording);
        http::Response::from_parts(head, body)
    }
}
