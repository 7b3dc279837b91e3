//! Confirms payments whose goods were deducted: 3 → 4, a batch in a handful of statements.

use std::collections::HashSet;

use micro_core::{Result, Tx};

use super::{expect_changed, states_of};
use crate::domain::{OrderEvents, Orders, StatusChange};

const OPERATION: &str = "order.confirm";

/// Confirms payments.
pub struct ConfirmPayments<O, E> {
    orders: O,
    events: E,
}

impl<O: Orders, E: OrderEvents> ConfirmPayments<O, E> {
    /// The use case over these ports.
    pub fn new(orders: O, events: E) -> Self {
        Self { orders, events }
    }

    /// Confirms these orders' payments; one that is confirmed already is left alone.
    ///
    /// # Errors
    ///
    /// For all of them when one fails: `NotFound` for an unknown order, `FailedPrecondition` for one
    /// that is unpaid or failed.
    pub async fn confirm(&self, tx: &mut Tx, order_ids: &[i64]) -> Result<()> {
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
        self.events.statuses_changed(tx, &changes).await
    }
}
