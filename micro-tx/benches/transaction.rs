//! A transaction through `SqlDatabase::run` against the same statements on one raw sqlx connection:
//! a conditional update and an insert. Prints the ratio of the rates within one run, for the two
//! settings of what a commit waits for; the variants take turns, each on a file of its own.
//!
//! `cargo bench -p micro-tx --bench transaction`

use std::time::Instant;

use micro_core::{Error, TransactionManagerExt as _};
use micro_tx::{SqlConfig, SqlDatabase, SqlTxExt as _, Synchronous};
use sqlx::{
    ConnectOptions as _, Connection as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

/// Many short pairs: what disturbs the machine then falls on both alike.
const PAIR_COUNT: usize = 201;
const TRANSACTION_COUNT: i64 = 50;
const ORDER_COUNT: i64 = 1_000;

const SCHEMA: &str = "CREATE TABLE orders (id INTEGER PRIMARY KEY, status INTEGER NOT NULL, version INTEGER NOT NULL);
    CREATE TABLE changes (id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL, reason TEXT NOT NULL);
    WITH RECURSIVE ids(id) AS (SELECT 0 UNION ALL SELECT id + 1 FROM ids WHERE id < 999)
    INSERT INTO orders SELECT id, 2, 0 FROM ids;";
const UPDATE: &str = "UPDATE orders SET version = version + 1 WHERE id = ? AND status = ?";
const INSERT: &str = "INSERT INTO changes (order_id, reason) VALUES (?, ?)";

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    for (name, synchronous) in [("normal", Synchronous::Normal), ("full", Synchronous::Full)] {
        // In a task, as in a service: what main awaits runs outside the workers.
        tokio::spawn(compare(name, synchronous)).await??;
    }
    Ok(())
}

async fn compare(name: &'static str, synchronous: Synchronous) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let folder = tempfile::tempdir()?;
    let url = |file| format!("sqlite:{}", folder.path().join(file).display());
    let database = wrapped(url("wrapped.db"), synchronous).await?;
    let mut connection = raw(url("raw.db"), synchronous).await?;

    run_wrapped(&database).await?;
    run_raw(&mut connection).await?;
    let mut ratios = Vec::new();
    let mut rates = [Vec::new(), Vec::new()];
    for pair in 0..PAIR_COUNT {
        // Who begins takes turns too, so that a drift of the machine favours neither.
        let (wrapped, raw) = if pair % 2 == 0 {
            let wrapped = run_wrapped(&database).await?;
            (wrapped, run_raw(&mut connection).await?)
        } else {
            let raw = run_raw(&mut connection).await?;
            (run_wrapped(&database).await?, raw)
        };
        ratios.push(wrapped / raw);
        rates[0].push(wrapped);
        rates[1].push(raw);
    }
    ratios.sort_by(f64::total_cmp);
    let [wrapped, raw] = rates.map(median);
    println!(
        "transaction synchronous={name}: RATIO {:.3} (quartiles {:.3} to {:.3}, {PAIR_COUNT} pairs); \
         {wrapped:.0}/s through run, {raw:.0}/s raw",
        ratios[PAIR_COUNT / 2],
        ratios[PAIR_COUNT / 4],
        ratios[PAIR_COUNT * 3 / 4],
    );
    Ok(())
}

async fn wrapped(url: String, synchronous: Synchronous) -> Result<SqlDatabase, Error> {
    let mut config = SqlConfig::new(url);
    config.synchronous = synchronous;
    let database = SqlDatabase::connect(config).await?;
    database.execute_script(SCHEMA).await?;
    Ok(database)
}

async fn raw(url: String, synchronous: Synchronous) -> Result<SqliteConnection, sqlx::Error> {
    let synchronous = match synchronous {
        Synchronous::Full => SqliteSynchronous::Full,
        Synchronous::Normal => SqliteSynchronous::Normal,
    };
    let options: SqliteConnectOptions = url.parse()?;
    let options = options.create_if_missing(true).journal_mode(SqliteJournalMode::Wal).synchronous(synchronous);
    let mut connection = options.foreign_keys(true).disable_statement_logging().connect().await?;
    sqlx::raw_sql(SCHEMA).execute(&mut connection).await?;
    Ok(connection)
}

/// Transactions a second.
async fn run_wrapped(database: &SqlDatabase) -> Result<f64, Error> {
    let started = Instant::now();
    for number in 0..TRANSACTION_COUNT {
        let id = number % ORDER_COUNT;
        database
            .run(async |tx| {
                let sql = tx.sql()?;
                sql.execute(UPDATE, &[id.into(), 2.into()]).await?;
                sql.execute(INSERT, &[id.into(), "paid".into()]).await
            })
            .await?;
    }
    Ok(TRANSACTION_COUNT as f64 / started.elapsed().as_secs_f64())
}

/// Transactions a second.
async fn run_raw(connection: &mut SqliteConnection) -> Result<f64, sqlx::Error> {
    let started = Instant::now();
    for number in 0..TRANSACTION_COUNT {
        let id = number % ORDER_COUNT;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query(UPDATE).bind(id).bind(2_i64).execute(&mut *transaction).await?;
        sqlx::query(INSERT).bind(id).bind("paid").execute(&mut *transaction).await?;
        transaction.commit().await?;
    }
    Ok(TRANSACTION_COUNT as f64 / started.elapsed().as_secs_f64())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
