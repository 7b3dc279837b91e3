//! Transactions on a server that want the same rows: who loses is told so, and a repeated attempt wins.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use micro_core::{
    Error, ErrorKind, Result, TransactionManager as _, TransactionManagerExt as _, Tx,
    broker::Message,
    transaction::{RetryPolicy, retrying},
};
use micro_tx::{SqlDatabase, SqlTxExt as _};
use tokio::sync::Barrier;

use crate::{
    on_servers::{on_each_server, site},
    server::{Server, Site},
};

const INSERT: &str = "INSERT INTO orders (code, status) VALUES (?, ?)";
const UPDATE: &str = "UPDATE orders SET status = ? WHERE code = ?";

on_each_server! {
    a_deadlock_is_aborted_and_a_repeated_attempt_wins
    a_lock_is_waited_for_only_so_long
}

async fn a_deadlock_is_aborted_and_a_repeated_attempt_wins(site: Site) {
    let database = site.database().await;
    for code in ["A", "B"] {
        database.execute(INSERT, &[code.into(), "0".into()]).await.unwrap();
    }
    let crossed = std::sync::Arc::new(tokio::sync::Barrier::new(2));
    let attempts = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let paying = [["A", "B"], ["B", "A"]].map(|codes| {
        let (database, crossed, attempts) = (database.clone(), crossed.clone(), attempts.clone());
        tokio::spawn(async move {
            let is_first = std::sync::atomic::AtomicBool::new(true);
            retrying(RetryPolicy::default(), || async {
                attempts.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let meets = is_first.swap(false, std::sync::atomic::Ordering::SeqCst);
                let add = "UPDATE orders SET status = concat(status, '+') WHERE code = ?";
                database
                    .run(async |tx| {
                        tx.sql()?.execute(add, &[codes[0].into()]).await?;
                        if meets {
                            crossed.wait().await;
                        }
                        tx.sql()?.execute(add, &[codes[1].into()]).await
                    })
                    .await
            })
            .await
        })
    });
    for paid in paying {
        paid.await.unwrap().unwrap();
    }
    assert_eq!(attempts.load(std::sync::atomic::Ordering::SeqCst), 3, "one of two crossed transactions lost once");
    let rows = database.fetch_all("SELECT status FROM orders", &[]).await.unwrap();
    assert!(rows.iter().all(|row| row.get::<String>(0).unwrap() == "0++"), "{rows:?}");
}

async fn a_lock_is_waited_for_only_so_long(site: Site) {
    let mut config = site.config();
    config.lock_timeout = Duration::from_secs(1);
    let database = site.database_with(config).await;
    database.execute(INSERT, &["A".into(), "0".into()]).await.unwrap();
    let mut holder = database.begin().await.unwrap();
    holder.sql().unwrap().execute(UPDATE, &["1".into(), "A".into()]).await.unwrap();
    let outcome = database.run(async |tx| tx.sql()?.execute(UPDATE, &["2".into(), "A".into()]).await).await;
    let error: Error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Aborted, "{}", error.report());
    holder.commit().await.unwrap();
}

/// What a snapshot does not show may not be written over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_serialization_failure_of_a_statement_is_aborted_and_a_repeated_attempt_wins() {
    let Some(site) = site(Server::Postgres).await else { return };
    let database = site.database().await;
    database.execute(INSERT, &["A".into(), "0".into()]).await.unwrap();
    let losses = two_that_meet(&database, async |tx, code, meeting| {
        let sql = tx.sql()?;
        sql.execute_script("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
        let status: String = sql.fetch_one("SELECT status FROM orders WHERE code = 'A'", &[]).await?.get(0)?;
        meeting.come().await;
        sql.execute(UPDATE, &[(status + "+").into(), "A".into()]).await?;
        database.outbox().add(tx, &[Message::keyed("t", "A", code)]).await
    });
    assert_eq!(losses.await, [("sql.execute".to_owned(), ErrorKind::Aborted)]);
    let rows = database.fetch_all("SELECT status FROM orders", &[]).await.unwrap();
    assert_eq!(rows[0].get::<String>(0).unwrap(), "0++");
    assert_eq!(database.outbox().counts().await.unwrap().unsent, 2, "each has its effect once");
}

/// Two are on duty and one must stay. Each sees the other one there and goes; their rows are not
/// the same, so that it is the commit that finds out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_serialization_failure_of_the_commit_is_aborted_and_a_repeated_attempt_sees_why() {
    let Some(site) = site(Server::Postgres).await else { return };
    let database = site.database().await;
    for code in CODES {
        database.execute(INSERT, &[code.into(), "on duty".into()]).await.unwrap();
    }
    let losses = two_that_meet(&database, async |tx, code, meeting| {
        let sql = tx.sql()?;
        sql.execute_script("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE").await?;
        let others = "SELECT 1 FROM orders WHERE status = 'on duty' AND code <> ?";
        if !sql.fetch_all(others, &[code.into()]).await?.is_empty() {
            sql.execute(UPDATE, &["gone".into(), code.into()]).await?;
            database.outbox().add(tx, &[Message::keyed("t", code, "gone")]).await?;
        }
        meeting.come().await;
        Ok(())
    });
    let losses = losses.await;
    // The loser can be back before the winner's commit is seen.
    assert!(!losses.is_empty(), "both are gone");
    for loss in losses {
        assert_eq!(loss, ("tx.commit".to_owned(), ErrorKind::Aborted));
    }
    let rows = database.fetch_all("SELECT 1 FROM orders WHERE status = 'on duty'", &[]).await.unwrap();
    assert_eq!(rows.len(), 1, "one stays");
    assert_eq!(database.outbox().counts().await.unwrap().unsent, 1, "one is gone once");
}

const CODES: [&str; 2] = ["A", "B"];

/// Where the first attempts of two transactions wait for each other; later ones do not.
struct Meeting {
    both: Arc<Barrier>,
    is_over: AtomicBool,
}

impl Meeting {
    async fn come(&self) {
        if !self.is_over.swap(true, Ordering::SeqCst) {
            self.both.wait().await;
        }
    }
}

/// Runs two transactions until both are through. Answers which call failed of each attempt that
/// lost, and how.
async fn two_that_meet(
    database: &SqlDatabase,
    work: impl AsyncFn(&mut Tx, &'static str, &Meeting) -> Result<()>,
) -> Vec<(String, ErrorKind)> {
    let (both, losses) = (Arc::new(Barrier::new(2)), Mutex::new(Vec::new()));
    let running = CODES.map(async |code| {
        let meeting = Meeting { both: both.clone(), is_over: AtomicBool::new(false) };
        let attempt = async || {
            let run = database.run(async |tx| work(tx, code, &meeting).await);
            let lost = |error: &Error| losses.lock().unwrap().push((error.operation().to_owned(), error.kind()));
            run.await.inspect_err(lost)
        };
        retrying(RetryPolicy::default(), attempt).await
    });
    futures_util::future::try_join_all(running).await.unwrap();
    losses.into_inner().unwrap()
}
