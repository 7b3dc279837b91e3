//! The barrier's table on each database: DTM's cases, row by row, and what its table has to be like.

use std::{any::Any, time::Duration};

use micro_core::{
    Error, ErrorKind, Result, TransactionManager as _, TransactionManagerExt as _,
    barrier::{Barrier, BarrierCall, BarrierExt as _, BarrierStore as _, Passage, Prepared},
    branch::{Branch, Mode, Op},
    transaction::{RetryPolicy, retrying},
};
use micro_testkit::{eventually, unique};
use micro_tx::{SqlBarrier, SqlDatabase, SqlTxExt as _};

use crate::{
    on_servers::{PATIENCE, site},
    server::{Server, Site},
    sqlite::File,
};

/// A database with a barrier's table and two accounts of 100 each.
pub(crate) struct Bank {
    pub(crate) database: SqlDatabase,
    pub(crate) store: SqlBarrier,
    gid: String,
    _guard: Box<dyn Any + Send + Sync>,
}

impl Bank {
    pub(crate) async fn on_sqlite() -> Self {
        let file = File::new();
        Self::new(file.database().await, Box::new(file)).await
    }

    pub(crate) async fn on(server: Server) -> Option<Self> {
        let site = site(server).await?;
        Some(Self::new(site.database().await, Box::new(site)).await)
    }

    pub(crate) async fn new(database: SqlDatabase, guard: Box<dyn Any + Send + Sync>) -> Self {
        let store = database.barrier_with("barrier").unwrap();
        store.create_table().await.unwrap();
        database
            .execute_script(
                "CREATE TABLE accounts (name VARCHAR(64) PRIMARY KEY, balance BIGINT NOT NULL, \
                 reserved BIGINT NOT NULL DEFAULT 0); \
                 INSERT INTO accounts (name, balance) VALUES ('out', 100), ('in', 100)",
            )
            .await
            .unwrap();
        Self { database, store, gid: unique("gid"), _guard: guard }
    }

    fn branch(&self, mode: Mode, op: Op) -> Branch {
        let id = if op == Op::Msg { "00" } else { "01" };
        Branch::new(mode, &self.gid, id, op).unwrap()
    }

    /// A call of a branch that takes 30 from an account, or gives it back; whether it did.
    pub(crate) async fn call(&self, branch: &Branch) -> Result<bool> {
        let amount = if branch.op.origin().is_some() { 30 } else { -30 };
        let mut barrier = Barrier::new(branch.clone());
        let paid = self.database.run_with_barrier(&self.store, &mut barrier, async |tx| {
            let update = "UPDATE accounts SET balance = balance + ? WHERE name = 'out'";
            tx.sql()?.execute(update, &[amount.into()]).await?;
            Ok::<_, Error>(())
        });
        paid.await.map(|paid| paid.is_some())
    }

    pub(crate) async fn balance(&self) -> i64 {
        let select = "SELECT balance FROM accounts WHERE name = 'out'";
        self.database.fetch_optional(select, &[]).await.unwrap().unwrap().get(0).unwrap()
    }

    /// `op/barrier id/reason` of each row, in the order in which they came.
    async fn rows(&self) -> Vec<String> {
        self.rows_of(&self.gid).await
    }

    pub(crate) async fn rows_of(&self, gid: &str) -> Vec<String> {
        let select = "SELECT op, barrier_id, reason FROM barrier WHERE gid = ? ORDER BY id";
        let rows = self.database.fetch_all(select, &[gid.into()]).await.unwrap();
        let text =
            |row: &micro_tx::Row| (0..3).map(|column| row.get::<String>(column).unwrap()).collect::<Vec<_>>().join("/");
        rows.iter().map(text).collect()
    }
}

/// A test for each database, skipped where its server is not there.
macro_rules! on_each_database {
    ($($test:ident)+) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(super::Bank::on_sqlite().await).await;
                }
            )+
        }
        on_each_database!(@server mariadb, Mariadb, $($test)+);
        on_each_database!(@server postgres, Postgres, $($test)+);
    };
    (@server $module:ident, $server:ident, $($test:ident)+) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    if let Some(bank) = super::Bank::on(super::Server::$server).await {
                        super::$test(bank).await;
                    }
                }
            )+
        }
    };
}

