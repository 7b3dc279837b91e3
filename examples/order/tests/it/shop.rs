//! Both services in one process over one memory broker and registry, each on its own database.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use micro_core::{
    app::{AppConfig, RunningApp},
    broker::{Broker, Delivery, MemoryBroker, Message, Position, SubscribeRequest, SubscriptionEvent},
    consume::{DeliveryPolicy, InboxService},
    event::{BaseEvent, Event, seal},
    outbox::OutboxCounts,
    registry::MemoryRegistry,
    transaction::{RetryPolicy, TransactionManagerExt},
};
use micro_grpc::{GrpcClient, GrpcClientConfig};
use micro_rs::middleware::{ClientDeadlineLayer, stack::rpc_client_stack};
use micro_testkit::eventually;
use micro_tx::{Row, SqlDatabase};
use order::{
    config::{OrderConfig, Wire},
    domain::{Money, Order, OrderLine, Orders, PayStatus, ShipStatus},
    infrastructure::persistence::SqlOrders,
    proto::{PayNotifyRequest, order_client::OrderClient},
};
use product::config::ProductConfig;
use tonic::Status;

use crate::databases::{Databases, PATIENCE, TestDatabase};

/// How long anything may take to settle.
pub(crate) const SETTLED_WITHIN: Duration = Duration::from_secs(60);

const TOPICS: [&str; 5] = ["OrderEvent", "ProductEvent", "OrderEventDLQ", "ProductEventDLQ", "OrderStatus"];

pub(crate) struct Shop {
    pub(crate) orders: SqlDatabase,
    pub(crate) products: SqlDatabase,
    pub(crate) client: OrderClient<GrpcClient>,
    pub(crate) channel: GrpcClient,
    pub(crate) order_inbox: InboxService,
    pub(crate) product_inbox: InboxService,
    pub(crate) broker: MemoryBroker,
    seen: Arc<Mutex<Vec<Delivery>>>,
    apps: Vec<RunningApp>,
    _databases: [TestDatabase; 2],
}

impl Shop {
    /// SKUs 1, 2, … with so many in stock.
    pub(crate) async fn with_stock(databases: &Databases, stock: &[u32]) -> Self {
        let databases = [databases.create("orders").await, databases.create("products").await];
        Self::on(databases, stock).await
    }

    /// The same with the two services joined in this way.
    pub(crate) async fn on_wire(databases: &Databases, stock: &[u32], wire: Wire) -> Self {
        let databases = [databases.create("orders").await, databases.create("products").await];
        Self::joined(databases, stock, wire).await
    }

    /// The same on these two databases: the orders', the products'.
    pub(crate) async fn on(databases: [TestDatabase; 2], stock: &[u32]) -> Self {
        Self::joined(databases, stock, Wire::Events).await
    }

    async fn joined(databases: [TestDatabase; 2], stock: &[u32], wire: Wire) -> Self {
        let [orders, products] = [&databases[0], &databases[1]].map(|test| test.database.clone());
        let (broker, registry) = (MemoryBroker::new(), Arc::new(MemoryRegistry::new()));
        let seen = record(&broker).await;

        let mut config = ProductConfig::default();
        config.delivery = quick(config.delivery);
        config.probe.timeout = PATIENCE;
        config.app = patient();
        let plugged = product::bootstrap::Plugged {
            registry: registry.clone(),
            broker: Arc::new(broker.clone()),
            database: products.clone(),
        };
        let service = product::bootstrap::assemble(&config, &plugged).await.unwrap();
        let product_inbox = service.inbox.clone();
        let product_app = service.into_app(&plugged).start().await.unwrap();

        let mut config = OrderConfig::default();
        config.wire = wire;
        config.delivery = quick(config.delivery);
        config.product_client.connect_timeout = PATIENCE;
        config.deduction_timeout = PATIENCE;
        config.probe.timeout = PATIENCE;
        config.app = patient();
        let plugged = order::bootstrap::Plugged {
            registry: registry.clone(),
            broker: Arc::new(broker.clone()),
            database: orders.clone(),
        };
        let service = order::bootstrap::assemble(&config, &plugged).await.unwrap();
        let order_inbox = service.inbox.clone();
        let order_app = service.into_app(&plugged).start().await.unwrap();

        let client = client(registry).await;
        let shop = Self {
            orders,
            products,
            client: OrderClient::new(client.clone()),
            channel: client,
            order_inbox,
            product_inbox,
            broker,
            seen,
            apps: vec![order_app, product_app],
            _databases: databases,
        };
        shop.fill(stock).await;
        shop
    }

    async fn fill(&self, stock: &[u32]) {
        let insert = "INSERT INTO products (id, product_no, product_name, category_id) VALUES (100, 'P', 'Phone', 1)";
        self.products.execute(insert, &[]).await.unwrap();
        for (sku_id, stock) in (1_i64..).zip(stock) {
            let insert = "INSERT INTO product_skus (id, product_id, sku_no, sku_name, price, stock) \
                          VALUES (?, 100, ?, 'Phone', '10.00', ?)";
            let values = [sku_id.into(), format!("SKU{sku_id}").into(), (*stock).into()];
            self.products.execute(insert, &values).await.unwrap();
        }
    }

    /// An unpaid order `OC<id>` of (SKU, quantity) lines at 10.10 each.
    pub(crate) async fn place(&self, id: i64, lines: &[(i64, u32)]) {
        let lines = lines.iter().map(|(sku_id, quantity)| OrderLine {
            id: 0,
            product_id: 100,
            sku_id: *sku_id,
            quantity: *quantity,
            unit_price: Money::from_cents(1010),
        });
        let order = Order {
            id,
            code: format!("OC{id}"),
            user_id: 7,
            pay_status: PayStatus::Unpaid,
            ship_status: ShipStatus::Initial,
            pay_error: String::new(),
            price: Money::from_cents(2020),
            lines: lines.collect(),
        };
        let orders = SqlOrders::new(&self.orders);
        self.orders.run(async |tx| orders.add(tx, &[order]).await).await.unwrap();
    }

