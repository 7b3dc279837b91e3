//! A probe of something that goes away and comes back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use micro_core::{
    Error, ErrorKind, Health, HealthStatus, Result,
    app::{Component as _, Ping, Probe},
};
use tokio::{sync::watch, time::Instant};

use crate::world::eventually;

#[derive(Clone, Copy, PartialEq)]
enum State {
    Answers,
    Refuses,
    Hangs,
    Panics,
}

#[derive(Clone)]
struct Database {
    state: watch::Sender<State>,
    ping_count: Arc<AtomicUsize>,
}

impl Database {
    fn new(state: State) -> Self {
        Self { state: watch::Sender::new(state), ping_count: Arc::default() }
    }
}

#[async_trait]
impl Ping for Database {
    async fn ping(&self) -> Result<()> {
        let count = self.ping_count.fetch_add(1, Ordering::SeqCst);
        let state = *self.state.borrow();
        match state {
            State::Answers => Ok(()),
            State::Refuses => {
                Err(Error::new(ErrorKind::Unavailable, "sql.ping", "no connection").with_context("count", count))
            }
            State::Hangs => std::future::pending().await,
            State::Panics => panic!("the driver has a fault"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_failures_make_it_not_serving_and_one_answer_serving_and_each_is_told_once() {
    for (state, reason) in [
        (State::Refuses, "sql.ping: no connection"),
        (State::Hangs, "probe.ask: no answer in time (timeout=1s)"),
        (State::Panics, "panicked: the driver has a fault"),
    ] {
        let database = Database::new(State::Answers);
        let probe = Probe::new("database", database.clone());
        let health = Health::new();
        probe.start(&health).await.unwrap();
        let mut changes = health.watch();
        assert!(health.is_serving());

        database.state.send_replace(state);
        let began = Instant::now();
        changes.changed().await.unwrap();
        let HealthStatus::NotServing(said) = changes.borrow_and_update()["database"].clone() else {
            panic!("it is not serving")
        };
        assert!(said.contains(reason), "{said}");
        // Two questions, a second apart, and a second for each answer.
        assert!(began.elapsed() <= Duration::from_secs(4), "{:?}", began.elapsed());
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!changes.has_changed().unwrap(), "it is told once");

        database.state.send_replace(State::Answers);
        let back = Instant::now();
        changes.changed().await.unwrap();
        assert_eq!(changes.borrow_and_update()["database"], HealthStatus::Serving);
        assert!(back.elapsed() <= Duration::from_secs(2), "{:?}", back.elapsed());
        probe.close().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn one_failure_between_answers_says_nothing() {
    let database = Database::new(State::Answers);
    let probe = Probe::new("database", database.clone());
    let health = Health::new();
    probe.start(&health).await.unwrap();
    let changes = health.watch();
    for _ in 0..10 {
        let asked = database.ping_count.load(Ordering::SeqCst);
        database.state.send_replace(State::Refuses);
        eventually("a question", || database.ping_count.load(Ordering::SeqCst) == asked + 1).await;
        database.state.send_replace(State::Answers);
        eventually("a question", || database.ping_count.load(Ordering::SeqCst) == asked + 2).await;
    }
    assert!(!changes.has_changed().unwrap());
    probe.close().await.unwrap();
    let asked = database.ping_count.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(database.ping_count.load(Ordering::SeqCst), asked, "a closed probe asks no more");
}

#[tokio::test(start_paused = true)]
async fn what_does_not_answer_at_the_start_fails_it() {
    let error = Probe::new("database", Database::new(State::Refuses)).start(&Health::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let error = Probe::new("database", Database::new(State::Hangs)).start(&Health::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
}
