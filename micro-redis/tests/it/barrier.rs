//! The table of DTM's barrier, row by row, and what is ours.

use std::time::Duration;

use micro_core::{
    ErrorKind,
    barrier::{Barrier, Prepared},
    branch::{Branch, BranchError, Mode, Op},
};
use micro_redis::RedisBarrier;
use micro_testkit::{eventually, unique};
use redis::AsyncCommands as _;

use crate::server::{PATIENCE, connected, outsider, patient, shared_url};

/// An integer of 100 and a transaction.
struct Stock {
    barrier: RedisBarrier,
    connection: redis::aio::MultiplexedConnection,
    key: String,
    gid: String,
}

impl Stock {
    async fn new() -> Option<Self> {
        let url = shared_url().await?;
        let mut stock = Self {
            barrier: connected(&url).await,
            connection: outsider(&url).await,
            key: unique("stock"),
            gid: unique("gid"),
        };
        stock.set("100").await;
        Some(stock)
    }

    async fn set(&mut self, text: &str) {
        let _: () = self.connection.set(&self.key, text).await.unwrap();
    }

    async fn count(&mut self) -> i64 {
        self.connection.get(&self.key).await.unwrap()
    }

    fn branch(&self, mode: Mode, op: Op) -> Barrier {
        let id = if op == Op::Msg { "00" } else { "01" };
        Barrier::new(Branch::new(mode, &self.gid, id, op).unwrap())
    }

    /// What a call of a branch that takes 30 makes of it, or that gives them back.
    async fn call(&self, mode: Mode, op: Op) -> Result<Option<i64>, BranchError> {
        let amount = if op.origin().is_some() { 30 } else { -30 };
        self.adjust(mode, op, amount).await
    }

    async fn adjust(&self, mode: Mode, op: Op, amount: i64) -> Result<Option<i64>, BranchError> {
        self.barrier.adjust(&mut self.branch(mode, op), &self.key, amount).await
    }

    /// The values of the rows of these operations, `-` for none.
    async fn rows<const N: usize>(&mut self, rows: [&str; N]) -> [String; N] {
        let mut found = [const { String::new() }; N];
        for (row, found) in rows.into_iter().zip(&mut found) {
            let id = if row.starts_with("msg") { "00" } else { "01" };
            let value: Option<String> = self.connection.get(format!("{}-{id}-{row}", self.gid)).await.unwrap();
            *found = value.unwrap_or_else(|| "-".to_owned());
        }
        found
    }
}

