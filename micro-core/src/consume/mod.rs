//! Consuming: from a subscription through key lanes into the inbox's transaction.

mod batch;
mod handler;
mod policy;

pub use batch::DeliveryBatch;
pub use handler::{BatchHandler, Handler};
pub use policy::{AfterDeadLetter, DeliveryPolicy, UnknownType};
