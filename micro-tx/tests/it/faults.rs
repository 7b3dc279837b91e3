//! A server that is killed or frozen while transactions run.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use micro_core::{Error, ErrorKind, Result, TransactionManager as _, TransactionManagerExt as _, broker::Message};
use micro_testkit::eventually;
use micro_tx::{SqlDatabase, SqlTxExt as _};

use crate::{
    on_servers::connected,
    server::{Server, Site},
};

const INSERT: &str = "INSERT INTO orders (code, status) VALUES (?, ?)";
const PATIENCE: Duration = Duration::from_secs(60);

/// How often the server is killed in a test; the long runs kill it more often.
const KILL_COUNT: usize = 3;

macro_rules! on_a_server_of_its_own {
    ($($test:ident)+) => {
        mod mariadb {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    if let Some(server) = super::own(super::Server::Mariadb).await {
                        super::$test(super::Server::Mariadb, server).await;
                    }
                }
            )+
        }

        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    if let Some(server) = super::own(super::Server::Postgres).await {
                        super::$test(super::Server::Postgres, server).await;
                    }
                }
            )+
        }
    };
}

on_a_server_of_its_own! {
    a_killed_server_takes_no_acknowledged_commit_along
    a_frozen_server_hangs_nothing
}

pub(crate) async fn own(server: Server) -> Option<dev_servers::Server> {
    or_skip(&format!("{server:?}"), blocking(move || dev_servers::Server::start(server.kind())).await)
}

/// What a test needs, or `None` after saying why it is skipped; under `MICRO_TEST_REQUIRE=1` it fails.
pub(crate) fn or_skip<T>(name: &str, outcome: Result<T, String>) -> Option<T> {
    let required = std::env::var("MICRO_TEST_REQUIRE").is_ok_and(|value| value == "1");
    match outcome {
        Ok(needed) => Some(needed),
        Err(reason) => {
            assert!(!required, "{name} is missing and required: {reason}");
            eprintln!("skipped, {name} is missing: {reason}");
            None
        }
    }
}

pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// What became of the orders that were written.
#[derive(Default)]
struct Ledger {
    committed: HashSet<String>,
    /// The commit's answer did not come.
    unknown: HashSet<String>,
    failed: HashSet<String>,
}

async fn a_killed_server_takes_no_acknowledged_commit_along(kind: Server, server: dev_servers::Server) {
    let site = Site::at(kind, server.url().to_owned()).await;
    let mut config = site.config();
    config.acquire_timeout = Duration::from_secs(1);
    let database = site.database_with(config).await;
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let is_over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writers: Vec<_> =
        (0..6).map(|writer| tokio::spawn(write(database.clone(), writer, ledger.clone(), is_over.clone()))).collect();

    let server = Arc::new(Mutex::new(server));
    for _ in 0..KILL_COUNT {
        let before = ledger.lock().unwrap().committed.len();
        eventually(PATIENCE, "commits go on", || async { ledger.lock().unwrap().committed.len() > before + 50 }).await;
        let victim = server.clone();
        blocking(move || {
            let mut server = victim.lock().unwrap();
            server.kill();
            server.restart().unwrap();
        })
        .await;
    }
    let before = ledger.lock().unwrap().committed.len();
    eventually(PATIENCE, "commits go on", || async { ledger.lock().unwrap().committed.len() > before + 50 }).await;
    is_over.store(true, std::sync::atomic::Ordering::SeqCst);
    futures_util::future::try_join_all(writers).await.unwrap();

    let rows = database.fetch_all("SELECT code FROM orders", &[]).await.unwrap();
    let kept: HashSet<String> = rows.iter().map(|row| row.get(0).unwrap()).collect();
    let ledger = ledger.lock().unwrap();
    let lost: Vec<_> = ledger.committed.difference(&kept).collect();
    assert!(lost.is_empty(), "{} acknowledged commits are gone: {lost:?}", lost.len());
    let phantoms: Vec<_> = ledger.failed.intersection(&kept).collect();
    assert!(phantoms.is_empty(), "what failed is there: {phantoms:?}");
    assert!(!ledger.failed.is_empty() || !ledger.unknown.is_empty(), "the server was killed unnoticed");
    println!(
        "{kind:?}: {} committed, {} unknown, {} failed over {KILL_COUNT} kills",
        ledger.committed.len(),
        ledger.unknown.len(),
        ledger.failed.len()
    );
}

