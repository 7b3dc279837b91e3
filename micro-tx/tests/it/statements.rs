//! Statements and sessions on a server: round trips, limits of time, writes of unknown outcome, savepoints.

use std::time::Duration;

use micro_core::{Error, ErrorKind, Result, TransactionManager as _, TransactionManagerExt as _};
use micro_testkit::eventually;
use micro_tx::{SqlTxExt as _, Value};

use crate::{
    on_servers::{INSERT, PATIENCE, UPDATE, connected, kill_waiting, messages, on_each_server, site, waiting_count},
    proxy::Proxy,
    server::{Server, Site},
};

on_each_server! {
    a_transaction_of_n_statements_costs_n_and_two_round_trips
    sessions_are_set_up
    a_statement_that_takes_too_long_ends
    a_single_write_that_is_given_up_says_whether_it_may_be_done
    a_single_write_whose_connection_breaks_may_be_done
    a_savepoint_of_the_driver_is_the_users_own
    a_failure_on_the_drivers_connection_is_no_commit
}

/// BEGIN, the statements, COMMIT; no ping, and nothing is prepared again. A read is one.
async fn a_transaction_of_n_statements_costs_n_and_two_round_trips(site: Site) {
    let (account, address) = site.base().rsplit_once('@').unwrap();
    let proxy = Proxy::before(address.to_owned()).await;
    site.database().await.close().await;
    let mut config = site.config();
    config.url = format!("{account}@{}/{}", proxy.address(), site.name());
    let database = connected(config).await;
    database.execute(INSERT, &["A-17".into(), "0".into()]).await.unwrap();
    let inbox = database.inbox();
    let pay = async |number: i64| {
        let ids: Vec<String> = (0..64).map(|id| format!("{number}-{id}")).collect();
        let work = database.run(async |tx| {
            let sql = tx.sql()?;
            sql.execute(UPDATE, &[number.to_string().into(), "A-17".into()]).await?;
            sql.fetch_all("SELECT status FROM orders WHERE code = ?", &["A-17".into()]).await?;
            database.outbox().add(tx, &messages(8)).await?;
            inbox.claim(tx, "group", &ids).await
        });
        work.await.map(drop)
    };
    pay(0).await.unwrap();
    database.fetch_all("SELECT code FROM orders WHERE code = ?", &["A-17".into()]).await.unwrap();

    let before = proxy.round_trip_count();
    for number in 1..=10 {
        pay(number).await.unwrap();
    }
    assert_eq!(proxy.round_trip_count() - before, 10 * (4 + 2));

    let before = proxy.round_trip_count();
    database.run(async |_| Err::<(), _>(Error::new(ErrorKind::Internal, "test", "undone"))).await.unwrap_err();
    assert_eq!(proxy.round_trip_count() - before, 2, "BEGIN and ROLLBACK");
    let before = proxy.round_trip_count();
    database.fetch_all("SELECT code FROM orders WHERE code = ?", &["A-17".into()]).await.unwrap();
    assert_eq!(proxy.round_trip_count() - before, 1, "a read");
}

async fn sessions_are_set_up(site: Site) {
    let mut config = site.config();
    config.statement_timeout = Duration::from_secs(7);
    config.lock_timeout = Duration::from_secs(3);
    let database = site.database_with(config).await;
    let mut tx = database.begin().await.unwrap();
    let sql = tx.sql().unwrap();
    match site.server {
        Server::Mariadb => {
            let settings = "SELECT @@tx_isolation AS a, @@time_zone AS b, @@innodb_lock_wait_timeout AS c, \
                            @@max_statement_time AS d, @@character_set_connection AS e, @@sql_mode AS f";
            let row = sql.fetch_one(settings, &[]).await.unwrap();
            assert_eq!(row.get::<String>("a").unwrap(), "READ-COMMITTED");
            assert_eq!(row.get::<String>("b").unwrap(), "+00:00");
            assert_eq!(row.get::<i64>("c").unwrap(), 3);
            assert_eq!(row.values()[3], Value::Real(7.0), "{row:?}");
            assert_eq!(row.get::<String>("e").unwrap(), "utf8mb4");
            assert!(row.get::<String>("f").unwrap().contains("STRICT_ALL_TABLES"), "{row:?}");
            let row = sql.fetch_one("SHOW VARIABLES LIKE 'max_statement_time'", &[]).await.unwrap();
            assert_eq!(row.get::<String>(1).unwrap(), "0.000000", "what a commit waits for may not be cut short");
        }
        Server::Postgres => {
            for (setting, expected) in [
                ("SHOW transaction_isolation", "read committed"),
                ("SHOW TimeZone", "UTC"),
                ("SHOW lock_timeout", "3s"),
                ("SHOW statement_timeout", "7s"),
                ("SHOW client_encoding", "UTF8"),
            ] {
                let row = sql.fetch_one(setting, &[]).await.unwrap();
                assert_eq!(row.get::<String>(0).unwrap(), expected, "{setting}");
            }
        }
    }
    tx.rollback().await.unwrap();
}

