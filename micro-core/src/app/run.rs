//! Runs an application: start in order, announce, wait, withdraw, drain, flush, close.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::{Instant, timeout_at};

use super::Component;
use crate::{
    Error, ErrorKind, Health, HealthStatus, Result,
    consume::unwind::unwound,
    registry::{RegisterOptions, Registration, Registry},
};

/// How long the start and each phase of the stop may take.
///
/// A component that hangs in a phase of the stop leaves time to those behind it: half of the phase
/// is theirs in equal shares, whatever those before them take.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct AppConfig {
    /// For all components together to start and be announced; default 30 s.
    pub start_timeout: Duration,
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
            start_timeout: Duration::from_secs(30),
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
    /// The first component's that did not start, or the registry's, with the component's or the
    /// instance's name; `DeadlineExceeded` with the name of what hangs at the end of
    /// [`start_timeout`](AppConfig::start_timeout). What had started is stopped again.
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
        let withdrawals = std::mem::take(&mut self.registrations).into_iter().map(|registration| {
            let id = registration.instance().id.clone();
            async move { bounded(deadline, "app.withdraw", "instance", &id, registration.close()).await }
        });
        for withdrawn in join_all(withdrawals).await {
            keep_first(&mut outcome, withdrawn);
        }
        if was_announced {
            tokio::time::sleep(config.withdraw_wait).await;
        }
        let components: Vec<_> = self.app.components[..self.started].iter().rev().cloned().collect();
        Phase::Drain.run(&components, config.drain_timeout, &mut outcome).await;
        Phase::Flush.run(&components, config.flush_timeout, &mut outcome).await;
        Phase::Close.run(&components, config.close_timeout, &mut outcome).await;
        tracing::info!(app = %self.app.name, clean = outcome.is_ok(), "stopped");
        outcome
    }

    async fn bring_up(&mut self) -> Result<()> {
        let deadline = Instant::now() + self.app.config.start_timeout;
        for component in self.app.components.clone() {
            // Counted before it starts: one that failed half-way is closed too.
            self.started += 1;
            let name = component.name();
            bounded(deadline, "app.start", "component", name, component.start(&self.app.health)).await.map_err(
                |error| {
                    Error::new(error.kind(), "app.start", "a component did not start")
                        .with_context("component", name)
                        .with_source(error)
                },
            )?;
        }
        let Some((registry, options)) = self.app.registry.clone() else { return Ok(()) };
        for component in self.app.components.clone() {
            for instance in component.instances() {
                let (service, id) = (instance.service.clone(), instance.id.clone());
                let announcement = registry.register(instance, options.clone());
                let registered = bounded(deadline, "app.announce", "instance", &id, announcement).await;
                self.registrations.push(registered.map_err(|error| {
                    Error::new(error.kind(), "app.start", "the registry did not take an instance")
                        .with_context("component", component.name())
                        .with_context("service", service)
                        .with_source(error)
                })?);
            }
        }
        Ok(())
    }
}

/// What the components do one after the other at the stop.
#[derive(Clone, Copy)]
enum Phase {
    Drain,
    Flush,
    Close,
}

impl Phase {
    /// Each component may take what is left, but for the shares of those behind it.
    async fn run(self, components: &[Arc<dyn Component>], limit: Duration, outcome: &mut Result<()>) {
        let end = Instant::now() + limit;
        let share = limit / 2 / u32::try_from(components.len()).unwrap_or(u32::MAX).max(1);
        for (component, behind) in components.iter().zip((0..components.len()).rev()) {
            let deadline = end - share * u32::try_from(behind).unwrap_or(u32::MAX);
            let left = deadline.saturating_duration_since(Instant::now());
            // A tenth less than it has: one that cuts its work at its limit says itself what it cut.
            let work = self.of(component, left.mul_f64(0.9));
            keep_first(outcome, bounded(deadline, self.operation(), "component", component.name(), work).await);
        }
    }

    async fn of(self, component: &Arc<dyn Component>, limit: Duration) -> Result<()> {
        match self {
            Self::Drain => component.drain(limit).await,
            Self::Flush => component.flush(limit).await,
            Self::Close => component.close().await,
        }
    }

    fn operation(self) -> &'static str {
        match self {
            Self::Drain => "app.drain",
            Self::Flush => "app.flush",
            Self::Close => "app.close",
        }
    }
}

/// Does `work` until `deadline`; a panic in it is an error.
async fn bounded<T>(
    deadline: Instant,
    operation: &'static str,
    kind: &'static str,
    name: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    timeout_at(deadline, unwound(operation, work)).await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::DeadlineExceeded, operation, "did not end within its time").with_context(kind, name))
    })
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
