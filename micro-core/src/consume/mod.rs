//! Consuming: from a subscription through key lanes into the inbox's transaction.

mod batch;
mod consumer;
mod dead_letters;
mod handler;
mod inbox_service;
mod lanes;
mod parked_retry;
mod partition;
mod policy;
mod router;
mod tracker;
pub(crate) mod trouble;
pub(crate) mod unwind;

pub use batch::DeliveryBatch;
pub use consumer::{Consumer, ConsumerBuilder, ConsumerConfig};
pub use dead_letters::DeadLetters;
pub use handler::{BatchHandler, Handler};
pub use inbox_service::{InboxService, InboxStores};
pub use lanes::KeyLanes;
pub use policy::{AfterDeadLetter, DeliveryPolicy, UnknownType};
pub use router::Router;
pub use tracker::OffsetTracker;
