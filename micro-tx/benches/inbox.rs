//! Deliveries through the inbox: one by one, in batches of 100, in batches of 100 with a set-based
//! handler. Prints ratios within one run: the variants take turns on one database.
//!
//! `cargo bench -p micro-tx --all-features --bench inbox [-- --database mysql://…]`; without a URL on
//! a SQLite file. On a server it drops and makes the tables `stock` and `ledger`.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use micro_core::{
    Result, Tx,
    broker::{Delivery, Message},
    consume::{BatchHandler, DeliveryBatch, DeliveryPolicy, Handler, InboxService, InboxStores, Router},
    event::{Received, seal},
};
use micro_tx::{SqlConfig, SqlDatabase, SqlTxExt, Value};
use tower_service::Service;

mod database;

const ROUNDS: usize = 10;
const ONE_BY_ONE_COUNT: usize = 400;
const BATCHED_COUNT: usize = 4_000;
const BATCH_COUNT: usize = 100;
const SKU_COUNT: i64 = 100;

/// Takes one unit of a SKU for an order.
#[derive(Clone, PartialEq, prost::Message)]
struct Deduct {
    #[prost(int64, tag = "1")]
    order_id: i64,
    #[prost(int64, tag = "2")]
    sku_id: i64,
}

micro_core::impl_event!(Deduct, topic: "Bench", event_type: "Deduct", key: |event| event.order_id.to_string());

/// Row by row: a conditional decrement and a ledger row for each event.
struct RowByRow;

#[async_trait::async_trait]
impl Handler<Deduct> for RowByRow {
    async fn handle(&self, tx: &mut Tx, received: Received<Deduct>) -> Result<()> {
        let Deduct { order_id, sku_id } = received.event;
        let sql = tx.sql()?;
        sql.execute("UPDATE stock SET quantity = quantity - 1 WHERE id = ? AND quantity >= 1", &[sku_id.into()])
            .await?;
        sql.execute("INSERT INTO ledger (order_id, sku_id) VALUES (?, ?)", &[order_id.into(), sku_id.into()]).await?;
        Ok(())
    }
}

/// Set-based: one summed decrement a SKU that occurs, in one statement, and one multi-row insert.
struct SetBased {
    is_mysql: bool,
}

#[async_trait::async_trait]
impl BatchHandler<Deduct> for SetBased {
    async fn handle_batch(&self, tx: &mut Tx, events: &[Received<Deduct>]) -> Result<()> {
        let mut sums = BTreeMap::<i64, i64>::new();
        for received in events {
            *sums.entry(received.event.sku_id).or_insert(0) += 1;
        }
        let rows = |count: usize| vec!["(?, ?)"; count].join(", ");
        let sql = tx.sql()?;
        let taken = vec!["SELECT ? AS sku_id, ? AS quantity"; sums.len()].join(" UNION ALL ");
        let update = if self.is_mysql {
            format!(
                "UPDATE stock JOIN ({taken}) AS taken ON stock.id = taken.sku_id \
                 SET stock.quantity = stock.quantity - taken.quantity WHERE stock.quantity >= taken.quantity"
            )
        } else {
            format!(
                "UPDATE stock SET quantity = stock.quantity - taken.quantity FROM ({taken}) AS taken \
                 WHERE stock.id = taken.sku_id AND stock.quantity >= taken.quantity"
            )
        };
        let values: Vec<Value> = sums.iter().flat_map(|(sku, sum)| [(*sku).into(), (*sum).into()]).collect();
        sql.execute(&update, &values).await?;
        let insert = format!("INSERT INTO ledger (order_id, sku_id) VALUES {}", rows(events.len()));
        let values: Vec<Value> =
            events.iter().flat_map(|received| [received.event.order_id.into(), received.event.sku_id.into()]).collect();
        sql.execute(&insert, &values).await?;
        Ok(())
    }
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime starts");
    // In a task, as in a service: what main awaits runs outside the workers.
    runtime.block_on(async { tokio::spawn(compare()).await.expect("the bench does not panic") })
}

