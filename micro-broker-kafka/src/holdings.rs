//! What a member holds: its partitions, what was received of them, and how far each is acked.
//!
//! One lock, held for short steps: the poll thread puts in, `next` takes out.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use micro_core::broker::{Delivery, Position, RevokeGuard, SubscriptionEvent, TopicPartition};
use tokio::sync::oneshot;

use crate::record;

/// Everything a subscription knows of its partitions.
#[derive(Default)]
pub(crate) struct Holdings {
    partitions: BTreeMap<TopicPartition, Holding>,
    /// In the order in which partitions are asked for deliveries.
    turns: VecDeque<TopicPartition>,
    events: VecDeque<SubscriptionEvent>,
    has_ended: bool,
    /// Something was paused, resumed or assigned since the client was told what to fetch.
    has_new_pauses: bool,
    /// Whether the client fetches nothing because nobody receives.
    is_stalled: bool,
    /// Of what `next` may hand out.
    ready: Amount,
}

/// Where a partition begins, or goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// At this offset.
    At(i64),
    /// At the earliest message that is there.
    Beginning,
    /// At the committed position, which could not be read yet.
    Unknown,
}

impl Start {
    fn offset(self) -> Option<i64> {
        match self {
            Self::At(offset) => Some(offset),
            Self::Beginning | Self::Unknown => None,
        }
    }
}

/// One partition while this member owns it. A later ownership is another value: what was acked of
/// an earlier one has no meaning for it.
struct Holding {
    received: VecDeque<Delivery>,
    amount: Amount,
    /// The offset that comes next from the broker; `None` before that is known.
    next_offset: Option<i64>,
    /// Everything below was handed out.
    handed_out_up_to: i64,
    /// Where this ownership began.
    start: i64,
    acked: i64,
    /// Up to where the client was told.
    stored: i64,
    is_paused: bool,
    /// Whether the client was told so. It must not be told to resume what it has not paused: that
    /// throws away what it fetched.
    is_paused_in_client: bool,
    is_revoked: bool,
    /// Whether the committed position, at which it begins, could not be read yet.
    is_unread: bool,
}

/// What the client is to be told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PauseChanges {
    pub(crate) paused: Vec<TopicPartition>,
    pub(crate) resumed: Vec<TopicPartition>,
}

#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
struct Amount {
    count: usize,
    bytes: usize,
}

/// A revocation on its way to the consumer.
pub(crate) struct Revocation {
    /// Resolves when the guard is dropped.
    pub(crate) released: oneshot::Receiver<()>,
    /// Whether something of it is handed out and not acked.
    pub(crate) is_in_hand: bool,
}

impl Holdings {
    /// Takes partitions over, each from where it begins.
    pub(crate) fn assign(&mut self, starts: impl IntoIterator<Item = (TopicPartition, Start)>) {
        for (partition, start) in starts {
            self.release(&partition);
            self.turns.push_back(partition.clone());
            let position = start.offset().unwrap_or(0);
            let holding = Holding {
                received: VecDeque::new(),
                amount: Amount::default(),
                next_offset: start.offset(),
                handed_out_up_to: position,
                start: position,
                acked: position,
                stored: position,
                is_paused: false,
                is_paused_in_client: false,
                is_revoked: false,
                is_unread: start == Start::Unknown,
            };
            self.partitions.insert(partition, holding);
            self.has_new_pauses = true;
        }
    }

    /// Stops deliveries of these partitions and tells the consumer; they stay this member's, to be
    /// acked, until [`drop_partitions`](Self::drop_partitions).
    pub(crate) fn revoke(&mut self, partitions: &[TopicPartition]) -> Revocation {
        let mut is_in_hand = false;
        for partition in partitions {
            self.forget_received(partition);
            if let Some(holding) = self.partitions.get_mut(partition) {
                holding.is_revoked = true;
                is_in_hand |= holding.acked < holding.handed_out_up_to;
            }
        }
        let (guard, released) = RevokeGuard::new();
        self.events.push_back(SubscriptionEvent::Revoked(partitions.to_vec(), guard));
        Revocation { released, is_in_hand }
    }

    /// Tells the consumer that these are gone: what is in hand of them is somebody else's.
    pub(crate) fn lose(&mut self, partitions: &[TopicPartition]) {
        self.drop_partitions(partitions);
        self.tell_lost(partitions);
    }

    /// As [`lose`](Self::lose), of partitions whose acks still count until they are dropped.
    pub(crate) fn tell_lost(&mut self, partitions: &[TopicPartition]) {
        self.events.push_back(SubscriptionEvent::Lost(partitions.to_vec()));
    }

