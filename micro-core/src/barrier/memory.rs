//! The barrier in memory: not durable, for tests, examples and a first service.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{BarrierCall, BarrierStore, Passage, Prepared};
use crate::{
    Result, TransactionManagerExt as _, Tx,
    branch::{Branch, Mode, Op},
    transaction::{
        MemoryTransactionManager,
        memory::{MemoryTransaction, Shared},
    },
};

/// A [`BarrierStore`] on a [`MemoryDatabase`](crate::transaction::MemoryDatabase).
#[derive(Clone)]
pub struct MemoryBarrier {
    database: Arc<Shared>,
    transactions: Arc<MemoryTransactionManager>,
}

impl MemoryBarrier {
    pub(crate) fn new(database: Arc<Shared>, transactions: Arc<MemoryTransactionManager>) -> Self {
        Self { database, transactions }
    }

    /// Adds a row where there is none; answers the reason of the one that is there.
    fn note(&self, tx: &mut Tx, call: &BarrierCall<'_>, op: &Op, reason: &Op) -> Result<Option<String>> {
        let transaction = tx.downcast::<MemoryTransaction>(self.database.id, "barrier.enter")?;
        let id = [&call.branch.gid, &call.branch.id, op.as_str(), &call.barrier_id].map(str::to_owned);
        let state = self.database.state();
        let added = &mut transaction.changes.barrier.added;
        let found = state.barrier.rows.get(&id).map(|row| &row.reason).or_else(|| added.get(&id));
        if let Some(reason) = found {
            return Ok(Some(reason.clone()));
        }
        added.insert(id, reason.to_string());
        Ok(None)
    }
}

#[async_trait]
impl BarrierStore for MemoryBarrier {
    async fn enter(&self, tx: &mut Tx, call: &BarrierCall<'_>) -> Result<Passage> {
        let op = &call.branch.op;
        let is_empty = match op.origin() {
            Some(origin) => self.note(tx, call, &origin, op)?.is_none(),
            None => false,
        };
        Ok(match self.note(tx, call, op, op)? {
            _ if is_empty => Passage::Empty,
            None => Passage::Proceed,
            Some(reason) if reason == op.as_str() => Passage::Duplicate,
            Some(_) => Passage::Overtaken,
        })
    }

    async fn prepared(&self, gid: &str) -> Result<Prepared> {
        let branch = Branch::new(Mode::Msg, gid, "00", Op::Msg)?;
        let call = BarrierCall::new(&branch, 1);
        // A transaction of its own has its turn when no other one is open.
        let reason = self.transactions.run(async |tx| self.note(tx, &call, &Op::Msg, &Op::Rollback)).await?;
        Ok(match reason {
            Some(reason) if reason != Op::Rollback.as_str() => Prepared::Committed,
            _ => Prepared::RolledBack,
        })
    }

    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64> {
        let rows = &mut self.database.state().barrier.rows;
        let is_old = |row: &Row| row.created_at.elapsed() > older_than;
        let mut old: Vec<_> = rows.iter().filter(|(_, row)| is_old(row)).collect();
        old.sort_by_key(|(_, row)| row.created_at);
        let old: BTreeSet<_> = old.into_iter().take(limit).map(|(id, _)| id.clone()).collect();
        rows.retain(|id, _| !old.contains(id));
        Ok(old.len() as u64)
    }
}

/// Global id, branch id, operation, barrier id.
type RowId = [String; 4];

struct Row {
    reason: String,
    created_at: Instant,
}

/// The committed rows.
#[derive(Default)]
pub(crate) struct BarrierRows {
    rows: BTreeMap<RowId, Row>,
}

/// What an open transaction adds: reasons by row.
#[derive(Default)]
pub(crate) struct BarrierChanges {
    added: BTreeMap<RowId, String>,
}

impl BarrierRows {
    pub(crate) fn apply(&mut self, changes: BarrierChanges) {
        let created_at = Instant::now();
        self.rows.extend(changes.added.into_iter().map(|(id, reason)| (id, Row { reason, created_at })));
    }
}
