//! The drain of a backlog through the relay with a broker that takes everything at once, against a
//! bare loop of select and delete on one raw sqlx connection. Prints the ratio of the rates within
//! one run; the variants take turns on one table.
//!
//! `cargo bench -p micro-tx --all-features --bench relay [-- --database mysql://…]`; without a URL
//! on a SQLite file. On a server it empties and fills the table `bench_outbox`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use micro_core::{
    Error, ErrorKind, Health, Result, TransactionManagerExt as _,
    app::Component as _,
    broker::{Broker, Capabilities, Message, Receipt, SubscribeRequest, Subscription},
    outbox::Relay,
};
use micro_tx::{SqlConfig, SqlDatabase};
use sqlx::{Connection as _, MySqlConnection, PgConnection, Row as _, SqliteConnection};

mod database;

const ROUND_COUNT: usize = 8;
const ROW_COUNT: usize = 40_000;
const KEY_COUNT: usize = 8_000;
const BATCH_COUNT: usize = 256;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), AnyError> {
    let folder = tempfile::tempdir()?;
    let file = format!("sqlite:{}", folder.path().join("relay.db").display());
    let url = database::chosen().await?.unwrap_or(file);
    tokio::spawn(compare(url)).await?
}

async fn compare(url: String) -> Result<(), AnyError> {
    let mut config = SqlConfig::new(url.as_str());
    config.table_prefix = "bench_".to_owned();
    let database = SqlDatabase::connect(config).await?;
    database.migrate().await?;
    database.execute("DELETE FROM bench_outbox", &[]).await?;
    let mut rates = [Vec::new(), Vec::new()];
    let mut ratios = Vec::new();
    for round in 0..ROUND_COUNT {
        let mut rate = [0.0, 0.0];
        for turn in [round % 2, (round + 1) % 2] {
            fill(&database).await?;
            let started = Instant::now();
            if turn == 0 {
                relay(&database).await?
            } else {
                bare(&url).await?
            }
            rate[turn] = ROW_COUNT as f64 / started.elapsed().as_secs_f64();
        }
        // The first round warms up.
        if round > 0 {
            ratios.push(rate[0] / rate[1]);
            rates[0].push(rate[0]);
            rates[1].push(rate[1]);
        }
    }
    ratios.sort_by(f64::total_cmp);
    rates.iter_mut().for_each(|rates| rates.sort_by(f64::total_cmp));
    let middle = ratios.len() / 2;
    println!(
        "relay {}: RATIO {:.2} (all {:.2} to {:.2}, {} rounds); {:.0} rows a second through the relay, {:.0} bare",
        database.dialect_name(),
        ratios[middle],
        ratios[0],
        ratios[ratios.len() - 1],
        ratios.len(),
        rates[0][middle],
        rates[1][middle],
    );
    database.close().await;
    Ok(())
}

async fn fill(database: &SqlDatabase) -> Result<()> {
    let message = |number: usize| Message::keyed("Bench", format!("key-{}", number % KEY_COUNT), vec![b'x'; 200]);
    let messages: Vec<_> = (0..ROW_COUNT).map(message).collect();
    database.run(async |tx| database.outbox().add(tx, &messages).await).await
}

/// Takes everything at once.
#[derive(Default)]
struct Taker(AtomicUsize);

#[async_trait]
impl Broker for Taker {
    async fn publish(&self, messages: Vec<Message>) -> Vec<Result<Receipt>> {
        self.0.fetch_add(messages.len(), Ordering::Relaxed);
        messages.iter().map(|_| Ok(Receipt { partition: 0, offset: 0 })).collect()
    }

    async fn subscribe(&self, _request: SubscribeRequest) -> Result<Arc<dyn Subscription>> {
        Err(Error::new(ErrorKind::Unimplemented, "bench.subscribe", "sends only"))
    }

    async fn flush(&self, _deadline: Duration) -> Result<()> {
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(false, true, false)
    }
}

async fn relay(database: &SqlDatabase) -> Result<()> {
    let broker = Arc::new(Taker::default());
    let relay = Relay::builder(database.outbox(), broker.clone()).build();
    relay.start(&Health::new()).await?;
    // Not by counting rows, which would keep the database busy.
    while broker.0.load(Ordering::Relaxed) < ROW_COUNT {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    relay.drain(Duration::from_secs(10)).await?;
    relay.close().await?;
    assert_eq!(database.outbox().counts().await?.unsent, 0, "every row is deleted");
    assert_eq!(broker.0.load(Ordering::Relaxed), ROW_COUNT, "every row once");
    Ok(())
}

/// Select, delete by ids, until nothing is left.
macro_rules! bare_loop {
    ($connection:expr, $placeholder:expr) => {{
        let select = "SELECT id, topic, message_key, headers, body FROM bench_outbox ORDER BY id LIMIT 256";
        let list: Vec<String> = (1..=BATCH_COUNT).map($placeholder).collect();
        let delete = format!("DELETE FROM bench_outbox WHERE id IN ({})", list.join(", "));
        loop {
            let rows = sqlx::query(select).fetch_all(&mut $connection).await?;
            let Some(last) = rows.last() else { break };
            let last: i64 = last.get(0);
            let mut query = sqlx::query(sqlx::AssertSqlSafe(delete.as_str()));
            for number in 0..BATCH_COUNT {
                query = query.bind(rows.get(number).map_or(last, |row| row.get::<i64, _>(0)));
            }
            query.execute(&mut $connection).await?;
        }
    }};
}

async fn bare(url: &str) -> Result<(), AnyError> {
    match url.split(':').next() {
        Some("mysql" | "mariadb") => {
            let mut connection = MySqlConnection::connect(url).await?;
            bare_loop!(connection, |_| "?".to_owned());
        }
        Some("postgres" | "postgresql") => {
            let mut connection = PgConnection::connect(url).await?;
            bare_loop!(connection, |number| format!("${number}"));
        }
        _ => {
            let mut connection = SqliteConnection::connect(url).await?;
            bare_loop!(connection, |_| "?".to_owned());
        }
    }
    Ok(())
}
