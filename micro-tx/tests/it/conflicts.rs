//! Transactions on a server that want the same rows: who loses is told so, and a repeated attempt wins.

use std::time::Duration;

use micro_core::{
    Error, ErrorKind, TransactionManager as _, TransactionManagerExt as _,
    transaction::{RetryPolicy, retrying},
};
use micro_tx::SqlTxExt as _;

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
