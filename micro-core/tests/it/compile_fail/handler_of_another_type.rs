//! A handler of one event registered for another.

use micro_core::{
    Result, Tx,
    consume::{Handler, Router},
    event::Received,
};

#[derive(Clone, PartialEq, prost::Message)]
struct Paid {
    #[prost(int64, tag = "1")]
    order_id: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Refunded {
    #[prost(int64, tag = "1")]
    order_id: i64,
}

micro_core::impl_event!(Paid, topic: "Order", event_type: "Paid", key: |event| event.order_id.to_string());
micro_core::impl_event!(Refunded, topic: "Order", event_type: "Refunded", key: |event| event.order_id.to_string());

struct OnPaid;

#[async_trait::async_trait]
impl Handler<Paid> for OnPaid {
    async fn handle(&self, _tx: &mut Tx, _event: Received<Paid>) -> Result<()> {
        Ok(())
    }
}

fn main() {
    let _ = Router::new().on::<Refunded>(OnPaid);
}
