//! The embedded coordinator is killed in the middle of sagas, again and again: every saga comes to its
//! end, and nothing is half done.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use micro_core::{
    Error, ErrorKind, Health, Result, TransactionManagerExt as _, Tx,
    app::{Component as _, ComponentExt as _},
    barrier::{Barrier, BarrierExt as _},
    branch::{BranchAnswer, Op},
    saga::{
        BranchCaller, BranchRequest, EmbeddedCoordinator, EmbeddedCoordinatorConfig, Outcome, Saga, SagaOutbox as _,
        Step,
    },
};
use micro_tx::{SqlBarrier, SqlDatabase, SqlTxExt as _, Synchronous};

use crate::{
    on_servers::{INSERT, site},
    server::Server,
    sqlite::{self, File},
};

const KILL_COUNT: usize = 20;

/// The variables by which the process that is killed knows that it is one.
const URL: &str = "MICRO_TEST_SAGA_URL";
const IS_LAST: &str = "MICRO_TEST_SAGA_IS_LAST";

const TABLES: &str =
    "CREATE TABLE IF NOT EXISTS effects (gid VARCHAR(64) NOT NULL, step INT NOT NULL, PRIMARY KEY (gid, step))";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_saga_is_half_done_on_sqlite() {
    let file = File::new();
    let database = file.database().await;
    survives_kills(&file.url(), database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_saga_is_half_done_on_mariadb() {
    if let Some(site) = site(Server::Mariadb).await {
        survives_kills(&site.url(), site.database().await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_saga_is_half_done_on_postgres() {
    if let Some(site) = site(Server::Postgres).await {
        survives_kills(&site.url(), site.database().await).await;
    }
}

async fn survives_kills(url: &str, database: SqlDatabase) {
    database.execute_script(TABLES).await.unwrap();
    barrier_of(&database).create_table().await.unwrap();
    let mut caught_count = 0;
    for _ in 0..KILL_COUNT {
        let mut process = Process::started(url, false);
        tokio::time::sleep(Duration::from_millis(fastrand::u64(50..400))).await;
        process.0.kill().unwrap();
        process.0.wait().unwrap();
        caught_count += usize::from(database.saga_log().counts().await.unwrap().unfinished > 0);
    }
    assert!(caught_count > KILL_COUNT / 2, "sagas were caught in their middle {caught_count} times");

    let mut process = Process::started(url, true);
    let last = async {
        while process.0.try_wait().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), last).await.expect("what was left comes to its end");
    assert!(process.0.wait().unwrap().success());
    let saga_count = nothing_is_half_done(&database).await;
    assert!(saga_count > KILL_COUNT, "{saga_count} sagas ran");
}

/// Every order has its saga and every saga its order; each is done whole, or not at all.
async fn nothing_is_half_done(database: &SqlDatabase) -> usize {
    let log = database.saga_log();
    let orders = database.fetch_all("SELECT code FROM orders ORDER BY code", &[]).await.unwrap();
    for row in &orders {
        let gid: String = row.get(0).unwrap();
        let outcome = log.outcome(&gid).await.unwrap().unwrap_or_else(|| panic!("the order {gid} has no saga"));
        let select = "SELECT count(*) FROM effects WHERE gid = ?";
        let effects: i64 = database.fetch_all(select, &[gid.as_str().into()]).await.unwrap()[0].get(0).unwrap();
        match is_refused(&gid) {
            true => assert!(matches!(outcome, Outcome::RolledBack { .. }), "{gid}: {outcome:?}"),
            false => assert_eq!(outcome, Outcome::Succeeded, "{gid}"),
        }
        assert_eq!(effects, if is_refused(&gid) { 0 } else { 3 }, "{gid} is half done: {outcome:?}");
    }
    let saga_count: i64 = database.fetch_all("SELECT count(*) FROM micro_sagas", &[]).await.unwrap()[0].get(0).unwrap();
    assert_eq!(saga_count, i64::try_from(orders.len()).unwrap(), "a saga has no order");
    orders.len()
}

/// A third of the sagas is refused at its last step.
fn is_refused(gid: &str) -> bool {
    gid.bytes().map(u32::from).sum::<u32>() % 3 == 0
}

/// The process that is killed: this test binary, which runs [`the_process_that_is_killed`] alone.
struct Process(Child);

impl Process {
    fn started(url: &str, is_last: bool) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "saga_kill::the_process_that_is_killed", "--nocapture"]).env(URL, url);
        if is_last {
            command.env(IS_LAST, "1");
        }
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let is_ready = lines.any(|line| line.is_ok_and(|line| line.contains("ready")));
        assert!(is_ready, "the process that is killed did not start");
        // What it says further is read, so that it does not wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Self(child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended as a rule.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Does nothing where nobody started it to be killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_that_is_killed() {
    let Ok(url) = std::env::var(URL) else { return };
    let mut config = sqlite::config(&url);
    config.connect_timeout = Duration::from_secs(30);
    config.synchronous = Synchronous::Normal;
    let database = SqlDatabase::connect(config).await.unwrap();
    let mut config = EmbeddedCoordinatorConfig::default();
    config.lease = Duration::from_secs(1);
    config.retry_interval = Duration::from_millis(100);
    let participant = Arc::new(Participant(database.clone(), barrier_of(&database)));
    let coordinator = EmbeddedCoordinator::builder(database.transactions(), database.saga_log(), participant);
    let coordinator = coordinator.config(config).build();
    coordinator.start(&Health::new()).await.unwrap();
    println!("\nready");

    while std::env::var(IS_LAST).is_err() {
        let saga = (0..3).fold(Saga::new(), |saga, step| {
            saga.step(Step::new(format!("p:1/p.P/Do{step}")).compensation(format!("p:1/p.P/Undo{step}")))
        });
        let added = database.run(async |tx| {
            tx.sql()?.execute(INSERT, &[saga.gid.as_str().into(), "paid".into()]).await?;
            coordinator.add(tx, &saga).await
        });
        added.await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    while coordinator.counts().await.unwrap().unfinished > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    coordinator.stop(Duration::from_secs(5)).await.unwrap();
    database.close().await;
}

/// The services that take part, with tables of their own in the same database.
struct Participant(SqlDatabase, SqlBarrier);

#[async_trait]
impl BranchCaller for Participant {
    async fn call(&self, request: BranchRequest<'_>) -> Result<BranchAnswer> {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..8))).await;
        let branch = request.branch;
        let gid = branch.gid.as_str();
        let step: i64 = branch.id.parse().unwrap();
        let is_action = branch.op == Op::Action;
        let body = async |tx: &mut Tx| {
            if is_action && step == 3 && is_refused(gid) {
                return Err(Error::new(ErrorKind::FailedPrecondition, "participant", "no stock"));
            }
            let statement = match is_action {
                true => "INSERT INTO effects (gid, step) VALUES (?, ?)",
                false => "DELETE FROM effects WHERE gid = ? AND step = ?",
            };
            let changed_count = tx.sql()?.execute(statement, &[gid.into(), step.into()]).await?;
            assert_eq!(changed_count, 1, "{gid} {step}: the barrier let an undoing of nothing pass");
            Ok(())
        };
        let mut barrier = Barrier::new(branch.clone());
        match self.0.run_with_barrier(&self.1, &mut barrier, body).await {
            Ok(_) => Ok(BranchAnswer::Succeeded),
            Err(error) if error.kind() == ErrorKind::FailedPrecondition => {
                Ok(BranchAnswer::Failed(error.message().to_owned()))
            }
            Err(error) => Err(error),
        }
    }

    fn check(&self, _request: &BranchRequest<'_>) -> Result<()> {
        Ok(())
    }
}

fn barrier_of(database: &SqlDatabase) -> SqlBarrier {
    database.barrier_with("barrier").unwrap()
}