    /// Calls back with a status code and answers the reply's.
    pub(crate) async fn notify(&self, order_code: &str, status_code: &str) -> Result<(String, String), Status> {
        let request = PayNotifyRequest {
            out_trade_no: order_code.to_owned(),
            trade_no: "T1".to_owned(),
            status_code: status_code.to_owned(),
        };
        let reply = self.client.clone().pay_notify(request).await?.into_inner();
        Ok((reply.status_code, reply.msg))
    }

    /// Pay status, ship status, whether there is a pay time, and the pay error.
    pub(crate) async fn order(&self, id: i64) -> (i64, i64, bool, String) {
        let statement = "SELECT pay_status, ship_status, CASE WHEN pay_time IS NULL THEN 0 ELSE 1 END, pay_error \
                         FROM orders WHERE id = ?";
        let row = self.orders.fetch_optional(statement, &[id.into()]).await.unwrap().unwrap();
        (row.get(0).unwrap(), row.get(1).unwrap(), row.get(2).unwrap(), row.get(3).unwrap())
    }

    pub(crate) async fn until_status(&self, id: i64, status: i64) {
        let what = format!("order {id} in status {status}");
        eventually(SETTLED_WITHIN, &what, || async { self.order(id).await.0 == status }).await;
    }

    /// Waits until neither service has anything under way: outboxes empty, which with this broker
    /// also says that every group acked.
    pub(crate) async fn settle(&self) {
        let nothing = OutboxCounts::default();
        eventually(SETTLED_WITHIN, "empty outboxes", || async {
            let orders = self.orders.outbox().counts().await.unwrap();
            let products = self.products.outbox().counts().await.unwrap();
            // Asked again, for the first may have got a row from what the second sent.
            orders == nothing && products == nothing && self.orders.outbox().counts().await.unwrap() == nothing
        })
        .await;
    }

    pub(crate) async fn stock(&self, sku_id: i64) -> i64 {
        let row = self.product_rows(&format!("SELECT stock FROM product_skus WHERE id = {sku_id}")).await;
        row[0].get(0).unwrap()
    }

    pub(crate) async fn product_rows(&self, statement: &str) -> Vec<Row> {
        self.products.fetch_all(statement, &[]).await.unwrap()
    }

    /// What was published on a topic so far.
    pub(crate) fn published(&self, topic: &str) -> Vec<Message> {
        let seen = self.seen.lock().unwrap();
        seen.iter().map(|delivery| &delivery.message).filter(|message| &*message.topic == topic).cloned().collect()
    }

    pub(crate) async fn publish(&self, message: Message) {
        for receipt in self.broker.publish(vec![message]).await {
            receipt.unwrap();
        }
    }

    /// Stops both services once nothing is under way: with a broker that keeps nothing, a service
    /// that stops earlier waits for acks of groups that stopped before it.
    pub(crate) async fn close(self) {
        self.settle().await;
        for app in self.apps {
            app.stop().await.unwrap();
        }
    }
}

/// Retries within milliseconds, and none later.
fn quick(policy: DeliveryPolicy) -> DeliveryPolicy {
    let wait = Duration::from_millis(1);
    policy.with_immediate(RetryPolicy { retry_count_max: 3, delay_initial: wait, delay_max: wait }).with_delayed([])
}

/// Nobody has seen the instances: no wait for callers to notice.
pub(crate) fn patient() -> AppConfig {
    let mut config = AppConfig::default();
    config.withdraw_wait = Duration::ZERO;
    config.drain_timeout = 2 * PATIENCE;
    config.flush_timeout = PATIENCE;
    config.close_timeout = PATIENCE;
    config
}

/// Calls the order service.
async fn client(registry: Arc<MemoryRegistry>) -> GrpcClient {
    let mut connection = GrpcClientConfig::default();
    connection.connect_timeout = PATIENCE;
    let client = GrpcClient::builder(registry)
        .service("go.micro.service.Order")
        .config(connection)
        // Outside of the limit that calls usually have.
        .stack(ClientDeadlineLayer::new(PATIENCE))
        .layer(rpc_client_stack());
    client.connect().await.unwrap()
}

/// A group of its own that notes everything and acks it.
async fn record(broker: &MemoryBroker) -> Arc<Mutex<Vec<Delivery>>> {
    let member = broker.subscribe(SubscribeRequest::new("recorder", TOPICS)).await.unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = seen.clone();
    tokio::spawn(async move {
        while let Some(event) = member.next().await {
            let SubscriptionEvent::Batch(deliveries) = event else { continue };
            for delivery in deliveries {
                let position = Position { partition: delivery.topic_partition(), next_offset: delivery.offset + 1 };
                notes.lock().unwrap().push(delivery);
                member.ack(position).await.unwrap();
            }
        }
    });
    seen
}

pub(crate) fn event<E: Event>(event: &E) -> Message {
    seal(event, "go.micro.service.Product", "8.2.0").unwrap()
}

/// The envelope's type and the event in it.
pub(crate) fn open<E: Event>(message: &Message) -> (String, E) {
    let delivery = Delivery { message: message.clone(), partition: 0, offset: 0, timestamp: SystemTime::now() };
    let envelope = BaseEvent::open(&delivery).unwrap();
    (envelope.event_type, E::decode_payload(envelope.payload).unwrap())
}
