//! What the inbox service makes of failures that only a SQL database has.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use micro_core::{
    Error, ErrorKind, Result, Tx,
    broker::{Delivery, header},
    consume::{DeliveryBatch, DeliveryPolicy, Handler, InboxService, Router},
    event::{Received, seal, seal_payload},
    impl_event,
    outbox::Outbox,
    transaction::RetryPolicy,
};
use micro_tx::{SqlDatabase, SqlTxExt as _};
use tower_service::Service as _;

use crate::{on_servers::site, server::Server, sqlite::File};

#[derive(Clone, PartialEq, prost::Message)]
struct LineAdded {
    #[prost(string, tag = "1")]
    order: String,
    #[prost(bool, tag = "2")]
    spoils: bool,
}
impl_event!(LineAdded, topic: "OrderEvent", event_type: "LineAdded", key: |event| event.order.clone());

/// Adds a line whose order is looked for at the commit only.
struct Lines;

#[async_trait]
impl Handler<LineAdded> for Lines {
    async fn handle(&self, tx: &mut Tx, added: Received<LineAdded>) -> Result<()> {
        let insert = "INSERT INTO lines (code) VALUES (?)";
        if added.event.spoils {
            // Swallows an error after which the transaction cannot commit.
            assert!(tx.sql()?.fetch_all("SELECT CAST(x'ff' AS TEXT)", &[]).await.is_err());
            return Ok(());
        }
        tx.sql()?.execute(insert, &[added.event.order.into()]).await.map(drop)
    }
}

async fn shop(file: &File) -> SqlDatabase {
    let database = file.database().await;
    let script = "CREATE TABLE lines (id INTEGER PRIMARY KEY, \
                  code TEXT NOT NULL REFERENCES orders (code) DEFERRABLE INITIALLY DEFERRED); \
                  INSERT INTO orders VALUES ('a', 2), ('b', 2);";
    database.execute_script(script).await.unwrap();
    database
}

fn service(database: &SqlDatabase, policy: DeliveryPolicy) -> InboxService {
    InboxService::new("stock", database.inbox_stores(), Router::new().on::<LineAdded>(Lines), policy).unwrap()
}

fn at_once() -> DeliveryPolicy {
    let none = RetryPolicy { retry_count_max: 0, ..RetryPolicy::default() };
    DeliveryPolicy::default().with_immediate(none).with_delayed([])
}

fn delivery(order: &str, spoils: bool, offset: i64) -> Delivery {
    let event = LineAdded { order: order.to_owned(), spoils };
    let message = seal(&event, "order", "v1").unwrap();
    Delivery { message, partition: 0, offset, timestamp: SystemTime::now() }
}

async fn settle(service: &InboxService, deliveries: impl IntoIterator<Item = Delivery>) {
    let batch = DeliveryBatch::new("stock", deliveries.into_iter().collect::<Vec<_>>());
    service.clone().call(batch).await.unwrap();
}

