//! What a database on a server does beyond the ports: values, round trips, locks, failures.

use std::time::Duration;

use micro_core::{
    Error, ErrorKind, Result, TransactionManager as _, TransactionManagerExt as _,
    broker::{Delivery, Message},
    outbox::OutboxCounts,
    parked::Parking,
};
use micro_testkit::{Missing, eventually};
use micro_tx::{SqlConfig, SqlDatabase, SqlTxExt as _, Value};

use crate::{
    proxy::Proxy,
    server::{Server, Site},
};

const INSERT: &str = "INSERT INTO orders (code, status) VALUES (?, ?)";
const UPDATE: &str = "UPDATE orders SET status = ? WHERE code = ?";
const PATIENCE: Duration = Duration::from_secs(20);

/// A test for each server, skipped where there is none.
macro_rules! on_each_server {
    ($($test:ident)+) => {
        mod mariadb {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    if let Some(site) = super::site(super::Server::Mariadb).await {
                        super::$test(site).await;
                    }
                }
            )+
        }

        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    if let Some(site) = super::site(super::Server::Postgres).await {
                        super::$test(site).await;
                    }
                }
            )+
        }
    };
}

pub(crate) use on_each_server;

on_each_server! {
    values_come_back_as_they_were_bound
    a_null_and_a_text_share_a_statement
    a_broken_rule_has_its_kind
    what_only_a_transaction_meets_has_its_kind
    a_transaction_of_n_statements_costs_n_and_two_round_trips
    sessions_are_set_up
    a_claim_that_waited_for_another_one_knows_its_ids
    overlapping_claims_in_other_orders_do_not_deadlock
    ids_of_any_length_are_told_apart
    a_statement_that_takes_too_long_ends
    a_single_write_that_is_given_up_says_whether_it_may_be_done
    a_single_write_whose_connection_breaks_may_be_done
    parked_rows_are_released_in_pieces
    who_waits_too_long_for_a_connection_is_told_so
    turns_come_in_the_order_of_asking
    a_dead_connection_is_replaced_unseen
    a_connection_that_dies_in_a_transaction_undoes_it
    a_connection_grows_only_so_old
    a_savepoint_of_the_driver_is_the_users_own
    a_failure_on_the_drivers_connection_is_no_commit
    a_pool_of_somebody_else_stays_his
    two_processes_migrate_at_once
    two_processes_share_an_outbox
    an_owner_whose_connection_dies_owns_no_more
    rows_of_one_key_keep_the_order_of_their_transactions
    rows_that_somebody_spoiled_hide_no_others
    what_cannot_be_connected_to_says_why
}

pub(crate) async fn site(server: Server) -> Option<Site> {
    let required = std::env::var("MICRO_TEST_REQUIRE").is_ok_and(|value| value == "1");
    match Site::new(server).await {
        Ok(site) => Some(site),
        Err(missing) => {
            let missing: Missing = missing;
            assert!(!required, "{server:?} is missing and required: {missing:?}");
            eprintln!("skipped, {server:?} is missing: {missing:?}");
            None
        }
    }
}

