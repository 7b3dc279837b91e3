//! Runs an application: start in order, announce, wait, withdraw, drain, flush, close.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use tokio::time::{Instant, timeout_at};

use super::Component;
use crate::{
    Error, ErrorKind, Health, HealthStatus, Result,
    registry::{RegisterOptions, Registration, Registry},
};

/// How long each phase of the stop may take.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct AppConfig {
    /// The wait between withdrawing the instances and draining, so that callers notice; default
    /// 3 s. Skipped when nothing was announced.
    pub withdraw_wait: Duration,
    /// For all components together to finish what is in hand; default 20 s.
    pub drain_timeout: Duration,
    /// For all components together to hand on what they hold; default 5 s.
    pub flush_timeout: Duration,
    /// For all components together to end; default 2 s.
    pub close_timeout: Duration,
}

impl Default for AppConfig {
    fn default() -> Self {
        Self {
            withdraw_wait: Duration::from_secs(3),
            drain_timeout: Duration::from_secs(20),
            flush_timeout: Duration::from_secs(5),
            close_timeout: Duration::from_secs(2),
        }
    }
}

/// What a process runs, before it runs. No global state: two of them live in one process.
///
/// # Examples
///
/// ```
/// use micro_core::app::App;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let running = App::builder("greeter").build().start().await?;
/// assert!(running.health().is_serving());
/// running.stop().await
/// # }).unwrap();
/// ```
pub struct App {
    name: Arc<str>,
    config: AppConfig,
    components: Vec<Arc<dyn Component>>,
    registry: Option<(Arc<dyn Registry>, RegisterOptions)>,
    health: Health,
}

/// Collects what an [`App`] runs.
#[must_use]
pub struct AppBuilder {
    app: App,
}

impl AppBuilder {
    /// Adds a component. Order matters: what others need comes first, servers come last.
    pub fn component(self, component: impl Component) -> Self {
        self.shared_component(Arc::new(component))
    }

    /// Adds a component that somebody else holds too.
    pub fn shared_component(mut self, component: Arc<dyn Component>) -> Self {
        self.app.components.push(component);
        self
    }

    /// Announces the components' instances here.
    pub fn registry(mut self, registry: Arc<dyn Registry>, options: RegisterOptions) -> Self {
        self.app.registry = Some((registry, options));
        self
    }

    /// Sets the time limits.
    pub fn config(mut self, config: AppConfig) -> Self {
        self.app.config = config;
        self
    }

    /// Uses a health that somebody else reads too.
    pub fn health(mut self, health: Health) -> Self {
        self.app.health = health;
        self
    }

    /// The application.
    pub fn build(self) -> App {
        self.app
    }
}

impl App {
    /// An application of this name, with no components yet.
    pub fn builder(name: impl Into<Arc<str>>) -> AppBuilder {
        AppBuilder {
            app: Self {
                name: name.into(),
                config: AppConfig::default(),
                components: Vec::new(),
                registry: None,
                health: Health::new(),
            },
        }
    }

    /// Starts the components in order, then announces their instances.
    ///
    /// # Errors
    ///
    /// The first component's that did not start, or the registry's, with the component's name;
    /// what had started is stopped again.
    pub async fn start(self) -> Result<RunningApp> {
        self.start_unless(std::future::pending()).await.map(|started| started.expect("nothing else can end it"))
    }

    /// Starts; `None` when `shutdown` came first, and what had started is stopped again.
    async fn start_unless(self, shutdown: impl Future<Output = ()>) -> Result<Option<RunningApp>> {
        self.health.set(&self.name, HealthStatus::NotServing("starting".to_owned()));
        let mut running = RunningApp { registrations: Vec::new(), started: 0, app: self };
        let brought_up = tokio::select! {
            brought_up = running.bring_up() => brought_up,
            () = shutdown => return running.stop().await.map(|()| None),
        };
        match brought_up {
            Ok(()) => {
                running.app.health.set(&running.app.name, HealthStatus::Serving);
                tracing::info!(app = %running.app.name, components = running.started, "started");
                Ok(Some(running))
            }
            Err(error) => {
                if let Err(stop) = running.stop().await {
                    tracing::warn!(error = %stop.report(), "stopping after a failed start");
                }
                Err(error)
            }
        }
    }

