//! The saga log on each database: rows that somebody spoiled, several coordinators on one log, a large
//! table.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use micro_core::{
    Health, Result, TransactionManagerExt as _,
    app::{Component as _, ComponentExt as _},
    branch::BranchAnswer,
    saga::{
        BranchCaller, BranchRequest, EmbeddedCoordinator, Outcome, Saga, SagaChange, SagaCounts, SagaEntry, SagaLease,
        SagaProgress, SagaWrite, Step,
    },
};
use micro_testkit::eventually;
use micro_tx::SqlDatabase;

use crate::{
    indexes::read_count,
    on_servers::{on_each_server, site},
    server::{Server, Site},
    sqlite::File,
};

const LONG: Duration = Duration::from_secs(600);

on_each_server!(
    a_saga_that_somebody_spoiled_hides_no_other_one
    several_coordinators_share_a_log_and_call_each_branch_once
    parked_sagas_are_due_again_when_they_are_released
);

mod on_a_file {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_saga_that_somebody_spoiled_hides_no_other_one() {
        let file = File::new();
        one_of_three_is_spoiled(&file.database().await).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn parked_sagas_are_due_again_when_they_are_released() {
        let file = File::new();
        parked_ones_are_released(&file.database().await).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn several_coordinators_share_a_log_and_call_each_branch_once() {
        let file = File::new();
        each_branch_is_called_once([file.database().await, file.database().await]).await;
    }
}

async fn a_saga_that_somebody_spoiled_hides_no_other_one(site: Site) {
    one_of_three_is_spoiled(&site.database().await).await;
}

async fn parked_sagas_are_due_again_when_they_are_released(site: Site) {
    parked_ones_are_released(&site.database().await).await;
}

async fn several_coordinators_share_a_log_and_call_each_branch_once(site: Site) {
    each_branch_is_called_once([site.database().await, site.database().await]).await;
}

fn saga(number: usize) -> Saga {
    let step = |step: usize| Step::new(format!("p:1/p.P/Do{step}"));
    Saga::with_gid(format!("saga-{number:04}")).step(step(1)).step(step(2))
}

async fn add(database: &SqlDatabase, count: usize) {
    let entries: Vec<_> = (0..count).map(|number| SagaEntry::new(Arc::new(saga(number)))).collect();
    database.run(async |tx| database.saga_log().add(tx, &entries).await).await.unwrap();
}

async fn one_of_three_is_spoiled(database: &SqlDatabase) {
    add(database, 4).await;
    let spoil = "UPDATE micro_sagas SET saga = ? WHERE gid = 'saga-0001'";
    assert_eq!(database.execute(spoil, &[vec![0xff_u8, 0xff].into()]).await.unwrap(), 1);
    let spoil = "UPDATE micro_sagas SET progress = 'no json' WHERE gid = 'saga-0002'";
    assert_eq!(database.execute(spoil, &[]).await.unwrap(), 1);

    let log = database.saga_log();
    let lease = SagaLease::new(LONG);
    let due = log.take(lease, 10).await.unwrap();
    assert_eq!(due.iter().map(|due| due.saga.gid.as_str()).collect::<Vec<_>>(), ["saga-0000", "saga-0003"]);
    let writes = ["saga-0000", "saga-0003"].map(|gid| SagaWrite::new(gid, lease.id, SagaChange::Succeeded));
    assert_eq!(log.write(&writes).await.unwrap(), [true, true]);
    // The spoiled ones are there to be looked at, and nobody tries them again and again.
    let mut left = counts(2, 0);
    left.parked = 2;
    assert_eq!(log.counts().await.unwrap(), left);
    assert!(log.take(lease, 10).await.unwrap().is_empty());
}

/// One of them cannot be read back, and is parked again; beside one that is held and one that waits, which
/// stay as they are.
async fn parked_ones_are_released(database: &SqlDatabase) {
    add(database, 5).await;
    let spoil = "UPDATE micro_sagas SET saga = ? WHERE gid = 'saga-0004'";
    assert_eq!(database.execute(spoil, &[vec![0xff_u8, 0xff].into()]).await.unwrap(), 1);
    let log = database.saga_log();
    let lease = SagaLease::new(LONG);
    assert_eq!(log.take(lease, 10).await.unwrap().len(), 4);
    let mut progress = SagaProgress::default();
    progress.parked_reason = Some("too long for a column".to_owned());
    let parked = SagaChange::Parked(progress.clone());
    let changes = [parked.clone(), parked, SagaChange::Waiting(SagaProgress::default(), LONG)];
    let writes = changes.into_iter().enumerate();
    let writes: Vec<_> = writes.map(|(number, change)| SagaWrite::new(saga(number).gid, lease.id, change)).collect();
    assert_eq!(log.write(&writes).await.unwrap(), [true; 3]);
    assert_eq!(log.counts().await.unwrap().parked, 3);
    assert!(log.take(SagaLease::new(LONG), 10).await.unwrap().is_empty());

    assert_eq!(database.release_sagas().await.unwrap(), 3);
    assert_eq!(log.counts().await.unwrap(), counts(5, 3));
    let due = log.take(SagaLease::new(LONG), 10).await.unwrap();
    let found: Vec<_> = due.iter().map(|due| (due.saga.gid.as_str(), &due.progress, due.was_abandoned)).collect();
    assert_eq!(found, [("saga-0000", &progress, false), ("saga-0001", &progress, false)]);
    assert_eq!(log.counts().await.unwrap().parked, 1);
}

/// A committed one would be called for ever, and nothing could end it.
#[cfg(feature = "dtm")]
#[tokio::test]
async fn a_saga_that_the_caller_can_never_call_is_refused_before_its_commit() {
    use micro_core::{
        ErrorKind,
        saga::{SagaCoordinator as _, SagaOptions, SagaOutbox as _},
    };
    use micro_tx::dtm::{HttpBranchCaller, UrlBranchCaller};

    let file = File::new();
    let database = file.database().await;
    let caller = UrlBranchCaller::new(micro_grpc::GrpcBranchCaller::default(), HttpBranchCaller::new().unwrap());
    let coordinator =
        EmbeddedCoordinator::builder(database.transactions(), database.saga_log(), Arc::new(caller)).build();
    let good = || Step::new("p:1/p.P/Do").compensation("http://p:1/undo");
    let with_header = |name: &str, value: &str| {
        let mut options = SagaOptions::default();
        options.headers.insert(name.to_owned(), value.to_owned());
        Saga::new().step(Step::new("")).step(good()).options(options)
    };
    for (saga, told) in [
        (Saga::new().step(good()).step(Step::new("product/shop.Product/Deduct")), "step=1, op=action"),
        (Saga::new().step(good().compensation("product/shop.Product/GiveBack")), "step=0, op=compensate"),
        (Saga::new().step(Step::new("http://")), "step=0, op=action"),
        (Saga::new().step(Step::new("p:1/p.P/Do it")), "step=0, op=action"),
        (with_header("x-name", "a\nb"), "x-name"),
        (with_header("a name", "a"), "a name"),
    ] {
        let added = database.run(async |tx| coordinator.add(tx, &saga).await).await.expect_err(told);
        let submitted = coordinator.submit(saga).await.expect_err(told);
        for error in [added, submitted] {
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
            assert!(error.to_string().contains(told), "{told}: {error}");
        }
    }
    assert_eq!(coordinator.counts().await.unwrap(), counts(0, 0));
    // Our callers send it, unlike DTM.
    let saga = with_header("x-name", "Zo\u{eb}");
    database.run(async |tx| coordinator.add(tx, &saga).await).await.unwrap();
    assert_eq!(coordinator.counts().await.unwrap().unfinished, 1);
}

fn counts(unfinished: u64, due: u64) -> SagaCounts {
    let mut counts = SagaCounts::default();
    (counts.unfinished, counts.due) = (unfinished, due);
    counts
}

/// Counts the calls of each branch.
#[derive(Default)]
struct Counting(Mutex<BTreeMap<String, usize>>);

#[async_trait]
impl BranchCaller for Counting {
    async fn call(&self, request: BranchRequest<'_>) -> Result<BranchAnswer> {
        let call = format!("{}/{}", request.branch.gid, request.branch.id);
        *self.0.lock().unwrap().entry(call).or_default() += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
        Ok(BranchAnswer::Succeeded)
    }

