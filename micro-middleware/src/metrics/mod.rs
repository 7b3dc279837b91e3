//! Counts, durations and the number in flight, through the facade of the `metrics` crate.

mod instruments;
mod layer;
mod record;
mod service;

pub use instruments::OPERATION_COUNT_MAX;
pub use layer::MetricsLayer;
pub use record::RequestRecord;
pub use service::Metrics;