async fn lines(database: &SqlDatabase) -> Vec<String> {
    let rows = database.fetch_all("SELECT code FROM lines ORDER BY id", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_one_delivery_spoils_is_that_deliverys_failure() {
    let file = File::new();
    let database = shop(&file).await;
    let service = service(&database, at_once());
    let deliveries = [("a", false), ("no order", false), ("b", false), ("b", true), ("a", false)];
    let deliveries = deliveries.into_iter().zip(0..).map(|((order, spoils), offset)| delivery(order, spoils, offset));
    settle(&service, deliveries).await;
    assert_eq!(lines(&database).await, ["a", "b", "a"]);
    let letters = service.dead_letters().list(10).await.unwrap();
    assert_eq!(letters.iter().map(|letter| letter.delivery.offset).collect::<Vec<_>>(), [1, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parked_delivery_whose_commit_is_refused_does_not_hold_up_the_others() {
    let file = File::new();
    let database = shop(&file).await;
    // Fails once and is parked, due at once; then its commit is refused for good.
    let service = service(&database, at_once().with_delayed([Duration::ZERO]));
    settle(&service, [delivery("a", true, 0), delivery("a", false, 1), delivery("b", true, 2)]).await;
    assert_eq!(database.parked().count("stock").await.unwrap(), 3);
    service.retry_due().await.unwrap();
    assert_eq!(database.parked().count("stock").await.unwrap(), 0);
    assert_eq!(lines(&database).await, ["a"]);
    assert_eq!(service.dead_letters().count().await.unwrap(), 2);
}

/// Deliveries as a foreign producer may send them: a long key, an id and types that are no plain text.
fn foreign() -> Vec<Delivery> {
    let payload = prost::Message::encode_to_vec(&LineAdded { order: "no order".to_owned(), spoils: false });
    let long_key: Vec<u8> = (0..20_000).map(|_| fastrand::u8(..)).collect();
    let long_type = "t".repeat(100_000);
    [("LineAdded", long_key, "long-key"), ("LineAdded", b"k".to_vec(), "a\0b"), ("a\0b", b"l".to_vec(), "nul-type")]
        .into_iter()
        .chain([(&*long_type, b"m".to_vec(), "long-type")])
        .zip(0..)
        .map(|((event_type, key, event_id), offset)| {
            let mut message = seal_payload("OrderEvent", event_type, key, payload.clone().into(), "order", "v1");
            message.headers.set(header::EVENT_ID, event_id);
            Delivery { message, partition: 0, offset, timestamp: SystemTime::now() }
        })
        .collect()
}

/// Fails whatever it gets.
struct Refuses;

#[async_trait]
impl Handler<LineAdded> for Refuses {
    async fn handle(&self, _tx: &mut Tx, _added: Received<LineAdded>) -> Result<()> {
        Err(Error::new(ErrorKind::NotFound, "lines.add", "no such\0order"))
    }
}

async fn whatever_a_delivery_holds_is_parked_and_a_dead_letter(database: SqlDatabase) {
    let mut stores = database.inbox_stores();
    stores.outbox = Some(Outbox::new(database.outbox(), "order", "v1"));
    let policy = at_once().with_delayed([Duration::ZERO]).with_copy_to_dead_letter_topic(true);
    let service = InboxService::new("stock", stores, Router::new().on::<LineAdded>(Refuses), policy).unwrap();
    let deliveries = foreign();
    settle(&service, deliveries.clone()).await;
    assert_eq!(database.parked().count("stock").await.unwrap(), 2, "those that have a handler");
    // Behind the one that is parked, whatever its key.
    let mut behind = deliveries[0].clone();
    behind.offset = 7;
    behind.message.headers.set(header::EVENT_ID, "behind");
    settle(&service, [behind].into_iter().chain(deliveries.clone())).await;
    assert_eq!(database.parked().count("stock").await.unwrap(), 3);
    service.retry_due().await.unwrap();
    service.retry_due().await.unwrap();
    assert_eq!(database.parked().count("stock").await.unwrap(), 0);
    let letters = service.dead_letters().list(10).await.unwrap();
    let mut offsets: Vec<_> = letters.iter().map(|letter| letter.delivery.offset).collect();
    offsets.sort_unstable();
    assert_eq!(offsets, [0, 1, 2, 3, 7]);
    let nul = letters.iter().find(|letter| letter.delivery.offset == 1).unwrap();
    assert_eq!(nul.delivery.message, deliveries[1].message, "kept as it was received");
    assert!(service.dead_letters().discard(&nul.event_id).await.unwrap());
    assert_eq!(database.outbox().counts().await.unwrap().unsent, 5, "a copy of each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_delivery_holds_is_a_dead_letter_on_sqlite() {
    let file = File::new();
    whatever_a_delivery_holds_is_parked_and_a_dead_letter(file.database().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_delivery_holds_is_a_dead_letter_on_servers() {
    for server in [Server::Mariadb, Server::Postgres] {
        if let Some(site) = site(server).await {
            whatever_a_delivery_holds_is_parked_and_a_dead_letter(site.database().await).await;
        }
    }
}
