//! The embedded coordinator: sagas without a server.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::{sync::oneshot, time::Instant};

use super::{
    BranchCaller, Outcome, Saga, SagaChange, SagaCoordinator, SagaCounts, SagaLog,
    execution::Execution,
    worker::{Addition, Worker, WorkerConfig, after, sagas_component},
};
use crate::{
    ErrorKind, Result, TransactionManager,
    batch::{BatchCall, Batcher, BatcherConfig},
    millis,
};

/// How often the log is asked what became of a saga that is waited for, in case another process has it.
const OUTCOME_INTERVAL: Duration = Duration::from_secs(1);

/// How an [`EmbeddedCoordinator`] works. Its times are DTM's where DTM has them. Durations are milliseconds
/// when read from a file, `retry_interval_ms` and so on, and have no limit but where one is named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct EmbeddedCoordinatorConfig {
    /// The pause before a call that failed is made again, unless a saga says otherwise; default 10 s. It
    /// doubles with each failure.
    #[serde(rename = "retry_interval_ms", with = "millis")]
    pub retry_interval: Duration,
    /// The longest that pause grows to; default 5 min. DTM has no limit.
    #[serde(rename = "retry_interval_max_ms", with = "millis")]
    pub retry_interval_max: Duration,
    /// How long a call may take, unless a saga says otherwise; default 3 s.
    #[serde(rename = "request_timeout_ms", with = "millis")]
    pub request_timeout: Duration,
    /// How long submitting waits for an outcome, where it does; default 8 s, as DTM at most.
    #[serde(rename = "outcome_wait_max_ms", with = "millis")]
    pub outcome_wait_max: Duration,
    /// How many sagas are worked on at the same time, at least 1; default 256. The others wait in the
    /// log.
    pub running_count_max: usize,
    /// For how long a saga belongs to this process when it is not heard of any more, at least 1 s;
    /// default 15 s. Longer work is renewed after a third of it. After a crash the sagas that were
    /// worked on stand still for so long.
    #[serde(rename = "lease_ms", with = "millis")]
    pub lease: Duration,
    /// How long a call of the log may take; default 5 s.
    #[serde(rename = "store_timeout_ms", with = "millis")]
    pub store_timeout: Duration,
    /// How long finished sagas are kept, and with them their global ids; default 7 days.
    #[serde(rename = "retention_ms", with = "millis")]
    pub retention: Duration,
}

impl Default for EmbeddedCoordinatorConfig {
    fn default() -> Self {
        Self {
            retry_interval: Duration::from_secs(10),
            retry_interval_max: Duration::from_secs(300),
            request_timeout: Duration::from_secs(3),
            outcome_wait_max: Duration::from_secs(8),
            running_count_max: 256,
            lease: Duration::from_secs(15),
            store_timeout: Duration::from_secs(5),
            retention: Duration::from_secs(7 * 86_400),
        }
    }
}

/// Builds an [`EmbeddedCoordinator`].
pub struct EmbeddedCoordinatorBuilder {
    name: String,
    transactions: Arc<dyn TransactionManager>,
    log: Arc<dyn SagaLog>,
    caller: Arc<dyn BranchCaller>,
    config: EmbeddedCoordinatorConfig,
}

impl EmbeddedCoordinatorBuilder {
    /// Names it in logs, health and errors; default `sagas`.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets how it works.
    #[must_use]
    pub fn config(mut self, config: EmbeddedCoordinatorConfig) -> Self {
        self.config = config;
        self
    }

    /// The coordinator; it calls nobody before it is started.
    pub fn build(self) -> EmbeddedCoordinator {
        let worker = WorkerConfig {
            lease: self.config.lease,
            running_count_max: self.config.running_count_max,
            store_timeout: self.config.store_timeout,
            retention: Some(self.config.retention),
        };
        let outcome_wait_max = self.config.outcome_wait_max;
        let execution = Execution::new(self.caller, self.config);
        let worker = Worker::new(self.name, self.log, execution, worker);
        let submissions = Submissions { transactions: self.transactions, worker: worker.clone() };
        EmbeddedCoordinator {
            submissions: Batcher::new(submissions, BatcherConfig::default()),
            worker,
            outcome_wait_max,
        }
    }
}