async fn values_come_back_as_they_were_bound(site: Site) {
    let database = site.database().await;
    let values = [
        Value::Null,
        Value::Integer(i64::MIN),
        Value::Real(-0.5),
        Value::Text("ö 'quoted' 🦀".to_owned()),
        Value::Text(String::new()),
        Value::Blob(vec![0, 0xff].into()),
        Value::Blob(vec![].into()),
    ];
    let columns = "id BIGINT, number BIGINT, ratio DOUBLE PRECISION, name VARCHAR(64), empty TEXT";
    let table = match site.server {
        Server::Mariadb => format!("CREATE TABLE every ({columns}, bytes LONGBLOB, none VARBINARY(9))"),
        Server::Postgres => format!("CREATE TABLE every ({columns}, bytes BYTEA, none BYTEA)"),
    };
    database.execute_script(&table).await.unwrap();
    database.execute("INSERT INTO every VALUES (?, ?, ?, ?, ?, ?, ?)", &values).await.unwrap();
    let rows = database.fetch_all("SELECT * FROM every", &[]).await.unwrap();
    assert_eq!(rows[0].values(), values);

    let script = match site.server {
        Server::Mariadb => {
            "CREATE TABLE odd (a TINYINT(1), b SMALLINT, c INT UNSIGNED, d DECIMAL(9, 2), e CHAR(3), f JSON, g FLOAT,
                               h VARCHAR(9) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin);
             INSERT INTO odd VALUES (1, -2, 3000000000, 4.50, 'abc', '[1]', 0.25, 'bin');"
        }
        Server::Postgres => {
            "CREATE TABLE odd (a BOOLEAN, b SMALLINT, c BIGINT, d NUMERIC(9, 2), e CHAR(3), f JSONB, g REAL, h VARCHAR(9));
             INSERT INTO odd VALUES (true, -2, 3000000000, 4.50, 'abc', '[1]', 0.25, 'bin');"
        }
    };
    database.execute_script(script).await.unwrap();
    let select = "SELECT a, b, c, d, e, f, g, h, 2 * c FROM odd WHERE b = ?";
    let row = database.fetch_optional(select, &[(-2).into()]).await.unwrap().unwrap();
    let text = |text: &str| Value::Text(text.to_owned());
    assert_eq!(row.values()[..2], [Value::Integer(1), Value::Integer(-2)]);
    assert_eq!(row.values()[2..5], [Value::Integer(3_000_000_000), Value::Real(4.5), text("abc")]);
    assert_eq!(row.values()[5..], [text("[1]"), Value::Real(0.25), text("bin"), Value::Integer(6_000_000_000)]);
    for (sum, expected) in [
        ("SELECT sum(c) FROM odd", Value::Integer(3_000_000_000)),
        ("SELECT sum(c) - 9223372036854775807 FROM odd", Value::Integer(3_000_000_000 - i64::MAX)),
        ("SELECT sum(d) * -1 FROM odd", Value::Real(-4.5)),
        ("SELECT sum(c) * 0 FROM odd", Value::Integer(0)),
        ("SELECT sum(c) FROM odd WHERE b = 0", Value::Null),
    ] {
        assert_eq!(database.fetch_all(sum, &[]).await.unwrap()[0].values(), [expected], "{sum}");
    }
    let unreadable = database.fetch_all("SELECT current_date", &[]).await.unwrap_err();
    assert_eq!(unreadable.kind(), ErrorKind::DataLoss);
    assert!(unreadable.report().contains("cast the column"), "{}", unreadable.report());
}

/// PostgreSQL fixes the types of a statement when it is prepared.
async fn a_null_and_a_text_share_a_statement(site: Site) {
    let database = site.database().await;
    database.execute_script("CREATE TABLE notes (id BIGINT PRIMARY KEY, a TEXT, b BIGINT)").await.unwrap();
    let insert = "INSERT INTO notes VALUES (?, ?, ?)";
    let rows: [[Value; 3]; 4] = [
        [1.into(), Value::Null, 1.into()],
        [2.into(), "a".into(), Value::Null],
        [3.into(), Value::Null, Value::Null],
        [4.into(), "b".into(), 2.into()],
    ];
    for round in 0..3_i64 {
        for row in &rows {
            let mut row = row.clone();
            row[0] = Value::Integer(round * 10 + i64::try_from(row.len()).unwrap() + row_number(&row));
            database.execute(insert, &row).await.unwrap();
        }
    }
    let count = database.fetch_all("SELECT count(*), count(a), count(b) FROM notes", &[]).await.unwrap();
    assert_eq!(count[0].values(), [Value::Integer(12), Value::Integer(6), Value::Integer(6)]);
}

fn row_number(row: &[Value; 3]) -> i64 {
    match row[0] {
        Value::Integer(number) => number,
        _ => 0,
    }
}

