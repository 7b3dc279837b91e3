//! The domain's facts as rows of the outbox, each in the trace of what caused it.

use std::collections::HashMap;

use micro_core::{Metadata, Result, Tx, event::Received, outbox::Outbox};

use super::wire::{order_event, order_event::OrderStatusChanged};
use crate::domain::{Order, OrderEvents, StatusChange};

/// Events that can be told on behalf of what caused them: they belong to its trace.
pub trait OnBehalf: OrderEvents + Sized {
    /// On behalf of a call that came with `metadata`.
    #[must_use]
    fn of_call(&self, metadata: &Metadata) -> Self;

    /// On behalf of received events, each of the order that `order_id` reads from it.
    #[must_use]
    fn of_events<E>(&self, received: &[Received<E>], order_id: impl Fn(&E) -> i64) -> Self;
}

/// Publishes through the outbox.
#[derive(Clone)]
pub struct OutboxOrderEvents {
    outbox: Outbox,
    /// The outbox in the trace of what came for an order.
    by_order: HashMap<i64, Outbox>,
}

impl OutboxOrderEvents {
    /// Publishes through `outbox`.
    pub fn new(outbox: Outbox) -> Self {
        Self { outbox, by_order: HashMap::new() }
    }

    fn outbox_of(&self, order_id: i64) -> &Outbox {
        self.by_order.get(&order_id).unwrap_or(&self.outbox)
    }
}

impl OnBehalf for OutboxOrderEvents {
    fn of_call(&self, metadata: &Metadata) -> Self {
        Self::new(self.outbox.on_behalf_of(metadata))
    }

    fn of_events<E>(&self, received: &[Received<E>], order_id: impl Fn(&E) -> i64) -> Self {
        let by_order = received
            .iter()
            .map(|received| (order_id(&received.event), self.outbox.on_behalf_of(&received.delivery.metadata())));
        Self { outbox: self.outbox.clone(), by_order: by_order.collect() }
    }
}

impl OrderEvents for OutboxOrderEvents {
    async fn payment_succeeded(&self, tx: &mut Tx, order: &Order) -> Result<()> {
        let details = order.lines.iter().map(|line| order_event::OrderDetail {
            product_id: line.product_id,
            sku_id: line.sku_id,
            quantity: line.quantity,
        });
        let event = order_event::OnPaymentSuccess { order_id: order.id, order_details: details.collect() };
        self.outbox_of(order.id).add(tx, &event).await
    }

    async fn statuses_changed(&self, tx: &mut Tx, changes: &[StatusChange]) -> Result<()> {
        let messages = changes.iter().map(|change| {
            self.outbox_of(change.order_id).seal(&OrderStatusChanged {
                order_id: change.order_id,
                seq: change.seq,
                from_status: change.from.code(),
                to_status: change.to.code(),
            })
        });
        self.outbox.add_messages(tx, &messages.collect::<Result<Vec<_>>>()?).await
    }
}