/// Carries sagas out from a log in the service's own database: no server, and none that can be away.
///
/// A saga is a row of the log from the commit of its transaction to its end, so that it survives the
/// process. Its row is written twice as a rule, at its beginning and at its end; once more when it turns
/// back, before anything is undone, and with each pause. A process that dies in between calls again what
/// it had called since: branches take effect once by their [barrier](crate::barrier).
///
/// A step that is refused turns the saga back: the compensations of all steps that were begun are
/// called, the refused one's too, the last one first. What answers "ongoing" is called again after the
/// same pause, what fails otherwise after one that doubles up to
/// [`retry_interval_max`](EmbeddedCoordinatorConfig::retry_interval_max); a compensation for ever.
///
/// A saga whose calls the caller could never make, for a URL or a header that cannot be sent, is refused
/// before its transaction commits ([`BranchCaller::check`]): nothing would ever end it.
///
/// Several processes may work on one log; each saga is one's at a time, under a lease. A commit of this
/// process is begun at once; what another one left is found by a look every 200 ms, less often, down to
/// every 2 s, where nothing is due.
///
/// Its health is not serving while its log has failed for 10 s. Clones share it; with the last clone it
/// ends as in a crash, unless it was closed.
#[derive(Clone)]
pub struct EmbeddedCoordinator {
    worker: Worker<Execution>,
    submissions: Batcher<Submissions>,
    outcome_wait_max: Duration,
}

impl EmbeddedCoordinator {
    /// A coordinator for the sagas of `log`, which belongs to the database of `transactions`.
    pub fn builder(
        transactions: Arc<dyn TransactionManager>,
        log: Arc<dyn SagaLog>,
        caller: Arc<dyn BranchCaller>,
    ) -> EmbeddedCoordinatorBuilder {
        let config = EmbeddedCoordinatorConfig::default();
        EmbeddedCoordinatorBuilder { name: "sagas".to_owned(), transactions, log, caller, config }
    }

    /// How many sagas its log holds.
    ///
    /// # Errors
    ///
    /// Those of the log.
    pub async fn counts(&self) -> Result<SagaCounts> {
        self.worker.log().counts().await
    }

    /// Waits for the outcome, at most so long as it may.
    async fn wait(&self, gid: &str, mut ended: oneshot::Receiver<Outcome>) -> Result<Outcome> {
        let ends_at = after(Instant::now(), self.outcome_wait_max);
        loop {
            let until = ends_at.min(Instant::now() + OUTCOME_INTERVAL);
            let told = tokio::time::timeout_at(until, &mut ended).await;
            if let Ok(Ok(outcome)) = told {
                return Ok(outcome);
            }
            let outcome = self.worker.log().outcome(gid).await?.unwrap_or(Outcome::StillRunning);
            if outcome != Outcome::StillRunning || told.is_ok() || Instant::now() >= ends_at {
                return Ok(outcome);
            }
        }
    }
}

#[async_trait]
impl SagaCoordinator for EmbeddedCoordinator {
    async fn submit(&self, saga: Saga) -> Result<Outcome> {
        self.check(&saga)?;
        let saga = Arc::new(saga);
        let ended = saga.options.is_waited_for.then(|| self.worker.carrier().waiters.wait_for(&saga.gid));
        match self.submissions.call(saga.clone()).await {
            Ok(()) => {}
            // It was handed over before; this may have been it, and its answer lost.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let outcome = self.outcome(&saga.gid).await?.unwrap_or(Outcome::StillRunning);
                if outcome != Outcome::StillRunning {
                    return Ok(outcome);
                }
            }
            Err(error) => return Err(error),
        }
        match ended {
            Some((_waiter, ended)) => self.wait(&saga.gid, ended).await,
            None => Ok(Outcome::StillRunning),
        }
    }

    async fn outcome(&self, gid: &str) -> Result<Option<Outcome>> {
        self.worker.log().outcome(gid).await
    }

    fn check(&self, saga: &Saga) -> Result<()> {
        saga.check()?;
        self.worker.carrier().check(saga)
    }
}

