//! What flows through the consume stack: a batch of deliveries of one group.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

use crate::broker::Delivery;

/// Deliveries of one group, in order; those of one key are in one batch at a time. Cheap to clone,
/// so that a retry layer can keep a copy.
#[derive(Clone, Debug)]
pub struct DeliveryBatch {
    /// The group that received them.
    pub group: Arc<str>,
    /// The deliveries, at least one; those of one partition's lane stand together, by offset.
    pub deliveries: Arc<[Delivery]>,
    /// Where the consumer runs it beside others; `None` where nobody waits for its end but its lane.
    slot: Option<Arc<Slot>>,
}

impl DeliveryBatch {
    /// A batch of `deliveries`, at least one.
    pub fn new(group: impl Into<Arc<str>>, deliveries: impl Into<Arc<[Delivery]>>) -> Self {
        Self { group: group.into(), deliveries: deliveries.into(), slot: None }
    }

    /// The same, in a slot.
    pub(super) fn with_slot(mut self, slot: Arc<Slot>) -> Self {
        self.slot = Some(slot);
        self
    }

    /// Gives its slot back, so that what follows (waits, retries) holds up no lane but its own.
    /// Whether the batch is to end here because several lanes share it: each will hand in its own
    /// part.
    pub(super) fn leave_slot(&self) -> bool {
        self.slot.as_ref().is_some_and(|slot| slot.leave())
    }
}

/// The place among those that run side by side which a batch takes.
#[derive(Debug)]
pub(super) struct Slot {
    is_shared: bool,
    is_left: AtomicBool,
    left: Notify,
}

impl Slot {
    /// A slot of a batch that several lanes share, or of one lane's.
    pub(super) fn new(is_shared: bool) -> Arc<Self> {
        Arc::new(Self { is_shared, is_left: AtomicBool::new(false), left: Notify::new() })
    }

    fn leave(&self) -> bool {
        if !self.is_left.swap(true, Ordering::Relaxed) {
            self.left.notify_one();
        }
        self.is_shared
    }

    pub(super) fn is_left(&self) -> bool {
        self.is_left.load(Ordering::Relaxed)
    }

    /// Waits until the batch gives it back.
    pub(super) async fn left(&self) {
        self.left.notified().await;
    }
}
