//! What the rules need from outside: stored orders, stored audits, published facts.

use std::{collections::HashMap, future::Future};

use micro_core::{Result, Tx};

use super::{AcceptedPayment, AuditTrail, Failure, GoodsAnswer, Order, PaymentState, StatusChange};

/// The stored orders. Every write is conditional on the status it starts from and answers how many
/// orders it changed, so that a decision that was overtaken is seen.
pub trait Orders: Send + Sync + 'static {
    /// Stores new orders with their lines.
    fn add(&self, tx: &mut Tx, orders: &[Order]) -> impl Future<Output = Result<()>> + Send;

    /// The orders with their lines, by their codes; in no order, unknown ones left out.
    fn find_by_codes(&self, tx: &mut Tx, codes: &[&str]) -> impl Future<Output = Result<Vec<Order>>> + Send;

    /// Where the payments of these orders stand; in no order, unknown ones left out.
    fn payment_states(&self, tx: &mut Tx, ids: &[i64]) -> impl Future<Output = Result<Vec<PaymentState>>> + Send;

    /// 2 → 3, forgetting an earlier failure; `ids` are distinct.
    fn save_processing(&self, tx: &mut Tx, ids: &[i64]) -> impl Future<Output = Result<u64>> + Send;

    /// Keeps the reason of a failed payment; the status stays 2.
    fn save_declined(&self, tx: &mut Tx, id: i64, reason: &str) -> impl Future<Output = Result<u64>> + Send;

    /// 3 → 4, ready to ship, paid now; `ids` are distinct.
    fn save_paid(&self, tx: &mut Tx, ids: &[i64]) -> impl Future<Output = Result<u64>> + Send;

    /// 3 → 5, each for its reason, nothing to ship; the orders are distinct.
    fn save_failed(&self, tx: &mut Tx, failures: &[Failure]) -> impl Future<Output = Result<u64>> + Send;
}

/// The orders as they are committed; asking waits for no transaction.
pub trait OrderQueries: Send + Sync + 'static {
    /// The order with its lines.
    fn find(&self, id: i64) -> impl Future<Output = Result<Option<Order>>> + Send;
}

/// The stored audits.
pub trait AuditTrails: Send + Sync + 'static {
    /// What is known of these orders; unknown ones are left out.
    fn find(&self, tx: &mut Tx, ids: &[i64]) -> impl Future<Output = Result<HashMap<i64, AuditTrail>>> + Send;

    /// Replaces what is known of these orders.
    fn save(&self, tx: &mut Tx, trails: &HashMap<i64, AuditTrail>) -> impl Future<Output = Result<()>> + Send;
}

/// The facts others may learn, if and only if the transaction commits.
pub trait OrderEvents: Send + Sync + 'static {
    /// These orders are paid for, and their statuses changed: their goods may be deducted. Answers, in
    /// slice order, what is known of their goods by now.
    fn payments_succeeded(
        &self,
        tx: &mut Tx,
        accepted: &[AcceptedPayment],
    ) -> impl Future<Output = Result<Vec<GoodsAnswer>>> + Send;

    /// These transitions happened.
    fn statuses_changed(&self, tx: &mut Tx, changes: &[StatusChange]) -> impl Future<Output = Result<()>> + Send;
}

/// Who takes the goods of paid orders from stock.
pub trait GoodsDeduction: Send + Sync + 'static {
    /// Asks for the goods of these orders, in the transaction that takes their payments. Answers, in slice
    /// order, what is known by now.
    fn deduct(
        &self,
        tx: &mut Tx,
        accepted: &[AcceptedPayment],
    ) -> impl Future<Output = Result<Vec<GoodsAnswer>>> + Send;
}