async fn compare() -> Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = format!("sqlite:{}", folder.path().join("bench.db").display());
    let url = database::chosen().await.expect("the server makes a database");
    let config = SqlConfig::new(url.unwrap_or(file));
    let database = SqlDatabase::connect(config).await?;
    println!("{}, {SKU_COUNT} SKUs, {ROUNDS} rounds in turn", database.dialect_name());
    database.migrate().await?;
    database
        .execute_script(
            "DROP TABLE IF EXISTS stock; DROP TABLE IF EXISTS ledger;
             CREATE TABLE stock (id BIGINT PRIMARY KEY, quantity BIGINT NOT NULL);
             CREATE TABLE ledger (order_id BIGINT PRIMARY KEY, sku_id BIGINT NOT NULL);",
        )
        .await?;
    for sku in 1..=SKU_COUNT {
        database.execute("INSERT INTO stock (id, quantity) VALUES (?, 1000000000)", &[sku.into()]).await?;
    }
    let row_by_row = inbox(&database, Router::new().on::<Deduct>(RowByRow))?;
    let set_based =
        inbox(&database, Router::new().on_batch::<Deduct>(SetBased { is_mysql: database.dialect_name() == "mysql" }))?;
    // Event ids of an earlier run are known to its inbox.
    database.execute("DELETE FROM micro_inbox WHERE consumer_group = 'bench'", &[]).await?;
    let mut orders = 0;
    let mut rates: [Vec<f64>; 3] = Default::default();
    // The first round warms up and does not count.
    for round in 0..=ROUNDS {
        let measured = [
            rate(&row_by_row, deliveries(&mut orders, ONE_BY_ONE_COUNT), 1).await?,
            rate(&row_by_row, deliveries(&mut orders, BATCHED_COUNT), BATCH_COUNT).await?,
            rate(&set_based, deliveries(&mut orders, BATCHED_COUNT), BATCH_COUNT).await?,
        ];
        if round > 0 {
            rates.iter_mut().zip(measured).for_each(|(rates, rate)| rates.push(rate));
        }
    }
    let rows = database.fetch_all("SELECT COUNT(*) FROM ledger", &[]).await?;
    assert_eq!(rows[0].get::<i64>(0)?, orders, "every event has its row");
    show("batches of 100 / one by one", &rates[1], &rates[0], 5.0);
    show("set-based batches of 100 / one by one", &rates[2], &rates[0], 20.0);
    database.close().await;
    Ok(())
}

fn inbox(database: &SqlDatabase, router: Router) -> Result<InboxService> {
    let stores = InboxStores {
        transactions: database.transactions(),
        inbox: database.inbox(),
        parked: database.parked(),
        dead_letters: database.dead_letters(),
        outbox: None,
    };
    InboxService::new("bench", stores, router, DeliveryPolicy::default())
}

fn deliveries(orders: &mut i64, count: usize) -> Vec<Delivery> {
    (0..count)
        .map(|_| {
            *orders += 1;
            let event = Deduct { order_id: *orders, sku_id: *orders % SKU_COUNT + 1 };
            let message: Message = seal(&event, "bench", "1").expect("it encodes");
            Delivery { message, partition: 0, offset: *orders, timestamp: SystemTime::now() }
        })
        .collect()
}

async fn rate(inbox: &InboxService, deliveries: Vec<Delivery>, batch_count: usize) -> Result<f64> {
    let count = deliveries.len();
    let batches: Vec<Arc<[Delivery]>> = deliveries.chunks(batch_count).map(Arc::from).collect();
    let mut inbox = inbox.clone();
    let took = timed(async move {
        for deliveries in batches {
            inbox.call(DeliveryBatch::new("bench", deliveries)).await?;
        }
        Ok(())
    })
    .await?;
    Ok(count as f64 / took.as_secs_f64())
}

async fn timed(work: impl Future<Output = Result<()>>) -> Result<Duration> {
    let began = Instant::now();
    work.await?;
    Ok(began.elapsed())
}

fn show(what: &str, ours: &[f64], base: &[f64], target: f64) {
    let mut ratios: Vec<f64> = ours.iter().zip(base).map(|(ours, base)| ours / base).collect();
    ratios.sort_by(f64::total_cmp);
    let median = |sorted: &[f64]| sorted[sorted.len() / 2];
    let mut rates = [ours.to_vec(), base.to_vec()];
    rates.iter_mut().for_each(|rates| rates.sort_by(f64::total_cmp));
    println!(
        "{what}: {:.1} [{:.1} to {:.1}], target {target} ({:.0} / {:.0} deliveries a second)",
        median(&ratios),
        ratios[0],
        ratios[ratios.len() - 1],
        median(&rates[0]),
        median(&rates[1]),
    );
}
