//! Sagas of two branches on the embedded coordinator, whose outcome is waited for: how many a second, and
//! beside the two transactions that one costs at least, written by hand. Branches are calls in this process
//! that take nothing: what is measured is the coordinator and its log.
//!
//! `cargo bench -p micro-tx --all-features --bench sagas [-- --database mysql://…]`; without a URL on a
//! SQLite file.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures_util::future::try_join_all;
use micro_core::{
    Health, Result, TransactionManagerExt as _,
    app::{Component as _, ComponentExt as _},
    branch::BranchAnswer,
    saga::{BranchCaller, BranchRequest, EmbeddedCoordinator, Outcome, Saga, SagaCoordinator as _, SagaOptions, Step},
};
use micro_tx::{SqlConfig, SqlDatabase, SqlTxExt as _};

mod database;

const ROUNDS: usize = 7;
const CALLERS: [usize; 3] = [1, 16, 64];
const ROUND: Duration = Duration::from_secs(2);

/// A branch that is done at once.
struct Nothing;

#[async_trait]
impl BranchCaller for Nothing {
    async fn call(&self, _request: BranchRequest<'_>) -> Result<BranchAnswer> {
        Ok(BranchAnswer::Succeeded)
    }

    fn check(&self, _request: &BranchRequest<'_>) -> Result<()> {
        Ok(())
    }
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime starts");
    // In a task, as in a service: what main awaits runs outside the workers.
    runtime.block_on(async { tokio::spawn(compare()).await.expect("the bench does not panic") })
}

async fn compare() -> Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = format!("sqlite:{}", folder.path().join("bench.db").display());
    let url = database::chosen().await.expect("the server makes a database");
    let database = SqlDatabase::connect(SqlConfig::new(url.unwrap_or(file))).await?;
    database.migrate().await?;
    database
        .execute_script(
            "DROP TABLE IF EXISTS by_hand; \
             CREATE TABLE by_hand (gid VARCHAR(128) PRIMARY KEY, is_finished INT NOT NULL, saga VARCHAR(255) NOT NULL)",
        )
        .await?;
    let coordinator =
        EmbeddedCoordinator::builder(database.transactions(), database.saga_log(), Arc::new(Nothing)).build();
    coordinator.start(&Health::new()).await?;
    println!("{}, sagas of two branches, {ROUNDS} rounds of {} s in turn", database.dialect_name(), ROUND.as_secs());
    for caller_count in CALLERS {
        let mut measured: [Vec<Measured>; 2] = Default::default();
        // The first round warms up and does not count.
        for round in 0..=ROUNDS {
            let pair = [
                rate(caller_count, &Way::Embedded(coordinator.clone())).await?,
                rate(caller_count, &Way::ByHand(database.clone())).await?,
            ];
            if round > 0 {
                measured.iter_mut().zip(pair).for_each(|(all, one)| all.push(one));
            }
        }
        show(caller_count, &measured);
    }
    coordinator.stop(Duration::from_secs(5)).await?;
    database.close().await;
    Ok(())
}

enum Way {
    Embedded(EmbeddedCoordinator),
    ByHand(SqlDatabase),
}

impl Way {
    async fn go(&self) -> Result<()> {
        match self {
            Self::Embedded(coordinator) => embedded(coordinator).await,
            Self::ByHand(database) => by_hand(database).await,
        }
    }
}

async fn embedded(coordinator: &EmbeddedCoordinator) -> Result<()> {
    let mut options = SagaOptions::default();
    options.is_waited_for = true;
    let step = |number: usize| Step::new(format!("b:1/b.B/Do{number}")).compensation(format!("b:1/b.B/Undo{number}"));
    let saga = Saga::new().step(step(1).payload(vec![0; 16])).step(step(2).payload(vec![0; 16])).options(options);
    assert_eq!(coordinator.submit(saga).await?, Outcome::Succeeded);
    Ok(())
}

/// A row in one transaction, its end in another one.
async fn by_hand(database: &SqlDatabase) -> Result<()> {
    let gid = Saga::new().gid;
    let insert = "INSERT INTO by_hand (gid, is_finished, saga) VALUES (?, 0, ?)";
    let saga = "x".repeat(120);
    database.run(async |tx| tx.sql()?.execute(insert, &[gid.as_str().into(), saga.as_str().into()]).await).await?;
    database.execute("UPDATE by_hand SET is_finished = 1 WHERE gid = ?", &[gid.as_str().into()]).await?;
    Ok(())
}

struct Measured {
    rate: f64,
    median: Duration,
    slowest_percent: Duration,
}

async fn rate(caller_count: usize, way: &Way) -> Result<Measured> {
    let (began, done_count) = (Instant::now(), AtomicUsize::new(0));
    let callers = (0..caller_count).map(|_| async {
        let mut took = Vec::new();
        while began.elapsed() < ROUND {
            let call = Instant::now();
            way.go().await?;
            took.push(call.elapsed());
            done_count.fetch_add(1, Ordering::Relaxed);
        }
        Ok::<_, micro_core::Error>(took)
    });
    let mut took: Vec<Duration> = try_join_all(callers).await?.concat();
    let rate = done_count.into_inner() as f64 / began.elapsed().as_secs_f64();
    took.sort_unstable();
    Ok(Measured { rate, median: took[took.len() / 2], slowest_percent: took[took.len() * 99 / 100] })
}

fn show(caller_count: usize, [embedded, by_hand]: &[Vec<Measured>; 2]) {
    let mut ratios: Vec<f64> = embedded.iter().zip(by_hand).map(|(ours, base)| ours.rate / base.rate).collect();
    ratios.sort_by(f64::total_cmp);
    let median = |of: &[Measured], value: fn(&Measured) -> f64| {
        let mut values: Vec<f64> = of.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    println!(
        "{caller_count} callers: {:.0} sagas a second, p50 {:.1} ms, p99 {:.1} ms; {:.2} [{:.2} to {:.2}] of two \
         transactions by hand ({:.0} a second)",
        median(embedded, |round| round.rate),
        median(embedded, |round| round.median.as_secs_f64() * 1e3),
        median(embedded, |round| round.slowest_percent.as_secs_f64() * 1e3),
        ratios[ratios.len() / 2],
        ratios[0],
        ratios[ratios.len() - 1],
        median(by_hand, |round| round.rate),
    );
}