    fn check(&self, _request: &BranchRequest<'_>) -> Result<()> {
        Ok(())
    }
}

async fn each_branch_is_called_once(databases: [SqlDatabase; 2]) {
    const SAGA_COUNT: usize = 300;
    add(&databases[0], SAGA_COUNT).await;
    let calls = Arc::new(Counting::default());
    let coordinators = databases.each_ref().map(|database| {
        EmbeddedCoordinator::builder(database.transactions(), database.saga_log(), calls.clone()).build()
    });
    for coordinator in &coordinators {
        coordinator.start(&Health::new()).await.unwrap();
    }
    let log = databases[0].saga_log();
    let are_ended = || async { log.counts().await.is_ok_and(|counts| counts.unfinished == 0) };
    eventually(Duration::from_secs(60), "every saga ends", are_ended).await;
    for coordinator in &coordinators {
        coordinator.stop(Duration::from_secs(5)).await.unwrap();
    }
    for number in 0..SAGA_COUNT {
        assert_eq!(log.outcome(&saga(number).gid).await.unwrap(), Some(Outcome::Succeeded));
    }
    let calls = calls.0.lock().unwrap();
    assert_eq!(calls.len(), 2 * SAGA_COUNT);
    assert!(calls.values().all(|count| *count == 1), "a branch was called by both");
}

/// Fifty thousand that are finished and as many that wait: a look, a taking, a write, a purge read few.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_saga_log_reads_few_of_a_hundred_thousand_rows_on_postgres() {
    let Some(site) = site(Server::Postgres).await else { return };
    let database = site.database().await;
    let fill = "INSERT INTO micro_sagas (gid, is_finished, due_at, lease_id, saga, progress, created_at) \
                SELECT 'old-' || n, n % 2, CASE WHEN n % 2 = 1 THEN n ELSE 4000000000000 + n END, n, '', '', n \
                FROM generate_series(0, 99999) AS n";
    database.execute_script(fill).await.unwrap();
    database.execute_script("ANALYZE micro_sagas").await.unwrap();
    database.close().await;
    for (what, count_max) in [("nothing", 1), ("all of it", 120), ("purge", 220)] {
        let before = read_count(&site, "micro_sagas").await;
        let database = site.database().await;
        let log = database.saga_log();
        match what {
            "nothing" => assert!(log.take(SagaLease::new(LONG), 100).await.unwrap().is_empty()),
            "purge" => assert_eq!(log.purge(Duration::from_secs(1), 100).await.unwrap(), 100),
            _ => {
                add(&database, 20).await;
                let lease = SagaLease::new(LONG);
                let due = log.take(lease, 100).await.unwrap();
                let writes = due.iter().map(|due| SagaWrite::new(&due.saga.gid, lease.id, SagaChange::Succeeded));
                let answers = log.write(&writes.collect::<Vec<_>>()).await.unwrap();
                assert_eq!(answers, [true; 20]);
            }
        }
        database.close().await;
        let count = read_count(&site, "micro_sagas").await - before;
        assert!(count <= count_max, "{what}: {count} rows were read");
    }
}
