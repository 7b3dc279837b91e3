//! The start and the stop of an application whose parts hang, fail or panic.

use std::{
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use micro_core::{
    Error, ErrorKind, Health, Result,
    app::{App, AppConfig, Component},
    registry::{Instance, InstanceWatch, RegisterOptions, Registration, Registry},
};
use tokio::time::{Instant, sleep};

type Log = Arc<Mutex<Vec<String>>>;

/// How a part behaves.
#[derive(Clone, Copy, PartialEq)]
enum Act {
    Work(Duration),
    Hang,
    Panic,
}

impl Act {
    async fn run(self) -> Result<()> {
        match self {
            Self::Work(duration) => sleep(duration).await,
            Self::Hang => pending().await,
            Self::Panic => panic!("a part has a fault"),
        }
        Ok(())
    }
}

const AT_ONCE: Act = Act::Work(Duration::ZERO);

struct Part {
    name: &'static str,
    log: Log,
    start: Act,
    drain: Act,
    close: Act,
}

impl Part {
    fn new(name: &'static str, log: &Log) -> Self {
        Self { name, log: log.clone(), start: AT_ONCE, drain: AT_ONCE, close: AT_ONCE }
    }

    fn note(&self, what: &str) {
        self.log.lock().unwrap().push(format!("{what} {}", self.name));
    }
}

#[async_trait]
impl Component for Part {
    fn name(&self) -> &str {
        self.name
    }

    async fn start(&self, _: &Health) -> Result<()> {
        self.start.run().await?;
        self.note("started");
        Ok(())
    }

    fn instances(&self) -> Vec<Instance> {
        vec![Instance::new(self.name, "127.0.0.1:9000").with_id(format!("{}-1", self.name))]
    }

    async fn drain(&self, _: Duration) -> Result<()> {
        self.drain.run().await?;
        self.note("drained");
        Ok(())
    }

    async fn flush(&self, _: Duration) -> Result<()> {
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.close.run().await?;
        self.note("closed");
        Ok(())
    }
}

/// A registry that is away: it refuses, or does not answer.
struct Away {
    hangs: bool,
}

#[async_trait]
impl Registry for Away {
    async fn register(&self, _: Instance, _: RegisterOptions) -> Result<Registration> {
        if self.hangs {
            return pending().await;
        }
        Err(Error::new(ErrorKind::Unavailable, "registry.register", "no agent answers"))
    }

    async fn deregister(&self, _: &str, _: &str) -> Result<()> {
        Ok(())
    }

    async fn instances(&self, _: &str) -> Result<Vec<Instance>> {
        Ok(Vec::new())
    }

    async fn services(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn watch(&self, _: &str) -> Result<InstanceWatch> {
        Ok(InstanceWatch::channel().1)
    }
}

#[tokio::test(start_paused = true)]
async fn a_component_that_hangs_at_the_start_is_named_at_the_time_limit_and_the_others_are_stopped() {
    let log = Log::default();
    let app = App::builder("test")
        .component(Part::new("store", &log))
        .component(Part { start: Act::Hang, ..Part::new("server", &log) })
        .build();
    let began = Instant::now();
    let error = app.start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert!(error.to_string().contains("component=server"), "{error}");
    assert_eq!(began.elapsed().as_secs(), AppConfig::default().start_timeout.as_secs());
    assert!(log.lock().unwrap().join(", ").ends_with("closed server, closed store"));
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_away_at_the_start_is_one_line_with_instance_and_cause() {
    for (hangs, kind, cause) in [
        (false, ErrorKind::Unavailable, "no agent answers"),
        (true, ErrorKind::DeadlineExceeded, "did not end within its time (instance=server-1)"),
    ] {
        let log = Log::default();
        let app = App::builder("test")
            .component(Part::new("server", &log))
            .registry(Arc::new(Away { hangs }), RegisterOptions::default())
            .build();
        let began = Instant::now();
        let error = app.start().await.unwrap_err();
        let line = error.report();
        assert_eq!(error.kind(), kind, "{line}");
        assert!(line.contains("component=server, service=server") && line.contains(cause), "{line}");
        assert!(began.elapsed() <= AppConfig::default().start_timeout + Duration::from_secs(1));
        assert!(log.lock().unwrap().contains(&"closed server".to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_in_the_drain_leaves_the_others_their_share() {
    let log = Log::default();
    let slow = Act::Work(Duration::from_secs(3));
    let app = App::builder("test")
        .component(Part { drain: slow, ..Part::new("store", &log) })
        .component(Part { drain: slow, ..Part::new("relay", &log) })
        .component(Part { drain: Act::Hang, ..Part::new("server", &log) })
        .build();
    let running = app.start().await.unwrap();
    let began = Instant::now();
    let error = running.stop().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert!(error.to_string().contains("component=server"), "{error}");
    assert!(began.elapsed() <= AppConfig::default().drain_timeout, "{:?}", began.elapsed());
    let log = log.lock().unwrap().join(", ");
    assert!(log.contains("drained relay, drained store, closed server"), "{log}");
}

#[tokio::test(start_paused = true)]
async fn one_that_needs_long_may_take_what_the_others_leave() {
    let log = Log::default();
    let app = App::builder("test")
        .component(Part::new("store", &log))
        .component(Part { drain: Act::Work(Duration::from_secs(14)), ..Part::new("server", &log) })
        .build();
    app.start().await.unwrap().stop().await.unwrap();
    assert!(log.lock().unwrap().join(", ").contains("drained server, drained store"));
}

#[tokio::test(start_paused = true)]
async fn a_component_that_panics_is_an_error_with_its_text_and_the_stop_goes_on() {
    let log = Log::default();
    let app = App::builder("test")
        .component(Part::new("store", &log))
        .component(Part { drain: Act::Panic, close: Act::Panic, ..Part::new("server", &log) })
        .build();
    let error = app.start().await.unwrap().stop().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(error.to_string().contains("panicked: a part has a fault"), "{error}");
    assert!(log.lock().unwrap().join(", ").ends_with("drained store, closed store"));
}