async fn a_broken_rule_has_its_kind(site: Site) {
    let database = site.database().await;
    let script =
        "CREATE TABLE items (id BIGINT PRIMARY KEY, code VARCHAR(64), FOREIGN KEY (code) REFERENCES orders (code));
                  INSERT INTO orders VALUES ('A-17', '2'); INSERT INTO items VALUES (1, 'A-17');";
    database.execute_script(script).await.unwrap();
    let long = "x".repeat(65);
    for (statement, values, kind) in [
        (INSERT, vec!["A-17".into(), "2".into()], ErrorKind::AlreadyExists),
        (INSERT, vec!["A-18".into(), "".into()], ErrorKind::InvalidArgument),
        (INSERT, vec!["A-18".into(), Value::Null], ErrorKind::InvalidArgument),
        (INSERT, vec!["A-18".into(), long.as_str().into()], ErrorKind::InvalidArgument),
        (INSERT, vec!["A-18".into()], ErrorKind::InvalidArgument),
        ("INSERT INTO items VALUES (2, ?)", vec!["none".into()], ErrorKind::FailedPrecondition),
        ("DELETE FROM orders", vec![], ErrorKind::FailedPrecondition),
        ("INSERT INTO no_such_table VALUES (1)", vec![], ErrorKind::Internal),
        ("SELEC", vec![], ErrorKind::Internal),
    ] {
        let outcome = database.run(async |tx| tx.sql()?.execute(statement, &values).await).await;
        let error: Error = outcome.unwrap_err();
        assert_eq!(error.kind(), kind, "{statement}: {}", error.report());
        let error = database.execute(statement, &values).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{statement}: {}", error.report());
    }
}