on_each_database! {
    an_action_that_comes_twice_takes_effect_once
    two_barriers_of_one_call_both_take_effect
    an_action_is_compensated_once
    a_compensation_that_comes_first_stops_its_action
    a_cancel_that_comes_first_stops_its_try
    a_rollback_that_comes_first_stops_its_action
    the_local_transaction_of_a_message_takes_place_once
    a_message_that_was_asked_about_takes_place_no_more
    a_business_failure_leaves_nothing
    two_cancels_in_parallel_and_a_late_try_change_nothing
    a_panic_inside_the_barrier_rolls_back
    an_error_rolls_the_row_back_and_a_success_leaves_exactly_one
    an_attempt_that_was_rolled_back_is_the_same_barrier_again
    of_two_that_waited_for_one_that_was_rolled_back_one_takes_effect
    a_part_that_is_longer_than_its_column_is_refused
    a_table_that_is_there_is_left_as_it_is
    barriers_on_two_tables_do_not_know_each_other
    without_a_table_nothing_takes_effect
}

async fn an_action_that_comes_twice_takes_effect_once(bank: Bank) {
    let action = bank.branch(Mode::Saga, Op::Action);
    assert!(bank.call(&action).await.unwrap());
    assert!(!bank.call(&action).await.unwrap());
    assert_eq!(bank.balance().await, 70);
    assert_eq!(bank.rows().await, ["action/01/action"]);
}

async fn two_barriers_of_one_call_both_take_effect(bank: Bank) {
    let mut barrier = Barrier::new(bank.branch(Mode::Saga, Op::Action));
    for _ in 0..2 {
        let done = bank.database.run_with_barrier(&bank.store, &mut barrier, async |_| Ok::<_, Error>(())).await;
        assert_eq!(done.unwrap(), Some(()));
    }
    assert_eq!(bank.rows().await, ["action/01/action", "action/02/action"]);
}

async fn an_action_is_compensated_once(bank: Bank) {
    let [action, compensate] = [Op::Action, Op::Compensate].map(|op| bank.branch(Mode::Saga, op));
    assert!(bank.call(&action).await.unwrap());
    assert!(bank.call(&compensate).await.unwrap());
    assert!(!bank.call(&compensate).await.unwrap());
    assert_eq!(bank.balance().await, 100);
    assert_eq!(bank.rows().await, ["action/01/action", "compensate/01/compensate"]);
}

async fn a_compensation_that_comes_first_stops_its_action(bank: Bank) {
    comes_first(bank, Mode::Saga, [Op::Action, Op::Compensate], ["action/01/compensate", "compensate/01/compensate"])
        .await;
}

async fn a_cancel_that_comes_first_stops_its_try(bank: Bank) {
    comes_first(bank, Mode::Tcc, [Op::Try, Op::Cancel], ["try/01/cancel", "cancel/01/cancel"]).await;
}

async fn a_rollback_that_comes_first_stops_its_action(bank: Bank) {
    let rows = ["action/01/rollback", "rollback/01/rollback"];
    comes_first(bank, Mode::Workflow, [Op::Action, Op::Rollback], rows).await;
}

async fn comes_first(bank: Bank, mode: Mode, ops: [Op; 2], rows: [&str; 2]) {
    let [forward, undoing] = ops.map(|op| bank.branch(mode, op));
    assert!(!bank.call(&undoing).await.unwrap());
    assert!(!bank.call(&forward).await.unwrap());
    assert_eq!(bank.balance().await, 100);
    assert_eq!(bank.rows().await, rows);
}