fn failed(outcome: Result<Option<i64>, BranchError>) -> String {
    match outcome {
        Err(BranchError::Failed(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

fn error(outcome: Result<Option<i64>, BranchError>) -> micro_core::Error {
    match outcome {
        Err(BranchError::Other(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_action_that_comes_twice_takes_effect_once() {
    let Some(mut stock) = Stock::new().await else { return };
    assert_eq!(stock.call(Mode::Saga, Op::Action).await.unwrap(), Some(70));
    assert_eq!(stock.call(Mode::Saga, Op::Action).await.unwrap(), None);
    assert_eq!(stock.count().await, 70);
    assert_eq!(stock.rows(["action-01", "action-02"]).await, ["op", "-"]);
}

#[tokio::test]
async fn two_barriers_of_one_call_both_take_effect() {
    let Some(mut stock) = Stock::new().await else { return };
    for ops in [Op::Action, Op::Action, Op::Compensate, Op::Compensate] {
        let amount = if ops.origin().is_some() { 10 } else { -10 };
        let mut barrier = stock.branch(Mode::Saga, ops);
        for _ in 0..2 {
            stock.barrier.adjust(&mut barrier, &stock.key, amount).await.unwrap();
        }
    }
    assert_eq!(stock.count().await, 100);
    let rows = ["action-01", "action-02", "compensate-01", "compensate-02"];
    assert_eq!(stock.rows(rows).await, ["op"; 4]);
}

#[tokio::test]
async fn what_was_done_is_undone_once_in_each_mode() {
    for (mode, [forward, undoing]) in [
        (Mode::Saga, [Op::Action, Op::Compensate]),
        (Mode::Tcc, [Op::Try, Op::Cancel]),
        (Mode::Workflow, [Op::Action, Op::Rollback]),
    ] {
        let Some(mut stock) = Stock::new().await else { return };
        assert_eq!(stock.call(mode, forward).await.unwrap(), Some(70));
        assert_eq!(stock.call(mode, undoing.clone()).await.unwrap(), Some(100));
        assert_eq!(stock.call(mode, undoing).await.unwrap(), None);
        assert_eq!(stock.count().await, 100);
    }
}

#[tokio::test]
async fn an_undoing_that_comes_first_stops_what_comes_later_in_each_mode() {
    for (mode, [forward, undoing]) in [
        (Mode::Saga, [Op::Action, Op::Compensate]),
        (Mode::Tcc, [Op::Try, Op::Cancel]),
        (Mode::Workflow, [Op::Action, Op::Rollback]),
    ] {
        let Some(mut stock) = Stock::new().await else { return };
        let rows = [format!("{forward}-01"), format!("{undoing}-01")];
        assert_eq!(stock.call(mode, undoing).await.unwrap(), None);
        assert_eq!(stock.call(mode, forward).await.unwrap(), None);
        assert_eq!(stock.count().await, 100);
        assert_eq!(stock.rows([rows[0].as_str(), rows[1].as_str()]).await, ["rollback", "op"]);
    }
}

#[tokio::test]
async fn what_would_be_negative_is_refused_and_leaves_nothing() {
    let Some(mut stock) = Stock::new().await else { return };
    let reason = failed(stock.adjust(Mode::Saga, Op::Action, -101).await);
    assert_eq!(reason, format!("too little of {}: 100, and -101 to add", stock.key));
    assert_eq!(stock.rows(["action-01"]).await, ["-"]);
    assert_eq!(stock.adjust(Mode::Saga, Op::Action, -100).await.unwrap(), Some(0), "the same barrier again");
}

#[tokio::test]
async fn an_integer_that_is_missing_refuses_and_is_not_made() {
    let Some(mut stock) = Stock::new().await else { return };
    let _: () = stock.connection.del(&stock.key).await.unwrap();
    assert_eq!(failed(stock.adjust(Mode::Saga, Op::Action, 5).await), format!("there is no {}", stock.key));
    assert!(!stock.connection.exists::<_, bool>(&stock.key).await.unwrap());
    // Its undoing finds that it never was.
    assert_eq!(stock.call(Mode::Saga, Op::Compensate).await.unwrap(), None);
}

/// In DTM's own script it would be refused.
#[tokio::test]
async fn a_repeated_call_is_a_success_also_where_there_is_too_little_by_now() {
    let Some(mut stock) = Stock::new().await else { return };
    assert_eq!(stock.call(Mode::Saga, Op::Action).await.unwrap(), Some(70));
    stock.set("0").await;
    assert_eq!(stock.call(Mode::Saga, Op::Action).await.unwrap(), None);
    assert_eq!(stock.count().await, 0);
}

/// In DTM's own script it would be refused for ever.
#[tokio::test]
async fn a_compensation_that_takes_away_is_not_refused() {
    let Some(mut stock) = Stock::new().await else { return };
    assert_eq!(stock.adjust(Mode::Saga, Op::Action, 30).await.unwrap(), Some(130));
    stock.set("10").await;
    assert_eq!(stock.adjust(Mode::Saga, Op::Compensate, -30).await.unwrap(), Some(-20));
}

#[tokio::test]
async fn the_local_part_of_a_message_takes_place_once() {
    let Some(stock) = Stock::new().await else { return };
    assert_eq!(stock.call(Mode::Msg, Op::Msg).await.unwrap(), Some(70));
    assert_eq!(error(stock.call(Mode::Msg, Op::Msg).await).kind(), ErrorKind::AlreadyExists);
    assert_eq!(stock.barrier.prepared(&stock.gid).await.unwrap(), Prepared::Committed);
}

#[tokio::test]
async fn a_message_that_was_asked_about_takes_place_no_more() {
    let Some(mut stock) = Stock::new().await else { return };
    for _ in 0..2 {
        assert_eq!(stock.barrier.prepared(&stock.gid).await.unwrap(), Prepared::RolledBack);
    }
    assert_eq!(error(stock.call(Mode::Msg, Op::Msg).await).kind(), ErrorKind::AlreadyExists);
    assert_eq!(stock.barrier.prepared(&stock.gid).await.unwrap(), Prepared::RolledBack);
    assert_eq!((stock.count().await, stock.rows(["msg-01"]).await), (100, ["rollback".to_owned()]));
    assert_eq!(stock.barrier.prepared("").await.unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_cancels_in_parallel_and_a_late_try_change_nothing() {
    let Some(mut stock) = Stock::new().await else { return };
    let cancel = || stock.call(Mode::Tcc, Op::Cancel);
    let (first, second) = tokio::join!(cancel(), cancel());
    assert_eq!((first.unwrap(), second.unwrap()), (None, None));
    assert_eq!(stock.call(Mode::Tcc, Op::Try).await.unwrap(), None);
    assert_eq!(stock.count().await, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_calls_of_one_branch_at_the_same_time_one_takes_effect() {
    let Some(mut stock) = Stock::new().await else { return };
    let calls = (0..50).map(|_| stock.call(Mode::Saga, Op::Action));
    let outcomes = futures_util::future::join_all(calls).await;
    assert_eq!(outcomes.into_iter().filter(|outcome| matches!(outcome, Ok(Some(70)))).count(), 1);
    assert_eq!(stock.count().await, 70);
}

#[tokio::test]
async fn where_no_coordinator_called_it_is_checked_and_done_each_time() {
    let Some(stock) = Stock::new().await else { return };
    for left in [60, 20] {
        let adjusted = stock.barrier.adjust(&mut Barrier::default(), &stock.key, -40).await.unwrap();
        assert_eq!(adjusted, Some(left));
    }
    failed(stock.barrier.adjust(&mut Barrier::default(), &stock.key, -40).await);
}

#[tokio::test]
async fn a_row_expires() {
    let Some(mut stock) = Stock::new().await else { return };
    let mut config = patient(&shared_url().await.unwrap());
    config.barrier_ttl = Duration::from_secs(1);
    stock.barrier = RedisBarrier::connect(config).await.unwrap();
    assert_eq!(stock.call(Mode::Saga, Op::Action).await.unwrap(), Some(70));
    let row = format!("{}-01-action-01", stock.gid);
    eventually(PATIENCE, "the row expires", || {
        let (mut connection, row) = (stock.connection.clone(), row.clone());
        async move { !connection.exists::<_, bool>(row).await.unwrap() }
    })
    .await;
    assert_eq!(stock.connection.ttl::<_, i64>(&stock.key).await.unwrap(), -1, "the integer does not");
    assert_eq!(stock.barrier.prepared(&stock.gid).await.unwrap(), Prepared::RolledBack);
    let ttl: i64 = stock.connection.ttl(format!("{}-00-msg-01", stock.gid)).await.unwrap();
    // Less than none where it expired before it was looked at.
    assert!(ttl <= 1 && ttl != -1, "{ttl}");
}

#[tokio::test]
async fn by_default_a_row_is_kept_for_thirty_days() {
    let Some(mut stock) = Stock::new().await else { return };
    stock.call(Mode::Tcc, Op::Cancel).await.unwrap();
    for row in ["try-01", "cancel-01"] {
        let ttl: i64 = stock.connection.ttl(format!("{}-01-{row}", stock.gid)).await.unwrap();
        assert!((2_591_000..=2_592_000).contains(&ttl), "{row}: {ttl}");
    }
}

#[tokio::test]
async fn what_is_no_integer_is_an_error_and_leaves_nothing() {
    let Some(mut stock) = Stock::new().await else { return };
    for text in ["many", "1.5", "9223372036854775807"] {
        stock.set(text).await;
        let error = error(stock.adjust(Mode::Saga, Op::Action, 1).await);
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{text}: {}", error.report());
        assert_eq!(stock.rows(["action-01"]).await, ["-"], "{text}");
        assert_eq!(stock.connection.get::<_, String>(&stock.key).await.unwrap(), text);
    }
    let _: () = stock.connection.del(&stock.key).await.unwrap();
    let _: () = stock.connection.rpush(&stock.key, "a list").await.unwrap();
    let error = error(stock.adjust(Mode::Saga, Op::Action, 1).await);
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{}", error.report());
}

#[tokio::test]
async fn large_integers_are_told_to_the_last_digit_and_larger_amounts_refused() {
    let Some(mut stock) = Stock::new().await else { return };
    stock.set("9223372036854775801").await;
    assert_eq!(stock.adjust(Mode::Saga, Op::Action, 2).await.unwrap(), Some(9_223_372_036_854_775_803));
    let error = error(stock.adjust(Mode::Saga, Op::Action, -(1 << 53) - 1).await);
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("amount_max=9007199254740992"), "{error}");
}
