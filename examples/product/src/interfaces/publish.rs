//! The domain's facts as rows of the outbox.

use micro_core::{Result, Tx, broker::header, outbox::Outbox};

use super::wire::{
    OnPaymentSuccessDlq, order_event,
    product_event::{OnInventoryDeductSuccess, SkuInfo},
};
use crate::domain::{Deducted, PaidOrder, ProductEvents, Refused};

/// Publishes through the outbox.
#[derive(Clone)]
pub struct OutboxProductEvents {
    outbox: Outbox,
}

impl OutboxProductEvents {
    /// Publishes through `outbox`.
    pub fn new(outbox: Outbox) -> Self {
        Self { outbox }
    }
}

impl ProductEvents for OutboxProductEvents {
    async fn deducted(&self, tx: &mut Tx, orders: &[Deducted]) -> Result<()> {
        let events: Vec<OnInventoryDeductSuccess> = orders.iter().map(deduct_success).collect();
        self.outbox.add_all(tx, &events).await
    }

    /// A refusal is not a dead letter: it is this service's answer, on the topic where the order
    /// service looks for it, with the reason in a header.
    async fn refused(&self, tx: &mut Tx, orders: &[Refused]) -> Result<()> {
        let mut messages = Vec::with_capacity(orders.len());
        for Refused { order, reason } in orders {
            let message = self.outbox.seal(&OnPaymentSuccessDlq(payment_success(order)))?;
            messages.push(message.with_header(header::ERROR, reason.clone()));
        }
        self.outbox.add_messages(tx, &messages).await
    }
}

fn deduct_success(order: &Deducted) -> OnInventoryDeductSuccess {
    let sku = order.changes.iter().map(|change| SkuInfo {
        id: change.sku_id,
        quantity: change.quantity,
        stock: change.after,
        threshold: change.threshold,
    });
    OnInventoryDeductSuccess { order_id: order.order_id, sku: sku.collect() }
}

fn payment_success(order: &PaidOrder) -> order_event::OnPaymentSuccess {
    let details = order.items().iter().map(|item| order_event::OrderDetail {
        product_id: item.product_id,
        sku_id: item.sku_id,
        quantity: item.quantity,
    });
    order_event::OnPaymentSuccess { order_id: order.order_id(), order_details: details.collect() }
}
