//! A span per request, and the W3C trace context handed on.

mod layer;
mod record;
mod service;

pub use layer::TraceLayer;
pub use record::SpanRecord;
pub use service::Trace;
