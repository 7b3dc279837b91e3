//! A saga log that breaks one promise.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use micro_core::{
    ErrorKind, Result, Tx,
    saga::{DueSaga, Outcome, SagaChange, SagaCounts, SagaEntry, SagaLease, SagaLog, SagaProgress, SagaWrite},
};

/// The promise that a [`BrokenSagaLog`] breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SagaLogFault {
    /// Takes another manager's transaction, and does nothing in it.
    TakesForeignTx,
    /// Adds nothing.
    LosesSagas,
    /// Shows sagas before their commit, and after their rollback.
    ShowsUncommitted,
    /// Forgets the options of a saga.
    ForgetsOptions,
    /// Takes a global id that is known for a new one, and does nothing.
    TakesGidsAgain,
    /// Hands sagas out that somebody holds.
    SharesSagas,
    /// Leases end at once.
    EndsLeases,
    /// Leases never end.
    KeepsLeases,
    /// Says of no saga that it was abandoned.
    HidesAbandonment,
    /// What is added held is due.
    AddsFree,
    /// Renews nothing, and says that it did.
    RenewsNothing,
    /// Writes for holders that lost their lease.
    WritesLost,
    /// Says of every write that its lease held.
    TellsNoLoss,
    /// Waits for no pause.
    SkipsPauses,
    /// Hands out what is parked.
    ReleasesParked,
    /// Forgets what was done.
    ForgetsProgress,
    /// Gives every saga that waits back as abandoned.
    AbandonsWaiting,
    /// Forgets how a saga ended.
    ForgetsOutcomes,
    /// Keeps what is removed.
    KeepsRemoved,
    /// Hands the last ones out first.
    Reverses,
    /// Hands out more than is asked for.
    IgnoresLimits,
    /// Forgets nothing.
    NeverPurges,
    /// Forgets everything that is finished.
    PurgesAll,
}

/// A saga log that breaks one promise of the one inside, or none.
pub struct BrokenSagaLog {
    log: Arc<dyn SagaLog>,
    fault: Option<SagaLogFault>,
    shown: Mutex<Vec<DueSaga>>,
    /// The lease of each saga that was taken.
    leases: Mutex<BTreeMap<String, i64>>,
}

impl BrokenSagaLog {
    /// Breaks `fault`'s promise.
    pub fn new(log: Arc<dyn SagaLog>, fault: impl Into<Option<SagaLogFault>>) -> Self {
        Self { log, fault: fault.into(), shown: Mutex::default(), leases: Mutex::default() }
    }

    fn has(&self, fault: SagaLogFault) -> bool {
        self.fault == Some(fault)
    }

    fn shown(&self) -> MutexGuard<'_, Vec<DueSaga>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lease(&self, lease: SagaLease) -> SagaLease {
        let mut lease = lease;
        match self.fault {
            Some(SagaLogFault::EndsLeases) => lease.duration = Duration::ZERO,
            Some(SagaLogFault::KeepsLeases) => lease.duration = Duration::from_secs(1_000_000),
            _ => {}
        }
        lease
    }

    fn entry(&self, entry: &SagaEntry) -> SagaEntry {
        let mut entry = entry.clone();
        if self.has(SagaLogFault::ForgetsOptions) {
            let mut saga = entry.saga.as_ref().clone();
            saga.options = micro_core::saga::SagaOptions::default();
            entry.saga = Arc::new(saga);
        }
        entry.lease = entry.lease.map(|lease| self.lease(lease)).filter(|_| !self.has(SagaLogFault::AddsFree));
        entry
    }

    fn change(&self, change: SagaChange) -> SagaChange {
        let forgotten =
            |progress| if self.has(SagaLogFault::ForgetsProgress) { SagaProgress::default() } else { progress };
        match change {
            SagaChange::Waiting(progress, _) if self.has(SagaLogFault::SkipsPauses) => {
                SagaChange::Waiting(progress, Duration::ZERO)
            }
            SagaChange::Waiting(progress, pause) if self.has(SagaLogFault::AbandonsWaiting) => {
                SagaChange::Recorded(progress, pause)
            }
            SagaChange::Parked(progress) if self.has(SagaLogFault::ReleasesParked) => {
                SagaChange::Waiting(progress, Duration::ZERO)
            }
            SagaChange::Waiting(progress, pause) => SagaChange::Waiting(forgotten(progress), pause),
            SagaChange::Recorded(progress, duration) => SagaChange::Recorded(forgotten(progress), duration),
            SagaChange::RolledBack(_) if self.has(SagaLogFault::ForgetsOutcomes) => SagaChange::Succeeded,
            SagaChange::Removed if self.has(SagaLogFault::KeepsRemoved) => SagaChange::Succeeded,
            other => other,
        }
    }
}

