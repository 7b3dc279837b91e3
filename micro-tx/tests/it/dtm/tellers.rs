//! Participants that move money on a database, behind its barrier.

use std::{
    future::Future,
    ops::Deref,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use micro_core::{
    Result, Tx,
    barrier::{Barrier, BarrierExt as _},
    branch::{BranchError, Op},
};
use micro_tx::SqlTxExt as _;

use super::{
    branches::{Business, Seen},
    stage::{Stage, Wire},
};
use crate::{barrier::Bank, server::Server};

/// A test on each database over both wires, skipped where the servers are not there.
macro_rules! on_each_database {
    ($($test:ident)+) => {
        $crate::dtm::tellers::on_each_database!(@one on_sqlite, None, $($test)+);
        $crate::dtm::tellers::on_each_database!(@one on_mariadb, Some($crate::server::Server::Mariadb), $($test)+);
        $crate::dtm::tellers::on_each_database!(@one on_postgres, Some($crate::server::Server::Postgres), $($test)+);
    };
    (@one $module:ident, $server:expr, $($test:ident)+) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    $crate::dtm::tellers::with_tellers($server, super::$test).await;
                }
            )+
        }
    };
}

pub(crate) use on_each_database;

/// A stage whose participants are tellers of one bank: two accounts of 100 each, `out` and `in`.
pub(crate) struct Counter {
    stage: Stage,
    pub(crate) teller: Arc<Teller>,
}

impl Deref for Counter {
    type Target = Stage;

    fn deref(&self) -> &Stage {
        &self.stage
    }
}

impl Counter {
    /// With the DTM that tests share; `None` where there is none.
    pub(crate) async fn open(wire: Wire, bank: Bank) -> Option<Self> {
        Some(Self::at(Stage::shared(wire).await?, bank))
    }

    pub(crate) fn at(stage: Stage, bank: Bank) -> Self {
        let teller = Arc::new(Teller { bank, panic_count: AtomicU32::new(0) });
        stage.branches.work("", teller.clone());
        Self { stage, teller }
    }
}

/// Runs a test over each wire, each with a bank of its own; SQLite's where no server is named.
pub(crate) async fn with_tellers<F>(server: Option<Server>, test: fn(Counter) -> F)
where
    F: Future<Output = ()>,
{
    let on = |wire| async move {
        let bank = match server {
            None => Some(Bank::on_sqlite().await),
            Some(server) => Bank::on(server).await,
        };
        let Some(bank) = bank else { return };
        let Some(counter) = Counter::open(wire, bank).await else { return };
        if let Err(panic) = AssertUnwindSafe(test(counter)).catch_unwind().await {
            eprintln!("over {wire:?}");
            std::panic::resume_unwind(panic);
        }
    };
    tokio::join!(on(Wire::Grpc), on(Wire::Http));
}

/// Serves `TransOut…` and `TransIn…`; the amount is the body. A method with `Twice` in its name moves half
/// of it behind each of two barriers, one with `Panic` panics the first time before it commits.
pub(crate) struct Teller {
    pub(crate) bank: Bank,
    pub(crate) panic_count: AtomicU32,
}

#[async_trait]
impl Business for Teller {
    async fn call(&self, seen: &Seen) -> Result<(), BranchError> {
        let amount: i64 = seen.payload.trim_matches('"').parse().unwrap();
        let (account, amount) = if seen.method.contains("Out") { ("out", -amount) } else { ("in", amount) };
        let count = if seen.method.contains("Twice") { 2 } else { 1 };
        let mut barrier = Barrier::new(seen.branch.clone());
        for _ in 0..count {
            let body = async |tx: &mut Tx| {
                post(tx, &seen.branch.op, account, amount / count).await?;
                if seen.method.contains("Panic") && self.panic_count.fetch_add(1, Ordering::Relaxed) == 0 {
                    panic!("the teller faints before the commit");
                }
                Ok::<_, BranchError>(())
            };
            self.bank.database.run_with_barrier(&self.bank.store, &mut barrier, body).await?;
        }
        Ok(())
    }
}

impl Teller {
    /// `balance+reserved` of both accounts.
    pub(crate) async fn accounts(&self) -> [String; 2] {
        let select = "SELECT balance, reserved FROM accounts ORDER BY name DESC";
        let rows = self.bank.database.fetch_all(select, &[]).await.unwrap();
        let text = |row: &micro_tx::Row| {
            format!("{}{:+}", row.get::<i64>("balance").unwrap(), row.get::<i64>("reserved").unwrap())
        };
        [text(&rows[0]), text(&rows[1])]
    }
}

async fn post(tx: &mut Tx, op: &Op, account: &str, amount: i64) -> Result<(), BranchError> {
    let (balance, reserved) = match op {
        Op::Action => (amount, 0),
        Op::Compensate | Op::Rollback => (-amount, 0),
        Op::Try => (0, amount),
        Op::Confirm => (amount, -amount),
        Op::Cancel => (0, -amount),
        other => return Err(BranchError::failed(format!("nothing is known of {other}"))),
    };
    // What is given back or made final is not refused.
    let least = if op.may_fail() { 0 } else { i64::MIN / 2 };
    let update = "UPDATE accounts SET balance = balance + ?, reserved = reserved + ? \
                  WHERE name = ? AND balance + reserved >= ?";
    let values = [balance.into(), reserved.into(), account.into(), (least - balance - reserved).into()];
    match tx.sql()?.execute(update, &values).await? {
        0 => Err(BranchError::failed("Insufficient balance")),
        _ => Ok(()),
    }
}
