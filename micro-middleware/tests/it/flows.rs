//! The stacks around micro-core's own relay and consumer, on its memory adapters.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use micro_core::{
    Health, Metadata, Result, TraceContext, TransactionManagerExt, Tx,
    app::Component,
    broker::MemoryBroker,
    consume::{Consumer, DeliveryPolicy, Handler, InboxService, InboxStores, Router},
    event::Received,
    impl_event,
    outbox::{Outbox, Relay},
    transaction::{MemoryDatabase, MemoryTxExt},
};
use micro_middleware::stack::{consume_stack, publish_stack};
use micro_testkit::eventually;

use crate::{mock::Count, recorder::Sums};

const WAIT: Duration = Duration::from_secs(10);
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[derive(Clone, PartialEq, prost::Message)]
struct OrderPaid {
    #[prost(int64, tag = "1")]
    order_id: i64,
}

impl_event!(OrderPaid, topic: "OrderEvent", event_type: "OrderPaid", key: |event| event.order_id.to_string());

/// Writes a row and remembers the trace; panics at its first call.
struct Ship {
    calls: Count,
    traces: Arc<Mutex<Vec<Metadata>>>,
}

#[async_trait]
impl Handler<OrderPaid> for Ship {
    async fn handle(&self, tx: &mut Tx, received: Received<OrderPaid>) -> Result<()> {
        assert!(self.calls.next() > 0, "handler bug");
        self.traces.lock().unwrap().push(received.delivery.metadata());
        tx.put("shipped", &received.event.order_id.to_string(), "1")
    }
}

#[tokio::test]
async fn an_event_travels_through_both_stacks_with_its_trace() {
    let sums = Sums::default();
    let _recording = metrics::set_default_local_recorder(&sums);
    let (broker, database) = (Arc::new(MemoryBroker::new()), MemoryDatabase::new());
    let traces = Arc::new(Mutex::new(Vec::new()));

    let stores = InboxStores {
        transactions: database.transactions(),
        inbox: database.inbox(),
        parked: database.parked(),
        dead_letters: database.dead_letters(),
        outbox: None,
    };
    let router = Router::new().on::<OrderPaid>(Ship { calls: Count::default(), traces: traces.clone() });
    let inbox = InboxService::new("product", stores, router, DeliveryPolicy::default()).unwrap();
    let consumer = Consumer::builder(broker.clone(), inbox).stack(consume_stack).build();
    let relay = Relay::builder(database.outbox(), broker.clone()).stack(|_| publish_stack(broker.clone())).build();
    consumer.start(&Health::new()).await.unwrap();
    relay.start(&Health::new()).await.unwrap();

    let mut metadata = Metadata::new();
    metadata.insert(TraceContext::METADATA_NAME, TRACEPARENT);
    let outbox = Outbox::new(database.outbox(), "order", "1").on_behalf_of(&metadata);
    let event = OrderPaid { order_id: 17 };
    database.transactions().run(async |tx| outbox.add(tx, &event).await).await.unwrap();

    eventually(WAIT, "the order is shipped", async || database.read("shipped", "17").is_some()).await;
    assert_eq!(*traces.lock().unwrap(), [metadata]);
    let ok = |labels: &str| sums.of(&format!("micro_request_total{{{labels},outcome=ok}}"));
    eventually(WAIT, "each flow is counted", async || {
        ok("flow=publish,direction=out,operation=OrderEvent") == 1.0
            && ok("flow=consume,direction=in,operation=product") == 1.0
    })
    .await;

    relay.drain(WAIT).await.unwrap();
    consumer.drain(WAIT).await.unwrap();
    relay.close().await.unwrap();
    consumer.close().await.unwrap();
    assert_eq!(sums.of("micro_requests_in_flight{flow=consume,direction=in}"), 0.0);
    assert_eq!(sums.of("micro_requests_in_flight{flow=publish,direction=out}"), 0.0);
}