    /// Ends the ownership of these partitions; acks that come after it are ignored.
    pub(crate) fn drop_partitions(&mut self, partitions: &[TopicPartition]) {
        partitions.iter().for_each(|partition| self.release(partition));
    }

    /// Ends everything: nothing is handed out any more, acks are taken until the partitions go.
    pub(crate) fn end(&mut self) {
        self.has_ended = true;
        let all: Vec<_> = self.partitions.keys().cloned().collect();
        all.iter().for_each(|partition| self.forget_received(partition));
    }

    /// Puts in what the poll thread received; what belongs to nobody here is dropped.
    pub(crate) fn receive(&mut self, deliveries: impl IntoIterator<Item = Delivery>) {
        // Neighbours are mostly of one partition: it is looked up once for all of them.
        let mut deliveries = deliveries.into_iter().peekable();
        while let Some(first) = deliveries.peek() {
            let id = first.topic_partition();
            let is_same = |delivery: &Delivery| {
                delivery.partition == id.partition && Arc::ptr_eq(&delivery.message.topic, &id.topic)
            };
            let neighbours = std::iter::from_fn(|| deliveries.next_if(is_same));
            match self.partitions.get_mut(&id).filter(|holding| !holding.is_revoked && !self.has_ended) {
                Some(holding) => {
                    let amount = holding.receive(neighbours);
                    if !holding.is_paused {
                        self.ready.add(amount);
                    }
                }
                None => neighbours.for_each(drop),
            }
        }
    }

    /// Whether a consumer that takes its time has left room for more.
    pub(crate) fn has_room(&self, count_max: usize, bytes_max: usize) -> bool {
        self.ready.count < count_max && self.ready.bytes < bytes_max
    }

    pub(crate) fn pop_event(&mut self) -> Option<SubscriptionEvent> {
        self.events.pop_front()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended
    }

    pub(crate) fn ready_count(&self) -> usize {
        self.ready.count
    }

    /// Hands out at most so many deliveries, each partition's in order, beginning at another
    /// partition each time.
    pub(crate) fn take(&mut self, count_max: usize) -> Vec<Delivery> {
        let mut batch = Vec::with_capacity(count_max.min(self.ready.count));
        for partition in &self.turns {
            let Some(holding) = self.partitions.get_mut(partition).filter(|holding| !holding.is_paused) else {
                continue;
            };
            let count = holding.received.len().min(count_max - batch.len());
            if count == 0 {
                continue;
            }
            let begin = batch.len();
            batch.extend(holding.received.drain(..count));
            let taken: &[Delivery] = &batch[begin..];
            let amount = Amount { count, bytes: taken.iter().map(record::bytes_of).sum() };
            holding.amount.subtract(amount);
            self.ready.subtract(amount);
            holding.handed_out_up_to = taken[count - 1].offset + 1;
        }
        // One full partition must not starve the others: another one is first next time.
        if !self.turns.is_empty() {
            self.turns.rotate_left(1);
        }
        batch
    }

    /// Moves a position forward. One that this ownership never handed out is of an earlier one, and
    /// ignored like that of a partition that is gone.
    pub(crate) fn ack(&mut self, position: &Position) {
        let Some(holding) = self.partitions.get_mut(&position.partition) else { return };
        if position.next_offset > holding.acked && position.next_offset <= holding.handed_out_up_to {
            holding.acked = position.next_offset;
        }
    }

    /// Positions that moved since this was asked last: what the client commits in its time.
    pub(crate) fn take_moved(&mut self) -> Vec<Position> {
        let mut moved = Vec::new();
        for (partition, holding) in &mut self.partitions {
            if holding.acked > holding.stored {
                holding.stored = holding.acked;
                moved.push(Position { partition: partition.clone(), next_offset: holding.acked });
            }
        }
        moved
    }

    /// How far each of these partitions was acked, where it was acked at all in this ownership.
    pub(crate) fn acked(&self, partitions: &[TopicPartition]) -> Vec<Position> {
        let position = |partition: &TopicPartition| {
            let holding = self.partitions.get(partition).filter(|holding| holding.acked > holding.start)?;
            Some(Position { partition: partition.clone(), next_offset: holding.acked })
        };
        partitions.iter().filter_map(position).collect()
    }

    pub(crate) fn set_paused(&mut self, partitions: &[TopicPartition], is_paused: bool) {
        for partition in partitions {
            let Some(holding) = self.partitions.get_mut(partition) else { continue };
            if holding.is_paused == is_paused {
                continue;
            }
            holding.is_paused = is_paused;
            self.has_new_pauses = true;
            if is_paused {
                self.ready.subtract(holding.amount);
            } else {
                self.ready.add(holding.amount);
            }
        }
    }