async fn write(
    database: SqlDatabase,
    writer: usize,
    ledger: Arc<Mutex<Ledger>>,
    is_over: Arc<std::sync::atomic::AtomicBool>,
) {
    for number in 0.. {
        if is_over.load(std::sync::atomic::Ordering::SeqCst) {
            return;
        }
        let code = format!("{writer}-{number}");
        let work = database.run(async |tx| {
            tx.sql()?.execute(INSERT, &[(&code).into(), "2".into()]).await?;
            tx.sql()?.execute("UPDATE orders SET status = '3' WHERE code = ?", &[(&code).into()]).await
        });
        let outcome: Result<u64> = work.await;
        let kind = outcome.as_ref().err().map(Error::kind);
        {
            let mut ledger = ledger.lock().unwrap();
            match kind {
                None => ledger.committed.insert(code),
                Some(ErrorKind::Unknown) => ledger.unknown.insert(code),
                Some(ErrorKind::Unavailable | ErrorKind::DeadlineExceeded | ErrorKind::ResourceExhausted) => {
                    ledger.failed.insert(code)
                }
                Some(kind) => panic!("a killed server is {kind}: {}", outcome.unwrap_err().report()),
            };
        }
        if kind.is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn a_frozen_server_hangs_nothing(kind: Server, server: dev_servers::Server) {
    let site = Site::at(kind, server.url().to_owned()).await;
    site.database().await.close().await;
    let mut config = site.config();
    config.acquire_timeout = Duration::from_secs(5);
    config.connect_timeout = Duration::from_secs(2);
    config.statement_timeout = Duration::from_secs(2);
    let database = connected(config.clone()).await;
    database.run(async |tx| database.outbox().add(tx, &[Message::keyed("t", "k", "b")]).await).await.unwrap();
    let mut tx = database.begin().await.unwrap();
    tx.sql().unwrap().execute(INSERT, &["open".into(), "2".into()]).await.unwrap();
    let mut committing = database.begin().await.unwrap();
    committing.sql().unwrap().execute(INSERT, &["committing".into(), "2".into()]).await.unwrap();
    let mut shard = database.outbox().own(0).await.unwrap().unwrap();

    server.pause();
    let started = Instant::now();
    let kind_of = |error: Error| {
        let kind = error.kind();
        assert!(
            matches!(kind, ErrorKind::DeadlineExceeded | ErrorKind::Unavailable),
            "a frozen server is {kind}: {}",
            error.report()
        );
    };
    kind_of(tx.sql().unwrap().execute(INSERT, &["more".into(), "2".into()]).await.unwrap_err());
    assert_eq!(tx.commit().await.unwrap_err().kind(), ErrorKind::Aborted);
    assert_eq!(committing.commit().await.unwrap_err().kind(), ErrorKind::Unknown);
    kind_of(database.begin().await.unwrap_err());
    kind_of(database.fetch_all("SELECT 1", &[]).await.unwrap_err());
    kind_of(database.execute(INSERT, &["single".into(), "2".into()]).await.unwrap_err());
    kind_of(shard.unsent(&[], &[], 10).await.unwrap_err());
    kind_of(shard.sent(&[1]).await.unwrap_err());
    drop(shard);
    kind_of(database.outbox().own(0).await.err().unwrap());
    kind_of(SqlDatabase::connect(config).await.err().unwrap());
    assert!(started.elapsed() < Duration::from_secs(90), "{:?}", started.elapsed());

    server.resume();
    eventually(PATIENCE, "transactions again", || async { database.begin().await.is_ok() }).await;
    let own = || async { database.outbox().own(0).await.ok().flatten() };
    let mut shard = eventually(PATIENCE, "the shard again", own).await;
    assert_eq!(shard.unsent(&[], &[], 10).await.unwrap().len(), 1);
    let rows = database.fetch_all("SELECT code FROM orders WHERE code IN ('open', 'more')", &[]).await.unwrap();
    assert!(rows.is_empty(), "what was not committed is there: {rows:?}");
}
