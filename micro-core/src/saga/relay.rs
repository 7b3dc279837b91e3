//! Hands sagas from a log to another coordinator, once their transactions committed.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{
    Saga, SagaChange, SagaCoordinator, SagaCounts, SagaLog,
    worker::{Carrier, Held, Worker, WorkerConfig, sagas_component},
};
use crate::{Error, ErrorKind, Result, consume::trouble::backoff, millis};

/// The longest reason that is kept, in bytes.
const REASON_BYTES_MAX: usize = 2_048;

/// How a [`SagaRelay`] works. Durations are milliseconds when read from a file, `retry_interval_ms` and so
/// on, and have no limit but where one is named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SagaRelayConfig {
    /// The pause before a saga that was not taken is handed over again; default 500 ms. It doubles with
    /// each failure.
    #[serde(rename = "retry_interval_ms", with = "millis")]
    pub retry_interval: Duration,
    /// The longest that pause grows to; default 30 s.
    #[serde(rename = "retry_interval_max_ms", with = "millis")]
    pub retry_interval_max: Duration,
    /// How many sagas are handed over at the same time, at least 1; default 64. The others wait in the
    /// log.
    pub running_count_max: usize,
    /// For how long a saga belongs to this process when it is not heard of any more, at least 1 s;
    /// default 15 s.
    #[serde(rename = "lease_ms", with = "millis")]
    pub lease: Duration,
    /// How long a call of the log may take; default 5 s.
    #[serde(rename = "store_timeout_ms", with = "millis")]
    pub store_timeout: Duration,
}

impl Default for SagaRelayConfig {
    fn default() -> Self {
        Self {
            retry_interval: Duration::from_millis(500),
            retry_interval_max: Duration::from_secs(30),
            running_count_max: 64,
            lease: Duration::from_secs(15),
            store_timeout: Duration::from_secs(5),
        }
    }
}

/// Builds a [`SagaRelay`].
pub struct SagaRelayBuilder {
    name: String,
    log: Arc<dyn SagaLog>,
    coordinator: Arc<dyn SagaCoordinator>,
    config: SagaRelayConfig,
}

impl SagaRelayBuilder {
    /// Names it in logs, health and errors; default `saga-relay`.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets how it works.
    #[must_use]
    pub fn config(mut self, config: SagaRelayConfig) -> Self {
        self.config = config;
        self
    }

    /// The relay; it hands over nothing before it is started.
    pub fn build(self) -> SagaRelay {
        let worker = WorkerConfig {
            lease: self.config.lease,
            running_count_max: self.config.running_count_max,
            store_timeout: self.config.store_timeout,
            retention: None,
        };
        let handover = Handover { coordinator: self.coordinator, config: self.config };
        SagaRelay { worker: Worker::new(self.name, self.log, handover, worker) }
    }
}

/// Keeps sagas in the service's own database until another coordinator has them.
///
/// A saga that is added is a row of the log, handed over after the commit, again after a growing pause
/// until it is taken, and then removed. A process that dies between the two hands it over again: its
/// global id tells the coordinator that it knows it. Nobody waits for an outcome here; the coordinator
/// is asked for it.
///
/// A saga that the coordinator would refuse for its limits is refused before its transaction commits
/// ([`SagaCoordinator::check`]). One that is refused for good all the same (`InvalidArgument`, `OutOfRange`:
/// it cannot be) is parked with the reason, which is logged: nothing of it was done, and its transaction is
/// committed. [`counts`](Self::counts) says how many are; they are handed over again when the log releases
/// them (`SqlDatabase::release_sagas`). What else fails is handed over again.
///
/// Health and clones are as those of the [`EmbeddedCoordinator`](super::EmbeddedCoordinator). With this in
/// its place a service moves to a server, and its log's unfinished sagas with it: they are begun there
/// from their first step, which their barriers make harmless. Those that have turned back cannot go
/// along, for the server would call their actions again, which answer that they succeeded: they stay, with
/// a warning, until an embedded coordinator has ended them. Those whose branches are named by the registry
/// ([`REGISTRY_SCHEME`](super::REGISTRY_SCHEME)), which a server does not know, are parked: have the embedded
/// coordinator end them before, or give branches addresses.
#[derive(Clone)]
pub struct SagaRelay {
    worker: Worker<Handover>,
}

