//! What the inbox service makes of failures that only a SQL database has.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use micro_core::{
    Result, Tx,
    broker::Delivery,
    consume::{DeliveryBatch, DeliveryPolicy, Handler, InboxService, Router},
    event::{Received, seal},
    impl_event,
    transaction::RetryPolicy,
};
use micro_tx::{SqlDatabase, SqlTxExt as _};
use tower_service::Service as _;

use crate::sqlite::File;

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
    let batch = DeliveryBatch { group: "stock".into(), deliveries: deliveries.into_iter().collect() };
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
