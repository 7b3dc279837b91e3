//! The service in the test's own process, with a reader of its events.

use std::{sync::Arc, time::Duration};

use embed::{
    events::Events,
    shop::{self, OrderPlaced},
};
use micro_core::{
    broker::{Broker as _, MemoryBroker, SubscribeRequest, Subscription, SubscriptionEvent},
    event::{BaseEvent, Event as _},
};
use micro_testkit::eventually;
use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions},
};

use crate::http;

struct Open {
    address: String,
    pool: SqlitePool,
    events: Arc<Events>,
    reader: Arc<dyn Subscription>,
    _folder: tempfile::TempDir,
}

async fn open() -> Open {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteConnectOptions::new().filename(folder.path().join("shop.db")).create_if_missing(true);
    let pool = SqlitePoolOptions::new().connect_with(options.journal_mode(SqliteJournalMode::Wal)).await.unwrap();
    sqlx::migrate!().run(&pool).await.unwrap();
    let broker = Arc::new(MemoryBroker::new());
    let reader = broker.subscribe(SubscribeRequest::new("reader", [OrderPlaced::TOPIC])).await.unwrap();
    let events = Arc::new(Events::start(&pool, broker).await.unwrap());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let routes = shop::routes(pool.clone(), events.clone());
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    Open { address, pool, events, reader, _folder: folder }
}

impl Open {
    async fn order(&self, quantity: i64, sku: &'static str) -> (u16, String) {
        let address = self.address.clone();
        tokio::task::spawn_blocking(move || http::order(&address, quantity, sku)).await.unwrap()
    }

    /// The next event that a reader gets.
    async fn event(&self) -> OrderPlaced {
        let next = tokio::time::timeout(Duration::from_secs(60), self.reader.next()).await;
        let Ok(Some(SubscriptionEvent::Batch(deliveries))) = next else { panic!("no batch: {next:?}") };
        let [delivery] = &deliveries[..] else { panic!("more than one event: {deliveries:?}") };
        let position =
            micro_core::broker::Position { partition: delivery.topic_partition(), next_offset: delivery.offset + 1 };
        self.reader.ack(position).await.unwrap();
        OrderPlaced::decode_payload(BaseEvent::open(delivery).unwrap().payload).unwrap()
    }

    async fn rows(&self, table: &str) -> i64 {
        let count = format!("SELECT count(*) FROM {table}");
        sqlx::query_scalar(sqlx::AssertSqlSafe(count)).fetch_one(&self.pool).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_told_to_who_reads_its_events() {
    let shop = open().await;
    let (status, body) = shop.order(3, "T-SHIRT-M").await;
    assert_eq!(status, 201, "{body}");
    let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer, serde_json::json!({ "id": 1, "sku": "T-SHIRT-M", "quantity": 3 }));

    assert_eq!(shop.event().await, OrderPlaced { order_id: 1, sku: "T-SHIRT-M".to_owned(), quantity: 3 });
    eventually(Duration::from_secs(60), "the sent row is deleted", async || shop.rows("micro_outbox").await == 0).await;
    shop.events.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_is_rolled_back_leaves_no_event() {
    let shop = open().await;
    // The order and its event were written before the stock turned out to be too small.
    assert_eq!(shop.order(1, "T-SHIRT-L").await, (409, "out of stock".to_owned()));
    assert_eq!(shop.order(1, "SOCKS").await, (404, "no such article".to_owned()));
    assert_eq!(shop.rows("orders").await, 0);
    assert_eq!(shop.rows("micro_outbox").await, 0);

    // The reader's first event is the one of the order that stands.
    assert_eq!(shop.order(2, "T-SHIRT-M").await.0, 201);
    assert_eq!(shop.event().await.quantity, 2);
    shop.events.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_services_own_migrations_and_ours_do_not_touch_each_other() {
    let shop = open().await;
    assert_eq!(shop.rows("_sqlx_migrations").await, 1);
    // As at the next start: each finds its own tables as it left them.
    sqlx::migrate!().run(&shop.pool).await.unwrap();
    shop.events.database.migrate().await.unwrap();
    assert_eq!(shop.rows("_sqlx_migrations").await, 1);
}
