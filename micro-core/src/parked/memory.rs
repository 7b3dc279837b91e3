//! Parked deliveries and dead letters in memory: not durable, for tests, examples and a first service.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use super::{DeadLetter, DeadLetterStore, ParkedRow, ParkedStore, Parking};
use crate::{
    Result, Tx,
    broker::Delivery,
    transaction::memory::{MemoryTransaction, Shared},
};

/// A [`ParkedStore`] on a [`MemoryDatabase`](crate::transaction::MemoryDatabase). Its clock is
/// tokio's, so that tests can pause it.
#[derive(Clone)]
pub struct MemoryParked {
    database: Arc<Shared>,
}

impl MemoryParked {
    pub(crate) fn new(database: Arc<Shared>) -> Self {
        Self { database }
    }
}

#[async_trait]
impl ParkedStore for MemoryParked {
    async fn park(&self, tx: &mut Tx, parking: &Parking<'_>) -> Result<()> {
        let transaction = tx.downcast::<MemoryTransaction>(self.database.id, "parked.park")?;
        let id = self.database.next_id();
        let entry = Entry {
            queue: Queue::of(parking.group, parking.delivery, id),
            delivery: parking.delivery.clone(),
            attempts: parking.attempts,
            cause: parking.cause.to_owned(),
            due_at: parking.delay.map(|delay| Instant::now() + delay),
        };
        transaction.changes.parked.added.insert(id, entry);
        Ok(())
    }

    async fn is_blocked(&self, tx: &mut Tx, group: &str, deliveries: &[&Delivery]) -> Result<Vec<bool>> {
        let transaction = tx.downcast::<MemoryTransaction>(self.database.id, "parked.is_blocked")?;
        let state = self.database.state();
        let changes = &transaction.changes.parked;
        let is_blocked = |delivery: &&Delivery| {
            delivery.message.key.is_some() && {
                let queue = Queue::of(group, delivery, 0);
                let is_known = state.parked.ids(&queue).any(|id| !changes.removed.contains(&id));
                is_known || changes.added.values().any(|entry| entry.queue == queue)
            }
        };
        Ok(deliveries.iter().map(is_blocked).collect())
    }

    async fn due(&self, group: &str, limit: usize) -> Result<Vec<ParkedRow>> {
        let now = Instant::now();
        let state = self.database.state();
        let mut due: Vec<_> =
            state.parked.heads(group).filter(|(_, entry)| entry.due_at.is_some_and(|at| at <= now)).collect();
        due.sort_by_key(|(id, entry)| (entry.due_at, *id));
        Ok(due.into_iter().take(limit).map(|(id, entry)| entry.row(id)).collect())
    }

    async fn remove(&self, tx: &mut Tx, id: i64) -> Result<bool> {
        let transaction = tx.downcast::<MemoryTransaction>(self.database.id, "parked.remove")?;
        let changes = &mut transaction.changes.parked;
        if !changes.is_free(&self.database.state().parked, id) {
            return Ok(false);
        }
        Ok(changes.added.remove(&id).is_some() || changes.removed.insert(id))
    }

    async fn postpone(
        &self,
        tx: &mut Tx,
        id: i64,
        attempts: u32,
        cause: &str,
        delay: Option<Duration>,
    ) -> Result<bool> {
        let transaction = tx.downcast::<MemoryTransaction>(self.database.id, "parked.postpone")?;
        let due_at = delay.map(|delay| Instant::now() + delay);
        let postponement = Postponement { attempts, cause: cause.to_owned(), due_at };
        let changes = &mut transaction.changes.parked;
        if !changes.is_free(&self.database.state().parked, id) {
            return Ok(false);
        }
        match changes.added.get_mut(&id) {
            Some(entry) => entry.postpone(postponement),
            None => drop(changes.postponed.insert(id, postponement)),
        }
        Ok(true)
    }

    async fn release(&self, tx: &mut Tx, group: &str, delivery: &Delivery) -> Result<bool> {
        let transaction = tx.downcast::<MemoryTransaction>(self.database.id, "parked.release")?;
        let state = self.database.state();
        let is_held = |entry: &Entry| {
            entry.due_at.is_none()
                && entry.queue.group == group
                && entry.delivery.topic_partition() == delivery.topic_partition()
                && entry.delivery.offset == delivery.offset
        };
        let held = state.parked.entries.iter().find(|(_, entry)| is_held(entry)).map(|(id, _)| *id);
        Ok(held.is_some_and(|id| transaction.changes.parked.removed.insert(id)))
    }

    async fn count(&self, group: &str) -> Result<u64> {
        let state = self.database.state();
        Ok(state.parked.entries.values().filter(|entry| entry.queue.group == group).count() as u64)
    }
}

/// A [`DeadLetterStore`] on a [`MemoryDatabase`](crate::transaction::MemoryDatabase).
#[derive(Clone)]
pub struct MemoryDeadLetters {
    database: Arc<Shared>,
}

impl MemoryDeadLetters {
    pub(crate) fn new(database: Arc<Shared>) -> Self {
        Self { database }
    }
}

#[async_trait]
impl DeadLetterStore for MemoryDeadLetters {
    async fn add(&self, tx: &mut Tx, letter: &DeadLetter) -> Result<bool> {
        let transaction = tx.downcast::<MemoryTransaction>(self.database.id, "dead_letters.add")?;
        let name = (letter.group.clone(), letter.event_id.clone());
        let changes = &mut transaction.changes.dead_letters;
        let is_new = !changes.has(&self.database.state().dead_letters, &name);
        if is_new {
            changes.0.insert(name, Some((self.database.next_id(), letter.clone())));
        }
        Ok(is_new)
    }

