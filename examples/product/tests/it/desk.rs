//! A product service whose deliveries a test hands in itself, and whose tables it reads.

use std::{sync::Arc, time::SystemTime};

use micro_core::{
    Result,
    app::RunningApp,
    broker::{Delivery, MemoryBroker, Message},
    consume::{DeliveryBatch, InboxService, InboxStores, Router},
    event::{BaseEvent, Event, seal},
    outbox::{Outbox, SHARD_COUNT},
    registry::MemoryRegistry,
    transaction::RetryPolicy,
};
use micro_grpc::{GrpcClient, GrpcClientConfig};
use micro_rs::middleware::{ClientDeadlineLayer, stack::rpc_client_stack};
use micro_tx::{Row, SqlDatabase, Value};
use product::{
    bootstrap::{Plugged, assemble},
    config::ProductConfig,
    proto::product_client::ProductClient,
    wire::order_event::{OnPaymentSuccess, OrderDetail},
};
use tower::{Service, ServiceExt};

use crate::databases::{Databases, PATIENCE, TestDatabase};

pub(crate) struct Desk {
    pub(crate) database: SqlDatabase,
    pub(crate) inbox: InboxService,
    pub(crate) plugged: Plugged,
    _database: TestDatabase,
}

impl Desk {
    /// SKUs 1, 2, … of product 100 with so many in stock, on the shelf.
    pub(crate) async fn with_stock(databases: &Databases, stock: &[u32]) -> Self {
        let test_database = databases.create("products").await;
        let database = test_database.database.clone();
        let plugged = Plugged {
            registry: Arc::new(MemoryRegistry::new()),
            broker: Arc::new(MemoryBroker::new()),
            database: database.clone(),
        };
        let service = assemble(&config(), &plugged).await.unwrap();
        let desk = Self { database, inbox: service.inbox, plugged, _database: test_database };
        desk.write(
            "INSERT INTO products (id, product_no, product_name, category_id) VALUES (100, 'P', 'Phone', 1)",
            &[],
        )
        .await;
        for (sku_id, stock) in (1_i64..).zip(stock) {
            let insert = "INSERT INTO product_skus (id, product_id, sku_no, sku_name, price, stock, stock_warn) \
                          VALUES (?, 100, ?, 'Phone', '10.00', ?, 3)";
            desk.write(insert, &[sku_id.into(), format!("SKU{sku_id}").into(), (*stock).into()]).await;
        }
        desk
    }

    /// The service, answering calls, and a client of it.
    pub(crate) async fn serve(&self) -> (RunningApp, ProductClient<GrpcClient>) {
        let app = assemble(&config(), &self.plugged).await.unwrap().into_app(&self.plugged).start().await.unwrap();
        let mut connection = GrpcClientConfig::default();
        connection.connect_timeout = PATIENCE;
        let client = GrpcClient::builder(self.plugged.registry.clone())
            .service("go.micro.service.Product")
            .config(connection)
            // Outside of the limit that calls usually have.
            .stack(ClientDeadlineLayer::new(PATIENCE))
            .layer(rpc_client_stack());
        (app, ProductClient::new(client.connect().await.unwrap()))
    }

    /// Hands messages to the service's inbox as one batch.
    pub(crate) async fn deliver(&self, messages: &[Message]) -> Result<()> {
        deliver(&self.inbox, messages).await
    }

    /// An inbox of the same group and tables with other handlers.
    pub(crate) fn inbox_of(&self, router: Router) -> InboxService {
        let stores = InboxStores {
            transactions: self.database.transactions(),
            inbox: self.database.inbox(),
            parked: self.database.parked(),
            dead_letters: self.database.dead_letters(),
            outbox: Some(self.outbox()),
        };
        InboxService::new("product-consumer", stores, router, config().delivery).unwrap()
    }

    pub(crate) fn outbox(&self) -> Outbox {
        Outbox::new(self.database.outbox(), "go.micro.service.Product", "8.2.0")
    }

    /// The messages that wait for the relay, by topic, then as they were added.
    pub(crate) async fn outgoing(&self) -> Vec<Message> {
        let store = self.database.outbox();
        let mut rows = Vec::new();
        for shard in 0..SHARD_COUNT {
            let mut shard = store.own(shard).await.unwrap().expect("no relay runs");
            rows.extend(shard.unsent(&[], &[], 10_000).await.unwrap());
        }
        rows.sort_by(|a, b| (&a.message.topic, a.id).cmp(&(&b.message.topic, b.id)));
        rows.into_iter().map(|row| row.message).collect()
    }

    pub(crate) async fn rows(&self, statement: &str) -> Vec<Row> {
        self.database.fetch_all(statement, &[]).await.unwrap()
    }

    pub(crate) async fn number(&self, statement: &str) -> i64 {
        self.rows(statement).await[0].get(0).unwrap()
    }

    pub(crate) async fn write(&self, statement: &str, values: &[Value]) {
        self.database.execute(statement, values).await.unwrap();
    }

    /// Stock and sales of a SKU.
    pub(crate) async fn stock(&self, sku_id: i64) -> (i64, i64) {
        let row = &self.rows(&format!("SELECT stock, sales FROM product_skus WHERE id = {sku_id}")).await[0];
        (row.get(0).unwrap(), row.get(1).unwrap())
    }

    /// The kinds of the errors of the group's dead letters.
    pub(crate) async fn dead_letters(&self) -> Vec<micro_core::ErrorKind> {
        self.inbox.dead_letters().list(100).await.unwrap().iter().map(|letter| letter.kind).collect()
    }
}

/// Short waits, for a test that waits for a retry waits for milliseconds; and long limits.
pub(crate) fn config() -> ProductConfig {
    let mut config = ProductConfig::default();
    let wait = std::time::Duration::from_millis(1);
    let immediate = RetryPolicy { retry_count_max: 3, delay_initial: wait, delay_max: wait };
    config.delivery = config.delivery.with_immediate(immediate).with_delayed([]);
    config.probe.timeout = PATIENCE;
    config.app.withdraw_wait = std::time::Duration::ZERO;
    config.app.drain_timeout = 2 * PATIENCE;
    config.app.flush_timeout = PATIENCE;
    config.app.close_timeout = PATIENCE;
    config
}

pub(crate) async fn deliver(inbox: &InboxService, messages: &[Message]) -> Result<()> {
    let deliveries = (0_i64..).zip(messages).map(|(offset, message)| Delivery {
        message: message.clone(),
        partition: 0,
        offset,
        timestamp: SystemTime::now(),
    });
    let batch = DeliveryBatch::new(inbox.group().clone(), deliveries.collect::<Vec<_>>());
    inbox.clone().ready().await?.call(batch).await
}

/// A paid order of (SKU, quantity) lines.
pub(crate) fn paid(order_id: i64, lines: &[(i64, u32)]) -> Message {
    let order_details =
        lines.iter().map(|(sku_id, quantity)| OrderDetail { product_id: 100, sku_id: *sku_id, quantity: *quantity });
    event(&OnPaymentSuccess { order_id, order_details: order_details.collect() })
}

pub(crate) fn event<E: Event>(event: &E) -> Message {
    seal(event, "go.micro.service.Order", "7.0.0").unwrap()
}

/// The envelope's type and the event in it.
pub(crate) fn open<E: Event>(message: &Message) -> (String, E) {
    let delivery = Delivery { message: message.clone(), partition: 0, offset: 0, timestamp: SystemTime::now() };
    let envelope = BaseEvent::open(&delivery).unwrap();
    (envelope.event_type, E::decode_payload(envelope.payload).unwrap())
}
