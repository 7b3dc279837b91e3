//! The saga log in memory: not durable, for tests, examples and a first service.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{DueSaga, Outcome, Saga, SagaChange, SagaCounts, SagaEntry, SagaLease, SagaLog, SagaProgress, SagaWrite};
use crate::{
    Error, ErrorKind, Result, Tx,
    transaction::memory::{MemoryTransaction, Shared},
};

/// A [`SagaLog`] on a [`MemoryDatabase`](crate::transaction::MemoryDatabase).
#[derive(Clone)]
pub struct MemorySagaLog {
    database: Arc<Shared>,
}

impl MemorySagaLog {
    pub(crate) fn new(database: Arc<Shared>) -> Self {
        Self { database }
    }

    /// The global ids of the sagas that are parked, and why each is.
    pub fn parked(&self) -> Vec<(String, String)> {
        let state = self.database.state();
        let parked = state.sagas.rows.iter().filter(|(_, row)| row.is_parked);
        parked.map(|(gid, row)| (gid.clone(), row.progress.parked_reason.clone().unwrap_or_default())).collect()
    }

    /// Makes the parked sagas due, once the reason is mended, and answers how many.
    pub fn release(&self) -> u64 {
        let rows = &mut self.database.state().sagas.rows;
        let parked = rows.values_mut().filter(|row| row.is_parked);
        parked.map(|row| (row.is_parked, row.due_at) = (false, Instant::now())).count() as u64
    }
}

#[async_trait]
impl SagaLog for MemorySagaLog {
    async fn add(&self, tx: &mut Tx, entries: &[SagaEntry]) -> Result<()> {
        let transaction = tx.downcast::<MemoryTransaction>(self.database.id, "saga.add")?;
        let known = &self.database.state().sagas.rows;
        let mut added = transaction.changes.sagas.added.clone();
        for entry in entries {
            let Entry::Vacant(vacant) = added.entry(entry.saga.gid.clone()) else { return Err(taken(&entry.saga)) };
            if known.contains_key(&entry.saga.gid) {
                return Err(taken(&entry.saga));
            }
            vacant.insert(Row::new(entry));
        }
        transaction.changes.sagas.added = added;
        Ok(())
    }

    async fn take(&self, lease: SagaLease, limit: usize) -> Result<Vec<DueSaga>> {
        let now = Instant::now();
        let rows = &mut self.database.state().sagas.rows;
        let mut due: Vec<_> = rows.values_mut().filter(|row| row.is_due(now)).collect();
        due.sort_by_key(|row| row.due_at);
        let taken = due.into_iter().take(limit).map(|row| {
            let was_abandoned = row.lease_id.replace(lease.id).is_some();
            row.due_at = now + lease.duration;
            DueSaga {
                saga: row.saga.as_ref().clone(),
                progress: row.progress.clone(),
                age: row.created_at.elapsed(),
                was_abandoned,
            }
        });
        Ok(taken.collect())
    }

    async fn write(&self, writes: &[SagaWrite]) -> Result<Vec<bool>> {
        let rows = &mut self.database.state().sagas.rows;
        let write = |write: &SagaWrite| {
            let is_held = rows.get_mut(&write.gid).is_some_and(|row| row.write(write));
            if is_held && write.change == SagaChange::Removed {
                rows.remove(&write.gid);
            }
            is_held
        };
        Ok(writes.iter().map(write).collect())
    }

    async fn outcome(&self, gid: &str) -> Result<Option<Outcome>> {
        let state = self.database.state();
        Ok(state.sagas.rows.get(gid).map(|row| row.outcome.clone().unwrap_or(Outcome::StillRunning)))
    }

    async fn counts(&self) -> Result<SagaCounts> {
        let now = Instant::now();
        let state = self.database.state();
        let unfinished = state.sagas.rows.values().filter(|row| row.outcome.is_none());
        let due = unfinished.clone().filter(|row| row.is_due(now)).count() as u64;
        let parked = unfinished.clone().filter(|row| row.is_parked).count() as u64;
        Ok(SagaCounts { unfinished: unfinished.count() as u64, parked, due })
    }

    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64> {
        let rows = &mut self.database.state().sagas.rows;
        let is_old = |row: &Row| row.outcome.is_some() && row.due_at.elapsed() > older_than;
        let old: Vec<_> = rows.iter().filter(|(_, row)| is_old(row)).map(|(gid, _)| gid.clone()).take(limit).collect();
        old.iter().for_each(|gid| drop(rows.remove(gid)));
        Ok(old.len() as u64)
    }
}

fn taken(saga: &Saga) -> Error {
    let message = "a saga of this global id was added before";
    Error::new(ErrorKind::AlreadyExists, "saga.add", message).with_context("gid", &saga.gid)
}

#[derive(Clone)]
struct Row {
    saga: Arc<Saga>,
    progress: SagaProgress,
    lease_id: Option<i64>,
    /// From when on it may be taken; of one that is finished, since when it is.
    due_at: Instant,
    created_at: Instant,
    is_parked: bool,
    outcome: Option<Outcome>,
}

impl Row {
    fn new(SagaEntry { saga, lease }: &SagaEntry) -> Self {
        let now = Instant::now();
        Self {
            saga: saga.clone(),
            progress: SagaProgress::default(),
            lease_id: lease.map(|lease| lease.id),
            due_at: now + lease.map_or(Duration::ZERO, |lease| lease.duration),
            created_at: now,
            is_parked: false,
            outcome: None,
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.outcome.is_none() && !self.is_parked && self.due_at <= now
    }

    /// `false` where the lease is lost. A removed row is its map's to remove.
    fn write(&mut self, SagaWrite { lease_id, change, .. }: &SagaWrite) -> bool {
        let now = Instant::now();
        if self.lease_id != Some(*lease_id) {
            return false;
        }
        let is_end = matches!(change, SagaChange::Succeeded | SagaChange::RolledBack(_));
        if self.outcome.is_some() && !is_end {
            return false;
        }
        match change {
            SagaChange::Renewed(duration) => self.due_at = now + *duration,
            SagaChange::Recorded(progress, duration) => {
                (self.progress, self.due_at) = (progress.clone(), now + *duration);
            }
            SagaChange::Waiting(progress, pause) => {
                (self.progress, self.due_at, self.lease_id) = (progress.clone(), now + *pause, None);
            }
            SagaChange::Parked(progress) => {
                (self.progress, self.is_parked, self.lease_id) = (progress.clone(), true, None);
            }
            SagaChange::Succeeded => (self.outcome, self.due_at) = (Some(Outcome::Succeeded), now),
            SagaChange::RolledBack(reason) => {
                (self.outcome, self.due_at) = (Some(Outcome::RolledBack { reason: reason.clone() }), now);
            }
            SagaChange::Removed => {}
        }
        true
    }
}

/// The committed sagas.
#[derive(Default)]
pub(crate) struct SagaRows {
    rows: BTreeMap<String, Row>,
}

/// What an open transaction adds.
#[derive(Default)]
pub(crate) struct SagaRowChanges {
    added: BTreeMap<String, Row>,
}

impl SagaRows {
    pub(crate) fn apply(&mut self, changes: SagaRowChanges) {
        self.rows.extend(changes.added);
    }
}
