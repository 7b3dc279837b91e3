//! Takes a payment callback: one transaction marks the order and records what others must learn.

use std::sync::Arc;

use micro_core::{
    Result, TransactionManager, TransactionManagerExt, Tx,
    transaction::{RetryPolicy, retrying},
};

use super::{expect_changed, unknown_order};
use crate::domain::{Order, OrderEvents, Orders, Payment, PaymentOutcome, StatusChange};

const OPERATION: &str = "order.pay_notify";

/// Takes payment callbacks.
pub struct PayNotify<O> {
    transactions: Arc<dyn TransactionManager>,
    orders: O,
    retry: RetryPolicy,
}

impl<O: Orders> PayNotify<O> {
    /// The use case over these ports; `retry` repeats attempts that lost against another callback.
    pub fn new(transactions: Arc<dyn TransactionManager>, orders: O, retry: RetryPolicy) -> Self {
        Self { transactions, orders, retry }
    }

    /// Takes one callback and tells `events`. Called again for an order that was paid, it changes
    /// nothing.
    ///
    /// # Errors
    ///
    /// `NotFound` for an unknown order, `FailedPrecondition` for one without lines.
    pub async fn take(&self, events: &impl OrderEvents, payment: &Payment) -> Result<PaymentOutcome> {
        retrying(self.retry, || self.take_once(events, payment)).await
    }

    async fn take_once(&self, events: &impl OrderEvents, payment: &Payment) -> Result<PaymentOutcome> {
        self.transactions
            .run(async |tx| {
                let order = self
                    .orders
                    .find_by_code(tx, &payment.order_code)
                    .await?
                    .ok_or_else(|| unknown_order(OPERATION).with_context("order_code", &payment.order_code))?;
                let outcome = order.receive(payment)?;
                match &outcome {
                    PaymentOutcome::Accepted(change) => self.accept(tx, events, &order, *change).await?,
                    PaymentOutcome::Declined(reason) => {
                        expect_changed(OPERATION, self.orders.save_declined(tx, order.id, reason).await?, 1)?;
                    }
                    PaymentOutcome::Duplicate => {}
                }
                Ok(outcome)
            })
            .await
    }

    async fn accept(&self, tx: &mut Tx, events: &impl OrderEvents, order: &Order, change: StatusChange) -> Result<()> {
        // The business row first: its lock puts the outbox rows of one order in commit order.
        expect_changed(OPERATION, self.orders.save_processing(tx, order.id).await?, 1)?;
        events.payment_succeeded(tx, order).await?;
        events.statuses_changed(tx, &[change]).await
    }
}
