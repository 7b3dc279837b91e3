//! The domain's facts as rows of the outbox, each in the trace of what caused it.

use std::collections::HashMap;

use micro_core::{Result, Tx, broker::header, event::Received, outbox::Outbox};

use crate::{
    domain::{Deducted, PaidOrder, ProductEvents, Refused},
    wire::{
        OnPaymentSuccessDlq,
        order_event::{self, OnPaymentSuccess},
        product_event::{OnInventoryDeductSuccess, SkuInfo},
    },
};

/// Events that can be told on behalf of what caused them: they belong to its trace.
pub trait OnBehalf: ProductEvents + Sized {
    /// On behalf of received payments, each of its order.
    #[must_use]
    fn of_events(&self, received: &[Received<OnPaymentSuccess>]) -> Self;
}

/// Publishes through the outbox.
#[derive(Clone)]
pub struct OutboxProductEvents {
    outbox: Outbox,
    /// The outbox in the trace of an order's payment.
    by_order: HashMap<i64, Outbox>,
}

impl OutboxProductEvents {
    /// Publishes through `outbox`.
    pub fn new(outbox: Outbox) -> Self {
        Self { outbox, by_order: HashMap::new() }
    }

    fn outbox_of(&self, order_id: i64) -> &Outbox {
        self.by_order.get(&order_id).unwrap_or(&self.outbox)
    }
}

impl OnBehalf for OutboxProductEvents {
    fn of_events(&self, received: &[Received<OnPaymentSuccess>]) -> Self {
        let by_order = received
            .iter()
            .map(|received| (received.event.order_id, self.outbox.on_behalf_of(&received.delivery.metadata())));
        Self { outbox: self.outbox.clone(), by_order: by_order.collect() }
    }
}

impl ProductEvents for OutboxProductEvents {
    /// A refusal is not a dead letter: it is this service's answer, on the topic where the order
    /// service looks for it, with the reason in a header.
    async fn decided(&self, tx: &mut Tx, deducted: &[Deducted], refused: &[Refused]) -> Result<()> {
        let mut messages = Vec::with_capacity(deducted.len() + refused.len());
        for order in deducted {
            messages.push(self.outbox_of(order.order_id).seal(&deduct_success(order))?);
        }
        for Refused { order, reason } in refused {
            let message = self.outbox_of(order.order_id()).seal(&OnPaymentSuccessDlq(payment_success(order)))?;
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
