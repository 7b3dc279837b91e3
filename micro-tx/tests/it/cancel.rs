//! Cancelling at every await: whatever the caller drops, nothing stays open, the connection is
//! clean, and what the next one commits is kept.

use std::time::Duration;

use micro_core::{
    Error, ErrorKind, Result, TransactionManager as _, TransactionManagerExt as _,
    broker::{Delivery, Message},
    parked::{DeadLetter, Parking},
};
use micro_testkit::{eventually, transaction::poll_at_most};
use micro_tx::{SqlDatabase, SqlTxExt as _};
use sqlx::SqliteConnection;

use crate::{
    on_servers,
    server::{Server, Site},
    sqlite::{File, is_unlocked},
};

const PATIENCE: Duration = Duration::from_secs(10);
const INSERT: &str = "INSERT INTO orders (code, status) VALUES (?, ?)";

/// A database, and a look at it from outside.
trait Ground: Sized {
    async fn start() -> Option<Self>;

    async fn database(&self) -> SqlDatabase;

    /// How many orders of this code somebody else sees.
    async fn seen_outside(&self, code: &str) -> i64;

    /// Whether nobody has a transaction open.
    async fn is_quiet(&self) -> bool;
}

struct Sqlite {
    file: File,
    outsider: tokio::sync::Mutex<SqliteConnection>,
}

impl Ground for Sqlite {
    async fn start() -> Option<Self> {
        let file = File::new();
        file.database().await.close().await;
        let outsider = file.outsider().await.into();
        Some(Self { file, outsider })
    }

    async fn database(&self) -> SqlDatabase {
        self.file.database().await
    }

    async fn seen_outside(&self, code: &str) -> i64 {
        let count = sqlx::query_scalar("SELECT count(*) FROM orders WHERE code = ?").bind(code);
        count.fetch_one(&mut *self.outsider.lock().await).await.unwrap()
    }

    async fn is_quiet(&self) -> bool {
        is_unlocked(&mut *self.outsider.lock().await).await
    }
}

/// On a server, named by its kind as the type's parameter.
struct OnServer<const IS_POSTGRES: bool> {
    site: Site,
    outsider: SqlDatabase,
}

type Mariadb = OnServer<false>;
type Postgres = OnServer<true>;

impl<const IS_POSTGRES: bool> Ground for OnServer<IS_POSTGRES> {
    async fn start() -> Option<Self> {
        let site = on_servers::site(if IS_POSTGRES { Server::Postgres } else { Server::Mariadb }).await?;
        let outsider = site.database().await;
        Some(Self { site, outsider })
    }

    async fn database(&self) -> SqlDatabase {
        self.site.database().await
    }

    async fn seen_outside(&self, code: &str) -> i64 {
        let count = "SELECT count(*) FROM orders WHERE code = ?";
        self.outsider.fetch_all(count, &[code.into()]).await.unwrap()[0].get(0).unwrap()
    }

    async fn is_quiet(&self) -> bool {
        self.site.is_quiet().await
    }
}

macro_rules! on_each_database {
    ($($test:ident)+) => {
        on_each_database!(@ sqlite Sqlite $($test)+);
        on_each_database!(@ mariadb Mariadb $($test)+);
        on_each_database!(@ postgres Postgres $($test)+);
    };
    (@ $name:ident $ground:ident $($test:ident)+) => {
        mod $name {
            use super::Ground as _;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    if let Some(ground) = super::$ground::start().await {
                        super::$test(&ground).await;
                    }
                }
            )+
        }
    };
}

on_each_database! {
    begin
    run
    a_failing_run
    rollback
    reads_and_single_writes
    the_stores
    a_transaction_with_a_dropped_statement_does_not_commit
}

/// Drops `$call` after 0, 1, 2 … polls until it runs through, and looks after each.
macro_rules! sweep {
    ($ground:ident, $database:ident, $number:ident => $call:expr) => {{
        let $database = $ground.database().await;
        for $number in 0.. {
            let call = async {
                let _output = $call;
            };
            let is_through = poll_at_most($number, call).await.is_some();
            is_clean($ground, &$database, $number).await;
            if is_through {
                assert!($number > 0, "nothing was cancelled");
                break;
            }
        }
        $database
    }};
}

