//! The events that the product service receives, handed to its use cases.

use async_trait::async_trait;
use micro_core::{
    Error, ErrorKind, Result, Tx,
    consume::{BatchHandler, Handler},
    event::Received,
};

use super::publish::OnBehalf;
use crate::{
    application::{DeductStock, ReturnStock},
    domain::{Ledger, PaidItem, PaidOrder, Stocks},
    wire::{OnInventoryDeductSuccessDlq, order_event::OnPaymentSuccess},
};

/// `OnPaymentSuccess`: the goods are deducted, or the order is refused.
pub struct DeductOnPayment<S, L, E>(pub DeductStock<S, L>, pub E);

#[async_trait]
impl<S: Stocks, L: Ledger, E: OnBehalf> BatchHandler<OnPaymentSuccess> for DeductOnPayment<S, L, E> {
    async fn handle_batch(&self, tx: &mut Tx, events: &[Received<OnPaymentSuccess>]) -> Result<()> {
        let orders = events.iter().map(paid_order).collect::<Result<Vec<_>>>()?;
        self.0.deduct(tx, &self.1.of_events(events), &orders).await
    }
}

/// `OnInventoryDeductSuccessDLQ`: the deduction could not be confirmed, the goods are given back.
pub struct ReturnOnLostConfirmation<S, L>(pub ReturnStock<S, L>);

#[async_trait]
impl<S: Stocks, L: Ledger> Handler<OnInventoryDeductSuccessDlq> for ReturnOnLostConfirmation<S, L> {
    async fn handle(&self, tx: &mut Tx, received: Received<OnInventoryDeductSuccessDlq>) -> Result<()> {
        let order_id = received.event.0.order_id;
        if order_id <= 0 {
            let message = "the event names no order: expected an OrderId above 0";
            return Err(
                Error::new(ErrorKind::InvalidArgument, "product.return", message).with_context("order_id", order_id)
            );
        }
        self.0.give_back(tx, order_id).await
    }
}

fn paid_order(received: &Received<OnPaymentSuccess>) -> Result<PaidOrder> {
    let items = received.event.order_details.iter().map(|detail| PaidItem {
        product_id: detail.product_id,
        sku_id: detail.sku_id,
        quantity: detail.quantity,
    });
    PaidOrder::new(received.event.order_id, received.delivery.event_id(), items.collect())
}
