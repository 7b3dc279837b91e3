//! tower layers for the three flows: calls, messages to publish, deliveries received.
//!
//! A layer knows the [`Operation`](micro_core::flow::Operation) and its
//! [`Outcome`](micro_core::flow::Outcome), not gRPC or Kafka; [`stack`] puts the layers into the
//! order that is recommended, with a reason on every line. Nothing here opens a socket.

pub mod stack;

pub mod deadline;
pub mod metrics;
pub mod recover;
pub mod retry;
pub mod trace;

mod direction;
pub mod observe;
mod operation;
mod refuse;

pub use deadline::{ClientDeadlineLayer, DeadlineConfig, DeadlineLayer, ServerDeadlineLayer};
pub use direction::Direction;
pub use metrics::MetricsLayer;
pub use recover::RecoverLayer;
pub use refuse::Refuse;
pub use retry::{RetryConfig, RetryLayer};
pub use trace::TraceLayer;
