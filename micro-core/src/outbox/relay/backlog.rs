//! What a relay knows of the rows: their keys' queues, which key may send next, which one waits.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    broker::Message,
    consume::trouble::backoff,
    outbox::{OutboxRow, SHARD_COUNT},
};

/// The first and the longest wait before a message of a key is sent again.
const RETRY_DELAY_INITIAL: Duration = Duration::from_millis(100);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(5);

/// What orders rows: topic and key; a row without a key is on its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum KeyId {
    Keyed(Arc<str>, Bytes),
    Row(u16, i64),
}

impl KeyId {
    fn of(shard: u16, row: &OutboxRow) -> Self {
        match &row.message.key {
            Some(key) => Self::Keyed(row.message.topic.clone(), key.clone()),
            None => Self::Row(shard, row.id),
        }
    }
}

/// A message that is to be sent now.
#[derive(Debug)]
pub(super) struct Departure {
    pub(super) key: KeyId,
    pub(super) shard: u16,
    pub(super) id: i64,
    pub(super) message: Message,
}

/// The rows read and not yet settled. Of each key, one at most is on its way.
#[derive(Default)]
pub(super) struct Backlog {
    keys: HashMap<KeyId, Queue>,
    ready: VecDeque<KeyId>,
    waiting: BTreeMap<(Instant, u64), KeyId>,
    wait_count: u64,
    shards: [Shard; SHARD_COUNT as usize],
}

#[derive(Default)]
struct Shard {
    /// Every row read and not yet removed from the store.
    known: HashSet<i64>,
    ready_count: usize,
}

struct Queue {
    shard: u16,
    rows: BTreeMap<i64, Message>,
    state: State,
    failure_count: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    OnItsWay(i64),
    Waiting,
}

impl Backlog {
    /// Adds rows of a shard, skips those it knows; answers how many were new.
    pub(super) fn add(&mut self, shard: u16, rows: Vec<OutboxRow>) -> usize {
        let mut new_count = 0;
        for row in rows {
            if !self.shards[usize::from(shard)].known.insert(row.id) {
                continue;
            }
            new_count += 1;
            let key = KeyId::of(shard, &row);
            if let Some(queue) = self.keys.get_mut(&key) {
                queue.rows.insert(row.id, row.message);
                continue;
            }
            let rows = BTreeMap::from([(row.id, row.message)]);
            self.keys.insert(key.clone(), Queue { shard, rows, state: State::Ready, failure_count: 0 });
            self.make_ready(key, shard);
        }
        new_count
    }

    /// The next message that may be sent: the first row of a key with none on its way.
    pub(super) fn depart(&mut self) -> Option<Departure> {
        while let Some(key) = self.ready.pop_front() {
            let Some(queue) = self.keys.get_mut(&key) else { continue };
            if queue.state != State::Ready {
                continue;
            }
            self.shards[usize::from(queue.shard)].ready_count -= 1;
            let (id, message) = queue.rows.first_key_value().expect("a ready key has a row");
            queue.state = State::OnItsWay(*id);
            let (shard, id, message) = (queue.shard, *id, message.clone());
            return Some(Departure { key, shard, id, message });
        }
        None
    }

    /// The row on its way is settled (has a receipt, or is refused for good): the key goes on.
    pub(super) fn settled(&mut self, key: &KeyId, id: i64) {
        let Some(queue) = self.keys.get_mut(key) else { return };
        queue.rows.remove(&id);
        queue.failure_count = 0;
        let shard = queue.shard;
        if queue.rows.is_empty() {
            self.keys.remove(key);
        } else {
            queue.state = State::Ready;
            self.make_ready(key.clone(), shard);
        }
    }

    /// The row on its way is to be sent again: the key waits, longer with each failure.
    pub(super) fn failed(&mut self, key: &KeyId) {
        let Some(queue) = self.keys.get_mut(key) else { return };
        if queue.rows.is_empty() {
            self.keys.remove(key);
            return;
        }
        queue.failure_count = queue.failure_count.saturating_add(1);
        queue.state = State::Waiting;
        let delay = backoff(queue.failure_count, RETRY_DELAY_INITIAL, RETRY_DELAY_MAX);
        self.wait_count += 1;
        self.waiting.insert((Instant::now() + delay, self.wait_count), key.clone());
    }

    /// Lets the keys go on whose wait is over.
    pub(super) fn wake(&mut self, now: Instant) {
        while let Some(entry) = self.waiting.first_entry().filter(|entry| entry.key().0 <= now) {
            let key = entry.remove();
            let Some(queue) = self.keys.get_mut(&key).filter(|queue| queue.state == State::Waiting) else { continue };
            queue.state = State::Ready;
            let shard = queue.shard;
            self.make_ready(key, shard);
        }
    }

