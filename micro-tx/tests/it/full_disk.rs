//! A disk that is full: what cannot be kept is refused, what was acknowledged stays, and nothing but
//! space is needed to go on.

use std::{collections::BTreeSet, time::Duration};

use dev_servers::SmallDisk;
use micro_core::{Error, ErrorKind, Result, TransactionManagerExt as _, broker::Message};
use micro_tx::{SqlDatabase, SqlTxExt as _, Value};

use crate::{
    faults::{blocking, or_skip},
    on_servers::connected,
    server::{Server, Site},
    sqlite,
};

/// More transactions than find room in what is free in the pages of the tables, or in what the
/// server has taken of the disk beforehand.
const ATTEMPT_COUNT_MAX: usize = 500;

/// The group whose ids are claimed and nothing else.
const CLAIMS: &str = "claims";

/// A body that stays in its row's page.
const SMALL: usize = 1_000;

/// A body that takes pages of its own.
const LARGE: usize = 16_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_of_mariadb_refuses_what_it_cannot_keep_and_space_is_all_it_needs() {
    // Its temporary files stand on the same disk, as they often do.
    let settings = &[("tmpdir", "${folder}/data"), ("sort-buffer-size", "32k")];
    let Some(server) = on_small_disk(Server::Mariadb, settings).await else { return };
    let sort = "SELECT count(*) FROM (SELECT seq FROM seq_1_to_99999 ORDER BY md5(seq) LIMIT 90000) a";
    refuses_and_goes_on(Server::Mariadb, server, sort).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_of_postgres_refuses_what_it_cannot_keep_and_space_is_all_it_needs() {
    let Some(server) = on_small_disk(Server::Postgres, &[("work_mem", "64kB")]).await else { return };
    let sort = "SELECT count(*) FROM (SELECT n FROM generate_series(1, 99999) n ORDER BY md5(n::text) LIMIT 90000) a";
    refuses_and_goes_on(Server::Postgres, server, sort).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_of_sqlite_refuses_what_it_cannot_keep_and_space_is_all_it_needs() {
    let Some(disk) = or_skip("a small disk", blocking(|| SmallDisk::mount(4)).await) else { return };
    let url = format!("sqlite:{}", disk.folder().join("orders.db").display());
    let database = connected(sqlite::config(&url)).await;
    database.migrate().await.unwrap();
    database.execute_script("CREATE TABLE orders (code TEXT PRIMARY KEY, status TEXT NOT NULL)").await.unwrap();
    let books = refuses(&database, &disk).await;
    database.close().await;
    books.check(&connected(sqlite::config(&url)).await).await;
}

/// The first large body of a table that finds no space half-way: MariaDB 10.11 aborts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mariadb_that_dies_of_its_full_disk_takes_no_acknowledged_commit_along() {
    let Some(server) = on_small_disk(Server::Mariadb, &[]).await else { return };
    dies(Server::Mariadb, server, LARGE, "SELECT 1").await;
}

/// A commit that finds no space in the log: PostgreSQL stops, and does not come up without space.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_dies_of_its_full_disk_takes_no_acknowledged_commit_along() {
    // Otherwise the one that writes the log by itself can be quicker than the commit.
    let Some(server) = on_small_disk(Server::Postgres, &[("wal_writer_delay", "10s")]).await else { return };
    dies(Server::Postgres, server, SMALL, "SELECT pg_switch_wal()").await;
}

/// A commit waits there until there is space, for which MariaDB looks once a minute. Interrupted, it
/// would leave half an event in the log, and what is committed behind that does not survive a crash.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_waits_for_space_in_the_binary_log_is_unknown_and_goes_on_waiting() {
    let settings = &[("log-bin", "binlog"), ("sync-binlog", "1")];
    let Some(server) = on_small_disk(Server::Mariadb, settings).await else { return };
    let site = Site::at(Server::Mariadb, server.url().to_owned()).await;
    site.database().await.close().await;
    let mut config = site.config();
    config.statement_timeout = Duration::from_secs(10);
    let database = connected(config).await;
    let mut books = Books::default();
    let disk = server.disk().unwrap();
    disk.fill().unwrap();
    for _ in 0..2 {
        // There is room in the pages of the tables.
        let error = books.pay_until_refused(&database, 10).await;
        assert_eq!((error.operation(), error.kind()), ("tx.commit", ErrorKind::Unknown), "{}", error.report());
        assert!(error.report().contains("the server gave no answer in time"), "{}", error.report());
    }
    let waiting = "SELECT count(*) FROM information_schema.processlist WHERE info = 'COMMIT'";
    assert_eq!(site.numbers(waiting).await, [2], "a commit was interrupted");
    disk.free().unwrap();
    let _server = restarted(server).await;
    books.pay(&database, LARGE).await.unwrap();
    books.check(&database).await;
}

