//! Ends payments whose goods cannot be had, or were given back: 3 → 5 with the reason.

use std::collections::HashSet;

use micro_core::{Result, Tx};

use super::{expect_changed, states_of};
use crate::domain::{OrderEvents, Orders, StatusChange};

const OPERATION: &str = "order.fail";

/// Ends payments.
pub struct FailPayments<O> {
    orders: O,
}

/// An order whose payment comes to nothing, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The order.
    pub order_id: i64,
    /// What its `pay_error` will say.
    pub reason: String,
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
        let mut by_reason: Vec<(&str, Vec<i64>)> = Vec::new();
        for failure in failures.iter().filter(|failure| seen.insert(failure.order_id)) {
            let Some(change) = states[&failure.order_id].fail()? else { continue };
            changes.push(change);
            match by_reason.iter_mut().find(|(reason, _)| *reason == failure.reason) {
                Some((_, ids)) => ids.push(failure.order_id),
                None => by_reason.push((&failure.reason, vec![failure.order_id])),
            }
        }
        for (reason, ids) in by_reason {
            expect_changed(OPERATION, self.orders.save_failed(tx, &ids, reason).await?, ids.len())?;
        }
        if changes.is_empty() { Ok(()) } else { events.statuses_changed(tx, &changes).await }
    }
}
