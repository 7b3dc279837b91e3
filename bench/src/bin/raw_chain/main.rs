//! The payment chain as one would glue it from sqlx, rdkafka and tonic by hand: the statements and
//! the guarantees of the examples (outbox, relay, inbox, confirmation), straight-line code, no framework.
//!
//! `raw-chain order|product --kafka HOST:PORT --mysql URL [--listen HOST:PORT]`

mod inbox;
mod order;
mod outbox;
mod product;

use std::time::{SystemTime, UNIX_EPOCH};

use bench::Result;
use clap::{Parser, ValueEnum};
use sqlx::{
    ConnectOptions as _, MySqlPool,
    mysql::{MySqlConnectOptions, MySqlPoolOptions},
};

/// One service of the chain.
#[derive(Parser)]
struct Arguments {
    service: Service,
    #[arg(long)]
    kafka: String,
    #[arg(long)]
    mysql: MySqlConnectOptions,
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// How long the producer lets a batch fill.
    #[arg(long, default_value_t = 0)]
    linger_ms: u32,
    /// Connections to the database.
    #[arg(long, default_value_t = 32)]
    connections: u32,
    /// The most records, or callbacks, that one transaction takes.
    #[arg(long, default_value_t = 256)]
    batch: usize,
    /// Transactions of callbacks side by side.
    #[arg(long, default_value_t = 2)]
    lanes: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Service {
    Order,
    Product,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let database = connect(&arguments).await?;
    let producer = outbox::producer(&arguments.kafka, arguments.linger_ms)?;
    let wake = outbox::start_relay(database.clone(), producer);
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let stopped = async move {
        terminate.recv().await;
    };
    match arguments.service {
        Service::Order => order::run(&arguments, database, wake, stopped).await,
        Service::Product => product::run(&arguments, database, wake, stopped).await,
    }
}

async fn connect(arguments: &Arguments) -> Result<MySqlPool> {
    // A batch has as many texts as it may have rows: all stay prepared.
    let options = arguments.mysql.clone().disable_statement_logging().statement_cache_capacity(2_048);
    let pool = MySqlPoolOptions::new().max_connections(arguments.connections).test_before_acquire(false).after_connect(
        |connection, _| {
            Box::pin(async move {
                sqlx::raw_sql("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").execute(connection).await?;
                Ok(())
            })
        },
    );
    Ok(pool.connect_with(options).await?)
}

fn now_millis() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}
