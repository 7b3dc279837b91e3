//! The same parts, used rightly: so that the failing cases fail for their own reason.

use micro_core::{
    Result, Tx,
    consume::{Handler, Router},
    event::Received,
    outbox::Outbox,
};

#[derive(Clone, PartialEq, prost::Message)]
struct Paid {
    #[prost(int64, tag = "1")]
    order_id: i64,
}

micro_core::impl_event!(Paid, topic: "Order", event_type: "Paid", key: |event| event.order_id.to_string());

struct OnPaid;

#[async_trait::async_trait]
impl Handler<Paid> for OnPaid {
    async fn handle(&self, _tx: &mut Tx, _event: Received<Paid>) -> Result<()> {
        Ok(())
    }
}

async fn publish(outbox: &Outbox, tx: &mut Tx) -> Result<()> {
    outbox.add(tx, &Paid { order_id: 1 }).await
}

fn main() {
    let _ = publish;
    let _ = Router::new().on::<Paid>(OnPaid);
}
