//! Takes payment callbacks: one transaction marks the orders and records what others must learn.

use std::{collections::HashMap, sync::Arc};

use micro_core::{
    Result, TransactionManager, TransactionManagerExt, Tx,
    transaction::{RetryPolicy, retrying},
};

use super::{ConfirmPayments, FailPayments, expect_changed, unknown_order};
use crate::domain::{
    AcceptedPayment, Failure, GoodsAnswer, Order, OrderEvents, Orders, Payment, PaymentOutcome, pay_error,
};

const OPERATION: &str = "order.pay_notify";

/// Takes payment callbacks.
pub struct PayNotify<O> {
    transactions: Arc<dyn TransactionManager>,
    orders: O,
    confirm: ConfirmPayments<O>,
    fail: FailPayments<O>,
    retry: RetryPolicy,
}

/// What the callbacks of a batch come to, before it is written.
#[derive(Default)]
struct Decisions {
    outcomes: Vec<Result<PaymentOutcome>>,
    declined: Vec<(i64, String)>,
    accepted: Vec<AcceptedPayment>,
}

impl<O: Orders + Clone> PayNotify<O> {
    /// The use case over these ports; `retry` repeats attempts that lost against other callbacks.
    pub fn new(transactions: Arc<dyn TransactionManager>, orders: O, retry: RetryPolicy) -> Self {
        let (confirm, fail) = (ConfirmPayments::new(orders.clone()), FailPayments::new(orders.clone()));
        Self { transactions, orders, confirm, fail, retry }
    }

    /// Takes callbacks in slice order, all in one transaction, and tells `events`. A callback of an
    /// order that was paid changes nothing.
    ///
    /// # Errors
    ///
    /// A callback's own: `NotFound` for an unknown order, `FailedPrecondition` for one without
    /// lines. The outer one says that nothing was written.
    pub async fn take(&self, events: &impl OrderEvents, payments: &[Payment]) -> Result<Vec<Result<PaymentOutcome>>> {
        retrying(self.retry, || self.take_once(events, payments)).await
    }

    async fn take_once(&self, events: &impl OrderEvents, payments: &[Payment]) -> Result<Vec<Result<PaymentOutcome>>> {
        self.transactions
            .run(async |tx| {
                let orders = self.orders.find_by_codes(tx, &codes(payments)).await?;
                let decisions = decide(orders, payments);
                self.write(tx, events, &decisions).await?;
                Ok(decisions.outcomes)
            })
            .await
    }

    async fn write(&self, tx: &mut Tx, events: &impl OrderEvents, decisions: &Decisions) -> Result<()> {
        // Before the accepted ones: an order that was declined and then paid keeps no reason.
        for (order_id, reason) in &decisions.declined {
            expect_changed(OPERATION, self.orders.save_declined(tx, *order_id, reason).await?, 1)?;
        }
        if decisions.accepted.is_empty() {
            return Ok(());
        }
        // The business rows first: their locks put the outbox rows of one order in commit order.
        let mut ids: Vec<i64> = decisions.accepted.iter().map(|accepted| accepted.order.id).collect();
        // Sorted, so that two transactions with the same orders wait for, and do not block, each other.
        ids.sort_unstable();
        expect_changed(OPERATION, self.orders.save_processing(tx, &ids).await?, ids.len())?;
        let answers = events.payments_succeeded(tx, &decisions.accepted).await?;
        self.settle(tx, events, &decisions.accepted, answers).await
    }

    /// Ends what is answered already; the other payments end when their answers come.
    async fn settle(
        &self,
        tx: &mut Tx,
        events: &impl OrderEvents,
        accepted: &[AcceptedPayment],
        answers: Vec<GoodsAnswer>,
    ) -> Result<()> {
        let (mut deducted, mut failures) = (Vec::new(), Vec::new());
        for (AcceptedPayment { order, .. }, answer) in accepted.iter().zip(answers) {
            match answer {
                GoodsAnswer::Awaited => {}
                GoodsAnswer::Deducted => deducted.push(order.id),
                GoodsAnswer::Refused(reason) => {
                    failures.push(Failure { order_id: order.id, reason: pay_error(&reason) });
                }
            }
        }
        if !deducted.is_empty() {
            self.confirm.confirm(tx, events, &deducted).await?;
        }
        if failures.is_empty() { Ok(()) } else { self.fail.fail(tx, events, &failures).await }
    }
}

fn codes(payments: &[Payment]) -> Vec<&str> {
    let mut codes: Vec<&str> = payments.iter().map(|payment| payment.order_code.as_str()).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

fn decide(orders: Vec<Order>, payments: &[Payment]) -> Decisions {
    let mut orders: HashMap<String, Order> = orders.into_iter().map(|order| (order.code.clone(), order)).collect();
    let mut decisions = Decisions::default();
    for payment in payments {
        let outcome = match orders.get_mut(&payment.order_code) {
            Some(order) => order.receive(payment).inspect(|outcome| match outcome {
                PaymentOutcome::Accepted(change) => {
                    decisions.accepted.push(AcceptedPayment { order: order.clone(), change: *change });
                }
                PaymentOutcome::Declined(reason) => decisions.declined.push((order.id, reason.clone())),
                PaymentOutcome::Duplicate => {}
            }),
            None => Err(unknown_order(OPERATION).with_context("order_code", &payment.order_code)),
        };
        decisions.outcomes.push(outcome);
    }
    decisions
}