async fn a_statement_that_takes_too_long_ends(site: Site) {
    site.database().await.close().await;
    let mut config = site.config();
    config.statement_timeout = Duration::from_secs(1);
    let database = connected(config).await;
    let slow = match site.server {
        // SLEEP notices the limit and answers 1; a statement that works is ended.
        Server::Mariadb => "SELECT count(*) FROM seq_1_to_100000 a, seq_1_to_100000 b",
        Server::Postgres => "SELECT pg_sleep(10)",
    };
    let started = std::time::Instant::now();
    let mut reports = Vec::new();
    // A server that stands still for a second says so too late, and is not waited for.
    while reports.len() < 10 {
        let error = database.fetch_all(slow, &[]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{}", error.report());
        reports.push(error.report());
        if error.report().contains("the statement took too long") {
            break;
        }
    }
    assert!(reports.last().unwrap().contains("the statement took too long"), "the server goes on: {reports:?}");
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    let delete = "DELETE FROM orders";
    eventually(PATIENCE, "it goes on", || async { database.execute(delete, &[]).await.is_ok() }).await;
}

/// PostgreSQL ends it; MariaDB goes on with it, for nothing but a read has a limit there.
async fn a_single_write_that_is_given_up_says_whether_it_may_be_done(site: Site) {
    let mut config = site.config();
    config.statement_timeout = Duration::from_secs(1);
    config.lock_timeout = Duration::from_secs(60);
    let (patient, database) = (site.database().await, connected(config).await);
    patient.execute(INSERT, &["A".into(), "0".into()]).await.unwrap();
    let claimed = patient.run(async |tx| patient.inbox().claim(tx, "group", &["id".to_owned()]).await).await;
    assert_eq!(claimed.unwrap(), [true]);
    let mut holding = patient.begin().await.unwrap();
    holding.sql().unwrap().execute(UPDATE, &["1".into(), "A".into()]).await.unwrap();
    holding.sql().unwrap().execute("DELETE FROM micro_inbox", &[]).await.unwrap();

    let add = async || database.execute("UPDATE orders SET status = concat(status, '+')", &[]).await.unwrap_err();
    let is_unanswered =
        |error: &Error| error.kind() == ErrorKind::Unknown && error.report().contains("no answer in time");
    let mut error = add().await;
    for _ in 0..10 {
        if site.server == Server::Mariadb || !is_unanswered(&error) {
            break;
        }
        // One that stands still for a second says too late that it has ended it.
        error = add().await;
    }
    let repeatable = database.inbox().purge(Duration::ZERO, 10).await.unwrap_err();
    assert_eq!(repeatable.kind(), ErrorKind::DeadlineExceeded, "{}", repeatable.report());
    holding.commit().await.unwrap();
    let status_is = async |expected: &str| {
        patient.fetch_all("SELECT status FROM orders", &[]).await.unwrap()[0].get::<String>(0).unwrap() == expected
    };
    match site.server {
        Server::Mariadb => {
            assert!(!error.is_retryable() && is_unanswered(&error), "{}", error.report());
            eventually(PATIENCE, "the write is done after all", || status_is("1+")).await;
        }
        Server::Postgres => {
            assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{}", error.report());
            assert!(status_is("1").await);
        }
    }
}

/// Whether it was before or behind the commit that it broke, nobody here can know.
async fn a_single_write_whose_connection_breaks_may_be_done(site: Site) {
    let (account, address) = site.base().rsplit_once('@').unwrap();
    let proxy = Proxy::before(address.to_owned()).await;
    let outside = site.database().await;
    let mut config = site.config();
    config.url = format!("{account}@{}/{}", proxy.address(), site.name());
    config.connection_count_max = Some(1);
    let database = connected(config).await;
    database.execute(INSERT, &["A".into(), "0".into()]).await.unwrap();

    proxy.cut_answers(true);
    let error = database.execute(INSERT, &["B".into(), "0".into()]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown, "{}", error.report());
    assert!(!error.is_retryable() && error.report().contains("may be done"), "{}", error.report());
    let read = database.fetch_all("SELECT 1", &[]).await.unwrap_err();
    assert_eq!(read.kind(), ErrorKind::Unavailable, "a read is done or not, it is all the same: {}", read.report());
    proxy.cut_answers(false);
    let select = "SELECT code FROM orders ORDER BY code";
    assert_eq!(outside.fetch_all(select, &[]).await.unwrap().len(), 2, "this one was done");

    // One that waits for a lock, and is not done.
    let mut holding = outside.begin().await.unwrap();
    holding.sql().unwrap().execute(UPDATE, &["1".into(), "A".into()]).await.unwrap();
    let waiting = tokio::spawn({
        let database = database.clone();
        async move { database.execute(UPDATE, &["2".into(), "A".into()]).await }
    });
    eventually(PATIENCE, "the write waits", || async { waiting_count(&site, &outside).await == 1 }).await;
    kill_waiting(&site, site.name()).await;
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown, "{}", error.report());
    drop(holding);
    let refused = database.execute(INSERT, &["A".into(), "0".into()]).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AlreadyExists, "what is answered is certain: {}", refused.report());
}

