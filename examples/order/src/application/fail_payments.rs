//! Ends payments whose goods cannot be had, or were given back: 3 → 5 with the reason.

use std::collections::HashSet;

use micro_core::{Result, Tx};

use super::{expect_changed, states_of};
use crate::domain::{Failure, OrderEvents, Orders, StatusChange};

const OPERATION: &str = "order.fail";

/// Ends payments.
pub struct FailPayments<O> {
    orders: O,
}

impl<O: Orders> FailPayments<O> {
    /// The use case over this port.
    pub fn new(orders: O) -> Self {
        Self { orders }
    }

    /// Ends these orders' payments and tells `events`; one that has failed already keeps its first reason.
    ///
    /// # Errors
    ///
    /// For all of them when one fails: `NotFound` for an unknown order, `FailedPrecondition` for one
    /// that is unpaid or paid for good.
    pub async fn fail(&self, tx: &mut Tx, events: &impl OrderEvents, failures: &[Failure]) -> Result<()> {
        let ids: Vec<i64> = failures.iter().map(|failure| failure.order_id).collect();
        let states = states_of(&self.orders, tx, OPERATION, &ids).await?;
        let mut seen = HashSet::with_capacity(ids.len());
        let mut changes: Vec<StatusChange> = Vec::with_capacity(ids.len());
        let mut failing: Vec<Failure> = Vec::with_capacity(ids.len());
        for failure in failures.iter().filter(|failure| seen.insert(failure.order_id)) {
            let Some(change) = states[&failure.order_id].fail()? else { continue };
            changes.push(change);
            failing.push(failure.clone());
        }
        if failing.is_empty() {
            return Ok(());
        }
        expect_changed(OPERATION, self.orders.save_failed(tx, &failing).await?, failing.len())?;
        events.statuses_changed(tx, &changes).await
    }
}
