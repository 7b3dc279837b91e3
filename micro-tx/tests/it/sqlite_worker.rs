//! A connection to SQLite whose thread ends half-way: what ran on it is told as such, and the next statement
//! has another one.

use std::thread::{self, ThreadId};

use micro_core::{ErrorKind, TransactionManager as _};
use micro_tx::{SqlDatabase, SqlTxExt as _};
use tracing::{Dispatch, Instrument as _, Subscriber, span, subscriber::NoSubscriber};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt as _},
};

use crate::sqlite::{self, File};

const INSERT: &str = "INSERT INTO orders (code, status) VALUES (?, '2')";

/// Panics where a span is entered on another thread, as one of SQLite's does with that of the caller.
struct Crash {
    here: ThreadId,
}

impl<S: Subscriber> Layer<S> for Crash {
    fn on_enter(&self, _: &span::Id, _: Context<'_, S>) {
        assert_eq!(thread::current().id(), self.here, "the thread crashes");
    }
}

/// What comes of a statement whose thread panics.
async fn crashed<T>(statement: impl Future<Output = T>) -> T {
    // While there is but one, another thread, of which nobody listens, decides for this one too whether a
    // span is wanted: https://github.com/tokio-rs/tracing/issues/2874
    let _second = Dispatch::new(NoSubscriber::new());
    let crash = Crash { here: thread::current().id() };
    let _crashing = tracing::subscriber::set_default(tracing_subscriber::registry().with(crash));
    statement.instrument(tracing::info_span!("statement")).await
}

async fn database(file: &File) -> SqlDatabase {
    file.database().await.close().await;
    let mut config = sqlite::config(&file.url());
    config.connection_count_max = Some(1);
    SqlDatabase::connect(config).await.unwrap()
}

#[tokio::test]
async fn a_write_whose_thread_crashed_may_be_done_and_the_next_one_is() {
    let file = File::new();
    let database = database(&file).await;
    let error = crashed(database.execute(INSERT, &["A-17".into()])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown, "{}", error.report());
    assert_eq!(database.execute(INSERT, &["A-18".into()]).await.unwrap(), 1);
    assert_eq!(database.execute(" ;", &[]).await.unwrap(), 0, "no statement is no crash");
}

#[tokio::test]
async fn rows_that_a_crash_cut_off_are_not_taken_for_all_and_the_next_reader_has_all() {
    let file = File::new();
    let database = database(&file).await;
    database.execute(INSERT, &["A-17".into()]).await.unwrap();
    let codes = async || database.fetch_all("SELECT code FROM orders", &[]).await;
    // The reader is there before it crashes.
    assert_eq!(codes().await.unwrap().len(), 1);
    let error = crashed(codes()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());
    assert_eq!(codes().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_transaction_whose_thread_crashed_is_undone_and_the_next_one_commits() {
    let file = File::new();
    let database = database(&file).await;
    let mut tx = database.begin().await.unwrap();
    assert_eq!(tx.sql().unwrap().execute(INSERT, &["A-17".into()]).await.unwrap(), 1);
    let error = crashed(tx.sql().unwrap().execute(INSERT, &["A-18".into()])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());
    assert!(tx.commit().await.is_err());
    assert_eq!(database.execute(INSERT, &["A-17".into()]).await.unwrap(), 1);
}
