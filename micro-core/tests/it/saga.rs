//! The embedded coordinator, rule by rule, with a scripted caller and paused time.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use micro_core::{
    Error, ErrorKind, Health, Result, TransactionManagerExt as _,
    app::{Component as _, ComponentExt as _},
    branch::{BranchAnswer, Op},
    saga::{
        BranchCaller, BranchRequest, EmbeddedCoordinator, EmbeddedCoordinatorConfig, Outcome, Saga,
        SagaCoordinator as _, SagaCounts, SagaEntry, SagaLease, SagaLog, SagaOptions, SagaOutbox as _, SagaRelay, Step,
    },
    transaction::MemoryDatabase,
};
use micro_testkit::{
    Logged, eventually,
    saga::{BrokenSagaLog, SagaLogFault},
};
use tokio::time::Instant;
use tracing::Level;

/// What a branch does when it is called.
#[derive(Clone, Copy, Debug)]
enum Does {
    Succeed,
    Fail,
    Wait,
    Break,
    Panic,
    /// Answers after so many milliseconds.
    Dawdle(u64),
}

/// A call as it was made: since the beginning in milliseconds, and whose.
type Call = (u64, String);

/// Answers by a script for each branch and operation; what is not written succeeds.
struct Script {
    answers: Mutex<BTreeMap<String, VecDeque<Does>>>,
    calls: Mutex<Vec<Call>>,
    requests: Mutex<Vec<String>>,
    began_at: Instant,
}

impl Script {
    fn new(answers: &[(&str, &[Does])]) -> Arc<Self> {
        let answers = answers.iter().map(|(call, does)| ((*call).to_owned(), does.iter().copied().collect()));
        Arc::new(Self {
            answers: Mutex::new(answers.collect()),
            calls: Mutex::default(),
            requests: Mutex::default(),
            began_at: Instant::now(),
        })
    }

    /// The calls' names, in the order in which they were made.
    fn called(&self) -> Vec<String> {
        self.calls.lock().unwrap().iter().map(|(_, call)| call.clone()).collect()
    }

    /// When each call of this name was made, in seconds.
    fn seconds(&self, name: &str) -> Vec<f64> {
        let calls = self.calls.lock().unwrap();
        let tenths = calls.iter().filter(|(_, call)| call == name).map(|(at, _)| (*at as f64 / 100.0).round() / 10.0);
        tenths.collect()
    }
}

#[async_trait]
impl BranchCaller for Script {
    async fn call(&self, request: BranchRequest<'_>) -> Result<BranchAnswer> {
        let letter = if request.branch.op == Op::Action { "a" } else { "c" };
        let name = format!("{letter}{}", request.branch.id.trim_start_matches('0'));
        let at = u64::try_from(self.began_at.elapsed().as_millis()).unwrap();
        self.calls.lock().unwrap().push((at, name.clone()));
        self.requests.lock().unwrap().push(format!("{request:?}"));
        let does = {
            let mut answers = self.answers.lock().unwrap();
            let script = answers.get_mut(&name);
            // The last one is for ever.
            script.and_then(|script| if script.len() > 1 { script.pop_front() } else { script.front().copied() })
        };
        match does.unwrap_or(Does::Succeed) {
            Does::Succeed => Ok(BranchAnswer::Succeeded),
            Does::Fail => Ok(BranchAnswer::Failed("no stock".to_owned())),
            Does::Wait => Ok(BranchAnswer::Ongoing),
            Does::Break => Err(Error::new(ErrorKind::Unavailable, "script.call", "connection refused")),
            Does::Panic => panic!("the script panics"),
            Does::Dawdle(millis) => {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                Ok(BranchAnswer::Succeeded)
            }
        }
    }

    fn check(&self, request: &BranchRequest<'_>) -> Result<()> {
        match request.url.starts_with("s:1/") {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::InvalidArgument, "script.check", "not a branch of the script")),
        }
    }
}

fn saga(step_count: usize) -> Saga {
    let step = |number: usize| Step::new(format!("s:1/a.A/Do{number}")).compensation(format!("s:1/a.A/Undo{number}"));
    (1..=step_count).fold(Saga::new(), |saga, number| saga.step(step(number)))
}

fn options(change: impl FnOnce(&mut SagaOptions)) -> SagaOptions {
    let mut options = SagaOptions::default();
    options.is_waited_for = true;
    change(&mut options);
    options
}

/// A config whose waiting does not end before the saga.
fn patient() -> EmbeddedCoordinatorConfig {
    let mut config = EmbeddedCoordinatorConfig::default();
    config.outcome_wait_max = Duration::from_secs(100_000);
    config
}

async fn started(
    database: &MemoryDatabase,
    caller: Arc<dyn BranchCaller>,
    config: EmbeddedCoordinatorConfig,
) -> EmbeddedCoordinator {
    let coordinator = EmbeddedCoordinator::builder(database.transactions(), database.saga_log(), caller);
    let coordinator = coordinator.config(config).build();
    coordinator.start(&Health::new()).await.unwrap();
    coordinator
}