async fn the_local_transaction_of_a_message_takes_place_once(bank: Bank) {
    let message = bank.branch(Mode::Msg, Op::Msg);
    assert!(bank.call(&message).await.unwrap());
    assert_eq!(bank.call(&message).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(bank.store.prepared(&bank.gid).await.unwrap(), Prepared::Committed);
    assert_eq!(bank.balance().await, 70);
    assert_eq!(bank.rows().await, ["msg/01/msg"]);
}

async fn a_message_that_was_asked_about_takes_place_no_more(bank: Bank) {
    assert_eq!(bank.store.prepared(&bank.gid).await.unwrap(), Prepared::RolledBack);
    let error = bank.call(&bank.branch(Mode::Msg, Op::Msg)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(bank.store.prepared(&bank.gid).await.unwrap(), Prepared::RolledBack);
    assert_eq!(bank.balance().await, 100);
    assert_eq!(bank.rows().await, ["msg/01/rollback"]);
    assert_eq!(bank.store.prepared("").await.unwrap_err().kind(), ErrorKind::InvalidArgument);
}

async fn a_business_failure_leaves_nothing(bank: Bank) {
    let mut barrier = Barrier::new(bank.branch(Mode::Saga, Op::Action));
    let refused = bank.database.run_with_barrier(&bank.store, &mut barrier, async |_| {
        Err::<(), _>(Error::new(ErrorKind::FailedPrecondition, "pay", "the balance is too small"))
    });
    assert_eq!(refused.await.unwrap_err().kind(), ErrorKind::FailedPrecondition);
    assert!(bank.rows().await.is_empty());
}

/// DTM's TestTccBarrierDisorder.
async fn two_cancels_in_parallel_and_a_late_try_change_nothing(bank: Bank) {
    let [forward, cancel] = [Op::Try, Op::Cancel].map(|op| bank.branch(Mode::Tcc, op));
    // The second waits for the first one's row, whose next row falls into the gap before it: a deadlock on MariaDB.
    let again = || retrying(RetryPolicy::default(), || bank.call(&cancel));
    let (first, second) = tokio::join!(again(), again());
    assert!(!first.unwrap() && !second.unwrap());
    assert!(!bank.call(&forward).await.unwrap());
    assert_eq!(bank.balance().await, 100);
    assert_eq!(bank.rows().await, ["try/01/cancel", "cancel/01/cancel"]);
}

/// DTM's TestTccBarrierPanic.
async fn a_panic_inside_the_barrier_rolls_back(bank: Bank) {
    let branch = bank.branch(Mode::Tcc, Op::Try);
    let (database, store, barrier) = (bank.database.clone(), bank.store.clone(), Barrier::new(branch.clone()));
    let panicking = tokio::spawn(async move {
        let mut barrier = barrier;
        let paying = database.run_with_barrier(&store, &mut barrier, async |tx| {
            tx.sql()?.execute("UPDATE accounts SET balance = 0 WHERE name = 'out'", &[]).await?;
            panic!("no such luck");
            #[expect(unreachable_code, reason = "gives the body its type")]
            Ok::<_, Error>(())
        });
        paying.await
    });
    assert!(panicking.await.unwrap_err().is_panic());
    assert!(bank.rows().await.is_empty());
    assert!(bank.call(&branch).await.unwrap());
    assert_eq!(bank.balance().await, 70);
}

/// DTM's TestBaseSqlDB.
async fn an_error_rolls_the_row_back_and_a_success_leaves_exactly_one(bank: Bank) {
    let branch = bank.branch(Mode::Saga, Op::Action);
    let mut barrier = Barrier::new(branch.clone());
    let failing = bank.database.run_with_barrier(&bank.store, &mut barrier, async |tx| {
        tx.sql()?.execute("UPDATE accounts SET balance = 0 WHERE name = 'out'", &[]).await?;
        tx.sql()?.execute("INSERT INTO accounts (name, balance) VALUES ('in', 1)", &[]).await?;
        Ok::<_, Error>(())
    });
    assert_eq!(failing.await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert!(bank.rows().await.is_empty());
    assert!(bank.call(&branch).await.unwrap());
    assert_eq!(bank.rows().await, ["action/01/action"]);
    assert_eq!(bank.balance().await, 70);
}

/// With the number of another barrier the undoing would not find it.
async fn an_attempt_that_was_rolled_back_is_the_same_barrier_again(bank: Bank) {
    let mut barrier = Barrier::new(bank.branch(Mode::Saga, Op::Action));
    for attempt in 0..3 {
        let done = bank.database.run_with_barrier(&bank.store, &mut barrier, async |_| match attempt {
            2 => Ok(()),
            _ => Err(Error::new(ErrorKind::Aborted, "pay", "another transaction won")),
        });
        assert_eq!(done.await.is_ok(), attempt == 2);
    }
    assert_eq!(bank.rows().await, ["action/01/action"]);
    assert!(bank.call(&bank.branch(Mode::Saga, Op::Compensate)).await.unwrap());
}

/// On MariaDB they can meet in a deadlock, which one of them loses and tries again.
async fn of_two_that_waited_for_one_that_was_rolled_back_one_takes_effect(bank: Bank) {
    let action = bank.branch(Mode::Saga, Op::Action);
    let mut first = bank.database.begin().await.unwrap();
    Barrier::new(action.clone()).enter(&bank.store, &mut first).await.unwrap();
    let again = || retrying(RetryPolicy::default(), || bank.call(&action));
    let rolled_back = async {
        // Both wait by then.
        tokio::time::sleep(Duration::from_millis(200)).await;
        first.rollback().await.unwrap();
    };
    let (second, third, ()) = tokio::join!(again(), again(), rolled_back);
    assert_ne!(second.unwrap(), third.unwrap(), "one of them took effect");
    assert_eq!(bank.balance().await, 70);
    assert_eq!(bank.rows().await, ["action/01/action"]);
}

async fn a_part_that_is_longer_than_its_column_is_refused(bank: Bank) {
    let mut long_id = bank.branch(Mode::Saga, Op::Action);
    long_id.id = "é".repeat(129);
    let mut long_gid = bank.branch(Mode::Saga, Op::Action);
    long_gid.gid = "g".repeat(129);
    let long_op = bank.branch(Mode::Workflow, Op::Other("w".repeat(46)));
    for (branch, part) in [(long_id, "branch_id"), (long_gid, "gid"), (long_op, "op")] {
        let error = bank.call(&branch).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(&format!("part={part}")), "{error}");
    }
    let mut longest = bank.branch(Mode::Workflow, Op::Other("é".repeat(45)));
    longest.id = "é".repeat(128);
    assert!(bank.call(&longest).await.unwrap());
    assert!(!bank.call(&longest).await.unwrap());
    let count = bank.database.fetch_all("SELECT 1 FROM barrier", &[]).await.unwrap().len();
    assert_eq!(count, 1, "what was refused left a row");
}

async fn a_table_that_is_there_is_left_as_it_is(bank: Bank) {
    bank.call(&bank.branch(Mode::Saga, Op::Action)).await.unwrap();
    for _ in 0..2 {
        bank.store.create_table().await.unwrap();
    }
    assert_eq!(bank.rows().await.len(), 1);
}

async fn barriers_on_two_tables_do_not_know_each_other(bank: Bank) {
    let other = bank.database.barrier_with("other_barrier").unwrap();
    other.create_table().await.unwrap();
    let branch = bank.branch(Mode::Saga, Op::Action);
    for store in [&bank.store, &other] {
        let mut tx = bank.database.begin().await.unwrap();
        let passage = store.enter(&mut tx, &BarrierCall::new(&branch, 1)).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(passage, Passage::Proceed);
    }
    let error = bank.database.barrier_with("x; DROP TABLE accounts").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

async fn without_a_table_nothing_takes_effect(bank: Bank) {
    let store = bank.database.barrier_with("no_barrier").unwrap();
    let mut barrier = Barrier::new(bank.branch(Mode::Saga, Op::Action));
    let mut is_called = false;
    let outcome = bank.database.run_with_barrier(&store, &mut barrier, async |_| {
        is_called = true;
        Ok::<_, Error>(())
    });
    let error = outcome.await.unwrap_err();
    // Not a permanent kind: the coordinator asks again, and finds the table when it is there.
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(error.report().contains("no_barrier"), "{}", error.report());
    assert!(!is_called);
}

/// Creates `SCHEMA.barrier` with `create_table` and drops the schema at the end.
async fn in_a_schema_of_its_own(server: Server) {
    let Some(site) = site(server).await else { return };
    let schema = format!("{}_products", site.name());
    let database = site.database().await;
    let store = database.barrier_with(&format!("{schema}.barrier")).unwrap();
    store.create_table().await.unwrap();
    store.create_table().await.unwrap();
    let mut barrier = Barrier::new(Branch::new(Mode::Saga, "g", "01", Op::Action).unwrap());
    let done = database.run_with_barrier(&store, &mut barrier, async |_| Ok::<_, Error>(())).await;
    let count = database.fetch_all(&format!("SELECT 1 FROM {schema}.barrier"), &[]).await;
    if server == Server::Mariadb {
        site.administrate(&format!("DROP DATABASE {schema}")).await;
    }
    assert_eq!(done.unwrap(), Some(()));
    assert_eq!(count.unwrap().len(), 1);
}

#[tokio::test]
async fn a_table_stands_in_another_database_of_mariadb() {
    in_a_schema_of_its_own(Server::Mariadb).await;
}

#[tokio::test]
async fn a_table_stands_in_another_schema_of_postgres() {
    in_a_schema_of_its_own(Server::Postgres).await;
}

#[tokio::test]
async fn the_default_is_the_table_of_dtms_go_client() {
    let Some(site) = site(Server::Postgres).await else { return };
    let database = site.database().await;
    database.barrier().create_table().await.unwrap();
    let select = "SELECT count(*) FROM dtm_barrier.barrier";
    assert_eq!(database.fetch_all(select, &[]).await.unwrap()[0].get::<i64>(0).unwrap(), 0);
}

/// The table as DTM's scripts make it.
pub(crate) fn table_of_dtm(server: Server) -> &'static str {
    match server {
        Server::Mariadb => {
            "CREATE TABLE barrier (id bigint(22) PRIMARY KEY AUTO_INCREMENT, trans_type varchar(45) DEFAULT '', \
             gid varchar(128) DEFAULT '', branch_id varchar(128) DEFAULT '', op varchar(45) DEFAULT '', \
             barrier_id varchar(45) DEFAULT '', reason varchar(45) DEFAULT '', \
             create_time datetime DEFAULT now(), update_time datetime DEFAULT now(), \
             KEY (create_time), KEY (update_time), UNIQUE KEY (gid, branch_id, op, barrier_id)) \
             ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_general_ci"
        }
        Server::Postgres => {
            "CREATE SEQUENCE barrier_seq; \
             CREATE TABLE barrier (id bigint NOT NULL DEFAULT NEXTVAL ('barrier_seq'), \
             trans_type varchar(45) DEFAULT '', gid varchar(128) DEFAULT '', branch_id varchar(128) DEFAULT '', \
             op varchar(45) DEFAULT '', barrier_id varchar(45) DEFAULT '', reason varchar(45) DEFAULT '', \
             create_time timestamp(0) with time zone DEFAULT NULL, \
             update_time timestamp(0) with time zone DEFAULT NULL, \
             PRIMARY KEY (id), CONSTRAINT uniq_barrier UNIQUE (gid, branch_id, op, barrier_id))"
        }
    }
}

/// As DTM's script makes it, whose collation does not tell "a" from "A".
#[tokio::test]
async fn ids_that_a_table_takes_for_the_same_are_an_error_and_no_duplicate() {
    let Some(site) = site(Server::Mariadb).await else { return };
    let database = site.database().await;
    database.execute_script(table_of_dtm(Server::Mariadb)).await.unwrap();
    let store = database.barrier_with("barrier").unwrap();
    store.create_table().await.unwrap();
    let enter = async |gid: &str, op: Op| {
        let mut barrier = Barrier::new(Branch::new(Mode::Saga, gid, "01", op).unwrap());
        database.run(async |tx| barrier.enter(&store, tx).await).await
    };
    assert_eq!(enter("order-a", Op::Action).await.unwrap(), Passage::Proceed);
    assert_eq!(enter("order-a", Op::Action).await.unwrap(), Passage::Duplicate);
    // Of the second one nothing took effect, so that nothing is to be undone.
    for op in [Op::Action, Op::Compensate] {
        let error = enter("order-A", op.clone()).await.expect_err(op.as_str());
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert!(error.to_string().contains("found=order-a"), "{error}");
    }
    assert_eq!(enter("order-a", Op::Compensate).await.unwrap(), Passage::Proceed);
    assert_eq!(enter("order-a", Op::Compensate).await.unwrap(), Passage::Duplicate);
    let error = enter("order-A", Op::Compensate).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal, "its undoing is none of the other one's");
}

/// In it everything would proceed every time.
#[tokio::test]
async fn a_table_of_mariadb_without_the_unique_key_is_refused() {
    let Some(site) = site(Server::Mariadb).await else { return };
    let database = site.database().await;
    database.execute_script("CREATE TABLE barrier (gid varchar(128), UNIQUE KEY (gid))").await.unwrap();
    let error = database.barrier_with("barrier").unwrap().create_table().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.to_string().contains("table=`barrier`"), "{error}");
}

