//! A transaction through `SqlDatabase::run` against the same statements on one raw sqlx connection:
//! a conditional update and an insert. Prints the ratio of the rates within one run, and of the
//! processor time that this process took; the variants take turns, each on tables of its own.
//!
//! On SQLite, for the two settings of what a commit waits for:
//! `cargo bench -p micro-tx --bench transaction`
//!
//! On a server, in a database of which it drops and makes the tables `bench_…`:
//! `cargo bench -p micro-tx --all-features --bench transaction -- --database mysql://…`

use std::time::Instant;

use micro_core::{Error, TransactionManagerExt as _};
use micro_tx::{SqlConfig, SqlDatabase, SqlTxExt as _, Synchronous};
use sqlx::{
    ConnectOptions as _, Connection as _, MySqlConnection, PgConnection, SqliteConnection,
    mysql::MySqlConnectOptions,
    postgres::PgConnectOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

mod database;

/// Many short pairs: what disturbs the machine then falls on both alike.
const PAIR_COUNT: usize = 201;
const TRANSACTION_COUNT: i64 = 50;
const ORDER_COUNT: i64 = 1_000;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), AnyError> {
    // In a task, as in a service: what main awaits runs outside the workers.
    if let Some(url) = database::chosen().await? {
        return tokio::spawn(on_server(url)).await?;
    }
    for (name, synchronous) in [("normal", Synchronous::Normal), ("full", Synchronous::Full)] {
        tokio::spawn(on_sqlite(name, synchronous)).await??;
    }
    Ok(())
}

async fn on_sqlite(name: &'static str, synchronous: Synchronous) -> Result<(), AnyError> {
    let folder = tempfile::tempdir()?;
    let url = |file| format!("sqlite:{}", folder.path().join(file).display());
    let mut config = SqlConfig::new(url("wrapped.db"));
    config.synchronous = synchronous;
    let wrapped = Wrapped::new(SqlDatabase::connect(config).await?, "wrapped").await?;
    // The raw one's tables are made by the wrapped way too, in its own file.
    Wrapped::new(SqlDatabase::connect_url(&url("raw.db")).await?, "raw").await?.database.close().await;
    let synchronous = match synchronous {
        Synchronous::Full => SqliteSynchronous::Full,
        Synchronous::Normal => SqliteSynchronous::Normal,
    };
    let options: SqliteConnectOptions = url("raw.db").parse()?;
    let options = options.journal_mode(SqliteJournalMode::Wal).synchronous(synchronous).foreign_keys(true);
    let raw = Raw::Sqlite(options.disable_statement_logging().connect().await?);
    compare(&format!("sqlite synchronous={name}"), wrapped, raw).await
}

async fn on_server(url: String) -> Result<(), AnyError> {
    let database = SqlDatabase::connect_url(&url).await?;
    let name = database.dialect_name();
    Wrapped::new(database.clone(), "raw").await?;
    let wrapped = Wrapped::new(database, "wrapped").await?;
    let raw = match name {
        "mysql" => {
            let options: MySqlConnectOptions = url.parse()?;
            let mut connection = options.disable_statement_logging().connect().await?;
            sqlx::query("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").execute(&mut connection).await?;
            Raw::MySql(connection)
        }
        _ => Raw::Postgres(url.parse::<PgConnectOptions>()?.disable_statement_logging().connect().await?),
    };
    compare(name, wrapped, raw).await
}

async fn compare(name: &str, wrapped: Wrapped, mut raw: Raw) -> Result<(), AnyError> {
    let raw_statements = Statements::new("raw");
    wrapped.run().await?;
    raw.run(&raw_statements).await?;
    let mut ratios = Vec::new();
    let mut rates = [Vec::new(), Vec::new()];
    let mut processor = [0.0, 0.0];
    for pair in 0..PAIR_COUNT {
        // Who begins takes turns too, so that a drift of the machine favours neither.
        let mut rate = [0.0, 0.0];
        for turn in [pair % 2, (pair + 1) % 2] {
            let (started, used) = (Instant::now(), processor_seconds());
            if turn == 0 {
                wrapped.run().await?
            } else {
                raw.run(&raw_statements).await?
            }
            rate[turn] = TRANSACTION_COUNT as f64 / started.elapsed().as_secs_f64();
            processor[turn] += processor_seconds() - used;
        }
        ratios.push(rate[0] / rate[1]);
        rates[0].push(rate[0]);
        rates[1].push(rate[1]);
    }
    ratios.sort_by(f64::total_cmp);
    let [wrapped, raw] = rates.map(median);
    let count = (PAIR_COUNT as i64 * TRANSACTION_COUNT) as f64;
    println!(
        "transaction {name}: RATIO {:.3} (quartiles {:.3} to {:.3}, {PAIR_COUNT} pairs); \
         {wrapped:.0}/s through run, {raw:.0}/s raw; processor time of this process {:.0} and {:.0} us",
        ratios[PAIR_COUNT / 2],
        ratios[PAIR_COUNT / 4],
        ratios[PAIR_COUNT * 3 / 4],
        processor[0] / count * 1e6,
        processor[1] / count * 1e6,
    );
    Ok(())
}