/// Carries a saga out to its end.
async fn run(script: &Arc<Script>, saga: Saga) -> Outcome {
    let database = MemoryDatabase::new();
    let coordinator = started(&database, script.clone(), patient()).await;
    let outcome = coordinator.submit(saga).await.unwrap();
    coordinator.stop(Duration::from_secs(5)).await.unwrap();
    outcome
}

fn reason(outcome: Outcome) -> String {
    match outcome {
        Outcome::RolledBack { reason } => reason,
        other => panic!("it was not rolled back: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn steps_are_done_in_order_and_all_of_them() {
    let script = Script::new(&[]);
    let outcome = run(&script, saga(3).options(options(|_| {}))).await;
    assert_eq!(outcome, Outcome::Succeeded);
    assert_eq!(script.called(), ["a1", "a2", "a3"]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_undoes_in_reverse_the_refused_step_too() {
    let script = Script::new(&[("a2", &[Does::Fail])]);
    let outcome = run(&script, saga(3).options(options(|_| {}))).await;
    assert_eq!(reason(outcome), "s:1/a.A/Do2 refused: no stock");
    assert_eq!(script.called(), ["a1", "a2", "c2", "c1"]);
}

#[tokio::test(start_paused = true)]
async fn empty_urls_succeed_and_are_not_called() {
    let script = Script::new(&[("a3", &[Does::Fail])]);
    let first = Step::new("").compensation("s:1/a.A/Undo1");
    let saga = Saga::new().step(first).step(Step::new("s:1/a.A/Do2")).step(Step::new("s:1/a.A/Do3"));
    assert_eq!(reason(run(&script, saga.options(options(|_| {}))).await), "s:1/a.A/Do3 refused: no stock");
    assert_eq!(script.called(), ["a2", "a3", "c1"], "a compensation without an action is called");
    let script = Script::new(&[]);
    assert_eq!(run(&script, Saga::new().options(options(|_| {}))).await, Outcome::Succeeded);
    assert!(script.called().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_ongoing_is_asked_again_after_the_same_pause() {
    let script = Script::new(&[("a2", &[Does::Wait, Does::Wait, Does::Wait, Does::Succeed])]);
    assert_eq!(run(&script, saga(2).options(options(|_| {}))).await, Outcome::Succeeded);
    assert_eq!(script.seconds("a2"), [0.0, 10.0, 20.0, 30.0]);
    assert_eq!(script.seconds("a1"), [0.0], "what succeeded is not called again");
}

#[tokio::test(start_paused = true)]
async fn what_fails_otherwise_is_called_again_after_a_doubled_pause_up_to_a_limit() {
    let script = Script::new(&[("a1", &[[Does::Break; 8].as_slice(), &[Does::Succeed]].concat())]);
    assert_eq!(run(&script, saga(1).options(options(|_| {}))).await, Outcome::Succeeded);
    assert_eq!(script.seconds("a1"), [0.0, 10.0, 30.0, 70.0, 150.0, 310.0, 610.0, 910.0, 1210.0]);

    // A success begins anew.
    let script = Script::new(&[
        ("a1", &[Does::Break, Does::Break, Does::Succeed]),
        ("a2", &[Does::Panic, Does::Break, Does::Succeed]),
    ]);
    let quick = options(|options| options.retry_interval = Some(Duration::from_secs(1)));
    assert_eq!(run(&script, saga(2).options(quick)).await, Outcome::Succeeded);
    assert_eq!(script.seconds("a1"), [0.0, 1.0, 3.0]);
    assert_eq!(script.seconds("a2"), [3.0, 4.0, 6.0]);
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_when_its_time_is_over() {
    let script = Script::new(&[("a1", &[Does::Dawdle(60_000), Does::Succeed]), ("a2", &[Does::Dawdle(4_000)])]);
    let limits = options(|options| {
        options.request_timeout = Some(Duration::from_secs(5));
        options.headers.insert("x-region".to_owned(), "cn".to_owned());
    });
    let saga = Saga::with_gid("g-7")
        .step(Step::new("s:1/a.A/Do1").payload(&b"A-17"[..]))
        .step(Step::new("s:1/a.A/Do2"))
        .options(limits);
    assert_eq!(run(&script, saga).await, Outcome::Succeeded);
    assert_eq!(script.seconds("a1"), [0.0, 15.0]);
    let first = script.requests.lock().unwrap()[0].clone();
    for told in ["s:1/a.A/Do1", "g-7", "id: \"01\"", "Saga", "Action", "A-17", "\"x-region\": \"cn\"", "timeout: 5s"] {
        assert!(first.contains(told), "{told}: {first}");
    }
}

#[tokio::test(start_paused = true)]
async fn retries_have_a_count_and_no_pause() {
    let limited = || options(|options| options.retry_count_max = Some(3));
    let script =
        Script::new(&[("a1", &[Does::Wait, Does::Break, Does::Succeed]), ("a2", &[Does::Break, Does::Succeed])]);
    assert_eq!(run(&script, saga(2).options(limited())).await, Outcome::Succeeded);
    assert_eq!(script.called(), ["a1", "a1", "a1", "a2", "a2"]);

    let script = Script::new(&[("a1", &[Does::Wait, Does::Succeed]), ("a2", &[Does::Break])]);
    let reason = reason(run(&script, saga(2).options(limited())).await);
    assert!(reason.starts_with("s:1/a.A/Do2 after 3 retries: ") && reason.contains("connection refused"), "{reason}");
    assert_eq!(script.called(), ["a1", "a1", "a2", "a2", "a2", "c2", "c1"]);
    assert!(script.seconds("c1") == [0.0]);
}

#[tokio::test(start_paused = true)]
async fn a_saga_whose_time_is_up_is_rolled_back() {
    let script = Script::new(&[("a2", &[Does::Break])]);
    let timeout = options(|options| options.timeout_to_fail = Some(Duration::from_secs(35)));
    assert_eq!(reason(run(&script, saga(3).options(timeout)).await), "timeout after 35 s");
    assert_eq!(script.called(), ["a1", "a2", "a2", "a2", "c2", "c1"]);
    assert_eq!((script.seconds("a2"), script.seconds("c2")), (vec![0.0, 10.0, 30.0], vec![35.0]));
}

#[tokio::test(start_paused = true)]
async fn a_compensation_is_called_until_it_succeeds_and_those_before_it_wait() {
    let script = Script::new(&[
        ("a3", &[Does::Fail]),
        ("c2", &[Does::Break, Does::Fail, Does::Fail, Does::Wait, Does::Succeed]),
    ]);
    let quick = options(|options| {
        options.retry_interval = Some(Duration::from_secs(1));
        options.timeout_to_fail = Some(Duration::from_secs(1));
        options.retry_count_max = Some(1);
    });
    let outcome = run(&script, saga(3).options(quick)).await;
    assert_eq!(reason(outcome), "s:1/a.A/Do3 refused: no stock");
    assert_eq!(script.called(), ["a1", "a2", "a3", "c3", "c2", "c2", "c2", "c2", "c2", "c1"]);
    assert_eq!(script.seconds("c2"), [0.0, 1.0, 3.0, 7.0, 8.0]);
}

#[tokio::test(start_paused = true)]
async fn concurrent_steps_begin_together_but_for_their_orders() {
    let concurrent = |orders: &[(usize, &[usize])]| {
        let orders = orders.iter().map(|(step, after)| (*step, after.to_vec())).collect();
        options(|options| {
            options.is_concurrent = true;
            options.orders = orders;
        })
    };
    let slow = [("a1", [Does::Dawdle(1_000)].as_slice()), ("a2", &[Does::Dawdle(2_000)])];
    let script = Script::new(&slow);
    assert_eq!(run(&script, saga(3).options(concurrent(&[]))).await, Outcome::Succeeded);
    assert_eq!(["a1", "a2", "a3"].map(|call| script.seconds(call)), [[0.0], [0.0], [0.0]]);

    let script = Script::new(&slow);
    assert_eq!(run(&script, saga(3).options(concurrent(&[(2, &[0, 1])]))).await, Outcome::Succeeded);
    assert_eq!(["a1", "a2", "a3"].map(|call| script.seconds(call)), [[0.0], [0.0], [2.0]]);

    // The one that is on its way is waited for and undone, the one that had not begun is not.
    let script = Script::new(&[slow[1], ("a1", &[Does::Fail]), ("c3", &[Does::Dawdle(500)])]);
    let outcome = run(&script, saga(4).options(concurrent(&[(3, &[0])]))).await;
    assert_eq!(reason(outcome), "s:1/a.A/Do1 refused: no stock");
    assert_eq!(script.called(), ["a1", "a2", "a3", "c1", "c2", "c3"]);
    assert_eq!(script.seconds("c2"), [2.0]);

    // What came after is undone before.
    let script = Script::new(&[("a2", &[Does::Fail]), ("c2", &[Does::Dawdle(500)])]);
    reason(run(&script, saga(2).options(concurrent(&[(1, &[0])]))).await);
    assert_eq!(script.called(), ["a1", "a2", "c2", "c1"]);
    assert_eq!(script.seconds("c1"), [0.5]);

    // One that waits holds up only what waits for it.
    let script = Script::new(&[("a1", &[Does::Wait, Does::Succeed])]);
    assert_eq!(run(&script, saga(3).options(concurrent(&[(1, &[0])]))).await, Outcome::Succeeded);
    assert_eq!(script.called(), ["a1", "a3", "a1", "a2"]);
}

#[tokio::test(start_paused = true)]
async fn submitting_waits_at_most_so_long_and_the_same_gid_is_the_same_saga() {
    let database = MemoryDatabase::new();
    let script = Script::new(&[("a1", &[Does::Wait, Does::Succeed])]);
    let coordinator = started(&database, script.clone(), EmbeddedCoordinatorConfig::default()).await;
    let saga = saga(1).options(options(|_| {}));
    let began_at = Instant::now();
    assert_eq!(coordinator.submit(saga.clone()).await.unwrap(), Outcome::StillRunning);
    assert_eq!(began_at.elapsed().as_secs(), 8);
    assert_eq!(coordinator.submit(saga.clone()).await.unwrap(), Outcome::Succeeded);
    assert_eq!(began_at.elapsed().as_secs(), 10);
    assert_eq!(coordinator.submit(saga.clone()).await.unwrap(), Outcome::Succeeded);
    assert_eq!(coordinator.outcome(&saga.gid).await.unwrap(), Some(Outcome::Succeeded));
    assert_eq!(coordinator.outcome("unknown").await.unwrap(), None);
    assert_eq!(script.called(), ["a1", "a1"]);

    let unwaited = Saga::new().step(Step::new("s:1/a.A/Do1"));
    assert_eq!(coordinator.submit(unwaited).await.unwrap(), Outcome::StillRunning);
    let error = coordinator.submit(Saga::with_gid("")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn a_saga_begins_if_and_only_if_its_transaction_commits() {
    let database = MemoryDatabase::new();
    let script = Script::new(&[]);
    let coordinator = started(&database, script.clone(), EmbeddedCoordinatorConfig::default()).await;
    let (committed, undone) = (saga(1), saga(1));
    let transactions = database.transactions();
    let failed = transactions.run(async |tx| {
        coordinator.add(tx, &undone).await?;
        Err::<(), _>(Error::new(ErrorKind::FailedPrecondition, "test", "refused"))
    });
    failed.await.unwrap_err();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(script.called().is_empty());
    assert_eq!(coordinator.outcome(&undone.gid).await.unwrap(), None);

    database.transactions().run(async |tx| coordinator.add(tx, &committed).await).await.unwrap();
    let began_at = Instant::now();
    eventually(Duration::from_secs(5), "a committed saga ends", || async {
        coordinator.outcome(&committed.gid).await.unwrap() == Some(Outcome::Succeeded)
    })
    .await;
    assert!(began_at.elapsed() < Duration::from_millis(100), "it begins with the commit: {:?}", began_at.elapsed());
}

#[tokio::test(start_paused = true)]
async fn more_sagas_than_may_run_wait_in_the_log_and_none_is_lost() {
    let database = MemoryDatabase::new();
    let script = Script::new(&[("a1", &[Does::Dawdle(100)])]);
    let mut config = patient();
    config.running_count_max = 8;
    let coordinator = started(&database, script.clone(), config).await;
    let began_at = Instant::now();
    let submissions = (0..100).map(|_| coordinator.submit(saga(1).options(options(|_| {}))));
    for outcome in futures_util::future::join_all(submissions).await {
        assert_eq!(outcome.unwrap(), Outcome::Succeeded);
    }
    let calls = script.calls.lock().unwrap().clone();
    let busiest = calls.iter().map(|(at, _)| calls.iter().filter(|(other, _)| (*at..at + 100).contains(other)).count());
    assert_eq!(busiest.max(), Some(8), "so many run at the same time");
    assert!(began_at.elapsed() < Duration::from_millis(1_500), "none waits for a look: {:?}", began_at.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stopped_coordinator_gives_back_what_it_holds() {
    let database = MemoryDatabase::new();
    let script = Script::new(&[("a1", &[Does::Dawdle(2_000)])]);
    let first = started(&database, script.clone(), patient()).await;
    let saga = saga(2);
    first.submit(saga.clone()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    first.stop(Duration::from_secs(5)).await.unwrap();
    assert_eq!(script.called(), ["a1"], "the call is waited for, and the next one is not begun");

    let began_at = Instant::now();
    let second = started(&database, script.clone(), patient()).await;
    eventually(Duration::from_secs(5), "the next one goes on", || async {
        second.outcome(&saga.gid).await.unwrap() == Some(Outcome::Succeeded)
    })
    .await;
    assert!(began_at.elapsed() < Duration::from_secs(1), "at once");
    assert_eq!(script.called(), ["a1", "a2"], "what was done is not done again");
    assert_eq!(second.counts().await.unwrap(), SagaCounts::default());
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_coordinator_held_goes_on_when_its_lease_ends() {
    let database = MemoryDatabase::new();
    let script = Script::new(&[("a2", &[Does::Dawdle(2_500), Does::Fail])]);
    let dead = started(&database, script.clone(), patient()).await;
    let saga = saga(3);
    dead.submit(saga.clone()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(dead);

    let living = started(&database, script.clone(), patient()).await;
    eventually(Duration::from_secs(60), "the next one goes on", || async {
        matches!(living.outcome(&saga.gid).await.unwrap(), Some(Outcome::RolledBack { .. }))
    })
    .await;
    // The first of them may have come further than is known: every step is undone.
    assert_eq!(script.called(), ["a1", "a2", "a1", "a2", "c3", "c2", "c1"]);
    let again = script.seconds("a1")[1];
    assert!((14.0..18.0).contains(&again), "when the lease ended: {again}");
}

#[tokio::test(start_paused = true)]
async fn a_saga_that_turned_back_is_not_taken_forward_again() {
    let database = MemoryDatabase::new();
    let script = Script::new(&[("a2", &[Does::Fail, Does::Succeed]), ("c1", &[Does::Dawdle(2_500), Does::Succeed])]);
    let dead = started(&database, script.clone(), patient()).await;
    let saga = saga(2);
    dead.submit(saga.clone()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(script.called(), ["a1", "a2", "c2", "c1"], "it died when it was half undone");
    drop(dead);

    let living = started(&database, script.clone(), patient()).await;
    eventually(Duration::from_secs(60), "the next one goes on", || async {
        matches!(living.outcome(&saga.gid).await.unwrap(), Some(Outcome::RolledBack { .. }))
    })
    .await;
    assert_eq!(script.called()[4..], ["c2", "c1"], "no action is called any more");
}

/// What a dead coordinator called is written nowhere; who takes its saga and gives it back for a pause
/// must not forget that.
#[tokio::test(start_paused = true)]
async fn what_a_dead_coordinator_may_have_called_is_undone_though_others_paused_in_between() {
    let database = MemoryDatabase::new();
    let log = database.saga_log();
    let saga = Arc::new(saga(3));
    let held = SagaEntry::held(saga.clone(), SagaLease::new(Duration::from_secs(1)));
    database.transactions().run(async |tx| log.add(tx, &[held]).await).await.unwrap();
    // Its holder called all three, and died.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let script = Script::new(&[("a1", &[Does::Break, Does::Fail])]);
    let living = started(&database, script.clone(), patient()).await;
    eventually(Duration::from_secs(100), "the saga is rolled back", || async {
        matches!(living.outcome(&saga.gid).await.unwrap(), Some(Outcome::RolledBack { .. }))
    })
    .await;
    assert_eq!(script.called(), ["a1", "a1", "c3", "c2", "c1"]);
}

#[tokio::test(start_paused = true)]
async fn long_work_is_renewed_and_not_done_twice() {
    let database = MemoryDatabase::new();
    let script = Script::new(&[("a1", &[Does::Dawdle(100_000)])]);
    let coordinators =
        [started(&database, script.clone(), patient()).await, started(&database, script.clone(), patient()).await];
    let long = options(|options| options.request_timeout = Some(Duration::from_secs(200)));
    let outcome = coordinators[0].submit(saga(1).options(long)).await.unwrap();
    assert_eq!((outcome, script.called()), (Outcome::Succeeded, vec!["a1".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_frozen_coordinator_calls_nobody_after_its_lease() {
    let database = MemoryDatabase::new();
    let script = Script::new(&[("a1", &[Does::Dawdle(20_000)])]);
    let log = database.saga_log();
    // Its renewals do nothing, as those of a process that stands still.
    let frozen = Arc::new(BrokenSagaLog::new(log.clone(), SagaLogFault::TellsNoLoss));
    let frozen = Arc::new(Silent(frozen));
    let coordinator = EmbeddedCoordinator::builder(database.transactions(), frozen, script.clone()).build();
    coordinator.start(&Health::new()).await.unwrap();
    let long = options(|options| {
        options.request_timeout = Some(Duration::from_secs(200));
        options.is_waited_for = false;
    });
    let saga = saga(2).options(long);
    coordinator.submit(saga.clone()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(16)).await;
    let taken = log.take(SagaLease::new(Duration::from_secs(600)), 10).await.unwrap();
    assert_eq!(taken.len(), 1, "its lease has ended");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(script.called(), ["a1"], "no call is begun after the lease");
    assert_eq!(log.outcome(&saga.gid).await.unwrap(), Some(Outcome::StillRunning));
}

/// A log whose writes never come through.
struct Silent(Arc<dyn SagaLog>);

#[async_trait]
impl SagaLog for Silent {
    async fn add(&self, tx: &mut micro_core::Tx, entries: &[micro_core::saga::SagaEntry]) -> Result<()> {
        self.0.add(tx, entries).await
    }

    async fn take(&self, _lease: SagaLease, _limit: usize) -> Result<Vec<micro_core::saga::DueSaga>> {
        Ok(Vec::new())
    }

    async fn write(&self, _writes: &[micro_core::saga::SagaWrite]) -> Result<Vec<bool>> {
        Err(Error::new(ErrorKind::Unavailable, "saga.write", "the database is away"))
    }

    async fn outcome(&self, gid: &str) -> Result<Option<Outcome>> {
        self.0.outcome(gid).await
    }

    async fn counts(&self) -> Result<SagaCounts> {
        self.0.counts().await
    }

    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64> {
        self.0.purge(older_than, limit).await
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_undone_before_that_is_written_and_health_says_why_it_stands() {
    let database = MemoryDatabase::new();
    let script = Script::new(&[("a1", &[Does::Fail])]);
    let log = Arc::new(Silent(database.saga_log()));
    let coordinator = EmbeddedCoordinator::builder(database.transactions(), log, script.clone()).build();
    let health = Health::new();
    coordinator.start(&health).await.unwrap();
    coordinator.submit(saga(1)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(14)).await;
    assert_eq!(script.called(), ["a1"], "nothing is undone before the decision is written");
    assert!(!health.is_serving(), "a log that fails is told");
    coordinator.stop(Duration::from_secs(30)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_is_started_once_and_what_comes_after_its_stop_waits_in_the_log() {
    let database = MemoryDatabase::new();
    let script = Script::new(&[]);
    let coordinator = started(&database, script.clone(), patient()).await;
    let again = coordinator.start(&Health::new()).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::FailedPrecondition);
    coordinator.stop(Duration::from_secs(5)).await.unwrap();
    assert_eq!(coordinator.submit(saga(1)).await.unwrap(), Outcome::StillRunning);
    assert!(script.called().is_empty());
    assert_eq!(coordinator.counts().await.unwrap().due, 1);
}

#[tokio::test(start_paused = true)]
async fn finished_sagas_are_forgotten_after_their_retention() {
    let database = MemoryDatabase::new();
    let mut config = patient();
    config.retention = Duration::from_secs(600);
    let coordinator = started(&database, Script::new(&[]), config).await;
    let saga = saga(1).options(options(|_| {}));
    coordinator.submit(saga.clone()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(500)).await;
    assert!(coordinator.outcome(&saga.gid).await.unwrap().is_some());
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(coordinator.outcome(&saga.gid).await.unwrap(), None);
}

/// A relay from one database's log to the coordinator of another one, which is away at first.
struct Away {
    inner: EmbeddedCoordinator,
    failure_count: Mutex<u32>,
}

#[async_trait]
impl micro_core::saga::SagaCoordinator for Away {
    async fn submit(&self, saga: Saga) -> Result<Outcome> {
        let is_away = {
            let mut count = self.failure_count.lock().unwrap();
            *count = count.saturating_sub(1);
            *count > 0
        };
        if is_away {
            return Err(Error::new(ErrorKind::Unavailable, "saga.submit", "no coordinator at 127.0.0.1:36790"));
        }
        self.inner.submit(saga).await
    }

    async fn outcome(&self, gid: &str) -> Result<Option<Outcome>> {
        self.inner.outcome(gid).await
    }

    fn check(&self, saga: &Saga) -> Result<()> {
        self.inner.check(saga)
    }
}

#[tokio::test(start_paused = true)]
async fn a_relay_hands_over_what_was_committed_until_it_is_taken() {
    let logged = Logged::default();
    let _listening = logged.here(Level::WARN);
    let (ours, theirs) = (MemoryDatabase::new(), MemoryDatabase::new());
    let script = Script::new(&[]);
    let inner = started(&theirs, script.clone(), patient()).await;
    let server = Arc::new(Away { inner, failure_count: Mutex::new(5) });
    let relay = SagaRelay::builder(ours.saga_log(), server.clone()).build();
    relay.start(&Health::new()).await.unwrap();

    let saga = saga(2).options(options(|_| {}));
    let transactions = ours.transactions();
    let failed = transactions.run(async |tx| {
        relay.add(tx, &Saga::with_gid("undone")).await?;
        Err::<(), _>(Error::new(ErrorKind::FailedPrecondition, "test", "refused"))
    });
    failed.await.unwrap_err();
    ours.transactions().run(async |tx| relay.add(tx, &saga).await).await.unwrap();
    let began_at = Instant::now();
    eventually(Duration::from_secs(60), "it is handed over", || async {
        ours.saga_log().outcome(&saga.gid).await.unwrap().is_none()
    })
    .await;
    let waited = began_at.elapsed().as_secs_f64();
    assert!((7.4..8.5).contains(&waited), "after 0.5 + 1 + 2 + 4 s: {waited}");
    let told: Vec<_> = logged.lines().into_iter().filter(|line| line.contains("did not take the saga")).collect();
    assert_eq!(told.len(), 3, "{told:#?}");
    for (line, count) in told.iter().zip([1, 2, 4]) {
        for part in [&format!("gid=\"{}\"", saga.gid), &format!("count={count} "), "no coordinator at 127.0.0.1:36790"]
        {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
    assert_eq!(server.submit(saga).await.unwrap(), Outcome::Succeeded);
    assert_eq!(script.called(), ["a1", "a2"], "it is carried out once");
    assert_eq!(server.outcome("undone").await.unwrap(), None);
    relay.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_relay_hands_over_no_saga_that_has_turned_back() {
    let (ours, theirs) = (MemoryDatabase::new(), MemoryDatabase::new());
    let script = Script::new(&[("a1", &[Does::Fail, Does::Succeed]), ("c1", &[Does::Break, Does::Succeed])]);
    let embedded = started(&ours, script.clone(), patient()).await;
    let saga = saga(1);
    embedded.submit(saga.clone()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    embedded.stop(Duration::from_secs(5)).await.unwrap();

    let server = started(&theirs, script.clone(), patient()).await;
    let relay = SagaRelay::builder(ours.saga_log(), Arc::new(server.clone())).build();
    relay.start(&Health::new()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(server.outcome(&saga.gid).await.unwrap(), None);
    assert_eq!(ours.saga_log().outcome(&saga.gid).await.unwrap(), Some(Outcome::StillRunning));
}

/// A coordinator whose store keeps no more than three steps, which it knows of two limits before it asks.
struct Narrow;

#[async_trait]
impl micro_core::saga::SagaCoordinator for Narrow {
    async fn submit(&self, saga: Saga) -> Result<Outcome> {
        assert!(!saga.options.is_waited_for, "nobody waits for what a relay hands over");
        match saga.steps.len() {
            0 => Err(Error::new(ErrorKind::PermissionDenied, "saga.submit", "the wrong user")),
            1..=3 => Ok(Outcome::StillRunning),
            count => Err(Error::new(ErrorKind::InvalidArgument, "saga.submit", "too long for a column")
                .with_context("step_count", count)),
        }
    }

    async fn outcome(&self, _gid: &str) -> Result<Option<Outcome>> {
        Ok(None)
    }

    fn check(&self, saga: &Saga) -> Result<()> {
        assert!(!saga.options.is_waited_for, "it is checked as it is handed over");
        let is_long = saga.steps.len() > 10;
        let refused =
            || Error::new(ErrorKind::InvalidArgument, "saga.check", "too many").with_context("step_count_max", 10);
        if is_long { Err(refused()) } else { Ok(()) }
    }
}

#[tokio::test(start_paused = true)]
async fn a_relay_refuses_before_the_commit_what_its_coordinator_would_refuse() {
    let database = MemoryDatabase::new();
    let relay = SagaRelay::builder(database.saga_log(), Arc::new(Narrow)).build();
    let long = saga(11).options(options(|_| {}));
    let error = database.transactions().run(async |tx| relay.add(tx, &long).await).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("step_count_max=10"), "{error}");
    assert_eq!(relay.counts().await.unwrap(), SagaCounts::default());
}

#[tokio::test(start_paused = true)]
async fn what_a_coordinator_refuses_for_good_is_parked_with_the_reason_and_holds_up_nothing() {
    let database = MemoryDatabase::new();
    let relay = SagaRelay::builder(database.saga_log(), Arc::new(Narrow)).build();
    relay.start(&Health::new()).await.unwrap();
    let [refused, denied, taken] = [saga(5), saga(0), saga(2)].map(|saga| saga.options(options(|_| {})));
    let all = [&refused, &denied, &taken];
    let transactions = database.transactions();
    let added = transactions.run(async |tx| {
        for saga in all {
            relay.add(tx, saga).await?;
        }
        Ok::<_, Error>(())
    });
    added.await.unwrap();
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    // A wrong user is no fault of the saga: it goes on waiting.
    assert_eq!(relay.counts().await.unwrap(), SagaCounts { unfinished: 2, parked: 1, due: 0 });
    let log = database.saga_log();
    assert_eq!(log.outcome(&taken.gid).await.unwrap(), None, "the others are handed over");
    let parked = log.parked();
    assert_eq!((parked.len(), &parked[0].0), (1, &refused.gid));
    assert!(parked[0].1.contains("too long for a column (step_count=5)"), "{parked:?}");
    assert_eq!(log.release(), 1);
    assert_eq!(relay.counts().await.unwrap().parked, 0);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(relay.counts().await.unwrap().parked, 1, "it is handed over again, and parked again");
    relay.stop(Duration::from_secs(5)).await.unwrap();
}

/// A log that has leased what it takes a while before it says so, the first times.
struct SlowToTake(Arc<dyn SagaLog>, Mutex<VecDeque<Duration>>);

#[async_trait]
impl SagaLog for SlowToTake {
    async fn add(&self, tx: &mut micro_core::Tx, entries: &[SagaEntry]) -> Result<()> {
        self.0.add(tx, entries).await
    }

    async fn take(&self, lease: SagaLease, limit: usize) -> Result<Vec<micro_core::saga::DueSaga>> {
        let due = self.0.take(lease, limit).await?;
        let pause = (!due.is_empty()).then(|| self.1.lock().unwrap().pop_front()).flatten();
        tokio::time::sleep(pause.unwrap_or_default()).await;
        Ok(due)
    }

    async fn write(&self, writes: &[micro_core::saga::SagaWrite]) -> Result<Vec<bool>> {
        self.0.write(writes).await
    }

    async fn outcome(&self, gid: &str) -> Result<Option<Outcome>> {
        self.0.outcome(gid).await
    }

    async fn counts(&self) -> Result<SagaCounts> {
        self.0.counts().await
    }

    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64> {
        self.0.purge(older_than, limit).await
    }
}

async fn with_twenty_due(
    pauses: &[Duration],
    config: EmbeddedCoordinatorConfig,
    script: &Arc<Script>,
) -> (MemoryDatabase, EmbeddedCoordinator) {
    let database = MemoryDatabase::new();
    let log = database.saga_log();
    let entries: Vec<_> = (0..20).map(|_| SagaEntry::new(Arc::new(saga(1)))).collect();
    database.transactions().run(async |tx| log.add(tx, &entries).await).await.unwrap();
    let slow = Arc::new(SlowToTake(log, Mutex::new(pauses.iter().copied().collect())));
    let coordinator = EmbeddedCoordinator::builder(database.transactions(), slow, script.clone());
    let coordinator = coordinator.config(config).build();
    coordinator.start(&Health::new()).await.unwrap();
    (database, coordinator)
}

#[tokio::test(start_paused = true)]
async fn a_stop_while_sagas_are_taken_gives_them_back() {
    let script = Script::new(&[]);
    let (database, coordinator) = with_twenty_due(&[Duration::from_secs(2)], patient(), &script).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let log = database.saga_log();
    assert_eq!(log.counts().await.unwrap().due, 0, "they are leased");
    coordinator.stop(Duration::from_secs(10)).await.unwrap();
    assert!(script.called().is_empty());
    let due = log.take(SagaLease::new(Duration::from_secs(60)), 100).await.unwrap();
    assert_eq!(due.len(), 20, "they are due at once, and not when their lease ends");
    assert!(due.iter().all(|due| !due.was_abandoned));
}

#[tokio::test(start_paused = true)]
async fn sagas_that_are_taken_too_slowly_are_worked_on_all_the_same() {
    let script = Script::new(&[]);
    let (_database, coordinator) = with_twenty_due(&[Duration::from_secs(7)], patient(), &script).await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(script.seconds("a1"), [7.0; 20], "not when the lease of 15 s ends");
    coordinator.stop(Duration::from_secs(5)).await.unwrap();
}

/// What a look leased that is given up is found again when those leases end.
#[tokio::test(start_paused = true)]
async fn a_look_that_does_not_end_is_given_up_after_its_leases_or_four_times_its_limit() {
    let never = Duration::from_secs(1_000_000);
    for (lease, given_up_at) in [(15.0, 15.0), (60.0, 20.0)] {
        let mut config = patient();
        config.lease = Duration::from_secs_f64(lease);
        let (script, logged) = (Script::new(&[]), Logged::default());
        let listening = logged.here(Level::WARN);
        let (_database, coordinator) = with_twenty_due(&[never], config, &script).await;
        // Added meanwhile, in a transaction, and looked for.
        tokio::time::sleep(Duration::from_secs_f64(given_up_at - 0.5)).await;
        assert!(script.called().is_empty());
        tokio::time::sleep(Duration::from_secs_f64(lease + 5.0 - given_up_at)).await;
        let began_at = script.seconds("a1");
        assert_eq!(began_at.len(), 20, "{lease}: {began_at:?}");
        assert!(began_at.iter().all(|at| (lease..lease + 2.1).contains(at)), "{lease}: {began_at:?}");
        coordinator.stop(Duration::from_secs(5)).await.unwrap();
        drop(listening);
        assert!(logged.text().contains("saga.take"), "{}", logged.text());
    }
}

/// Somebody who reads the log finds the saga, what it waits for and how long it has.
#[tokio::test(start_paused = true)]
async fn a_saga_that_does_not_get_on_is_told_at_the_powers_of_two_with_its_gid_and_why() {
    let logged = Logged::default();
    let _listening = logged.here(Level::WARN);
    let script = Script::new(&[("a1", &[Does::Break])]);
    let database = MemoryDatabase::new();
    let coordinator = started(&database, script.clone(), patient()).await;
    let (stuck, waiting) = (saga(1), saga(2));
    coordinator.submit(stuck.clone()).await.unwrap();
    eventually(Duration::from_secs(3_600), "nine calls", || async { script.called().len() == 9 }).await;
    coordinator.stop(Duration::from_secs(5)).await.unwrap();
    let told: Vec<_> = logged.lines().into_iter().filter(|line| line.contains("does not get on")).collect();
    assert_eq!(told.len(), 4, "{told:#?}");
    for (line, count) in told.iter().zip([1, 2, 4, 8]) {
        for part in [&format!("gid=\"{}\"", stuck.gid), &format!("count={count} "), "s:1/a.A/Do1", "connection refused"]
        {
            assert!(line.contains(part), "{part}: {line}");
        }
    }

    // What is only ongoing gets on: nothing is said of it.
    let script = Script::new(&[("a1", &[Does::Wait])]);
    let coordinator = started(&MemoryDatabase::new(), script.clone(), patient()).await;
    coordinator.submit(waiting.clone()).await.unwrap();
    eventually(Duration::from_secs(3_600), "nine calls", || async { script.called().len() == 9 }).await;
    coordinator.stop(Duration::from_secs(5)).await.unwrap();
    assert!(!logged.text().contains(&waiting.gid), "{}", logged.text());
}
