//! A connection to SQLite whose thread ends half-way: what ran on it is told as such, and the next statement
//! has another one.

use std::{
    sync::Mutex,
    thread::{self, ThreadId},
    time::Duration,
};

use micro_core::{ErrorKind, TransactionManager as _};
use micro_tx::{SqlDatabase, SqlTxExt as _};
use tokio::sync::mpsc::{Receiver, channel};
use tracing::{Dispatch, Instrument as _, Subscriber, span, subscriber::NoSubscriber};
use tracing_subscriber::{
    Layer, Registry,
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

/// Panics where a span is left on another thread, after the statement is answered and the test lets it.
struct CrashAfter {
    here: ThreadId,
    go_on: Mutex<Receiver<()>>,
}

impl<S: Subscriber> Layer<S> for CrashAfter {
    fn on_exit(&self, _: &span::Id, _: Context<'_, S>) {
        if thread::current().id() != self.here {
            let _ = self.go_on.lock().unwrap().blocking_recv();
            panic!("the thread crashes");
        }
    }
}

/// What comes of a statement whose thread panics.
async fn crashed<T>(statement: impl Future<Output = T>) -> T {
    within(Crash { here: thread::current().id() }, statement).await
}

/// What comes of a statement whose thread panics behind it, once the channel sends or is closed.
async fn crashed_after<T>(go_on: Receiver<()>, statement: impl Future<Output = T>) -> T {
    within(CrashAfter { here: thread::current().id(), go_on: Mutex::new(go_on) }, statement).await
}

async fn within<T>(layer: impl Layer<Registry> + Send + Sync, statement: impl Future<Output = T>) -> T {
    // While there is but one, another thread, of which nobody listens, decides for this one too whether a
    // span is wanted: https://github.com/tokio-rs/tracing/issues/2874
    let _second = Dispatch::new(NoSubscriber::new());
    let _crashing = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    statement.instrument(tracing::info_span!("statement")).await
}

async fn database(file: &File) -> SqlDatabase {
    file.database().await.close().await;
    let mut config = sqlite::config(&file.url());
    config.connection_count_max = Some(1);
    config.write_acquire_timeout = Duration::from_secs(60);
    SqlDatabase::connect(config).await.unwrap()
}

#[tokio::test]
async fn a_write_whose_thread_crashed_may_be_done_and_the_next_one_is() {
    let file = File::new();
    let database = database(&file).await;
    let error = crashed(database.execute(INSERT, &["A-17".into()])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown, "{}", error.report());
    assert_eq!(database.execute(INSERT, &["A-18".into()]).await.unwrap(), 1);
}

#[tokio::test]
async fn a_text_without_a_statement_is_no_crash() {
    let file = File::new();
    let database = database(&file).await;
    for text in ["", " ;", "-- nothing", "/* nothing */", "/* nothing", "; -- a\n/* b; */ ;"] {
        assert_eq!(database.execute(text, &[]).await.unwrap(), 0, "{text}");
        assert!(database.fetch_all(text, &[]).await.unwrap().is_empty(), "{text}");
        let mut tx = database.begin().await.unwrap();
        tx.sql().unwrap().execute_script(text).await.unwrap();
        tx.commit().await.unwrap();
    }
    assert!(crashed(database.execute("-- nothing", &[])).await.is_err());
}

#[tokio::test]
async fn a_script_whose_thread_crashed_is_an_error() {
    let file = File::new();
    let database = database(&file).await;
    let mut tx = database.begin().await.unwrap();
    let script = "CREATE TABLE a (b INTEGER); CREATE TABLE c (d INTEGER)";
    let error = crashed(tx.sql().unwrap().execute_script(script)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());
    assert!(tx.commit().await.is_err());
    database.execute_script(script).await.unwrap();
}

#[tokio::test]
async fn of_several_statements_the_first_does_not_stand_for_all() {
    let file = File::new();
    let database = database(&file).await;
    let inserts = format!("{INSERT}; {INSERT};");
    assert_eq!(database.execute(&inserts, &["A-17".into(), "A-18".into()]).await.unwrap(), 2);
    let mut tx = database.begin().await.unwrap();
    let (_, at_once) = channel(1);
    let insert = async { tx.sql().unwrap().execute(&inserts, &["A-19".into(), "A-20".into()]).await };
    let error = crashed_after(at_once, insert).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());
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

#[tokio::test]
async fn a_rollback_that_a_crash_left_unanswered_does_not_keep_the_turn_to_write() {
    let file = File::new();
    let database = database(&file).await;
    let mut tx = database.begin().await.unwrap();
    let (crash, go_on) = channel(1);
    let insert = async { tx.sql().unwrap().execute(INSERT, &["A-17".into()]).await };
    assert_eq!(crashed_after(go_on, insert).await.unwrap(), 1);
    drop(tx);
    // The rollback is sent by then: its task runs on this thread, up to where it waits for the answer.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    crash.try_send(()).unwrap();
    assert_eq!(database.execute(INSERT, &["A-17".into()]).await.unwrap(), 1);
}