struct Statements {
    update: String,
    insert: String,
}

impl Statements {
    fn new(name: &str) -> Self {
        Self {
            update: format!("UPDATE bench_orders_{name} SET version = version + 1 WHERE id = ? AND status = ?"),
            insert: format!("INSERT INTO bench_changes_{name} (order_id, reason) VALUES (?, ?)"),
        }
    }

    /// With PostgreSQL's placeholders.
    fn numbered(&self) -> [String; 2] {
        [&self.update, &self.insert].map(|statement| statement.replacen('?', "$1", 1).replacen('?', "$2", 1))
    }
}

struct Wrapped {
    database: SqlDatabase,
    statements: Statements,
}

impl Wrapped {
    async fn new(database: SqlDatabase, name: &str) -> Result<Self, Error> {
        let id = match database.dialect_name() {
            "sqlite" => "INTEGER PRIMARY KEY",
            "mysql" => "BIGINT AUTO_INCREMENT PRIMARY KEY",
            _ => "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
        };
        let script = format!(
            "DROP TABLE IF EXISTS bench_orders_{name}; DROP TABLE IF EXISTS bench_changes_{name};
             CREATE TABLE bench_orders_{name} (id BIGINT PRIMARY KEY, status BIGINT NOT NULL, version BIGINT NOT NULL);
             CREATE TABLE bench_changes_{name} (id {id}, order_id BIGINT NOT NULL, reason VARCHAR(64) NOT NULL);"
        );
        database.execute_script(&script).await?;
        let ids: Vec<String> = (0..ORDER_COUNT).map(|id| format!("({id}, 2, 0)")).collect();
        database.execute_script(&format!("INSERT INTO bench_orders_{name} VALUES {}", ids.join(", "))).await?;
        Ok(Self { database, statements: Statements::new(name) })
    }

    async fn run(&self) -> Result<(), Error> {
        let Statements { update, insert } = &self.statements;
        for number in 0..TRANSACTION_COUNT {
            let id = number % ORDER_COUNT;
            let work = self.database.run(async |tx| {
                let sql = tx.sql()?;
                sql.execute(update, &[id.into(), 2.into()]).await?;
                sql.execute(insert, &[id.into(), "paid".into()]).await
            });
            work.await?;
        }
        Ok(())
    }
}

enum Raw {
    Sqlite(SqliteConnection),
    MySql(MySqlConnection),
    Postgres(PgConnection),
}

/// The same transactions on a connection of sqlx's.
macro_rules! run_raw {
    ($connection:expr, $begin:expr, $update:expr, $insert:expr) => {
        for number in 0..TRANSACTION_COUNT {
            let id = number % ORDER_COUNT;
            let mut transaction = $connection.begin_with($begin).await?;
            let update = sqlx::query(sqlx::AssertSqlSafe($update)).bind(id).bind(2_i64);
            update.execute(&mut *transaction).await?;
            let insert = sqlx::query(sqlx::AssertSqlSafe($insert)).bind(id).bind("paid");
            insert.execute(&mut *transaction).await?;
            transaction.commit().await?;
        }
    };
}

impl Raw {
    async fn run(&mut self, statements: &Statements) -> Result<(), sqlx::Error> {
        let [update, insert] = [statements.update.as_str(), statements.insert.as_str()];
        match self {
            Self::Sqlite(connection) => run_raw!(connection, "BEGIN IMMEDIATE", update, insert),
            Self::MySql(connection) => run_raw!(connection, "BEGIN", update, insert),
            Self::Postgres(connection) => {
                let [update, insert] = statements.numbered();
                run_raw!(connection, "BEGIN", update.as_str(), insert.as_str());
            }
        }
        Ok(())
    }
}

/// What this process has used of the processor so far, in steps of 10 ms; 0 where it is not told.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
