//! The domain's facts as rows of the outbox, each in the trace of what caused it.

use std::collections::HashMap;

use micro_core::{Metadata, Result, Tx, event::Received, outbox::Outbox};

use crate::{
    domain::{AcceptedPayment, GoodsAnswer, GoodsDeduction, Order, OrderEvents, StatusChange},
    wire::{order_event, order_event::OrderStatusChanged},
};

/// Events that can be told on behalf of what caused them: they belong to its trace.
pub trait OnBehalf: OrderEvents + Sized {
    /// On behalf of calls, each about the order of this code, that came with this metadata.
    #[must_use]
    fn of_calls<'a>(&self, calls: impl Iterator<Item = (&'a str, &'a Metadata)>) -> Self;

    /// On behalf of received events, each of the order that `order_id` reads from it.
    #[must_use]
    fn of_events<E>(&self, received: &[Received<E>], order_id: impl Fn(&E) -> i64) -> Self;
}

/// Publishes through the outbox.
#[derive(Clone)]
pub struct OutboxOrderEvents {
    outbox: Outbox,
    /// The outbox in the trace of the event that came for an order, by the order's id.
    by_id: HashMap<i64, Outbox>,
    /// The outbox in the trace of the call that came for an order, by the order's code.
    by_code: HashMap<String, Outbox>,
    /// Whether transitions are told to the audit.
    has_audit: bool,
}

impl OutboxOrderEvents {
    /// Publishes through `outbox`; an order's transitions too where there is an audit of them.
    pub fn new(outbox: Outbox, has_audit: bool) -> Self {
        Self { outbox, by_id: HashMap::new(), by_code: HashMap::new(), has_audit }
    }
}

impl OnBehalf for OutboxOrderEvents {
    fn of_calls<'a>(&self, calls: impl Iterator<Item = (&'a str, &'a Metadata)>) -> Self {
        let by_code = calls.map(|(code, metadata)| (code.to_owned(), self.outbox.on_behalf_of(metadata)));
        Self { by_code: by_code.collect(), ..Self::new(self.outbox.clone(), self.has_audit) }
    }

    fn of_events<E>(&self, received: &[Received<E>], order_id: impl Fn(&E) -> i64) -> Self {
        let by_id = received
            .iter()
            .map(|received| (order_id(&received.event), self.outbox.on_behalf_of(&received.delivery.metadata())));
        Self { by_id: by_id.collect(), ..Self::new(self.outbox.clone(), self.has_audit) }
    }
}

impl OrderEvents for OutboxOrderEvents {
    async fn payments_succeeded(&self, tx: &mut Tx, accepted: &[AcceptedPayment]) -> Result<Vec<GoodsAnswer>> {
        let mut messages = Vec::with_capacity(accepted.len() * 2);
        for AcceptedPayment { order, change } in accepted {
            let outbox = self.by_code.get(&order.code).unwrap_or(&self.outbox);
            messages.push(outbox.seal(&paid(order))?);
            if self.has_audit {
                messages.push(outbox.seal(&changed(change))?);
            }
        }
        self.outbox.add_messages(tx, &messages).await?;
        Ok(accepted.iter().map(|_| GoodsAnswer::Awaited).collect())
    }

    async fn statuses_changed(&self, tx: &mut Tx, changes: &[StatusChange]) -> Result<()> {
        if !self.has_audit {
            return Ok(());
        }
        let messages = changes
            .iter()
            .map(|change| self.by_id.get(&change.order_id).unwrap_or(&self.outbox).seal(&changed(change)));
        self.outbox.add_messages(tx, &messages.collect::<Result<Vec<_>>>()?).await
    }
}

/// Has goods deducted by other means than an event; what else there is to tell is told through the outbox.
#[derive(Clone)]
pub struct WithDeduction<D> {
    events: OutboxOrderEvents,
    deduction: D,
}

impl<D> WithDeduction<D> {
    /// Tells `events`, and asks `deduction` for the goods.
    pub fn new(events: OutboxOrderEvents, deduction: D) -> Self {
        Self { events, deduction }
    }
}

impl<D: GoodsDeduction + Clone> OnBehalf for WithDeduction<D> {
    fn of_calls<'a>(&self, calls: impl Iterator<Item = (&'a str, &'a Metadata)>) -> Self {
        Self { events: self.events.of_calls(calls), deduction: self.deduction.clone() }
    }

    fn of_events<E>(&self, received: &[Received<E>], order_id: impl Fn(&E) -> i64) -> Self {
        Self { events: self.events.of_events(received, order_id), deduction: self.deduction.clone() }
    }
}

impl<D: GoodsDeduction + Clone> OrderEvents for WithDeduction<D> {
    async fn payments_succeeded(&self, tx: &mut Tx, accepted: &[AcceptedPayment]) -> Result<Vec<GoodsAnswer>> {
        let changes: Vec<StatusChange> = accepted.iter().map(|accepted| accepted.change).collect();
        self.events.statuses_changed(tx, &changes).await?;
        self.deduction.deduct(tx, accepted).await
    }

    async fn statuses_changed(&self, tx: &mut Tx, changes: &[StatusChange]) -> Result<()> {
        self.events.statuses_changed(tx, changes).await
    }
}

fn paid(order: &Order) -> order_event::OnPaymentSuccess {
    let details = order.lines.iter().map(|line| order_event::OrderDetail {
        product_id: line.product_id,
        sku_id: line.sku_id,
        quantity: line.quantity,
    });
    order_event::OnPaymentSuccess { order_id: order.id, order_details: details.collect() }
}

fn changed(change: &StatusChange) -> OrderStatusChanged {
    OrderStatusChanged {
        order_id: change.order_id,
        seq: change.seq,
        from_status: change.from.code(),
        to_status: change.to.code(),
    }
}
