//! The program: its own arguments, logger, pool, migrations, listener and signals. Lines that end in
//! `micro-rs` are there for the outbox.

use std::{error::Error, str::FromStr as _, sync::Arc};

use clap::Parser;
use embed::{broker, events::Events, follower, shop};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};

/// A shop that takes orders by HTTP and tells of them by events.
#[derive(Parser)]
struct Arguments {
    /// Where it listens.
    #[arg(long, default_value = "127.0.0.1:8080")]
    address: String,
    /// Its database.
    #[arg(long, default_value = "sqlite:shop.db")]
    database: String,
    /// Where its events go: memory: is this process only; with the feature broker-kafka also kafka://HOST:PORT.
    #[arg(long, default_value = "memory:")]
    broker: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let arguments = Arguments::parse();
    let options = SqliteConnectOptions::from_str(&arguments.database)?.create_if_missing(true);
    let pool = SqlitePoolOptions::new().connect_with(options.journal_mode(SqliteJournalMode::Wal)).await?;
    sqlx::migrate!().run(&pool).await?;

    let broker = broker::connect(&arguments.broker).await?; // micro-rs
    let subscription = follower::subscribe(&*broker).await?;
    let follower = tokio::spawn(follower::follow(subscription.clone()));
    let events = Arc::new(Events::start(&pool, broker).await?); // micro-rs

    let listener = tokio::net::TcpListener::bind(&arguments.address).await?;
    println!("the shop is open at {}", listener.local_addr()?);
    axum::serve(listener, shop::routes(pool.clone(), events.clone()))
        .with_graceful_shutdown(async { tokio::signal::ctrl_c().await.expect("a signal handler can be set") })
        .await?;

    events.stop().await?; // micro-rs
    subscription.close().await?;
    follower.await??;
    let unsent = events.outbox.store().counts().await?.unsent;
    pool.close().await;
    println!("the shop is closed, {unsent} events wait for the next start");
    Ok(())
}