impl SagaRelay {
    /// A relay from `log` to `coordinator`.
    pub fn builder(log: Arc<dyn SagaLog>, coordinator: Arc<dyn SagaCoordinator>) -> SagaRelayBuilder {
        SagaRelayBuilder { name: "saga-relay".to_owned(), log, coordinator, config: SagaRelayConfig::default() }
    }

    /// How many sagas its log holds.
    ///
    /// # Errors
    ///
    /// Those of the log.
    pub async fn counts(&self) -> Result<SagaCounts> {
        self.worker.log().counts().await
    }

    fn check(&self, saga: &Saga) -> Result<()> {
        saga.check()?;
        self.worker.carrier().coordinator.check(&handed_over(saga))
    }
}

sagas_component!(
    SagaRelay,
    /// Waits for those that are being handed over; the others stay in the log.
);

struct Handover {
    coordinator: Arc<dyn SagaCoordinator>,
    config: SagaRelayConfig,
}

#[async_trait]
impl Carrier for Handover {
    async fn carry(&self, held: &Held) -> Option<SagaChange> {
        let mut progress = held.progress().clone();
        if held.is_stopping() {
            return Some(SagaChange::Waiting(progress, Duration::ZERO));
        }
        if progress.rollback_reason.is_some() {
            let told = "a saga that has turned back cannot be handed over: let the embedded coordinator end it first";
            tracing::warn!(gid = held.saga().gid, "{told}");
            return Some(SagaChange::Waiting(progress, self.config.retry_interval_max));
        }
        let Err(error) = held.while_mine(self.coordinator.submit(handed_over(held.saga()))).await? else {
            return Some(SagaChange::Removed);
        };
        if is_refusal(&error) {
            let mut reason = error.report();
            reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
            tracing::error!(gid = held.saga().gid, reason, "the coordinator refuses the saga for good, it is parked");
            progress.parked_reason = Some(reason);
            return Some(SagaChange::Parked(progress));
        }
        progress.failure_count = progress.failure_count.saturating_add(1);
        if progress.failure_count.is_power_of_two() {
            let (count, error) = (progress.failure_count, error.report());
            tracing::warn!(
                gid = held.saga().gid,
                count,
                error,
                "the coordinator did not take the saga, it is handed over again"
            );
        }
        let SagaRelayConfig { retry_interval, retry_interval_max, .. } = self.config;
        let pause = backoff(progress.failure_count, retry_interval, retry_interval_max.max(retry_interval));
        Some(SagaChange::Waiting(progress, pause))
    }

    fn written(&self, _gid: &str, _change: &SagaChange) {}
}

/// Nobody waits here for what is handed over.
fn handed_over(saga: &Saga) -> Saga {
    let mut saga = saga.clone();
    saga.options.is_waited_for = false;
    saga
}

/// Whether the coordinator refuses this very saga, whoever hands it over and whenever. Other permanent
/// kinds are faults of the deployment, or of a state that may change.
fn is_refusal(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::OutOfRange)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_in_a_file_are_milliseconds() {
        let read: SagaRelayConfig = serde_json::from_str(r#"{"retry_interval_ms":20,"lease_ms":2000}"#).unwrap();
        let expected = SagaRelayConfig {
            retry_interval: Duration::from_millis(20),
            lease: Duration::from_secs(2),
            ..SagaRelayConfig::default()
        };
        assert_eq!(read, expected);
        let written = serde_json::to_string(&expected).unwrap();
        assert!(written.contains(r#""store_timeout_ms":5000"#) && !written.contains("nanos"), "{written}");
        let error = serde_json::from_str::<SagaRelayConfig>(r#"{"retry_interval":20}"#).unwrap_err();
        assert!(error.to_string().contains("retry_interval_ms"), "{error}");
    }
}
