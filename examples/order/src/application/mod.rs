//! The use cases of the order service, a file each.

mod audit_statuses;
mod confirm_payments;
mod fail_payments;
mod find_order;
mod pay_notify;
mod settle_payments;

pub use audit_statuses::{AuditStatuses, ObservedStatus};
pub use confirm_payments::ConfirmPayments;
pub use fail_payments::FailPayments;
pub use find_order::FindOrder;
pub use pay_notify::PayNotify;
pub use settle_payments::{SettlePayments, Settlement};

use std::collections::HashMap;

use micro_core::{Error, ErrorKind, Result, Tx};

use crate::domain::{Orders, PaymentState};

/// `Aborted` when another transaction was faster than the decision of this one: the whole attempt
/// is repeated and decides anew.
fn expect_changed(operation: &'static str, changed: u64, expected: usize) -> Result<()> {
    if usize::try_from(changed).is_ok_and(|changed| changed == expected) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Aborted, operation, "another transaction changed an order in between")
        .with_context("changed", changed)
        .with_context("expected", expected))
}

/// The states of all these orders, or `NotFound` with the first that is missing: what an event
/// speaks of may still become visible.
async fn states_of(
    orders: &impl Orders,
    tx: &mut Tx,
    operation: &'static str,
    ids: &[i64],
) -> Result<HashMap<i64, PaymentState>> {
    let states = orders.payment_states(tx, ids).await?;
    let states: HashMap<i64, PaymentState> = states.into_iter().map(|state| (state.order_id, state)).collect();
    match ids.iter().find(|id| !states.contains_key(id)) {
        None => Ok(states),
        Some(id) => Err(unknown_order(operation).with_context("order_id", id)),
    }
}

fn unknown_order(operation: &'static str) -> Error {
    Error::new(ErrorKind::NotFound, operation, "no such order")
}