async fn begin(ground: &impl Ground) {
    sweep!(ground, database, _number => database.begin().await.unwrap());
}

async fn run(ground: &impl Ground) {
    let database = sweep!(ground, database, number => {
        let code = format!("run-{number}");
        database.run(async |tx| {
            tx.sql()?.execute(INSERT, &[(&code).into(), "2".into()]).await?;
            tx.sql()?.execute("UPDATE orders SET status = '3' WHERE code = ?", &[(&code).into()]).await
        }).await.unwrap()
    });
    let halves = database.fetch_all("SELECT code FROM orders WHERE code LIKE 'run-%' AND status = '2'", &[]).await;
    assert!(halves.unwrap().is_empty(), "half a transaction was committed");
}

async fn a_failing_run(ground: &impl Ground) {
    let database = sweep!(ground, database, number => {
        let code = format!("failing-{number}");
        let outcome = database.run(async |tx| {
            tx.sql()?.execute(INSERT, &[(&code).into(), "2".into()]).await?;
            Err::<(), _>(Error::new(ErrorKind::FailedPrecondition, "test", "refused"))
        }).await;
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::FailedPrecondition);
    });
    let rows = database.fetch_all("SELECT code FROM orders WHERE code LIKE 'failing-%'", &[]).await.unwrap();
    assert!(rows.is_empty(), "a failed body was committed: {rows:?}");
}

async fn rollback(ground: &impl Ground) {
    sweep!(ground, database, number => {
        let mut tx = database.begin().await.unwrap();
        tx.sql().unwrap().execute(INSERT, &[format!("undone-{number}").into(), "2".into()]).await.unwrap();
        tx.rollback().await.unwrap();
    });
}

async fn reads_and_single_writes(ground: &impl Ground) {
    sweep!(ground, database, _number => database.fetch_all("SELECT * FROM orders", &[]).await.unwrap());
    sweep!(ground, database, number => database.execute(INSERT, &[format!("single-{number}").into(), "2".into()]).await.unwrap());
    sweep!(ground, database, number => {
        database.execute_script(&format!("INSERT INTO orders VALUES ('script-{number}', '2'); SELECT 1;")).await.unwrap();
    });
    sweep!(ground, database, _number => database.migrate().await.unwrap());
}

async fn the_stores(ground: &impl Ground) {
    let delivery = Delivery {
        message: Message::keyed("OrderEvent", "A-17", "paid"),
        partition: 0,
        offset: 0,
        timestamp: std::time::UNIX_EPOCH,
    };
    let ids: Vec<_> = (0..100).map(|id: i64| id).collect();
    sweep!(ground, database, number => {
        let [outbox, inbox] = [format!("outbox-{number}"), format!("inbox-{number}")];
        let letter = DeadLetter::new(&outbox, &delivery, &Error::new(ErrorKind::DataLoss, "test", "unreadable"), 1);
        let parking = Parking { group: &inbox, delivery: &delivery, attempts: 1, cause: "", delay: None };
        database.run(async |tx| {
            database.outbox().add(tx, std::slice::from_ref(&delivery.message)).await?;
            database.inbox().claim(tx, &inbox, &ids.iter().map(i64::to_string).collect::<Vec<_>>()).await?;
            database.parked().park(tx, &parking).await?;
            database.parked().is_blocked(tx, &inbox, &[&delivery]).await?;
            database.dead_letters().add(tx, &letter).await
        }).await.unwrap()
    });
    sweep!(ground, database, _number => {
        let mut shard = database.outbox().own(database.outbox().shard_of(&delivery.message)).await.unwrap().unwrap();
        shard.unsent(&[1], &[], 10).await.unwrap();
        shard.sent(&ids).await.unwrap();
        shard.park(1, &Error::new(ErrorKind::InvalidArgument, "test", "too large")).await.unwrap();
    });
    sweep!(ground, database, _number => database.inbox().purge(Duration::ZERO, 10).await.unwrap());
}

