//! The outbox in memory: not durable, for tests, examples and a first service.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use async_trait::async_trait;

use super::{
    CommitSignal, OutboxCounts, OutboxRow, OutboxShard, OutboxStore, ShardLease, ShardLocks, ShardSet, hash_shard,
};
use crate::{
    Error, Result, Tx,
    broker::Message,
    transaction::memory::{MemoryTransaction, Shared},
};

/// An [`OutboxStore`] on a [`MemoryDatabase`](crate::transaction::MemoryDatabase).
#[derive(Clone)]
pub struct MemoryOutbox {
    database: Arc<Shared>,
    committed: CommitSignal,
    shards: ShardLocks,
}

impl MemoryOutbox {
    pub(crate) fn new(database: Arc<Shared>, committed: CommitSignal, shards: ShardLocks) -> Self {
        Self { database, committed, shards }
    }

    /// The rows set aside for good, with their causes, oldest first.
    pub fn parked(&self) -> Vec<(OutboxRow, String)> {
        self.database
            .state()
            .outbox
            .parked
            .iter()
            .map(|(id, (message, cause))| (row(*id, message), cause.clone()))
            .collect()
    }
}

#[async_trait]
impl OutboxStore for MemoryOutbox {
    async fn add(&self, tx: &mut Tx, messages: &[Message]) -> Result<()> {
        let transaction = tx.downcast::<MemoryTransaction>(self.database.id, "outbox.add")?;
        for message in messages {
            let id = self.database.next_id();
            transaction.changes.outbox.added.push((id, message.clone()));
        }
        if !messages.is_empty() {
            let committed = self.committed.clone();
            let shards = messages.iter().map(hash_shard).collect();
            tx.after_commit(move || committed.notify(shards));
        }
        Ok(())
    }

    async fn own(&self, shard: u16) -> Result<Option<Box<dyn OutboxShard>>> {
        let lease = self.shards.own(shard)?;
        Ok(lease.map(|lease| Box::new(MemoryOutboxShard { database: self.database.clone(), lease }) as Box<_>))
    }

    async fn committed(&self) -> ShardSet {
        self.committed.wait().await
    }

    fn shard_of(&self, message: &Message) -> u16 {
        hash_shard(message)
    }

    async fn counts(&self) -> Result<OutboxCounts> {
        let state = self.database.state();
        Ok(OutboxCounts { unsent: state.outbox.unsent.len() as u64, parked: state.outbox.parked.len() as u64 })
    }
}

struct MemoryOutboxShard {
    database: Arc<Shared>,
    lease: ShardLease,
}

#[async_trait]
impl OutboxShard for MemoryOutboxShard {
    async fn unsent(&mut self, known: &[i64], but_topics: &[Arc<str>], limit: usize) -> Result<Vec<OutboxRow>> {
        let shard = self.lease.shard();
        let state = self.database.state();
        let rows = state.outbox.unsent.range((shard, i64::MIN)..=(shard, i64::MAX));
        let known: HashSet<i64> = known.iter().copied().collect();
        let rows = rows.filter(|((_, id), message)| !known.contains(id) && !but_topics.contains(&message.topic));
        Ok(rows.take(limit).map(|((_, id), message)| row(*id, message)).collect())
    }

    async fn sent(&mut self, ids: &[i64]) -> Result<()> {
        let mut state = self.database.state();
        for id in ids {
            state.outbox.unsent.remove(&(self.lease.shard(), *id));
        }
        Ok(())
    }

    async fn park(&mut self, id: i64, cause: &Error) -> Result<()> {
        let mut state = self.database.state();
        if let Some(message) = state.outbox.unsent.remove(&(self.lease.shard(), id)) {
            state.outbox.parked.insert(id, (message, cause.report()));
        }
        Ok(())
    }
}

fn row(id: i64, message: &Message) -> OutboxRow {
    OutboxRow { id, message: message.clone() }
}

/// The committed rows.
#[derive(Default)]
pub(crate) struct OutboxRows {
    unsent: BTreeMap<(u16, i64), Message>,
    parked: BTreeMap<i64, (Message, String)>,
}

/// What an open transaction adds.
#[derive(Default)]
pub(crate) struct OutboxChanges {
    added: Vec<(i64, Message)>,
}

impl OutboxRows {
    pub(crate) fn apply(&mut self, changes: OutboxChanges) {
        self.unsent.extend(changes.added.into_iter().map(|(id, message)| ((hash_shard(&message), id), message)));
    }
}
