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
    share::may_take,
};

/// The first and the longest wait before a message of a key is sent again.
const RETRY_DELAY_INITIAL: Duration = Duration::from_millis(100);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(5);

/// The most rows of one shard that are kept in memory.
const KNOWN_COUNT_MAX: usize = 4_096;

/// What a row is taken for before the first one was read, in bytes: what a topic of Kafka takes by
/// default at most.
const ROW_BYTES_INITIAL: usize = 1_024 * 1_024;

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

/// The rows read and not yet settled. Of each key, one at most is on its way. A topic that cannot be
/// sent leaves the others room: it has no more than its [share](may_take) of what is kept in memory
/// of a shard, and of what may be on its way.
pub(super) struct Backlog {
    keys: HashMap<KeyId, Queue>,
    ready: VecDeque<KeyId>,
    waiting: BTreeMap<(Instant, u64), KeyId>,
    wait_count: u64,
    shards: [Shard; SHARD_COUNT as usize],
    /// Those that have something on its way.
    topics: HashMap<Arc<str>, Topic>,
    in_flight_count: usize,
    in_flight_count_max: usize,
    /// Of the rows that are not settled.
    bytes: usize,
    bytes_max: usize,
    /// The mean of those that were read last, in bytes.
    row_bytes: usize,
}

#[derive(Default)]
struct Shard {
    /// Every row read and not yet removed from the store.
    known: HashSet<i64>,
    ready_count: usize,
    /// What is not settled, by topic.
    unsettled: HashMap<Arc<str>, Unsettled>,
}

#[derive(Clone, Copy, Default)]
struct Unsettled {
    count: usize,
    bytes: usize,
}

#[derive(Default)]
struct Topic {
    in_flight_count: usize,
    /// Ready keys that go when some of it have landed.
    held: VecDeque<KeyId>,
}

struct Queue {
    shard: u16,
    topic: Arc<str>,
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
    /// Of which so many messages may be on their way, and so many bytes are kept.
    pub(super) fn new(in_flight_count_max: usize, bytes_max: usize) -> Self {
        Self {
            keys: HashMap::new(),
            ready: VecDeque::new(),
            waiting: BTreeMap::new(),
            wait_count: 0,
            shards: Default::default(),
            topics: HashMap::new(),
            in_flight_count: 0,
            in_flight_count_max,
            bytes: 0,
            bytes_max,
            row_bytes: ROW_BYTES_INITIAL,
        }
    }

    /// Adds rows of a shard, in their order, skips those it knows and those of topics that are full;
    /// answers how many were new.
    pub(super) fn add(&mut self, shard: u16, rows: Vec<OutboxRow>) -> usize {
        let mut new_count = 0;
        if !rows.is_empty() {
            let bytes: usize = rows.iter().map(|row| row.message.bytes_count()).sum();
            self.row_bytes = (bytes / rows.len()).max(1);
        }
        for row in rows {
            // A topic that is full stays so to the end of these rows: none behind one that is skipped
            // is taken.
            let is_full = self.is_full(shard, &row.message.topic);
            let of_shard = &mut self.shards[usize::from(shard)];
            if is_full || !of_shard.known.insert(row.id) {
                continue;
            }
            new_count += 1;
            let topic = row.message.topic.clone();
            let bytes = row.message.bytes_count();
            let unsettled = of_shard.unsettled.entry(topic.clone()).or_default();
            unsettled.count += 1;
            unsettled.bytes += bytes;
            self.bytes += bytes;
            let key = KeyId::of(shard, &row);
            if let Some(queue) = self.keys.get_mut(&key) {
                queue.rows.insert(row.id, row.message);
                continue;
            }
            let rows = BTreeMap::from([(row.id, row.message)]);
            self.keys.insert(key.clone(), Queue { shard, topic, rows, state: State::Ready, failure_count: 0 });
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
            let topic = self.topics.entry(queue.topic.clone()).or_default();
            if !may_take(topic.in_flight_count, self.in_flight_count, self.in_flight_count_max) {
                topic.held.push_back(key);
                continue;
            }
            topic.in_flight_count += 1;
            self.in_flight_count += 1;
            let (id, message) = queue.rows.first_key_value().expect("a ready key has a row");
            queue.state = State::OnItsWay(*id);
            let (shard, id, message) = (queue.shard, *id, message.clone());
            return Some(Departure { key, shard, id, message });
        }
        None
    }

    /// The row on its way is settled (has a receipt, or is refused for good): the key goes on.
    pub(super) fn settled(&mut self, key: &KeyId, id: i64) {
        self.landed(key);
        let Some(queue) = self.keys.get_mut(key) else { return };
        let shard = queue.shard;
        if let Some(message) = queue.rows.remove(&id) {
            let bytes = message.bytes_count();
            self.bytes -= bytes;
            self.shards[usize::from(shard)].settled(&queue.topic, bytes);
        }
        queue.failure_count = 0;
        if queue.rows.is_empty() {
            self.keys.remove(key);
        } else {
            queue.state = State::Ready;
            self.make_ready(key.clone(), shard);
        }
    }