    /// What the client is to pause and to resume, because of the consumer's pauses or because
    /// nobody receives. It counts as told.
    pub(crate) fn pause_changes(&mut self, is_stalled: bool) -> PauseChanges {
        let mut changes = PauseChanges::default();
        if !std::mem::take(&mut self.has_new_pauses) && is_stalled == self.is_stalled {
            return changes;
        }
        self.is_stalled = is_stalled;
        for (partition, holding) in self.partitions.iter_mut().filter(|(_, holding)| !holding.is_revoked) {
            let is_paused = holding.is_paused || is_stalled;
            if is_paused != holding.is_paused_in_client {
                holding.is_paused_in_client = is_paused;
                let list = if is_paused { &mut changes.paused } else { &mut changes.resumed };
                list.push(partition.clone());
            }
        }
        changes
    }

    /// Those of `partitions` that the client has paused: it would keep that for their next
    /// ownership. They count as resumed.
    pub(crate) fn take_paused_in_client(&mut self, partitions: &[TopicPartition]) -> Vec<TopicPartition> {
        let mut paused = partitions.to_vec();
        paused.retain(|id| {
            self.partitions.get_mut(id).is_some_and(|holding| std::mem::take(&mut holding.is_paused_in_client))
        });
        paused
    }

    /// Every partition, and where it goes on.
    pub(crate) fn partitions(&self) -> impl Iterator<Item = (&TopicPartition, Start)> {
        self.partitions.iter().map(|(partition, holding)| (partition, holding.next()))
    }

    /// Where a partition goes on; `None` when it is not held.
    pub(crate) fn next(&self, partition: &TopicPartition) -> Option<Start> {
        self.partitions.get(partition).map(Holding::next)
    }

    /// The partitions whose committed position could not be read yet and of which nothing came.
    pub(crate) fn unread(&self) -> Vec<TopicPartition> {
        let unread = self.partitions().filter(|(_, next)| *next == Start::Unknown);
        unread.map(|(partition, _)| partition.clone()).collect()
    }

    fn release(&mut self, partition: &TopicPartition) {
        self.forget_received(partition);
        if self.partitions.remove(partition).is_some() {
            self.turns.retain(|turn| turn != partition);
        }
    }

    fn forget_received(&mut self, partition: &TopicPartition) {
        let Some(holding) = self.partitions.get_mut(partition) else { return };
        holding.received.clear();
        let amount = std::mem::take(&mut holding.amount);
        if !holding.is_paused {
            self.ready.subtract(amount);
        }
    }
}

impl Holding {
    fn next(&self) -> Start {
        match self.next_offset {
            Some(offset) => Start::At(offset),
            None if self.is_unread => Start::Unknown,
            None => Start::Beginning,
        }
    }

    fn receive(&mut self, deliveries: impl Iterator<Item = Delivery>) -> Amount {
        let mut amount = Amount::default();
        for delivery in deliveries {
            amount.add(Amount { count: 1, bytes: record::bytes_of(&delivery) });
            self.next_offset = Some(delivery.offset + 1);
            self.received.push_back(delivery);
        }
        self.amount.add(amount);
        amount
    }
}