    /// When the next key's wait is over.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|((at, _), _)| *at)
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(super) fn has_ready_of(&self, shard: u16) -> bool {
        self.shards[usize::from(shard)].ready_count > 0
    }

    /// The ids of the rows read and not yet removed.
    pub(super) fn known(&self, shard: u16) -> Vec<i64> {
        self.shards[usize::from(shard)].known.iter().copied().collect()
    }

    pub(super) fn known_count(&self, shard: u16) -> usize {
        self.shards[usize::from(shard)].known.len()
    }

    /// The rows were removed from the store: their ids need not be remembered.
    pub(super) fn forget(&mut self, shard: u16, ids: &[i64]) {
        let known = &mut self.shards[usize::from(shard)].known;
        for id in ids {
            known.remove(id);
        }
    }

    /// These rows are still in the store and must not be sent.
    pub(super) fn remember(&mut self, shard: u16, ids: &[i64]) {
        self.shards[usize::from(shard)].known.extend(ids);
    }

    /// The shard is not owned any more: forgets its rows. A message on its way stays the only one
    /// of its key until its receipt is in.
    pub(super) fn forget_shard(&mut self, shard: u16) {
        self.shards[usize::from(shard)] = Shard::default();
        self.keys.retain(|_, queue| queue.shard != shard || matches!(queue.state, State::OnItsWay(_)));
        for queue in self.keys.values_mut().filter(|queue| queue.shard == shard) {
            queue.rows.clear();
        }
        let keys = &self.keys;
        self.ready.retain(|key| keys.contains_key(key));
        self.waiting.retain(|_, key| keys.contains_key(key));
    }

    fn make_ready(&mut self, key: KeyId, shard: u16) {
        self.ready.push_back(key);
        self.shards[usize::from(shard)].ready_count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: i64, key: &str) -> OutboxRow {
        OutboxRow { id, message: Message::keyed("t", key.to_owned(), id.to_string()) }
    }

    fn departing(backlog: &mut Backlog) -> Vec<i64> {
        std::iter::from_fn(|| backlog.depart()).map(|departure| departure.id).collect()
    }

    fn key(name: &'static str) -> KeyId {
        KeyId::Keyed("t".into(), name.into())
    }

    #[test]
    fn one_row_of_a_key_departs_until_it_is_settled() {
        let mut backlog = Backlog::default();
        assert_eq!(backlog.add(0, vec![row(1, "a"), row(2, "a"), row(3, "b")]), 3);
        assert_eq!(departing(&mut backlog), [1, 3]);
        backlog.settled(&key("a"), 1);
        assert_eq!(departing(&mut backlog), [2]);
    }

    #[test]
    fn rows_that_are_known_are_skipped_until_they_are_forgotten() {
        let mut backlog = Backlog::default();
        backlog.add(0, vec![row(1, "a")]);
        departing(&mut backlog);
        backlog.settled(&key("a"), 1);
        assert_eq!(backlog.add(0, vec![row(1, "a")]), 0);
        backlog.forget(0, &[1]);
        assert_eq!(backlog.known_count(0), 0);
    }

    #[test]
    fn a_row_added_earlier_and_committed_later_goes_before_those_that_wait() {
        let mut backlog = Backlog::default();
        backlog.add(0, vec![row(2, "a"), row(4, "a")]);
        assert_eq!(departing(&mut backlog), [2]);
        backlog.add(0, vec![row(2, "a"), row(3, "a"), row(4, "a")]);
        backlog.settled(&key("a"), 2);
        assert_eq!(departing(&mut backlog), [3]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_key_waits_longer_each_time_and_the_others_do_not() {
        let mut backlog = Backlog::default();
        backlog.add(0, vec![row(1, "a"), row(2, "b"), row(3, "b")]);
        departing(&mut backlog);
        let mut waits = Vec::new();
        for _ in 0..3 {
            backlog.failed(&key("a"));
            let wakes_at = backlog.wakes_at().unwrap();
            waits.push((wakes_at - Instant::now()).as_millis());
            backlog.wake(wakes_at);
            assert_eq!(departing(&mut backlog), [1]);
        }
        assert_eq!(waits, [100, 200, 400]);
        backlog.settled(&key("b"), 2);
        assert_eq!(departing(&mut backlog), [3]);
    }

    #[test]
    fn a_key_of_a_lost_shard_stays_blocked_while_its_message_is_on_its_way() {
        let mut backlog = Backlog::default();
        backlog.add(0, vec![row(1, "a"), row(2, "a"), row(3, "b")]);
        assert_eq!(backlog.depart().unwrap().id, 1);
        backlog.forget_shard(0);
        backlog.add(0, vec![row(1, "a"), row(2, "a"), row(3, "b")]);
        assert_eq!(departing(&mut backlog), [3]);
        backlog.settled(&key("a"), 1);
        assert_eq!(departing(&mut backlog), [2]);
    }
}