sagas_component!(
    EmbeddedCoordinator,
    /// Begins no further call; sagas are given back to the log as soon as their calls are answered.
);

/// Adds sagas in transactions of their own, those that come at the same time in one.
struct Submissions {
    transactions: Arc<dyn TransactionManager>,
    worker: Worker<Execution>,
}

#[async_trait]
impl BatchCall for Submissions {
    type Request = Arc<Saga>;
    type Response = ();

    async fn call(&self, sagas: &[Arc<Saga>]) -> Result<Vec<Result<()>>> {
        let additions: Vec<Addition> = sagas.iter().map(|saga| self.worker.addition(saga.clone())).collect();
        let entries: Vec<_> = additions.iter().map(|addition| addition.entry.clone()).collect();
        let mut tx = self.transactions.begin().await?;
        self.worker.log().add(&mut tx, &entries).await?;
        let worker = self.worker.clone();
        tx.after_commit(move || additions.into_iter().for_each(|addition| worker.added(addition)));
        tx.commit().await?;
        Ok(sagas.iter().map(|_| Ok(())).collect())
    }
}

/// Those who wait for outcomes in this process.
#[derive(Clone, Default)]
pub(super) struct Waiters(Arc<Mutex<WaitersByGid>>);

#[derive(Default)]
struct WaitersByGid {
    senders: HashMap<String, Vec<(u64, oneshot::Sender<Outcome>)>>,
    next_number: u64,
}

/// Somebody's waiting; its drop ends it.
struct Waiter {
    waiters: Waiters,
    gid: String,
    number: u64,
}

impl Waiters {
    fn wait_for(&self, gid: &str) -> (Waiter, oneshot::Receiver<Outcome>) {
        let (sender, ended) = oneshot::channel();
        let mut waiters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = waiters.next_number;
        waiters.next_number += 1;
        waiters.senders.entry(gid.to_owned()).or_default().push((number, sender));
        (Waiter { waiters: self.clone(), gid: gid.to_owned(), number }, ended)
    }

    /// Tells those who wait for it, where this is its end.
    pub(super) fn tell(&self, gid: &str, change: &SagaChange) {
        let outcome = match change {
            SagaChange::Succeeded => Outcome::Succeeded,
            SagaChange::RolledBack(reason) => Outcome::RolledBack { reason: reason.clone() },
            _ => return,
        };
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner).senders.remove(gid);
        for (_, sender) in waiting.into_iter().flatten() {
            // One that has gone wants no answer.
            sender.send(outcome.clone()).ok();
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiters = self.waiters.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(senders) = waiters.senders.get_mut(&self.gid) {
            senders.retain(|(number, _)| *number != self.number);
            if senders.is_empty() {
                waiters.senders.remove(&self.gid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_in_a_file_are_milliseconds() {
        let file = r#"{"retry_interval_ms":1500,"retention_ms":60000,"running_count_max":7}"#;
        let read: EmbeddedCoordinatorConfig = serde_json::from_str(file).unwrap();
        let expected = EmbeddedCoordinatorConfig {
            retry_interval: Duration::from_millis(1500),
            retention: Duration::from_secs(60),
            running_count_max: 7,
            ..EmbeddedCoordinatorConfig::default()
        };
        assert_eq!(read, expected);
        let written = serde_json::to_string(&expected).unwrap();
        assert!(written.contains(r#""retry_interval_max_ms":300000"#) && !written.contains("nanos"), "{written}");
        let error = serde_json::from_str::<EmbeddedCoordinatorConfig>(r#"{"retry_interval":20}"#).unwrap_err();
        assert!(error.to_string().contains("retry_interval_ms"), "{error}");
    }
}