impl Amount {
    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.bytes += other.bytes;
    }

    fn subtract(&mut self, other: Self) {
        self.count -= other.count;
        self.bytes -= other.bytes;
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use micro_core::broker::Message;

    use super::*;

    fn partition(number: i32) -> TopicPartition {
        TopicPartition { topic: "t".into(), partition: number }
    }

    fn deliveries(number: i32, offsets: std::ops::Range<i64>) -> Vec<Delivery> {
        let topic: Arc<str> = "t".into();
        let message = Message::keyed(topic, "k", "body");
        let timestamp = SystemTime::UNIX_EPOCH;
        offsets.map(|offset| Delivery { message: message.clone(), partition: number, offset, timestamp }).collect()
    }

    fn position(number: i32, next_offset: i64) -> Position {
        Position { partition: partition(number), next_offset }
    }

    fn owning(numbers: &[i32]) -> Holdings {
        let mut holdings = Holdings::default();
        holdings.assign(numbers.iter().map(|number| (partition(*number), Start::At(0))));
        holdings
    }

    fn places(batch: &[Delivery]) -> Vec<(i32, i64)> {
        batch.iter().map(|delivery| (delivery.partition, delivery.offset)).collect()
    }

    #[test]
    fn each_partition_is_first_in_its_turn_and_keeps_its_order() {
        let mut holdings = owning(&[0, 1]);
        holdings.receive(deliveries(0, 0..4));
        holdings.receive(deliveries(1, 0..4));
        assert_eq!(places(&holdings.take(3)), [(0, 0), (0, 1), (0, 2)]);
        assert_eq!(places(&holdings.take(3)), [(1, 0), (1, 1), (1, 2)]);
        assert_eq!(places(&holdings.take(3)), [(0, 3), (1, 3)]);
        assert_eq!(holdings.ready, Amount::default());
    }

    #[test]
    fn an_ack_moves_forward_within_what_was_handed_out_in_this_ownership() {
        let mut holdings = owning(&[0]);
        holdings.receive(deliveries(0, 0..10));
        holdings.take(6);
        for (next_offset, acked) in [(4, 4), (2, 4), (7, 4), (6, 6)] {
            holdings.ack(&position(0, next_offset));
            assert_eq!(holdings.partitions[&partition(0)].acked, acked, "after an ack of {next_offset}");
        }
        holdings.ack(&position(1, 3));
        assert_eq!(holdings.take_moved(), [position(0, 6)]);
        assert_eq!(holdings.take_moved(), [], "told once");
        assert_eq!(holdings.acked(&[partition(0), partition(1)]), [position(0, 6)], "whether told or not");

        // It goes and comes back further behind: what was handed out before says nothing now.
        holdings.lose(&[partition(0)]);
        holdings.ack(&position(0, 6));
        holdings.assign([(partition(0), Start::At(2))]);
        holdings.receive(deliveries(0, 2..10));
        holdings.take(2);
        holdings.ack(&position(0, 6));
        assert_eq!(holdings.take_moved(), [], "an ack of an earlier ownership is ignored");
        assert_eq!(holdings.acked(&[partition(0)]), [], "nothing was acked in this one");
    }

    #[test]
    fn a_paused_partition_keeps_what_it_has_and_takes_no_room() {
        let mut holdings = owning(&[0, 1]);
        holdings.receive(deliveries(0, 0..3));
        holdings.set_paused(&[partition(0)], true);
        let told = |paused: &[i32], resumed: &[i32]| PauseChanges {
            paused: paused.iter().copied().map(partition).collect(),
            resumed: resumed.iter().copied().map(partition).collect(),
        };
        assert_eq!(holdings.pause_changes(false), told(&[0], &[]));
        assert_eq!(holdings.pause_changes(false), told(&[], &[]), "it is told once");
        assert_eq!(holdings.pause_changes(true), told(&[1], &[]), "nobody receives");
        assert_eq!(holdings.pause_changes(false), told(&[], &[1]), "what the consumer paused stays so");
        holdings.receive(deliveries(0, 3..4));
        holdings.receive(deliveries(1, 0..1));
        assert_eq!(holdings.ready_count(), 1);
        assert_eq!(places(&holdings.take(10)), [(1, 0)]);
        holdings.set_paused(&[partition(0)], false);
        assert_eq!(places(&holdings.take(10)), [(0, 0), (0, 1), (0, 2), (0, 3)]);
        assert_eq!(holdings.take_paused_in_client(&[partition(0), partition(1)]), [partition(0)]);
        assert_eq!(holdings.pause_changes(false), told(&[], &[]), "it was resumed when it went");
        assert_eq!(holdings.ready, Amount::default());
    }

    #[test]
    fn a_revoked_partition_hands_out_nothing_and_is_acked_until_it_goes() {
        let mut holdings = owning(&[0, 1]);
        holdings.receive(deliveries(0, 0..4));
        holdings.take(2);
        assert!(!holdings.revoke(&[partition(1)]).is_in_hand);
        assert!(holdings.revoke(&[partition(0)]).is_in_hand);
        holdings.receive(deliveries(0, 4..6));
        assert_eq!(holdings.take(10), []);
        holdings.ack(&position(0, 2));
        assert_eq!(holdings.acked(&[partition(0)]), [position(0, 2)]);
        holdings.drop_partitions(&[partition(0), partition(1)]);
        holdings.ack(&position(0, 2));
        assert_eq!(holdings.acked(&[partition(0)]), []);
        assert!(matches!(holdings.pop_event(), Some(SubscriptionEvent::Revoked(of, _)) if of == [partition(1)]));
        assert!(matches!(holdings.pop_event(), Some(SubscriptionEvent::Revoked(of, _)) if of == [partition(0)]));
        assert!(holdings.pop_event().is_none());
    }

    #[test]
    fn room_is_bounded_by_count_and_by_bytes() {
        let mut holdings = owning(&[0]);
        assert!(holdings.has_room(1, 1));
        holdings.receive(deliveries(0, 0..2));
        assert!(!holdings.has_room(2, usize::MAX) && holdings.has_room(3, usize::MAX));
        assert!(!holdings.has_room(usize::MAX, 2 * size_of::<Delivery>()));
    }
}
