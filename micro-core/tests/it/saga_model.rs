//! Every order of success, failure, timeout, duplicate, an answer "ongoing", empty compensation and hanging
//! of a saga of four steps, on the embedded coordinator: where actions are called again at once, up to a
//! limit, and where they are called again after pauses, up to a time.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::join_all;
use micro_core::{
    Health, Result,
    app::{Component as _, ComponentExt as _},
    branch::BranchAnswer,
    saga::{BranchCaller, BranchRequest, EmbeddedCoordinator, EmbeddedCoordinatorConfig, Saga, SagaCoordinator as _},
    transaction::MemoryDatabase,
};
use micro_testkit::saga::model::{Fate, SagaCase, SagaWorld, ends_as_the_model_says};

const PATIENCE: Duration = Duration::from_secs(36_000);

/// Longer than whatever comes to a success takes, with its pauses and the deaths of coordinators.
const TIMEOUT_TO_FAIL: Duration = Duration::from_secs(1_800);

/// The world, but each call takes a little time, during which a coordinator may die.
struct Slow(Arc<SagaWorld>);

#[async_trait]
impl BranchCaller for Slow {
    async fn call(&self, request: BranchRequest<'_>) -> Result<BranchAnswer> {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..40))).await;
        let answer = self.0.call(request).await;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..40))).await;
        answer
    }

    fn check(&self, request: &BranchRequest<'_>) -> Result<()> {
        self.0.check(request)
    }
}

struct Stage {
    world: Arc<SagaWorld>,
    log: MemoryDatabase,
    cases: Vec<(String, SagaCase)>,
}

impl Stage {
    fn new(cases: Vec<SagaCase>) -> Self {
        let participants = MemoryDatabase::with_acquire_timeout(PATIENCE);
        let barrier = participants.barrier();
        let world = Arc::new(SagaWorld::new(participants, barrier));
        let cases = cases.into_iter().enumerate();
        let cases: Vec<_> = cases.map(|(number, case)| (format!("case-{number:04}"), case)).collect();
        cases.iter().for_each(|(gid, case)| world.play(gid, *case));
        Self { world, log: MemoryDatabase::new(), cases }
    }

    async fn coordinator(&self, caller: Arc<dyn BranchCaller>) -> EmbeddedCoordinator {
        let mut config = EmbeddedCoordinatorConfig::default();
        config.lease = Duration::from_secs(1);
        let builder = EmbeddedCoordinator::builder(self.log.transactions(), self.log.saga_log(), caller);
        let coordinator = builder.config(config).build();
        coordinator.start(&Health::new()).await.unwrap();
        coordinator
    }

    async fn submit_all(&self, coordinator: &EmbeddedCoordinator) {
        let submit = |(gid, case): &(String, SagaCase)| coordinator.submit(saga(gid, case));
        for submitted in join_all(self.cases.iter().map(submit)).await {
            submitted.unwrap();
        }
    }

    async fn ends(&self, coordinator: &EmbeddedCoordinator) {
        for (gid, case) in &self.cases {
            ends_as_the_model_says(coordinator, &self.world, (gid, *case), PATIENCE).await;
        }
    }
}

fn saga(gid: &str, case: &SagaCase) -> Saga {
    case.saga(gid, |step, op| format!("world:1/w.World/{op}{step}"))
}

async fn every_order_ends_as_the_model_says(is_concurrent: bool, timeout_to_fail: Option<Duration>) {
    let stage = Stage::new(SagaCase::of(&Fate::PROMPT, is_concurrent, timeout_to_fail));
    assert_eq!(stage.cases.len(), 2_401);
    let coordinator = stage.coordinator(stage.world.clone()).await;
    stage.submit_all(&coordinator).await;
    stage.ends(&coordinator).await;
    for (gid, case) in &stage.cases {
        assert_eq!(stage.world.called(gid), case.end().called, "{case:?} calls these actions");
    }
    coordinator.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn every_order_ends_as_the_model_says_step_by_step() {
    every_order_ends_as_the_model_says(false, None).await;
}

#[tokio::test(start_paused = true)]
async fn every_order_ends_as_the_model_says_with_pauses_up_to_a_time() {
    for is_concurrent in [false, true] {
        every_order_ends_as_the_model_says(is_concurrent, Some(TIMEOUT_TO_FAIL)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn every_order_ends_as_the_model_says_all_steps_together() {
    every_order_ends_as_the_model_says(true, None).await;
}

/// An action that still runs while its coordinator gives it up, calls it again or undoes it.
#[tokio::test(start_paused = true)]
async fn every_order_ends_as_the_model_says_though_actions_outlast_their_calls() {
    for (is_concurrent, timeout_to_fail) in [(false, None), (true, None), (false, Some(TIMEOUT_TO_FAIL))] {
        let stage = Stage::new(SagaCase::of(&Fate::LASTING, is_concurrent, timeout_to_fail));
        assert_eq!(stage.cases.len(), 256);
        let coordinator = stage.coordinator(stage.world.clone()).await;
        stage.submit_all(&coordinator).await;
        stage.ends(&coordinator).await;
        // What outlasted its call is done by now, and changed nothing more.
        tokio::time::sleep(Duration::from_secs(2)).await;
        stage.ends(&coordinator).await;
        coordinator.stop(Duration::from_secs(5)).await.unwrap();
    }
}

/// The coordinator dies again and again, wherever it stands: another one comes to the same end.
#[tokio::test(start_paused = true)]
async fn every_order_ends_as_the_model_says_though_coordinators_die() {
    // Where it pauses, those that differ then.
    const PAUSING: [Fate; 4] = [Fate::Succeeds, Fate::TimesOut, Fate::OngoingOnce, Fate::NeverArrives];
    for (is_concurrent, known, timeout_to_fail) in [
        (false, &Fate::PROMPT[..], None),
        (true, &Fate::PROMPT[..], None),
        (false, &PAUSING[..], Some(TIMEOUT_TO_FAIL)),
        (true, &PAUSING[..], Some(TIMEOUT_TO_FAIL)),
    ] {
        let stage = Stage::new(SagaCase::of(known, is_concurrent, timeout_to_fail));
        let slow = Arc::new(Slow(stage.world.clone()));
        let mut coordinator = stage.coordinator(slow.clone()).await;
        stage.submit_all(&coordinator).await;
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(10..700))).await;
            drop(coordinator);
            coordinator = stage.coordinator(slow.clone()).await;
        }
        stage.ends(&coordinator).await;
        coordinator.stop(Duration::from_secs(5)).await.unwrap();
    }
}