    /// Starts, waits for `shutdown` and stops. No signal is listened to unless `shutdown` does. A
    /// shutdown ends a start that takes long, too.
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let mut shutdown = std::pin::pin!(shutdown);
        let Some(running) = self.start_unless(shutdown.as_mut()).await? else { return Ok(()) };
        shutdown.await;
        running.stop().await
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let components: Vec<&str> = self.components.iter().map(|component| component.name()).collect();
        f.debug_struct("App").field("name", &self.name).field("components", &components).finish_non_exhaustive()
    }
}

/// An application whose components run. Call [`stop`](Self::stop): dropping it withdraws the
/// instances but drains nothing.
#[derive(Debug)]
#[must_use = "dropping it stops nothing in order; call stop"]
pub struct RunningApp {
    app: App,
    started: usize,
    registrations: Vec<Registration>,
}

impl RunningApp {
    /// What the parts say of themselves.
    pub fn health(&self) -> &Health {
        &self.app.health
    }

    /// Withdraws the instances, waits for callers to notice, then drains, flushes and closes the
    /// components in reverse order, each phase within its limit of [`AppConfig`].
    ///
    /// # Errors
    ///
    /// The first error of any phase; the later phases run all the same.
    pub async fn stop(mut self) -> Result<()> {
        let config = self.app.config.clone();
        self.app.health.set(&self.app.name, HealthStatus::NotServing("stopping".to_owned()));
        let mut outcome = Ok(());
        let was_announced = !self.registrations.is_empty();
        let deadline = Instant::now() + config.flush_timeout;
        for registration in std::mem::take(&mut self.registrations) {
            let id = registration.instance().id.clone();
            keep_first(&mut outcome, bounded(deadline, "app.withdraw", &id, registration.close()).await);
        }
        if was_announced {
            tokio::time::sleep(config.withdraw_wait).await;
        }
        let components: Vec<_> = self.app.components[..self.started].iter().rev().cloned().collect();
        let deadline = Instant::now() + config.drain_timeout;
        for component in &components {
            let left = deadline.saturating_duration_since(Instant::now());
            let drained = bounded(deadline, "app.drain", component.name(), component.drain(left)).await;
            keep_first(&mut outcome, drained);
        }
        let deadline = Instant::now() + config.flush_timeout;
        for component in &components {
            let left = deadline.saturating_duration_since(Instant::now());
            let flushed = bounded(deadline, "app.flush", component.name(), component.flush(left)).await;
            keep_first(&mut outcome, flushed);
        }
        let deadline = Instant::now() + config.close_timeout;
        for component in &components {
            keep_first(&mut outcome, bounded(deadline, "app.close", component.name(), component.close()).await);
        }
        tracing::info!(app = %self.app.name, clean = outcome.is_ok(), "stopped");
        outcome
    }

    async fn bring_up(&mut self) -> Result<()> {
        for component in self.app.components.clone() {
            // Counted before it starts: one that failed half-way is closed too.
            self.started += 1;
            component.start(&self.app.health).await.map_err(|error| {
                Error::new(error.kind(), "app.start", "a component did not start")
                    .with_context("component", component.name())
                    .with_source(error)
            })?;
        }
        let Some((registry, options)) = self.app.registry.clone() else { return Ok(()) };
        for component in self.app.components.clone() {
            for instance in component.instances() {
                self.registrations.push(registry.register(instance, options.clone()).await?);
            }
        }
        Ok(())
    }
}

async fn bounded(
    deadline: Instant,
    phase: &'static str,
    name: &str,
    work: impl Future<Output = Result<()>>,
) -> Result<()> {
    match timeout_at(deadline, work).await {
        Ok(outcome) => outcome,
        Err(_) => {
            Err(Error::new(ErrorKind::DeadlineExceeded, phase, "did not end within its time, going on without it")
                .with_context("component", name))
        }
    }
}

