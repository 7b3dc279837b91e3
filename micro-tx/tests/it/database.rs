//! What a SQL database does beyond the ports: values, errors, a pool of somebody else, migrations.

use std::time::Duration;

use bytes::Bytes;
use micro_core::{Error, ErrorKind, TransactionManager as _, TransactionManagerExt as _, transaction::MemoryDatabase};
use micro_tx::{SqlConfig, SqlDatabase, SqlTxExt as _, Value};

use crate::sqlite::File;

const INSERT: &str = "INSERT INTO orders (code, status) VALUES (?, ?)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_value_comes_back_as_it_was_bound() {
    let file = File::new();
    let database = file.database().await;
    let values = [
        Value::Null,
        Value::Integer(i64::MIN),
        Value::Real(-0.5),
        Value::Text("ö 'quoted' \0".to_owned()),
        Value::Text(String::new()),
        Value::Blob(Bytes::from_static(&[0, 0xff])),
        Value::Blob(Bytes::new()),
    ];
    let read = database.fetch_all("SELECT ?, ?, ?, ?, ?, ?, ?", &values).await.unwrap();
    assert_eq!(read[0].values(), values);
    database
        .run(async |tx| {
            let row = tx.sql()?.fetch_one("SELECT ? AS code, ? AS status", &["A-17".into(), 2.into()]).await?;
            assert_eq!((row.get::<String>("code")?, row.get::<u8>("status")?), ("A-17".to_owned(), 2));
            let none = tx.sql()?.fetch_one("SELECT code FROM orders", &[]).await.unwrap_err();
            assert_eq!(none.kind(), ErrorKind::NotFound);
            Ok::<_, Error>(())
        })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_rule_has_its_kind_and_leaves_the_transaction_usable() {
    let file = File::new();
    let database = file.database().await;
    database
        .execute_script(
            "CREATE TABLE lines (id INTEGER PRIMARY KEY, code TEXT REFERENCES orders (code));
             INSERT INTO orders VALUES ('A-17', '2');",
        )
        .await
        .unwrap();
    let mut tx = database.begin().await.unwrap();
    for (statement, values, kind) in [
        (INSERT, vec!["A-17".into(), "2".into()], ErrorKind::AlreadyExists),
        (INSERT, vec!["A-18".into(), "".into()], ErrorKind::InvalidArgument),
        (INSERT, vec!["A-18".into(), Value::Null], ErrorKind::InvalidArgument),
        (INSERT, vec!["A-18".into()], ErrorKind::InvalidArgument),
        ("INSERT INTO lines (code) VALUES (?)", vec!["none".into()], ErrorKind::FailedPrecondition),
        ("INSERT INTO no_such_table VALUES (1)", vec![], ErrorKind::Internal),
        ("SELEC", vec![], ErrorKind::Internal),
    ] {
        let error = tx.sql().unwrap().execute(statement, &values).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{statement}: {}", error.report());
    }
    tx.sql().unwrap().execute(INSERT, &["A-18".into(), "2".into()]).await.unwrap();
    tx.commit().await.unwrap();
    assert!(database.fetch_optional("SELECT 1 FROM orders WHERE code = 'A-18'", &[]).await.unwrap().is_some());

    let error = database.fetch_all("DELETE FROM orders", &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal, "a read that writes is refused: {}", error.report());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_is_not_of_sql_is_refused() {
    let mut tx = MemoryDatabase::new().transactions().begin().await.unwrap();
    assert_eq!(tx.sql().err().unwrap().kind(), ErrorKind::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn urls_that_cannot_be_are_refused_without_their_secrets() {
    for (url, kind) in [
        ("", ErrorKind::InvalidArgument),
        ("orders.db", ErrorKind::InvalidArgument),
        ("oracle://order:canary@db/orders", ErrorKind::InvalidArgument),
        ("mysql://order:canary@127.0.0.1:1/orders", ErrorKind::Unavailable),
        ("mariadb://order:canary@127.0.0.1:1/orders", ErrorKind::Unavailable),
        ("mysql://order:canary@127.0.0.1:port/orders", ErrorKind::InvalidArgument),
        ("postgres://order:canary@127.0.0.1:1/orders", ErrorKind::Unavailable),
        ("postgresql://order:canary@127.0.0.1:1/orders?sslmode=never", ErrorKind::InvalidArgument),
        ("sqlite::memory:", ErrorKind::InvalidArgument),
        ("sqlite:orders.db?mode=memory", ErrorKind::InvalidArgument),
        ("sqlite:orders.db?password=canary", ErrorKind::InvalidArgument),
        ("sqlite:/no/such/folder/orders.db", ErrorKind::Unavailable),
        ("sqlite:/no/such/folder/order:canary@orders.db", ErrorKind::Unavailable),
    ] {
        let error = SqlDatabase::connect_url(url).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{url}: {}", error.report());
        assert!(!format!("{error:?} {}", error.report()).contains("canary"), "{url}: {}", error.report());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_too_long_for_the_writer_is_told_so() {
    let file = File::new();
    let mut config = SqlConfig::new(file.url());
    config.write_acquire_timeout = Duration::from_millis(50);
    config.busy_timeout = Duration::from_millis(50);
    let database = SqlDatabase::connect(config.clone()).await.unwrap();
    database.migrate().await.unwrap();
    let other = SqlDatabase::connect(config).await.unwrap();

    let open = database.begin().await.unwrap();
    assert_eq!(database.begin().await.unwrap_err().kind(), ErrorKind::ResourceExhausted);
    // Another handle is as another process: it waits in SQLite.
    assert_eq!(other.begin().await.unwrap_err().kind(), ErrorKind::Aborted);
    assert_eq!(other.outbox().counts().await.unwrap().unsent, 0, "a reader waits for nobody");
    open.rollback().await.unwrap();
    other.begin().await.unwrap().commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_come_in_the_order_in_which_they_asked() {
    let file = File::new();
    let database = file.database().await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_of_somebody_else_stays_his() {
    let file = File::new();
    let options = file.url().parse::<sqlx::sqlite::SqliteConnectOptions>().unwrap().create_if_missing(true);
    let options = options.journal_mode(sqlx::sqlite::SqliteJournalMode::Wal);
    let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(2).connect_with(options).await.unwrap();
    let database = SqlDatabase::from_sqlite_pool_with_prefix(pool.clone(), "ours_").unwrap();
    database.migrate().await.unwrap();
    for number in 0..5_i64 {
        let statement = "INSERT INTO ours_inbox (consumer_group, event_id, claimed_at) VALUES ('group', ?, 0)";
        database.run(async |tx| tx.sql()?.execute(statement, &[number.to_string().into()]).await).await.unwrap();
        drop(database.begin().await.unwrap());
    }
    // Both connections are the owner's again, and neither is in a transaction.
    micro_testkit::eventually(Duration::from_secs(5), "the pool has its connections", || async {
        pool.num_idle() == pool.size() as usize
    })
    .await;
    let mut both = [pool.acquire().await.unwrap(), pool.acquire().await.unwrap()];
    for connection in &mut both {
        sqlx::query("BEGIN IMMEDIATE").execute(&mut **connection).await.unwrap();
        sqlx::query("ROLLBACK").execute(&mut **connection).await.unwrap();
    }
    let [first, _second] = both;
    drop(first);
    database.close().await;
    assert!(!pool.is_closed());
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM ours_inbox").fetch_one(&pool).await.unwrap();
    assert_eq!(count, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrations_run_once_keep_to_their_prefix_and_refuse_what_is_newer() {
    let file = File::new();
    let database = file.database().await;
    database.inbox().purge(Duration::ZERO, 1).await.unwrap();
    database.migrate().await.unwrap();
    let mut config = SqlConfig::new(file.url());
    config.table_prefix = "shop_".to_owned();
    let shop = SqlDatabase::connect(config).await.unwrap();
    let (first, second) = tokio::join!(shop.migrate(), shop.migrate());
    first.and(second).unwrap();
    let names = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name LIKE ? ESCAPE '\\'";
    for (prefix, count) in [("micro\\_%", 6), ("shop\\_%", 6)] {
        let row = database.fetch_optional(names, &[prefix.into()]).await.unwrap().unwrap();
        assert_eq!(row.get::<i64>(0).unwrap(), count, "{prefix}");
    }
    shop.execute("INSERT INTO shop_schema_version VALUES (99, 'later', 0)", &[]).await.unwrap();
    assert_eq!(shop.migrate().await.unwrap_err().kind(), ErrorKind::FailedPrecondition);
    database.migrate().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_that_fails_leaves_nothing() {
    let file = File::new();
    let database = file.database().await;
    let script = "INSERT INTO orders VALUES ('A-1', '2'); INSERT INTO orders VALUES ('A-1', '2');";
    assert_eq!(database.execute_script(script).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert!(database.fetch_all("SELECT * FROM orders", &[]).await.unwrap().is_empty());
}

/// One group's key queue is read by its index, and so is the outbox's oldest row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_relay_and_the_parked_retries_read_by_index() {
    let file = File::new();
    let database = file.database().await;
    for (statement, values, index) in [
        (
            "SELECT id FROM micro_outbox WHERE shard = ? AND parked_at IS NULL ORDER BY id LIMIT ?",
            vec![1.into(), 10.into()],
            "micro_outbox_unsent",
        ),
        (
            "SELECT 1 FROM micro_parked WHERE consumer_group = ? AND topic = ? AND message_key = ?",
            vec!["g".into(), "t".into(), "k".into()],
            "micro_parked_queue",
        ),
    ] {
        let plan = database.fetch_all(&format!("EXPLAIN QUERY PLAN {statement}"), &values).await.unwrap();
        let plan: Vec<_> = plan.iter().map(|row| row.get::<String>("detail").unwrap()).collect();
        assert!(plan.len() == 1 && plan[0].contains(index), "{plan:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_somebody_spoiled_hide_no_others() {
    let file = File::new();
    crate::spoiled::rows_that_somebody_spoiled_hide_no_others(&file.database().await).await;
}
