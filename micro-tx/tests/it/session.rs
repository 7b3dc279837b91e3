//! What a session of MySQL and MariaDB is set to, whatever the server's own settings say.

use std::time::Duration;

use micro_core::{ErrorKind, Result, TransactionManager as _, TransactionManagerExt as _};
use micro_tx::{SqlDatabase, SqlTxExt as _};
use sqlx::{Executor as _, mysql::MySqlPoolOptions};

use crate::{
    faults::own,
    on_servers::{INSERT, site},
    server::{Server, Site},
};

/// Each of them breaks a promise: what is acknowledged would be undone when the connection ends, a commit would
/// begin another transaction, or be interrupted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_sets_for_its_sessions_breaks_no_promise() {
    let Some(server) = own(Server::Mariadb).await else { return };
    let site = Site::at(Server::Mariadb, server.url().to_owned()).await;
    for setting in ["autocommit = 0", "completion_type = 1", "max_statement_time = 3"] {
        site.administrate(&format!("SET GLOBAL {setting}")).await;
    }
    let database = site.database().await;
    database.execute(INSERT, &["A-1".into(), "2".into()]).await.unwrap();
    let insert = database.run(async |tx| tx.sql()?.execute(INSERT, &["A-2".into(), "2".into()]).await);
    let inserted: Result<u64> = insert.await;
    inserted.unwrap();
    database.execute(INSERT, &["A-3".into(), "2".into()]).await.unwrap();
    let count = format!("SELECT count(*) FROM {}.orders", site.name());
    assert_eq!(site.numbers(&count).await, [3], "what is acknowledged is not committed");
    assert!(site.is_quiet().await, "a transaction is left open");
    let limit = database.fetch_all("SHOW SESSION VARIABLES LIKE 'max_statement_time'", &[]).await.unwrap();
    assert_eq!(limit[0].get::<String>(1).unwrap().parse(), Ok(0.0_f64), "a commit may be interrupted");
    database.close().await;
    assert_eq!(site.numbers(&count).await, [3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_whose_sessions_do_not_commit_by_themselves_is_refused() {
    let Some(site) = site(Server::Mariadb).await else { return };
    let owner = site.database().await;
    for setting in ["SET autocommit = 0", "SET completion_type = 'CHAIN'"] {
        let options = MySqlPoolOptions::new().max_connections(2).acquire_timeout(Duration::from_secs(30));
        let options = options
            .after_connect(move |connection, _| Box::pin(async move { connection.execute(setting).await.map(drop) }));
        let database = SqlDatabase::from_mysql_pool(options.connect(&site.url()).await.unwrap());
        for error in [
            database.execute(INSERT, &["A-1".into(), "2".into()]).await.unwrap_err(),
            database.begin().await.unwrap_err(),
            database.migrate().await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Internal, "{}", error.report());
            assert!(error.to_string().contains("autocommit = 1"), "{error}");
        }
    }
    assert!(owner.fetch_all("SELECT code FROM orders", &[]).await.unwrap().is_empty());
}

/// The clock of the database tells a claim's age: those of two processes may differ.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_age_of_a_claim_is_by_the_clock_of_the_database() {
    let Some(site) = site(Server::Mariadb).await else { return };
    let database = site.database().await;
    let ahead = MySqlPoolOptions::new().max_connections(2).acquire_timeout(Duration::from_secs(30));
    let ahead = ahead.after_connect(|connection, _| {
        Box::pin(async move { connection.execute("SET timestamp = UNIX_TIMESTAMP() + 7200").await.map(drop) })
    });
    let ahead = SqlDatabase::from_mysql_pool(ahead.connect(&site.url()).await.unwrap());
    let ids = ["a".to_owned(), "b".to_owned()];
    database.run(async |tx| database.inbox().claim(tx, "group", &ids).await).await.unwrap();
    let hour = Duration::from_secs(3_600);
    assert_eq!(database.inbox().purge(hour, 10).await.unwrap(), 0);
    assert_eq!(ahead.inbox().purge(3 * hour, 10).await.unwrap(), 0);
    assert_eq!(ahead.inbox().purge(hour, 10).await.unwrap(), 2);
    ahead.run(async |tx| ahead.inbox().claim(tx, "group", &ids).await).await.unwrap();
    assert_eq!(ahead.inbox().purge(hour, 10).await.unwrap(), 0);
}