fn keep_first(outcome: &mut Result<()>, next: Result<()>) {
    if let Err(error) = next {
        tracing::warn!(error = %error.report(), "stopping");
        if outcome.is_ok() {
            *outcome = Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;

    use super::*;
    use crate::registry::{Instance, InstanceWatch};

    type Log = Arc<Mutex<Vec<String>>>;

    struct Probe {
        name: &'static str,
        log: Log,
        fails_to_start: bool,
        hangs_in_drain: bool,
    }

    impl Probe {
        fn new(name: &'static str, log: &Log) -> Self {
            Self { name, log: log.clone(), fails_to_start: false, hangs_in_drain: false }
        }

        fn note(&self, what: &str) {
            self.log.lock().unwrap().push(format!("{what} {}", self.name));
        }
    }

    #[async_trait]
    impl Component for Probe {
        fn name(&self) -> &str {
            self.name
        }

        async fn start(&self, _: &Health) -> Result<()> {
            self.note("start");
            if self.fails_to_start {
                return Err(Error::new(ErrorKind::Unavailable, "probe.start", "no database"));
            }
            Ok(())
        }

        fn instances(&self) -> Vec<Instance> {
            vec![Instance::new(self.name, "127.0.0.1:1")]
        }

        async fn drain(&self, _: Duration) -> Result<()> {
            self.note("drain");
            if self.hangs_in_drain {
                std::future::pending::<()>().await;
            }
            Ok(())
        }

        async fn flush(&self, _: Duration) -> Result<()> {
            self.note("flush");
            Ok(())
        }

        async fn close(&self) -> Result<()> {
            self.note("close");
            Ok(())
        }
    }

    struct ProbeRegistry(Log);

    #[async_trait]
    impl Registry for ProbeRegistry {
        async fn register(&self, instance: Instance, _: RegisterOptions) -> Result<Registration> {
            let log = self.0.clone();
            let service = instance.service.clone();
            log.lock().unwrap().push(format!("announce {service}"));
            Ok(Registration::new(instance, move || async move {
                log.lock().unwrap().push(format!("withdraw {service}"));
                Ok(())
            }))
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
    async fn announces_last_withdraws_first_and_stops_in_reverse_order() {
        let log = Log::default();
        let app = App::builder("test")
            .component(Probe::new("store", &log))
            .component(Probe::new("server", &log))
            .registry(Arc::new(ProbeRegistry(log.clone())), RegisterOptions::default())
            .build();
        let running = app.start().await.unwrap();
        assert!(running.health().is_serving());
        running.stop().await.unwrap();
        let expected = "start store, start server, announce store, announce server, withdraw store, withdraw server, \
                        drain server, drain store, flush server, flush store, close server, close store";
        assert_eq!(log.lock().unwrap().join(", "), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_component_that_does_not_start_stops_the_others_and_is_named() {
        let log = Log::default();
        let app = App::builder("test")
            .component(Probe::new("store", &log))
            .component(Probe { fails_to_start: true, ..Probe::new("server", &log) })
            .component(Probe::new("never", &log))
            .build();
        let error = app.start().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.report().contains("component=server") && error.report().contains("no database"), "{error:?}");
        let log = log.lock().unwrap().join(", ");
        assert!(log.ends_with("close server, close store") && !log.contains("never"), "{log}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_shutdown_ends_a_start_that_hangs() {
        struct Hanging;

        #[async_trait]
        impl Component for Hanging {
            fn name(&self) -> &str {
                "hanging"
            }

            async fn start(&self, _: &Health) -> Result<()> {
                std::future::pending().await
            }

            fn instances(&self) -> Vec<Instance> {
                Vec::new()
            }

            async fn drain(&self, _: Duration) -> Result<()> {
                Ok(())
            }

            async fn flush(&self, _: Duration) -> Result<()> {
                Ok(())
            }

            async fn close(&self) -> Result<()> {
                Ok(())
            }
        }

        let log = Log::default();
        let app = App::builder("test").component(Probe::new("store", &log)).component(Hanging).build();
        let running = app.run_until(tokio::time::sleep(Duration::from_secs(1)));
        tokio::time::timeout(Duration::from_secs(60), running).await.expect("it ends").unwrap();
        assert_eq!(log.lock().unwrap().join(", "), "start store, drain store, flush store, close store");
    }

    #[tokio::test(start_paused = true)]
    async fn a_component_that_hangs_is_left_behind_at_its_deadline() {
        let log = Log::default();
        let app = App::builder("test")
            .component(Probe::new("store", &log))
            .component(Probe { hangs_in_drain: true, ..Probe::new("server", &log) })
            .build();
        let running = app.start().await.unwrap();
        let began = Instant::now();
        let error = running.stop().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
        assert!(began.elapsed() <= AppConfig::default().drain_timeout + Duration::from_secs(1));
        assert!(log.lock().unwrap().join(", ").ends_with("close server, close store"));
    }
}
