//! Asks something that an application needs whether it answers, and says so in the health.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::Component;
use crate::{Error, ErrorKind, Health, HealthStatus, Result, consume::unwind::unwound, registry::Instance};

/// What can be asked whether it answers: a database, for instance.
#[async_trait]
pub trait Ping: Send + Sync + 'static {
    /// Asks; returns when it answered.
    ///
    /// # Cancel safety
    ///
    /// It is cancelled when it takes too long, and asked again later.
    async fn ping(&self) -> Result<()>;
}

/// How a [`Probe`] asks.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ProbeConfig {
    /// The time between two questions; default 1 s.
    pub interval: Duration,
    /// How long an answer may take; default 1 s.
    pub timeout: Duration,
    /// So many failures in a row make it not serving, one answer makes it serving; default 2.
    pub failure_count_max: u32,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1), timeout: Duration::from_secs(1), failure_count_max: 2 }
    }
}

/// Keeps asking a [`Ping`] while the application runs: not serving while it does not answer. Its
/// start fails when the first question does.
///
/// # Examples
///
/// ```
/// use async_trait::async_trait;
/// use micro_core::{Result, app::{App, Ping, Probe}};
///
/// struct Database;
///
/// #[async_trait]
/// impl Ping for Database {
///     async fn ping(&self) -> Result<()> {
///         Ok(())
///     }
/// }
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let app = App::builder("orders").component(Probe::new("database", Database)).build();
/// let running = app.start().await?;
/// assert!(running.health().parts().contains_key("database"));
/// running.stop().await
/// # }).unwrap();
/// ```
pub struct Probe {
    name: String,
    target: Arc<dyn Ping>,
    config: ProbeConfig,
    asking: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl Probe {
    /// A probe of this name in logs, health and errors.
    pub fn new(name: impl Into<String>, target: impl Ping) -> Self {
        Self { name: name.into(), target: Arc::new(target), config: ProbeConfig::default(), asking: Mutex::default() }
    }

    /// Sets how it asks.
    #[must_use]
    pub fn config(mut self, config: ProbeConfig) -> Self {
        self.config = config;
        self
    }
}

#[async_trait]
impl Component for Probe {
    fn name(&self) -> &str {
        &self.name
    }

    async fn start(&self, health: &Health) -> Result<()> {
        ask(&*self.target, self.config.timeout).await?;
        health.set(&self.name, HealthStatus::Serving);
        let asking = keep_asking(self.name.clone(), self.target.clone(), self.config.clone(), health.clone());
        let task = AbortOnDropHandle::new(tokio::spawn(asking));
        *self.asking.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        Ok(())
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
        drop(self.asking.lock().unwrap_or_else(PoisonError::into_inner).take());
        Ok(())
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").field("name", &self.name).field("config", &self.config).finish_non_exhaustive()
    }
}

async fn keep_asking(name: String, target: Arc<dyn Ping>, config: ProbeConfig, health: Health) {
    // An interval of nothing would panic.
    let mut turns = interval(config.interval.max(Duration::from_millis(1)));
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let failure_count_max = config.failure_count_max.max(1);
    let mut failure_count = 0_u32;
    loop {
        turns.tick().await;
        match ask(&*target, config.timeout).await {
            Ok(()) => {
                if failure_count >= failure_count_max {
                    tracing::info!(probe = name, failure_count, "it answers again");
                    health.set(&name, HealthStatus::Serving);
                }
                failure_count = 0;
            }
            Err(error) => {
                failure_count = failure_count.saturating_add(1);
                // Told once: the reasons of the later ones would only wake whoever watches.
                if failure_count == failure_count_max {
                    tracing::warn!(probe = name, failure_count, error = %error.report(), "it does not answer");
                    health.set(&name, HealthStatus::NotServing(error.to_string()));
                }
            }
        }
    }
}

async fn ask(target: &dyn Ping, limit: Duration) -> Result<()> {
    timeout(limit, unwound("probe.ask", target.ping())).await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::DeadlineExceeded, "probe.ask", "no answer in time")
            .with_context("timeout", format!("{limit:?}")))
    })
}