    async fn list(&self, group: &str, limit: usize) -> Result<Vec<DeadLetter>> {
        let state = self.database.state();
        let mut letters: Vec<_> = state.dead_letters.0.values().filter(|(_, letter)| letter.group == group).collect();
        letters.sort_by_key(|(id, _)| *id);
        Ok(letters.into_iter().take(limit).map(|(_, letter)| letter.clone()).collect())
    }

    async fn find(&self, group: &str, event_id: &str) -> Result<Option<DeadLetter>> {
        let name = (group.to_owned(), event_id.to_owned());
        Ok(self.database.state().dead_letters.0.get(&name).map(|(_, letter)| letter.clone()))
    }

    async fn count(&self, group: &str) -> Result<u64> {
        Ok(self.database.state().dead_letters.0.keys().filter(|(known, _)| known == group).count() as u64)
    }

    async fn remove(&self, tx: &mut Tx, group: &str, event_id: &str) -> Result<bool> {
        let transaction = tx.downcast::<MemoryTransaction>(self.database.id, "dead_letters.remove")?;
        let name = (group.to_owned(), event_id.to_owned());
        let changes = &mut transaction.changes.dead_letters;
        let is_known = changes.has(&self.database.state().dead_letters, &name);
        if is_known {
            changes.0.insert(name, None);
        }
        Ok(is_known)
    }
}

/// What one key's deliveries of a group share; a delivery without a key has one of its own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Queue {
    group: String,
    topic: Arc<str>,
    key: Option<Bytes>,
    keyless_id: i64,
}

impl Queue {
    fn of(group: &str, delivery: &Delivery, id: i64) -> Self {
        let key = delivery.message.key.clone();
        let keyless_id = if key.is_none() { id } else { 0 };
        Self { group: group.to_owned(), topic: delivery.message.topic.clone(), key, keyless_id }
    }
}

struct Entry {
    queue: Queue,
    delivery: Delivery,
    attempts: u32,
    cause: String,
    due_at: Option<Instant>,
}

struct Postponement {
    attempts: u32,
    cause: String,
    due_at: Option<Instant>,
}

impl Entry {
    fn postpone(&mut self, postponement: Postponement) {
        self.attempts = postponement.attempts;
        self.cause = postponement.cause;
        self.due_at = postponement.due_at;
    }

    fn row(&self, id: i64) -> ParkedRow {
        ParkedRow { id, delivery: self.delivery.clone(), attempts: self.attempts }
    }
}

/// The committed rows, and the order of each queue.
#[derive(Default)]
pub(crate) struct ParkedRows {
    entries: BTreeMap<i64, Entry>,
    queues: BTreeMap<Queue, BTreeSet<i64>>,
}

/// What an open transaction adds, changes and removes.
#[derive(Default)]
pub(crate) struct ParkedChanges {
    added: BTreeMap<i64, Entry>,
    postponed: BTreeMap<i64, Postponement>,
    removed: BTreeSet<i64>,
}

impl ParkedChanges {
    /// Whether the row is there, as this transaction sees it, and not held.
    fn is_free(&self, committed: &ParkedRows, id: i64) -> bool {
        let postponed_to = self.postponed.get(&id).map(|postponement| postponement.due_at);
        let entry = self.added.get(&id).or_else(|| committed.entries.get(&id));
        !self.removed.contains(&id) && entry.is_some_and(|entry| postponed_to.unwrap_or(entry.due_at).is_some())
    }
}

impl ParkedRows {
    pub(crate) fn apply(&mut self, changes: ParkedChanges) {
        for (id, postponement) in changes.postponed {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.postpone(postponement);
            }
        }
        for id in changes.removed {
            let Some(entry) = self.entries.remove(&id) else { continue };
            let ids = self.queues.get_mut(&entry.queue).expect("every entry is in its queue");
            ids.remove(&id);
            if ids.is_empty() {
                self.queues.remove(&entry.queue);
            }
        }
        for (id, entry) in changes.added {
            self.queues.entry(entry.queue.clone()).or_default().insert(id);
            self.entries.insert(id, entry);
        }
    }

    fn ids(&self, queue: &Queue) -> impl Iterator<Item = i64> {
        self.queues.get(queue).into_iter().flatten().copied()
    }

    fn heads(&self, group: &str) -> impl Iterator<Item = (i64, &Entry)> {
        let of_group = self.queues.iter().filter(move |(queue, _)| queue.group == group);
        of_group.filter_map(|(_, ids)| ids.first().map(|id| (*id, &self.entries[id])))
    }
}

type Name = (String, String);

/// The committed letters, by group and event id.
#[derive(Default)]
pub(crate) struct DeadLetterRows(BTreeMap<Name, (i64, DeadLetter)>);

/// What an open transaction adds (`Some`) and removes (`None`).
#[derive(Default)]
pub(crate) struct DeadLetterChanges(BTreeMap<Name, Option<(i64, DeadLetter)>>);

impl DeadLetterRows {
    pub(crate) fn apply(&mut self, changes: DeadLetterChanges) {
        for (name, letter) in changes.0 {
            match letter {
                Some(letter) => drop(self.0.insert(name, letter)),
                None => drop(self.0.remove(&name)),
            }
        }
    }
}

impl DeadLetterChanges {
    fn has(&self, committed: &DeadLetterRows, name: &Name) -> bool {
        self.0.get(name).map_or_else(|| committed.0.contains_key(name), Option::is_some)
    }
}
