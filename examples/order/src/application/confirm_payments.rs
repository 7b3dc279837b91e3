//! Confirms payments whose goods were deducted: 3 → 4, a batch in a handful of statements.

use std::collections::HashSet;

use micro_core::{Result, Tx};

use super::{expect_changed, states_of};
use crate::domain::{OrderEvents, Orders, StatusChange};

const OPERATION: &str = "order.confirm";

/// Confirms payments.
pub struct ConfirmPayments<O> {
    orders: O,
}

impl<O: Orders> ConfirmPayments<O> {
    /// The use case over this port.
    pub fn new(orders: O) -> Self {
        Self { orders }
    }

    /// Confirms these orders' payments and tells `events`; one that is confirmed already is left alone.
    ///
    /// # Errors
    ///
    /// For all of them when one fails: `NotFound` for an unknown order, `FailedPrecondition` for one
    /// that is unpaid or failed.
    pub async fn confirm(&self, tx: &mut Tx, events: &impl OrderEvents, order_ids: &[i64]) -> Result<()> {
        let states = states_of(&self.orders, tx, OPERATION, order_ids).await?;
        let mut seen = HashSet::with_capacity(order_ids.len());
        let mut changes: Vec<StatusChange> = Vec::with_capacity(order_ids.len());
        for id in order_ids.iter().filter(|id| seen.insert(**id)) {
            changes.extend(states[id].confirm()?);
        }
        if changes.is_empty() {
            return Ok(());
        }
        let ids: Vec<i64> = changes.iter().map(|change| change.order_id).collect();
        expect_changed(OPERATION, self.orders.save_paid(tx, &ids).await?, ids.len())?;
        events.statuses_changed(tx, &changes).await
    }
}
