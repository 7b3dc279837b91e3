//! Audits the published transitions: whether those of one order rise.

use std::collections::HashMap;

use micro_core::{Result, Tx};

use crate::domain::{AuditTrail, AuditTrails};

/// Audits published transitions.
pub struct AuditStatuses<A> {
    trails: A,
}

/// A transition as it was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObservedStatus {
    /// The order.
    pub order_id: i64,
    /// The number of its transition.
    pub seq: i64,
}

impl<A: AuditTrails> AuditStatuses<A> {
    /// The use case over this port.
    pub fn new(trails: A) -> Self {
        Self { trails }
    }

    /// Takes note of transitions, in the order they were received.
    pub async fn observe(&self, tx: &mut Tx, observed: &[ObservedStatus]) -> Result<()> {
        let mut ids: Vec<i64> = observed.iter().map(|status| status.order_id).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut trails: HashMap<i64, AuditTrail> = self.trails.find(tx, &ids).await?;
        for status in observed {
            trails.entry(status.order_id).or_default().observe(status.seq);
        }
        self.trails.save(tx, &trails).await
    }
}
