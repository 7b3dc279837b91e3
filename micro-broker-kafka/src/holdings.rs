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
    /// Something was paused or resumed that the client does not know of yet.
    has_new_pauses: bool,
    /// Of what `next` may hand out.
    ready: Amount,
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
    acked: i64,
    committed: i64,
    is_paused: bool,
    is_revoked: bool,
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
    /// Takes partitions over, each from its start position or, where that is not known, from what
    /// the client begins with.
    pub(crate) fn assign(&mut self, starts: impl IntoIterator<Item = (TopicPartition, Option<i64>)>) {
        for (partition, start) in starts {
            self.release(&partition);
            self.turns.push_back(partition.clone());
            let position = start.unwrap_or(0);
            let holding = Holding {
                received: VecDeque::new(),
                amount: Amount::default(),
                next_offset: start,
                handed_out_up_to: position,
                acked: position,
                committed: position,
                is_paused: false,
                is_revoked: false,
            };
            self.partitions.insert(partition, holding);
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
        // Neighbours are mostly of one partition.
        let mut current: Option<TopicPartition> = None;
        for delivery in deliveries {
            let is_current = current.as_ref().is_some_and(|current| {
                current.partition == delivery.partition && Arc::ptr_eq(&current.topic, &delivery.message.topic)
            });
            if !is_current {
                current = Some(delivery.topic_partition());
            }
            let Some(holding) = current.as_ref().and_then(|current| self.partitions.get_mut(current)) else { continue };
            if holding.is_revoked || self.has_ended {
                continue;
            }
            let amount = Amount { count: 1, bytes: record::bytes_of(&delivery) };
            holding.next_offset = Some(delivery.offset + 1);
            holding.amount.add(amount);
            if !holding.is_paused {
                self.ready.add(amount);
            }
            holding.received.push_back(delivery);
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

    /// Positions to commit: acked and not committed yet. They count as committed from now on.
    pub(crate) fn take_uncommitted(&mut self) -> Vec<Position> {
        let mut positions = Vec::new();
        for (partition, holding) in &mut self.partitions {
            if holding.acked > holding.committed {
                holding.committed = holding.acked;
                positions.push(Position { partition: partition.clone(), next_offset: holding.acked });
            }
        }
        positions
    }

    /// Takes back that a position was committed: it is committed again with the next ones.
    pub(crate) fn not_committed(&mut self, partition: &TopicPartition, next_offset: i64) {
        let Some(holding) = self.partitions.get_mut(partition) else { return };
        if holding.committed <= next_offset {
            holding.committed = -1;
        }
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

    /// The paused partitions, when they changed since this was asked last.
    pub(crate) fn new_pauses(&mut self) -> bool {
        std::mem::take(&mut self.has_new_pauses)
    }

    /// Every partition, whether it is paused, and the offset that comes next from the broker.
    pub(crate) fn partitions(&self) -> impl Iterator<Item = (&TopicPartition, bool, Option<i64>)> {
        self.partitions.iter().map(|(partition, holding)| (partition, holding.is_paused, holding.next_offset))
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