/// As DTM's script makes it, which gives rows no time: those of other clients stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_rows_are_purged_from_a_table_of_dtms_on_postgres() {
    let Some(site) = site(Server::Postgres).await else { return };
    let database = site.database().await;
    database.execute_script(table_of_dtm(Server::Postgres)).await.unwrap();
    let of_go = "INSERT INTO barrier (trans_type, gid, branch_id, op, barrier_id, reason) \
                 VALUES ('saga', 'of-go', '01', 'action', '01', 'action')";
    database.execute(of_go, &[]).await.unwrap();
    let store = database.barrier_with("barrier").unwrap();
    store.create_table().await.unwrap();
    let mut barrier = Barrier::new(Branch::new(Mode::Saga, "of-rust", "01", Op::Action).unwrap());
    database.run(async |tx| barrier.enter(&store, tx).await).await.unwrap();
    let purged = || async { store.purge(Duration::ZERO, 10).await.unwrap() == 1 };
    eventually(PATIENCE, "the row is purged", purged).await;
    let left = database.fetch_all("SELECT gid FROM barrier", &[]).await.unwrap();
    assert_eq!(left.iter().map(|row| row.get::<String>(0).unwrap()).collect::<Vec<_>>(), ["of-go"]);
}

/// It is asked again, and by then it has ended.
async fn who_asks_about_an_open_message_for_too_long_is_told_to_ask_again(server: Server) {
    let Some(site) = site(server).await else { return };
    let mut config = site.config();
    config.lock_timeout = Duration::from_secs(1);
    let bank = Bank::new(site.database_with(config).await, Box::new(site)).await;
    let mut tx = bank.database.begin().await.unwrap();
    let mut barrier = Barrier::new(bank.branch(Mode::Msg, Op::Msg));
    barrier.enter(&bank.store, &mut tx).await.unwrap();
    let error = bank.store.prepared(&bank.gid).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Aborted, "{}", error.report());
    tx.commit().await.unwrap();
    assert_eq!(bank.store.prepared(&bank.gid).await.unwrap(), Prepared::Committed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_who_asks_about_an_open_message_for_too_long_is_told_to_ask_again() {
    who_asks_about_an_open_message_for_too_long_is_told_to_ask_again(Server::Mariadb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_who_asks_about_an_open_message_for_too_long_is_told_to_ask_again() {
    who_asks_about_an_open_message_for_too_long_is_told_to_ask_again(Server::Postgres).await;
}

/// A service's own user has the rights to use the table, and no others.
#[tokio::test]
async fn who_may_not_create_a_table_may_use_the_one_that_is_there() {
    let Some(site) = site(Server::Mariadb).await else { return };
    let user = SmallUser::new(&site).await;
    let database = user.database(&site).await;
    let store = database.barrier_with("barrier").unwrap();
    let error = store.create_table().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{}", error.report());
    assert!(error.to_string().contains("table=`barrier`"), "{error}");

    let owner = site.database().await;
    owner.barrier_with("barrier").unwrap().create_table().await.unwrap();
    store.create_table().await.unwrap();
    let mut barrier = Barrier::new(Branch::new(Mode::Saga, "g", "01", Op::Action).unwrap());
    let passage = database.run(async |tx| barrier.enter(&store, tx).await).await;
    database.close().await;
    site.administrate(&format!("DROP USER {}", user.0)).await;
    assert_eq!(passage.unwrap(), Passage::Proceed);
}

struct SmallUser(String);

impl SmallUser {
    async fn new(site: &Site) -> Self {
        let user = format!("'u{}'@'%'", site.name().chars().rev().take(20).collect::<String>());
        site.administrate(&format!("CREATE USER {user} IDENTIFIED BY 'small'")).await;
        site.administrate(&format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {}.* TO {user}", site.name())).await;
        Self(user)
    }

    async fn database(&self, site: &Site) -> SqlDatabase {
        let name = self.0.trim_start_matches('\'').split('\'').next().unwrap();
        let (_, address) = site.url().rsplit_once('@').map(|(user, rest)| (user.to_owned(), rest.to_owned())).unwrap();
        let mut config = site.config();
        config.url = format!("mysql://{name}:small@{address}");
        SqlDatabase::connect(config).await.unwrap()
    }
}
