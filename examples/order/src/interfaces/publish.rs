//! The domain's facts as rows of the outbox.

use micro_core::{Result, Tx, outbox::Outbox};

use super::wire::{order_event, order_event::OrderStatusChanged};
use crate::domain::{Order, OrderEvents, StatusChange};

/// Publishes through the outbox.
#[derive(Clone)]
pub struct OutboxOrderEvents {
    outbox: Outbox,
}

impl OutboxOrderEvents {
    /// Publishes through `outbox`.
    pub fn new(outbox: Outbox) -> Self {
        Self { outbox }
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
        self.outbox.add(tx, &event).await
    }

    async fn statuses_changed(&self, tx: &mut Tx, changes: &[StatusChange]) -> Result<()> {
        let events: Vec<OrderStatusChanged> = changes
            .iter()
            .map(|change| OrderStatusChanged {
                order_id: change.order_id,
                seq: change.seq,
                from_status: change.from.code(),
                to_status: change.to.code(),
            })
            .collect();
        self.outbox.add_all(tx, &events).await
    }
}