#[async_trait]
impl SagaLog for BrokenSagaLog {
    async fn add(&self, tx: &mut Tx, entries: &[SagaEntry]) -> Result<()> {
        if self.has(SagaLogFault::LosesSagas) {
            return Ok(());
        }
        if self.has(SagaLogFault::ShowsUncommitted) {
            self.shown().extend(entries.iter().map(|entry| DueSaga::new(entry.saga.as_ref().clone())));
        }
        let entries: Vec<_> = entries.iter().map(|entry| self.entry(entry)).collect();
        match self.log.add(tx, &entries).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && self.has(SagaLogFault::TakesGidsAgain) => Ok(()),
            Err(error) if error.kind() == ErrorKind::InvalidArgument && self.has(SagaLogFault::TakesForeignTx) => {
                Ok(())
            }
            added => added,
        }
    }

    async fn take(&self, lease: SagaLease, limit: usize) -> Result<Vec<DueSaga>> {
        let limit = if self.has(SagaLogFault::IgnoresLimits) { 1_000 } else { limit };
        let mut due = self.log.take(self.lease(lease), limit).await?;
        match self.fault {
            Some(SagaLogFault::WritesLost) => {
                let taken = due.iter().map(|due| (due.saga.gid.clone(), lease.id));
                self.leases.lock().unwrap_or_else(PoisonError::into_inner).extend(taken);
            }
            Some(SagaLogFault::ShowsUncommitted) => due.append(&mut self.shown()),
            Some(SagaLogFault::HidesAbandonment) => due.iter_mut().for_each(|due| due.was_abandoned = false),
            Some(SagaLogFault::SharesSagas) => {
                let mut shown = self.shown();
                if due.is_empty() {
                    return Ok(shown.clone());
                }
                shown.clone_from(&due);
            }
            Some(SagaLogFault::Reverses) => {
                let rest = self.log.take(lease, 1_000).await?;
                due.extend(rest);
                let kept = due.split_off(due.len().saturating_sub(limit));
                for left in due {
                    let waiting = SagaChange::Waiting(left.progress, Duration::ZERO);
                    self.log.write(&[SagaWrite::new(left.saga.gid, lease.id, waiting)]).await?;
                }
                return Ok(kept);
            }
            _ => {}
        }
        Ok(due)
    }

    async fn write(&self, writes: &[SagaWrite]) -> Result<Vec<bool>> {
        let is_kept = |write: &&SagaWrite| {
            !(self.has(SagaLogFault::RenewsNothing) && matches!(write.change, SagaChange::Renewed(_)))
        };
        let leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let changed = |write: &SagaWrite| {
            let lease_id = leases.get(&write.gid).copied().unwrap_or(write.lease_id);
            SagaWrite::new(&write.gid, lease_id, self.change(write.change.clone()))
        };
        let kept: Vec<_> = writes.iter().filter(is_kept).map(changed).collect();
        let answers = self.log.write(&kept).await?;
        if self.has(SagaLogFault::RenewsNothing) || self.has(SagaLogFault::TellsNoLoss) {
            return Ok(vec![true; writes.len()]);
        }
        Ok(answers)
    }

    async fn outcome(&self, gid: &str) -> Result<Option<Outcome>> {
        self.log.outcome(gid).await
    }

    async fn counts(&self) -> Result<SagaCounts> {
        self.log.counts().await
    }

    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64> {
        match self.fault {
            Some(SagaLogFault::NeverPurges) => Ok(0),
            Some(SagaLogFault::PurgesAll) => self.log.purge(Duration::ZERO, limit).await,
            _ => self.log.purge(older_than, limit).await,
        }
    }
}