/// On PostgreSQL what follows a failure is refused, and a commit that would undo is no success.
async fn what_only_a_transaction_meets_has_its_kind(site: Site) {
    let database = site.database().await;
    database.execute(INSERT, &["A-17".into(), "2".into()]).await.unwrap();
    let mut tx = database.begin().await.unwrap();
    let taken = tx.sql().unwrap().execute(INSERT, &["A-17".into(), "2".into()]).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
    let next = tx.sql().unwrap().execute(INSERT, &["A-18".into(), "2".into()]).await;
    let committed = tx.commit().await;
    let is_kept = database.fetch_optional("SELECT 1 FROM orders WHERE code = 'A-18'", &[]).await.unwrap().is_some();
    match site.server {
        Server::Mariadb => {
            next.unwrap();
            committed.unwrap();
            assert!(is_kept);
        }
        Server::Postgres => {
            assert_eq!(next.unwrap_err().kind(), ErrorKind::Aborted);
            assert_eq!(committed.unwrap_err().kind(), ErrorKind::Aborted);
            assert!(!is_kept);
        }
    }
    let mut tx = database.begin().await.unwrap();
    let read_only = match site.server {
        Server::Mariadb => "SET SESSION TRANSACTION READ ONLY",
        Server::Postgres => "SET TRANSACTION READ ONLY",
    };
    tx.sql().unwrap().execute_script(read_only).await.unwrap();
    tx.rollback().await.unwrap();
    let mut tx = database.begin().await.unwrap();
    if site.server == Server::Postgres {
        tx.sql().unwrap().execute_script(read_only).await.unwrap();
    }
    let error = tx.sql().unwrap().execute(INSERT, &["A-19".into(), "2".into()]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{}", error.report());
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

/// The second one waits until the first commits, and then all it asked for is known but the rest.
async fn a_claim_that_waited_for_another_one_knows_its_ids(site: Site) {
    let database = site.database().await;
    let inbox = database.inbox();
    let ids = ["a", "b", "c"].map(str::to_owned);
    for (is_committed, expected) in [(true, [false, false, true]), (false, [true, true, true])] {
        let group = format!("group-{is_committed}");
        let mut first = database.begin().await.unwrap();
        assert_eq!(inbox.claim(&mut first, &group, &ids[..2]).await.unwrap(), [true, true]);
        let second = tokio::spawn({
            let (database, group, ids) = (database.clone(), group.clone(), ids.clone());
            async move { database.run(async |tx| database.inbox().claim(tx, &group, &ids).await).await }
        });
        eventually(PATIENCE, "the second claim waits for the first", || async {
            waiting_count(&site, &database).await == 1
        })
        .await;
        assert!(!second.is_finished());
        if is_committed {
            first.commit().await.unwrap()
        } else {
            first.rollback().await.unwrap()
        }
        assert_eq!(second.await.unwrap().unwrap(), expected);
    }
}

/// How many of this database's transactions wait for a lock.
async fn waiting_count(site: &Site, database: &SqlDatabase) -> i64 {
    let count = match site.server {
        Server::Mariadb => {
            "SELECT count(*) FROM information_schema.innodb_trx t JOIN information_schema.processlist p \
             ON p.id = t.trx_mysql_thread_id WHERE t.trx_state = 'LOCK WAIT' AND p.db = DATABASE()"
        }
        Server::Postgres => {
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        }
    };
    database.fetch_all(count, &[]).await.unwrap()[0].get(0).unwrap()
}

async fn overlapping_claims_in_other_orders_do_not_deadlock(site: Site) {
    let database = site.database().await;
    let ids: Vec<String> = (0..60).map(|number| format!("OrderEvent:{number:03}")).collect();
    let claims = (0..8).map(|turn| {
        let (database, mut ids) = (database.clone(), ids.clone());
        if turn % 2 == 1 {
            ids.reverse();
        }
        ids.rotate_left(turn * 7);
        tokio::spawn(async move {
            let claimed = database.run(async |tx| database.inbox().claim(tx, "group", &ids).await).await?;
            Ok::<usize, Error>(claimed.into_iter().filter(|is_new| *is_new).count())
        })
    });
    let mut new_count = 0;
    for claim in claims.collect::<Vec<_>>() {
        new_count += claim.await.unwrap().unwrap();
    }
    assert_eq!(new_count, 60, "an id was new twice, or never");
}

/// A column is not as long as the longest id: none may be cut to be another one.
async fn ids_of_any_length_are_told_apart(site: Site) {
    let database = site.database().await;
    let long = "ö".repeat(2_000);
    let ids: Vec<String> = ["a", "A", "a ", &format!("{long}1"), &format!("{long}2")].map(str::to_owned).to_vec();
    for expected in [true, false] {
        let claimed = database.run(async |tx| database.inbox().claim(tx, "group", &ids).await).await;
        assert_eq!(claimed.unwrap(), [expected; 5]);
    }
}

async fn a_statement_that_takes_too_long_ends(site: Site) {
    let mut config = site.config();
    config.statement_timeout = Duration::from_millis(300);
    let database = site.database_with(config).await;
    let (slow, kind) = match site.server {
        // SLEEP notices the limit and answers 1; a statement that works is ended.
        Server::Mariadb => (
            "SELECT count(*) FROM information_schema.columns a, information_schema.columns b, information_schema.columns c",
            ErrorKind::DeadlineExceeded,
        ),
        Server::Postgres => ("SELECT pg_sleep(10)", ErrorKind::DeadlineExceeded),
    };
    let started = std::time::Instant::now();
    let error = database.fetch_all(slow, &[]).await.unwrap_err();
    assert_eq!(error.kind(), kind, "{}", error.report());
    assert!(error.report().contains("the statement took too long"), "the server goes on: {}", error.report());
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    database.execute(INSERT, &["A".into(), "0".into()]).await.unwrap();
}

/// PostgreSQL ends it; MariaDB goes on with it, for nothing but a read has a limit there.
async fn a_single_write_that_is_given_up_says_whether_it_may_be_done(site: Site) {
    let mut config = site.config();
    config.statement_timeout = Duration::from_millis(200);
    config.lock_timeout = Duration::from_secs(60);
    let (patient, database) = (site.database().await, site.database_with(config).await);
    patient.execute(INSERT, &["A".into(), "0".into()]).await.unwrap();
    let claimed = patient.run(async |tx| patient.inbox().claim(tx, "group", &["id".to_owned()]).await).await;
    assert_eq!(claimed.unwrap(), [true]);
    let mut holding = patient.begin().await.unwrap();
    holding.sql().unwrap().execute(UPDATE, &["1".into(), "A".into()]).await.unwrap();
    holding.sql().unwrap().execute("DELETE FROM micro_inbox", &[]).await.unwrap();

    let error = database.execute("UPDATE orders SET status = concat(status, '+')", &[]).await.unwrap_err();
    let repeatable = database.inbox().purge(Duration::ZERO, 10).await.unwrap_err();
    assert_eq!(repeatable.kind(), ErrorKind::DeadlineExceeded, "{}", repeatable.report());
    holding.commit().await.unwrap();
    let status_is = async |expected: &str| {
        patient.fetch_all("SELECT status FROM orders", &[]).await.unwrap()[0].get::<String>(0).unwrap() == expected
    };
    match site.server {
        Server::Mariadb => {
            assert_eq!(error.kind(), ErrorKind::Unknown, "{}", error.report());
            assert!(!error.is_retryable() && error.report().contains("no answer in time"), "{}", error.report());
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
    kill_connections(&site, site.name()).await;
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown, "{}", error.report());
    drop(holding);
    let refused = database.execute(INSERT, &["A".into(), "0".into()]).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AlreadyExists, "what is answered is certain: {}", refused.report());
}

/// What a lock holds up is behind the pieces that are done, and left for the next call.
async fn parked_rows_are_released_in_pieces(site: Site) {
    let mut config = site.config();
    config.lock_timeout = Duration::from_secs(1);
    let database = site.database_with(config).await;
    let messages: Vec<_> = (0..2_100_u32).map(|number| Message::keyed("t", "a", number.to_string())).collect();
    database.run(async |tx| database.outbox().add(tx, &messages).await).await.unwrap();
    database.execute("UPDATE micro_outbox SET parked_at = 1, parked_cause = 'refused'", &[]).await.unwrap();

    let mut holding = database.begin().await.unwrap();
    let lock = "SELECT id FROM micro_outbox ORDER BY id DESC LIMIT 1 FOR UPDATE";
    holding.sql().unwrap().fetch_all(lock, &[]).await.unwrap();
    let error = database.release_outbox().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Aborted, "{}", error.report());
    holding.rollback().await.unwrap();
    assert_eq!(database.outbox().counts().await.unwrap(), OutboxCounts { unsent: 2_000, parked: 100 });
    assert_eq!(database.release_outbox().await.unwrap(), 100);
    assert_eq!(database.release_outbox().await.unwrap(), 0);
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

/// Ends every other connection of this database.
pub(crate) async fn kill_connections(site: &Site, database_name: &str) {
    match site.server {
        Server::Mariadb => {
            let select = format!("SELECT id FROM information_schema.processlist WHERE db = '{database_name}'");
            for id in site.numbers(&select).await {
                // One that ends by itself meanwhile is as good.
                let _ = site.try_administrate(&format!("KILL CONNECTION {id}")).await;
            }
        }
        Server::Postgres => {
            let kill =
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname";
            site.administrate(&format!("{kill} = '{database_name}'")).await;
        }
    }
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
    // MariaDB answers with what it found up to 0.1 s ago, for whomever: soon it finds this one too.
    for _ in 0..100 {
        level = tx.sql().unwrap().fetch_optional(isolation, &[]).await.unwrap();
        if level.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let level = level.expect("the open transaction is seen").get::<String>(0).unwrap();
    assert_eq!(level.to_lowercase(), "read committed");
    tx.commit().await.unwrap();
    database.close().await;
    assert_eq!(database.fetch_all("SELECT * FROM orders", &[]).await.unwrap().len(), 5, "his pool is still open");
}

async fn two_processes_migrate_at_once(site: Site) {
    let databases = [connected(site.config()).await, connected(site.config()).await, connected(site.config()).await];
    let migrated = futures_util::future::join_all(databases.iter().map(SqlDatabase::migrate)).await;
    migrated.into_iter().collect::<Result<Vec<()>>>().unwrap();
    let mut config = site.config();
    config.table_prefix = "shop_".to_owned();
    let shop = connected(config).await;
    shop.migrate().await.unwrap();
    shop.execute("INSERT INTO shop_schema_version VALUES (99, 'later', 0)", &[]).await.unwrap();
    assert_eq!(shop.migrate().await.unwrap_err().kind(), ErrorKind::FailedPrecondition);
    databases[0].migrate().await.unwrap();
}

/// Its first index of parked rows has no room for a long key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_of_the_first_version_parks_long_keys_once_it_is_migrated() {
    let Some(site) = site(Server::Postgres).await else { return };
    let database = connected(site.config()).await;
    let first = include_str!("../../migrations/postgres/0001_messaging.sql");
    let version = "CREATE TABLE micro_schema_version \
                   (version BIGINT PRIMARY KEY, name VARCHAR(64) NOT NULL, applied_at BIGINT NOT NULL); \
                   INSERT INTO micro_schema_version VALUES (1, 'messaging', 0)";
    database.execute_script(&format!("{first}; {version}")).await.unwrap();
    // At random, or the database would keep them compressed.
    let [short, long] = [100, 20_000].map(|length| Delivery {
        message: Message::keyed("t", (0..length).map(|_| fastrand::u8(..)).collect::<Vec<_>>(), "body"),
        partition: 0,
        offset: length,
        timestamp: std::time::UNIX_EPOCH,
    });
    let park = async |delivery| {
        let parking = Parking { group: "stock", delivery, attempts: 1, cause: "", delay: None };
        database.run(async |tx| database.parked().park(tx, &parking).await).await
    };
    let refused: Error = park(&long).await.unwrap_err();
    assert!(refused.report().contains("index row"), "{}", refused.report());
    park(&short).await.unwrap();
    for _ in 0..2 {
        database.migrate().await.unwrap();
    }
    park(&long).await.unwrap();
    let are_blocked = database.run(async |tx| database.parked().is_blocked(tx, "stock", &[&short, &long]).await).await;
    assert_eq!(are_blocked.unwrap(), [true, true]);
}

async fn connected(config: SqlConfig) -> SqlDatabase {
    SqlDatabase::connect(config).await.unwrap()
}

fn messages(count: u8) -> Vec<Message> {
    (0..count).map(|number| Message::keyed("t", vec![number], vec![number])).collect()
}

/// However many shards each of them thinks there are, no row has two owners.
async fn two_processes_share_an_outbox(site: Site) {
    let sharded = async |count: u16| {
        let mut config = site.config();
        config.outbox_shard_count = count;
        site.database_with(config).await
    };
    let (one, two, other) = (sharded(1).await, sharded(2).await, sharded(2).await);
    two.run(async |tx| two.outbox().add(tx, &messages(64)).await).await.unwrap();

    let mut first = two.outbox().own(0).await.unwrap().expect("it is free");
    assert!(other.outbox().own(0).await.unwrap().is_none(), "a shard has two owners");
    assert!(one.outbox().own(0).await.unwrap().is_none(), "the only shard has another's rows");
    let mut second = other.outbox().own(1).await.unwrap().expect("it is free");
    let count = first.unsent(&[], 100).await.unwrap().len();
    assert!((1..64).contains(&count), "{count} of 64 rows in one of two shards");
    assert_eq!(second.unsent(&[], 100).await.unwrap().len(), 64 - count);
    let third = one.outbox().own(1).await.unwrap().expect("a shard that there is not is free");
    drop((first, second, third));
    eventually(PATIENCE, "the only shard can be owned", || async { one.outbox().own(0).await.unwrap().is_some() })
        .await;
}

async fn an_owner_whose_connection_dies_owns_no_more(site: Site) {
    let (database, other) = (site.database().await, site.database().await);
    database.run(async |tx| database.outbox().add(tx, &messages(3)).await).await.unwrap();
    let mut owned = database.outbox().own(0).await.unwrap().unwrap();
    let rows = owned.unsent(&[], 10).await.unwrap();
    assert!(other.outbox().own(0).await.unwrap().is_none());

    kill_connections(&site, site.name()).await;
    let taken_over = tokio::sync::Mutex::new(None);
    eventually(PATIENCE, "the other one owns it", || async {
        let mut taken_over = taken_over.lock().await;
        *taken_over = other.outbox().own(0).await.unwrap_or_default();
        taken_over.is_some()
    })
    .await;
    let mut taken_over = taken_over.into_inner();
    for _ in 0..2 {
        let error = owned.sent(&[rows[0].id]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());
        assert_eq!(owned.unsent(&[], 10).await.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    assert_eq!(taken_over.as_mut().unwrap().unsent(&[], 10).await.unwrap().len(), 3, "a lost owner deleted a row");
    assert!(database.outbox().own(0).await.unwrap().is_none(), "the handle that lost it still stands for it");
    drop(owned);
    assert!(database.outbox().own(0).await.unwrap().is_none(), "a shard has two owners");
    drop(taken_over);
    eventually(PATIENCE, "it is free again", || async { database.outbox().own(0).await.unwrap().is_some() }).await;
}

/// Ids of rows are given before the commit, and interleaved between transactions; whoever locks the
/// row of the aggregate first has the order of the commits all the same.
async fn rows_of_one_key_keep_the_order_of_their_transactions(site: Site) {
    let database = site.database().await;
    database.execute(INSERT, &["A".into(), "0".into()]).await.unwrap();
    let writers = (0..4_u8).map(|_| {
        let database = database.clone();
        tokio::spawn(async move {
            for _ in 0..15 {
                database
                    .run(async |tx| {
                        let sql = tx.sql()?;
                        let lock = "SELECT status FROM orders WHERE code = ? FOR UPDATE";
                        let number: u32 = sql.fetch_one(lock, &["A".into()]).await?.get::<String>(0)?.parse().unwrap();
                        sql.execute(UPDATE, &[(number + 1).to_string().into(), "A".into()]).await?;
                        let events = [2 * number, 2 * number + 1].map(|seq| Message::keyed("t", "A", seq.to_string()));
                        database.outbox().add(tx, &events).await
                    })
                    .await
                    .unwrap();
            }
        })
    });
    futures_util::future::try_join_all(writers.collect::<Vec<_>>()).await.unwrap();
    let mut shard = database.outbox().own(0).await.unwrap().unwrap();
    let rows = shard.unsent(&[], 1_000).await.unwrap();
    let seqs: Vec<u32> =
        rows.iter().map(|row| std::str::from_utf8(&row.message.body).unwrap().parse().unwrap()).collect();
    assert_eq!(seqs, (0..120).collect::<Vec<_>>());
}

async fn rows_that_somebody_spoiled_hide_no_others(site: Site) {
    crate::spoiled::rows_that_somebody_spoiled_hide_no_others(&site.database().await).await;
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
        let error = SqlDatabase::connect_url(&url).await.unwrap_err();
        let text = error.report();
        assert_eq!(error.kind(), kind, "{text}");
        assert!(!format!("{error:?} {text}").contains("canary@") && !text.contains('\n'), "{text}");
        assert!(text.contains("address=") && text.contains("database="), "{text}");
        assert!(started.elapsed() < Duration::from_secs(5), "{text}");
    }
}
