//! Connections to a server: whose turn it is, what is done about dead ones, pools of others, what cannot be reached.

use std::time::Duration;

use micro_core::{ErrorKind, Result, TransactionManager as _, TransactionManagerExt as _};
use micro_testkit::eventually;
use micro_tx::{SqlConfig, SqlDatabase, SqlTxExt as _};

use crate::{
    on_servers::{INSERT, PATIENCE, UPDATE, kill_connections, messages, on_each_server, site},
    proxy::Proxy,
    server::{Server, Site, fresh},
};

on_each_server! {
    who_waits_too_long_for_a_connection_is_told_so
    turns_come_in_the_order_of_asking
    a_dead_connection_is_replaced_unseen
    a_connection_that_dies_in_a_transaction_undoes_it
    a_connection_grows_only_so_old
    a_pool_of_somebody_else_stays_his
    one_connection_of_somebody_else_is_enough_to_migrate_to_relay_and_to_serve
    who_gives_up_waiting_for_a_pool_of_somebody_else_leaves_nothing_behind
    what_cannot_be_connected_to_says_why
}

async fn who_waits_too_long_for_a_connection_is_told_so(site: Site) {
    let mut config = site.config();
    config.connection_count_max = Some(2);
    config.acquire_timeout = Duration::from_millis(100);
    let database = site.database_with(config).await;
    let [first, second] = [database.begin().await.unwrap(), database.begin().await.unwrap()];
    for _ in 0..3 {
        let error = database.begin().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
        assert!(error.to_string().contains("connection_count_max=2"), "{error}");
    }
    drop(first);
    eventually(PATIENCE, "the dropped one's connection is free", || async { database.begin().await.is_ok() }).await;
    second.commit().await.unwrap();
}

async fn turns_come_in_the_order_of_asking(site: Site) {
    let mut config = site.config();
    config.connection_count_max = Some(1);
    let database = site.database_with(config).await;
    let order = tokio::sync::Mutex::new(Vec::new());
    let open = database.begin().await.unwrap();
    let asking = (0..20).map(async |number| {
        let tx = database.begin().await.unwrap();
        order.lock().await.push(number);
        tx.commit().await.unwrap();
    });
    let (_, ended) = tokio::join!(futures_util::future::join_all(asking), open.commit());
    ended.unwrap();
    assert_eq!(*order.lock().await, (0..20).collect::<Vec<_>>());
}

async fn a_dead_connection_is_replaced_unseen(site: Site) {
    let database = site.database().await;
    let opened = [database.begin().await.unwrap(), database.begin().await.unwrap(), database.begin().await.unwrap()];
    for tx in opened {
        tx.commit().await.unwrap();
    }
    kill_connections(&site, site.name()).await;
    for number in 0..4_i64 {
        let insert = database.run(async |tx| tx.sql()?.execute(INSERT, &[number.to_string().into(), "2".into()]).await);
        let inserted: Result<u64> = insert.await;
        assert_eq!(inserted.unwrap(), 1);
    }
    kill_connections(&site, site.name()).await;
    let rows = database.fetch_all("SELECT * FROM orders", &[]).await.unwrap();
    assert_eq!(rows.len(), 4);
    kill_connections(&site, site.name()).await;
    database.inbox().purge(Duration::ZERO, 10).await.unwrap();
}

async fn a_connection_that_dies_in_a_transaction_undoes_it(site: Site) {
    let database = site.database().await;
    let mut tx = database.begin().await.unwrap();
    tx.sql().unwrap().execute(INSERT, &["A".into(), "2".into()]).await.unwrap();
    kill_connections(&site, site.name()).await;
    let error = tx.sql().unwrap().execute(INSERT, &["B".into(), "2".into()]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());
    assert_eq!(tx.commit().await.unwrap_err().kind(), ErrorKind::Aborted);

    let mut tx = database.begin().await.unwrap();
    tx.sql().unwrap().execute(INSERT, &["C".into(), "2".into()]).await.unwrap();
    kill_connections(&site, site.name()).await;
    // Nobody knows whether it arrived.
    let error = tx.commit().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown, "{}", error.report());
    assert!(!error.is_retryable(), "a commit of unknown outcome is not repeated blindly");
    assert!(database.fetch_all("SELECT * FROM orders", &[]).await.unwrap().is_empty());
}

async fn a_connection_grows_only_so_old(site: Site) {
    let mut config = site.config();
    config.connection_lifetime = Duration::from_millis(50);
    let database = site.database_with(config).await;
    let id = match site.server {
        Server::Mariadb => "SELECT connection_id()",
        Server::Postgres => "SELECT pg_backend_pid()",
    };
    let first: i64 = database.fetch_all(id, &[]).await.unwrap()[0].get(0).unwrap();
    eventually(PATIENCE, "another connection", || async {
        database.fetch_all(id, &[]).await.unwrap()[0].get::<i64>(0).unwrap() != first
    })
    .await;
}