/// sqlx counts the levels of its connection: a savepoint is one, and BEGIN is not sent again.
async fn a_savepoint_of_the_driver_is_the_users_own(site: Site) {
    use sqlx::Connection as _;
    let database = site.database().await;
    let mut tx = database.begin().await.unwrap();
    tx.sql().unwrap().execute(INSERT, &["kept".into(), "2".into()]).await.unwrap();
    let undone = "INSERT INTO orders (code, status) VALUES ('undone', '2')";
    match site.server {
        Server::Mariadb => {
            let mut savepoint = tx.sql().unwrap().as_mysql().unwrap().begin().await.unwrap();
            sqlx::query(undone).execute(&mut *savepoint).await.unwrap();
            savepoint.rollback().await.unwrap();
        }
        Server::Postgres => {
            let mut savepoint = tx.sql().unwrap().as_postgres().unwrap().begin().await.unwrap();
            sqlx::query(undone).execute(&mut *savepoint).await.unwrap();
            savepoint.rollback().await.unwrap();
        }
    }
    tx.commit().await.unwrap();
    let rows = database.fetch_all("SELECT code FROM orders", &[]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get::<String>(0).unwrap()).collect::<Vec<_>>(), ["kept"]);
}

async fn a_failure_on_the_drivers_connection_is_no_commit(site: Site) {
    let database = site.database().await;
    let mut tx = database.begin().await.unwrap();
    tx.sql().unwrap().execute(INSERT, &["A".into(), "2".into()]).await.unwrap();
    let wrong = sqlx::query("SELECT no_such_column FROM orders");
    let outcome = match site.server {
        Server::Mariadb => wrong_on_mysql(&mut tx).await,
        Server::Postgres => wrong.execute(tx.sql().unwrap().as_postgres().unwrap()).await.map(drop),
    };
    assert!(outcome.is_err());
    let committed = tx.commit().await;
    let is_kept = !database.fetch_all("SELECT * FROM orders", &[]).await.unwrap().is_empty();
    assert_eq!(committed.is_ok(), is_kept, "{committed:?}");
    assert_eq!(is_kept, site.server == Server::Mariadb);
}

async fn wrong_on_mysql(tx: &mut micro_core::Tx) -> Result<(), sqlx::Error> {
    let wrong = sqlx::query("SELECT no_such_column FROM orders");
    wrong.execute(tx.sql().unwrap().as_mysql().unwrap()).await.map(drop)
}
