//! What flows through the consume stack: a batch of deliveries of one group.

use std::sync::Arc;

use crate::broker::Delivery;

/// Deliveries of one group, in order; those of one key are in one batch at a time. Cheap to clone,
/// so that a retry layer can keep a copy.
#[derive(Clone, Debug)]
pub struct DeliveryBatch {
    /// The group that received them.
    pub group: Arc<str>,
    /// The deliveries, at least one; those of one partition's lane stand together, by offset.
    pub deliveries: Arc<[Delivery]>,
}
