//! Every order of success, failure, timeout, duplicate, empty compensation and hanging of a saga of four
//! steps, on the embedded coordinator.

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
use micro_testkit::saga::model::{SagaCase, SagaWorld, ends_as_the_model_says};

const PATIENCE: Duration = Duration::from_secs(3_600);

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
}

struct Stage {
    world: Arc<SagaWorld>,
    log: MemoryDatabase,
    cases: Vec<(String, SagaCase)>,
}

impl Stage {
    fn new(is_concurrent: bool) -> Self {
        let participants = MemoryDatabase::with_acquire_timeout(PATIENCE);
        let barrier = participants.barrier();
        let world = Arc::new(SagaWorld::new(participants, barrier));
        let cases: Vec<_> = SagaCase::all(is_concurrent).into_iter().enumerate().collect();
        let cases: Vec<_> = cases.into_iter().map(|(number, case)| (format!("case-{number:04}"), case)).collect();
        assert_eq!(cases.len(), 1_296);
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

async fn every_order_ends_as_the_model_says(is_concurrent: bool) {
    let stage = Stage::new(is_concurrent);
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
    every_order_ends_as_the_model_says(false).await;
}

#[tokio::test(start_paused = true)]
async fn every_order_ends_as_the_model_says_all_steps_together() {
    every_order_ends_as_the_model_says(true).await;
}

/// The coordinator dies again and again, wherever it stands: another one comes to the same end.
#[tokio::test(start_paused = true)]
async fn every_order_ends_as_the_model_says_though_coordinators_die() {
    for is_concurrent in [false, true] {
        let stage = Stage::new(is_concurrent);
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