    /// The row on its way is to be sent again: the key waits, longer with each failure.
    pub(super) fn failed(&mut self, key: &KeyId) {
        self.landed(key);
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

    /// What was on its way of this key is so no more: others of its topic may go. Two of them where
    /// there is room, for other topics may have less on their way by now than when these were held.
    fn landed(&mut self, key: &KeyId) {
        let Some(name) = self.keys.get(key).map(|queue| &queue.topic) else { return };
        let Some(topic) = self.topics.get_mut(name) else { return };
        topic.in_flight_count -= 1;
        self.in_flight_count -= 1;
        let room = (0..2).filter(|released_count| {
            let (own, total) = (topic.in_flight_count + released_count, self.in_flight_count + released_count);
            may_take(own, total, self.in_flight_count_max)
        });
        let released: Vec<_> = topic.held.drain(..room.count().min(topic.held.len())).collect();
        if topic.in_flight_count == 0 && topic.held.is_empty() {
            self.topics.remove(&name.clone());
        }
        for key in released {
            if let Some(queue) = self.keys.get(&key) {
                self.make_ready(key, queue.shard);
            }
        }
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

    /// Whether as many rows are known as are kept in memory.
    pub(super) fn is_shard_full(&self, shard: u16) -> bool {
        self.shards[usize::from(shard)].known.len() >= KNOWN_COUNT_MAX
    }

    /// The topics of which no more rows are taken now.
    pub(super) fn full_topics(&self, shard: u16) -> Vec<Arc<str>> {
        let topics = self.shards[usize::from(shard)].unsettled.keys();
        topics.filter(|topic| self.is_full(shard, topic)).cloned().collect()
    }

    fn is_full(&self, shard: u16, topic: &str) -> bool {
        let shard = &self.shards[usize::from(shard)];
        let Unsettled { count, bytes } = shard.unsettled.get(topic).copied().unwrap_or_default();
        !may_take(count, shard.known.len(), KNOWN_COUNT_MAX) || !may_take(bytes, self.bytes, self.bytes_max)
    }

    /// How many rows fit into what is left, if they are as those that were read last; one at least.
    pub(super) fn room_count(&self) -> usize {
        (self.bytes_max.saturating_sub(self.bytes) / self.row_bytes).max(1)
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
        let forgotten = std::mem::take(&mut self.shards[usize::from(shard)]);
        self.bytes -= forgotten.unsettled.values().map(|unsettled| unsettled.bytes).sum::<usize>();
        self.keys.retain(|_, queue| queue.shard != shard || matches!(queue.state, State::OnItsWay(_)));
        for queue in self.keys.values_mut().filter(|queue| queue.shard == shard) {
            queue.rows.clear();
        }
        let keys = &self.keys;
        self.ready.retain(|key| keys.contains_key(key));
        self.waiting.retain(|_, key| keys.contains_key(key));
        // Those of other shards may have waited behind one that is gone.
        let held: Vec<_> = self.topics.values_mut().flat_map(|topic| topic.held.drain(..)).collect();
        self.topics.retain(|_, topic| topic.in_flight_count > 0);
        for key in held {
            if let Some(queue) = self.keys.get(&key) {
                self.make_ready(key, queue.shard);
            }
        }
    }

    fn make_ready(&mut self, key: KeyId, shard: u16) {
        self.ready.push_back(key);
        self.shards[usize::from(shard)].ready_count += 1;
    }
}

impl Shard {
    fn settled(&mut self, topic: &Arc<str>, bytes: usize) {
        let Some(unsettled) = self.unsettled.get_mut(topic) else { return };
        unsettled.count -= 1;
        unsettled.bytes -= bytes;
        if unsettled.count == 0 {
            self.unsettled.remove(topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backlog() -> Backlog {
        Backlog::new(8, usize::MAX)
    }

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
        let mut backlog = backlog();
        assert_eq!(backlog.add(0, vec![row(1, "a"), row(2, "a"), row(3, "b")]), 3);
        assert_eq!(departing(&mut backlog), [1, 3]);
        backlog.settled(&key("a"), 1);
        assert_eq!(departing(&mut backlog), [2]);
    }

    #[test]
    fn rows_that_are_known_are_skipped_until_they_are_forgotten() {
        let mut backlog = backlog();
        backlog.add(0, vec![row(1, "a")]);
        departing(&mut backlog);
        backlog.settled(&key("a"), 1);
        assert_eq!(backlog.add(0, vec![row(1, "a")]), 0);
        backlog.forget(0, &[1]);
        assert_eq!(backlog.known(0), [0; 0]);
    }

    #[test]
    fn a_row_added_earlier_and_committed_later_goes_before_those_that_wait() {
        let mut backlog = backlog();
        backlog.add(0, vec![row(2, "a"), row(4, "a")]);
        assert_eq!(departing(&mut backlog), [2]);
        backlog.add(0, vec![row(2, "a"), row(3, "a"), row(4, "a")]);
        backlog.settled(&key("a"), 2);
        assert_eq!(departing(&mut backlog), [3]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_key_waits_longer_each_time_and_the_others_do_not() {
        let mut backlog = backlog();
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
        let mut backlog = backlog();
        backlog.add(0, vec![row(1, "a"), row(2, "a"), row(3, "b")]);
        assert_eq!(backlog.depart().unwrap().id, 1);
        backlog.forget_shard(0);
        backlog.add(0, vec![row(1, "a"), row(2, "a"), row(3, "b")]);
        assert_eq!(departing(&mut backlog), [3]);
        backlog.settled(&key("a"), 1);
        assert_eq!(departing(&mut backlog), [2]);
    }

    fn of_topic(topic: &'static str, ids: std::ops::Range<i64>) -> Vec<OutboxRow> {
        ids.map(|id| OutboxRow { id, message: Message::keyed(topic, id.to_string(), "") }).collect()
    }

    #[test]
    fn a_topic_leaves_room_on_the_way_and_what_it_held_goes_as_its_messages_land() {
        let mut backlog = backlog();
        backlog.add(0, of_topic("t", 0..20));
        assert_eq!(departing(&mut backlog), [0, 1, 2, 3, 4, 5], "three quarters of eight");
        backlog.add(0, of_topic("other", 20..25));
        assert_eq!(departing(&mut backlog), [20], "one place stays free for a third");
        let topic_key = |topic: &'static str, id: i64| KeyId::Keyed(topic.into(), id.to_string().into());
        backlog.settled(&topic_key("other", 20), 20);
        assert_eq!(departing(&mut backlog), [21]);
        backlog.failed(&topic_key("t", 0));
        backlog.settled(&topic_key("t", 1), 1);
        assert_eq!(departing(&mut backlog), [6]);
        let (mut sent, mut landed_count) = (vec![0, 1, 2, 3, 4, 5, 6], 2);
        while let Some(id) = sent.get(landed_count).copied() {
            backlog.settled(&topic_key("t", id), id);
            landed_count += 1;
            sent.extend(departing(&mut backlog).into_iter().filter(|id| *id < 20));
        }
        assert_eq!(sent, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn rows_of_a_full_topic_are_left_to_the_store_until_it_has_room() {
        let mut backlog = backlog();
        let max = i64::try_from(KNOWN_COUNT_MAX).unwrap();
        let mut rows = of_topic("t", 0..max);
        rows.extend(of_topic("other", max..max + 10));
        let taken = backlog.add(0, rows);
        assert_eq!(taken, KNOWN_COUNT_MAX * 3 / 4 + 10);
        assert_eq!(backlog.full_topics(0), ["t".into()]);
        assert!(!backlog.is_shard_full(0) && backlog.full_topics(1).is_empty());
        for _ in 0..10 {
            let Departure { key, id, .. } = backlog.depart().unwrap();
            backlog.settled(&key, id);
            backlog.forget(0, &[id]);
        }
        assert!(backlog.full_topics(0).is_empty());
    }

    #[test]
    fn bytes_are_bounded_and_a_row_of_each_topic_passes_whatever_its_size() {
        let mut backlog = Backlog::new(8, 1_000);
        assert_eq!(backlog.room_count(), 1, "before the first row each is taken for a large one");
        let row =
            |id: i64, topic: &'static str, len: usize| OutboxRow { id, message: Message::unkeyed(topic, vec![0; len]) };
        let size = row(0, "t", 100).message.bytes_count();
        let taken = backlog.add(0, (0..20).map(|id| row(id, "t", 100)).collect());
        assert_eq!(taken, (1_000 * 3 / 4_usize).div_ceil(size));
        assert_eq!(backlog.room_count(), (1_000 - taken * size) / size);
        assert_eq!(backlog.add(0, vec![row(30, "other", 5_000), row(31, "other", 1)]), 1);
        while let Some(Departure { key, id, .. }) = backlog.depart() {
            backlog.settled(&key, id);
            backlog.forget(0, &[id]);
        }
        assert_eq!(backlog.bytes, 0);
        assert_eq!(backlog.add(0, vec![row(32, "t", 5_000), row(33, "t", 1)]), 1, "it passes alone");
        backlog.forget_shard(0);
        assert_eq!(backlog.bytes, 0);
    }
}