async fn a_pool_of_somebody_else_stays_his(site: Site) {
    let database = match site.server {
        Server::Mariadb => {
            let pool = sqlx::mysql::MySqlPoolOptions::new().max_connections(2).connect(&site.url()).await.unwrap();
            SqlDatabase::from_mysql_pool(pool)
        }
        Server::Postgres => {
            let pool = sqlx::postgres::PgPoolOptions::new().max_connections(2).connect(&site.url()).await.unwrap();
            SqlDatabase::from_postgres_pool(pool)
        }
    };
    database.migrate().await.unwrap();
    database.execute_script("CREATE TABLE orders (code VARCHAR(64) PRIMARY KEY, status VARCHAR(64))").await.unwrap();
    for number in 0..5_i64 {
        let insert = database.run(async |tx| tx.sql()?.execute(INSERT, &[number.to_string().into(), "2".into()]).await);
        let inserted: Result<u64> = insert.await;
        inserted.unwrap();
        drop(database.begin().await.unwrap());
    }
    let isolation = match site.server {
        Server::Mariadb => {
            "SELECT trx_isolation_level FROM information_schema.innodb_trx WHERE trx_mysql_thread_id = connection_id()"
        }
        Server::Postgres => "SELECT current_setting('transaction_isolation')",
    };
    let mut tx = database.begin().await.unwrap();
    tx.sql().unwrap().execute(UPDATE, &["3".into(), "0".into()]).await.unwrap();
    let mut level = None;
    // Who asks from elsewhere meanwhile has MariaDB keep its answer for a little longer.
    for _ in 0..50 {
        level = fresh(tx.sql().unwrap().fetch_optional(isolation, &[])).await.unwrap();
        if level.is_some() {
            break;
        }
    }
    let level = level.expect("the open transaction is seen").get::<String>(0).unwrap();
    assert_eq!(level.to_lowercase(), "read committed");
    tx.commit().await.unwrap();
    database.close().await;
    assert_eq!(database.fetch_all("SELECT * FROM orders", &[]).await.unwrap().len(), 5, "his pool is still open");
}

async fn one_connection_of_somebody_else_is_enough_to_migrate_to_relay_and_to_serve(site: Site) {
    let database = site.database_on_a_pool(site.address(), 1).await;
    let mut shard = database.outbox().own(0).await.unwrap().expect("it is free");
    database.run(async |tx| database.outbox().add(tx, &messages(3)).await).await.unwrap();
    let rows = shard.unsent(&[], &[], 10).await.unwrap();
    assert_eq!(rows.len(), 3);
    let _open = database.begin().await.unwrap();
    shard.sent(&[rows[0].id]).await.unwrap();
    assert_eq!(shard.unsent(&[], &[], 10).await.unwrap().len(), 2);
}

async fn who_gives_up_waiting_for_a_pool_of_somebody_else_leaves_nothing_behind(site: Site) {
    let proxy = Proxy::before(site.address().to_owned()).await;
    let database = site.database_on_a_pool(&proxy.address(), 1).await;
    let open = database.begin().await.unwrap();
    let impatient = (0..20).map(|_| tokio::time::timeout(Duration::from_millis(100), database.begin()));
    let outcomes = futures_util::future::join_all(impatient).await;
    assert!(outcomes.iter().all(Result::is_err), "there is one connection, and it is in use");
    let count_before = proxy.round_trip_count();
    open.commit().await.unwrap();
    database.begin().await.unwrap().commit().await.unwrap();
    let count = proxy.round_trip_count() - count_before;
    assert!(count < 10, "{count} round trips for two commits and a begin");
}

/// One line that names the database and its address, and what to look at; no secret.
async fn what_cannot_be_connected_to_says_why(site: Site) {
    let base = site.base();
    let address = base.rsplit_once('@').unwrap().1;
    let scheme = base.split_once(':').unwrap().0;
    let user = match site.server {
        Server::Mariadb => {
            site.administrate("CREATE USER IF NOT EXISTS micro_canary IDENTIFIED BY 'right'").await;
            "micro_canary"
        }
        Server::Postgres => "no_such_user",
    };
    for (url, kind) in [
        (format!("{scheme}://{user}:canary@{address}/{}", site.name()), ErrorKind::Unauthenticated),
        (format!("{base}/no_such_database"), ErrorKind::NotFound),
        (format!("{scheme}://root:canary@127.0.0.1:1/orders"), ErrorKind::Unavailable),
        (format!("{scheme}://root:canary@no-such-host.invalid/orders"), ErrorKind::Unavailable),
    ] {
        let started = std::time::Instant::now();
        let mut config = SqlConfig::new(&url);
        if kind != ErrorKind::Unavailable {
            config.connect_timeout = Duration::from_secs(20);
        }
        let error = SqlDatabase::connect(config).await.unwrap_err();
        let text = error.report();
        assert_eq!(error.kind(), kind, "{text}");
        assert!(!format!("{error:?} {text}").contains("canary@") && !text.contains('\n'), "{text}");
        assert!(text.contains("address=") && text.contains("database="), "{text}");
        assert!(started.elapsed() < Duration::from_secs(30), "{text}");
    }
}
