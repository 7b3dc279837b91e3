//! The selector port: which of the known instances gets the next call.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::registry::Instance;

/// Picks an instance from a snapshot; a plain function, called for every call.
///
/// # Contract
///
/// - `nothing_is_picked_from_an_empty_snapshot`, and something always from another.
/// - `every_instance_gets_its_share` of many picks.
pub trait Selector: Send + Sync + 'static {
    /// The index of the instance to call; `None` exactly when the snapshot is empty.
    fn pick(&self, instances: &[Instance]) -> Option<usize>;
}

/// Picks at random, each instance equally likely.
#[derive(Clone, Copy, Debug, Default)]
pub struct RandomSelector;

impl Selector for RandomSelector {
    fn pick(&self, instances: &[Instance]) -> Option<usize> {
        (!instances.is_empty()).then(|| fastrand::usize(..instances.len()))
    }
}

/// Picks one after the other.
#[derive(Debug, Default)]
pub struct RoundRobinSelector {
    next: AtomicUsize,
}

impl Selector for RoundRobinSelector {
    fn pick(&self, instances: &[Instance]) -> Option<usize> {
        (!instances.is_empty()).then(|| self.next.fetch_add(1, Ordering::Relaxed) % instances.len())
    }
}