/// A statement that was dropped half-way may have run or not: its transaction must not commit.
async fn a_transaction_with_a_dropped_statement_does_not_commit(ground: &impl Ground) {
    let database = ground.database().await;
    let mut tx = database.begin().await.unwrap();
    let values = ["dropped".into(), "2".into()];
    let dropped = poll_at_most(1, tx.sql().unwrap().execute(INSERT, &values)).await;
    if dropped.is_none() {
        let next = tx.sql().unwrap().execute(INSERT, &["next".into(), "2".into()]).await;
        assert_eq!(next.unwrap_err().kind(), ErrorKind::Aborted);
        assert_eq!(tx.commit().await.unwrap_err().kind(), ErrorKind::Aborted);
        is_clean(ground, &database, 1).await;
        assert!(database.fetch_all("SELECT * FROM orders WHERE code = 'dropped'", &[]).await.unwrap().is_empty());
    }
}

/// Without a runtime a dropped transaction closes its connection, which undoes it.
#[test]
fn a_transaction_that_outlives_its_runtime_is_undone() {
    let file = File::new();
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let first = runtime();
    let (database, tx) = first.block_on(async {
        let database = file.database().await;
        let mut tx = database.begin().await.unwrap();
        tx.sql().unwrap().execute(INSERT, &["outlived".into(), "2".into()]).await.unwrap();
        (database, tx)
    });
    drop(first);
    drop(tx);
    runtime().block_on(async {
        let outsider = file.outsider().await.into();
        let ground = Sqlite { file, outsider };
        is_clean(&ground, &database, 0).await;
        let rows = database.fetch_all("SELECT * FROM orders WHERE code = 'outlived'", &[]).await.unwrap();
        assert!(rows.is_empty(), "{rows:?}");
    });
}

/// A runtime that shuts down drops its tasks and runs no clean-up: the connection must not be kept.
#[test]
fn a_transaction_of_a_runtime_that_shuts_down_is_undone() {
    let file = File::new();
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let first = runtime();
    let database = first.block_on(async {
        let database = file.database().await;
        let mut tx = database.begin().await.unwrap();
        tx.sql().unwrap().execute(INSERT, &["shut-down".into(), "2".into()]).await.unwrap();
        tokio::spawn(async move {
            std::future::pending::<()>().await;
            drop(tx);
        });
        database
    });
    drop(first);
    runtime().block_on(async {
        let outsider = file.outsider().await.into();
        let ground = Sqlite { file, outsider };
        is_clean(&ground, &database, 0).await;
        let rows = database.fetch_all("SELECT * FROM orders WHERE code = 'shut-down'", &[]).await.unwrap();
        assert!(rows.is_empty(), "{rows:?}");
    });
}

/// Others can write once the clean-up is through, and the next transaction and the next single
/// statement are seen from outside: neither landed in a transaction that stayed open.
async fn is_clean(ground: &impl Ground, database: &SqlDatabase, number: usize) {
    let code = format!("next-{number}");
    let commits = database.run(async |tx| tx.sql()?.execute(INSERT, &[(&code).into(), "2".into()]).await);
    let committed: Result<u64> = tokio::time::timeout(PATIENCE, commits).await.expect("a transaction stayed open");
    assert_eq!(committed.unwrap(), 1);
    assert_eq!(ground.seen_outside(&code).await, 1, "a commit after {number} polls is not seen from outside");
    let deleted = database.execute("DELETE FROM orders WHERE code = ?", &[(&code).into()]).await.unwrap();
    assert_eq!(deleted, 1);
    assert_eq!(ground.seen_outside(&code).await, 0, "a single statement after {number} polls is not seen from outside");
    eventually(PATIENCE, "nobody has a transaction open", || ground.is_quiet()).await;
}
