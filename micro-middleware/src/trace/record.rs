//! What trace records of a request: its span.

use micro_core::ErrorKind;
use tracing::Span;

use crate::observe::Record;

/// The span of one request.
#[derive(Debug)]
pub struct SpanRecord(pub(super) Span);

impl Record for SpanRecord {
    fn scope<T>(&self, work: impl FnOnce() -> T) -> T {
        self.0.in_scope(work)
    }

    fn write(self, outcome: Option<ErrorKind>) {
        self.0.record("outcome", outcome.map_or("ok", ErrorKind::as_str));
    }
}
