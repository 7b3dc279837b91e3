//! Publishing an event by the outbox without a transaction.

use micro_core::{Result, outbox::Outbox};

#[derive(Clone, PartialEq, prost::Message)]
struct Paid {
    #[prost(int64, tag = "1")]
    order_id: i64,
}

micro_core::impl_event!(Paid, topic: "Order", event_type: "Paid", key: |event| event.order_id.to_string());

async fn publish(outbox: &Outbox) -> Result<()> {
    outbox.add(&Paid { order_id: 1 }).await
}

fn main() {
    let _ = publish;
}