async fn on_small_disk(kind: Server, settings: &'static [(&str, &str)]) -> Option<dev_servers::Server> {
    let size_mib = match kind {
        Server::Mariadb => 192,
        Server::Postgres => 96,
    };
    let start = move || dev_servers::Server::start_on_small_disk(kind.kind(), size_mib, settings);
    or_skip(&format!("{kind:?} on a small disk"), blocking(start).await)
}

async fn refuses_and_goes_on(kind: Server, server: dev_servers::Server, sort: &str) {
    let site = Site::at(kind, server.url().to_owned()).await;
    let database = site.database().await;
    if kind == Server::Postgres {
        // Room in its log for all that follows: it is the tables that find none.
        site.administrate("SELECT pg_switch_wal(); CHECKPOINT").await;
    }
    let disk = server.disk().unwrap();
    disk.fill().unwrap();
    let error = database.fetch_all(sort, &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{}", error.report());
    disk.free().unwrap();
    database.fetch_all(sort, &[]).await.unwrap();

    let books = refuses(&database, disk).await;
    let _server = restarted(server).await;
    books.check(&database).await;
}

/// Fills the disk and frees it; what was answered in between is true.
async fn refuses(database: &SqlDatabase, disk: &SmallDisk) -> Books {
    let mut books = Books::default();
    for _ in 0..5 {
        books.pay(database, SMALL).await.unwrap();
    }
    disk.fill().unwrap();
    // The second one finds the first one's connection.
    for _ in 0..2 {
        let error = books.pay_until_refused(database, SMALL).await;
        println!("{}: {}", database.dialect_name(), error.report());
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{}", error.report());
    }
    books.check(database).await;
    let claimed = claims_until_refused(database).await;

    disk.free().unwrap();
    let again = database.run(async |tx| database.inbox().claim(tx, CLAIMS, &claimed).await).await.unwrap();
    assert!(!again.contains(&true), "{} ids were claimed, and some are not", claimed.len());
    let refused = books.refused.first().unwrap().clone();
    books.pay_for(database, refused, SMALL).await.unwrap();
    books.pay(database, LARGE).await.unwrap();
    books.check(database).await;
    let mut shard = database.outbox().own(0).await.unwrap().unwrap();
    assert_eq!(shard.unsent(&[], &[], 1_000).await.unwrap().len(), books.acknowledged.len(), "not all of them go out");
    books
}

/// Claims ids until there is no room for them. Those of the claims that were acknowledged.
async fn claims_until_refused(database: &SqlDatabase) -> Vec<String> {
    let mut claimed = Vec::new();
    for round in 0..ATTEMPT_COUNT_MAX {
        let ids: Vec<String> = (0..8).map(|id| format!("{round}-{id}")).collect();
        match database.run(async |tx| database.inbox().claim(tx, CLAIMS, &ids).await).await {
            Ok(are_new) => assert!(!are_new.contains(&false), "{are_new:?}"),
            Err(error) => {
                let error: Error = error;
                assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{}", error.report());
                return claimed;
            }
        }
        claimed.extend(ids);
    }
    panic!("{ATTEMPT_COUNT_MAX} claims went to a full disk");
}

/// Fills the disk, does `last` and goes on until the server fails; frees the disk and starts the
/// server again, which is not our task.
async fn dies(kind: Server, server: dev_servers::Server, size: usize, last: &str) {
    let site = Site::at(kind, server.url().to_owned()).await;
    let database = site.database().await;
    let mut books = Books::default();
    for _ in 0..5 {
        books.pay(&database, SMALL).await.unwrap();
    }
    let disk = server.disk().unwrap();
    disk.fill().unwrap();
    site.administrate(last).await;
    let dies = kind == Server::Postgres || site.numbers("SELECT version() LIKE '10.11.%'").await == [1];
    for _ in 0..2 {
        let error = books.pay_until_refused(&database, size).await;
        println!("{}: {}", database.dialect_name(), error.report());
        let is_known = error.kind() == ErrorKind::Unknown || error.operation() != "tx.commit";
        assert!(is_known, "nobody knows whether this commit is done: {}", error.report());
    }
    assert!(!dies || site.try_administrate("SELECT 1").await.is_err(), "{kind:?} goes on");
    disk.free().unwrap();
    let _server = restarted(server).await;
    books.pay(&database, LARGE).await.unwrap();
    books.check(&database).await;
}

async fn restarted(mut server: dev_servers::Server) -> dev_servers::Server {
    blocking(move || server.restart().map(|()| server)).await.unwrap()
}

/// What was answered to whoever wanted an order written.
#[derive(Default)]
struct Books {
    count: usize,
    acknowledged: BTreeSet<String>,
    refused: BTreeSet<String>,
    /// The commit's answer did not come.
    unknown: BTreeSet<String>,
}

impl Books {
    async fn pay_until_refused(&mut self, database: &SqlDatabase, size: usize) -> Error {
        for _ in 0..ATTEMPT_COUNT_MAX {
            if let Err(error) = self.pay(database, size).await {
                return error;
            }
        }
        panic!("{ATTEMPT_COUNT_MAX} transactions went to a full disk");
    }

    async fn pay(&mut self, database: &SqlDatabase, size: usize) -> Result<()> {
        self.count += 1;
        self.pay_for(database, format!("order-{}", self.count), size).await
    }

    /// What a consumer does: an event is claimed, a row written, another event added.
    async fn pay_for(&mut self, database: &SqlDatabase, code: String, size: usize) -> Result<()> {
        let event = Message::keyed("t", code.clone(), vec![b'x'; size]);
        let paying = database.run(async |tx| {
            database.inbox().claim(tx, "group", std::slice::from_ref(&code)).await?;
            let insert = "INSERT INTO orders (code, status) VALUES (?, '2')";
            tx.sql()?.execute(insert, &[(&code).into()]).await?;
            database.outbox().add(tx, std::slice::from_ref(&event)).await
        });
        let outcome = paying.await;
        self.refused.remove(&code);
        let answer = match &outcome {
            Ok(()) => &mut self.acknowledged,
            Err(error) if error.kind() == ErrorKind::Unknown => &mut self.unknown,
            Err(error) => {
                assert!(error.is_retryable(), "a full disk is {}: {}", error.kind(), error.report());
                &mut self.refused
            }
        };
        answer.insert(code);
        outcome
    }

    /// What was acknowledged is there, what was refused is not, and each is there whole or not at all.
    async fn check(&self, database: &SqlDatabase) {
        let orders = codes(database, "SELECT code FROM orders").await;
        for select in
            ["SELECT message_key FROM micro_outbox", "SELECT event_id FROM micro_inbox WHERE consumer_group = 'group'"]
        {
            assert_eq!(codes(database, select).await, orders, "halves of transactions: {select}");
        }
        let lost: Vec<_> = self.acknowledged.difference(&orders).collect();
        assert!(lost.is_empty(), "acknowledged and gone: {lost:?}");
        let ghosts: Vec<_> = self.refused.intersection(&orders).collect();
        assert!(ghosts.is_empty(), "refused and there: {ghosts:?}");
    }
}

async fn codes(database: &SqlDatabase, select: &str) -> BTreeSet<String> {
    let rows = database.fetch_all(select, &[]).await.unwrap();
    let code = |value: &Value| match value {
        Value::Text(text) => text.clone(),
        Value::Blob(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        other => panic!("no code: {other:?}"),
    };
    rows.iter().map(|row| code(&row.values()[0])).collect()
}
