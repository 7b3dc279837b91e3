//! The events that the order service receives, handed to its use cases.

use async_trait::async_trait;
use micro_core::{Error, ErrorKind, Result, Tx, broker::header, consume::BatchHandler, event::Received};

use super::publish::OnBehalf;
use crate::{
    application::{AuditStatuses, ConfirmPayments, FailPayments, ObservedStatus},
    domain::{AuditTrails, Failure, Orders, pay_error},
    wire::{
        OnInventoryDeductSuccessDlq, OnPaymentSuccessDlq, order_event::OrderStatusChanged,
        product_event::OnInventoryDeductSuccess,
    },
};

/// `OnInventoryDeductSuccess`: the goods are deducted, the payment is confirmed.
pub struct ConfirmOnDeduction<O, E>(pub ConfirmPayments<O>, pub E);

#[async_trait]
impl<O: Orders, E: OnBehalf> BatchHandler<OnInventoryDeductSuccess> for ConfirmOnDeduction<O, E> {
    async fn handle_batch(&self, tx: &mut Tx, events: &[Received<OnInventoryDeductSuccess>]) -> Result<()> {
        let ids = events.iter().map(|received| order_id(received.event.order_id)).collect::<Result<Vec<_>>>()?;
        let publish = self.1.of_events(events, |event| event.order_id);
        self.0.confirm(tx, &publish, &ids).await
    }
}

/// `OnPaymentSuccessDLQ`: the goods cannot be had, the payment is refused.
pub struct FailOnRefusal<O, E>(pub FailPayments<O>, pub E);

#[async_trait]
impl<O: Orders, E: OnBehalf> BatchHandler<OnPaymentSuccessDlq> for FailOnRefusal<O, E> {
    async fn handle_batch(&self, tx: &mut Tx, events: &[Received<OnPaymentSuccessDlq>]) -> Result<()> {
        let failures = events.iter().map(|received| failure(received, received.event.0.order_id));
        let publish = self.1.of_events(events, |event| event.0.order_id);
        self.0.fail(tx, &publish, &failures.collect::<Result<Vec<_>>>()?).await
    }
}

/// `OnInventoryDeductSuccessDLQ`: the confirmation failed for good, the stock is given back, and
/// the payment ends.
pub struct FailOnLostConfirmation<O, E>(pub FailPayments<O>, pub E);

#[async_trait]
impl<O: Orders, E: OnBehalf> BatchHandler<OnInventoryDeductSuccessDlq> for FailOnLostConfirmation<O, E> {
    async fn handle_batch(&self, tx: &mut Tx, events: &[Received<OnInventoryDeductSuccessDlq>]) -> Result<()> {
        let failures = events.iter().map(|received| failure(received, received.event.0.order_id));
        let publish = self.1.of_events(events, |event| event.0.order_id);
        self.0.fail(tx, &publish, &failures.collect::<Result<Vec<_>>>()?).await
    }
}

/// `OrderStatusChanged`: the audit projection takes note.
pub struct AuditOnStatusChange<A>(pub AuditStatuses<A>);

#[async_trait]
impl<A: AuditTrails> BatchHandler<OrderStatusChanged> for AuditOnStatusChange<A> {
    async fn handle_batch(&self, tx: &mut Tx, events: &[Received<OrderStatusChanged>]) -> Result<()> {
        let observed = events.iter().map(|received| {
            let OrderStatusChanged { order_id: id, seq, .. } = received.event;
            Ok(ObservedStatus { order_id: order_id(id)?, seq })
        });
        self.0.observe(tx, &observed.collect::<Result<Vec<_>>>()?).await
    }
}

fn failure<E>(received: &Received<E>, id: i64) -> Result<Failure> {
    let reason = received.delivery.message.headers.get_str(header::ERROR).filter(|reason| !reason.is_empty());
    Ok(Failure { order_id: order_id(id)?, reason: pay_error(reason.unwrap_or("no reason was given")) })
}

fn order_id(id: i64) -> Result<i64> {
    if id > 0 {
        return Ok(id);
    }
    Err(Error::new(
        ErrorKind::InvalidArgument,
        "order.consume",
        "the event names no order: expected an OrderId above 0",
    )
    .with_context("order_id", id))
}
