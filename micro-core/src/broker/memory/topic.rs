//! A topic in memory: a log per partition, and how far each group is in it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::SystemTime,
};

use tokio::sync::{Notify, oneshot};

use crate::{
    Error, ErrorKind, Result,
    broker::{Delivery, Message, Receipt, fnv1a_partition},
};

use super::{IN_FLIGHT_COUNT_MAX, groups::MemberId};

/// What the entries of one `publish` share: its drop, with the last of them, is the receipt.
pub(super) struct Ticket {
    _settled: oneshot::Sender<()>,
}

impl Ticket {
    pub(super) fn new(settled: oneshot::Sender<()>) -> Self {
        Self { _settled: settled }
    }
}

pub(super) struct Topic {
    pub(super) name: Arc<str>,
    logs: Vec<Log>,
    groups: BTreeMap<Arc<str>, Vec<Share>>,
    next_unkeyed: u32,
}

impl Topic {
    pub(super) fn new(name: Arc<str>, partition_count: u32) -> Self {
        let logs = (0..partition_count).map(|_| Log::default()).collect();
        Self { name, logs, groups: BTreeMap::new(), next_unkeyed: 0 }
    }

    /// Makes a group known; it begins at the earliest message kept.
    pub(super) fn declare(&mut self, group: &Arc<str>) {
        if self.groups.contains_key(group) {
            return;
        }
        if self.groups.is_empty() {
            self.logs.iter_mut().for_each(|log| log.awaited_from = log.end());
        }
        let shares = self.logs.iter().map(|log| Share::new(log.first_offset)).collect();
        self.groups.insert(group.clone(), shares);
    }

    pub(super) fn append(
        &mut self,
        message: Message,
        retention_count_max: usize,
        timestamp: SystemTime,
        ticket: &Arc<Ticket>,
    ) -> Result<Receipt> {
        let partition = self.partition_of(&message);
        self.make_room(partition, retention_count_max)?;
        let ticket = (!self.groups.is_empty()).then(|| ticket.clone());
        let log = &mut self.logs[partition];
        let offset = log.end();
        let number = partition_number(partition);
        log.entries
            .push_back(Entry { delivery: Delivery { message, partition: number, offset, timestamp }, _ticket: ticket });
        self.wake_owners(partition);
        Ok(Receipt { partition: number, offset })
    }

    fn partition_of(&mut self, message: &Message) -> usize {
        let count = u32::try_from(self.logs.len()).expect("made from a u32 count");
        let partition = match &message.key {
            Some(key) => fnv1a_partition(key, count),
            None => {
                self.next_unkeyed = (self.next_unkeyed + 1) % count;
                self.next_unkeyed
            }
        };
        usize::try_from(partition).expect("below the number of logs")
    }

    fn make_room(&mut self, partition: usize, retention_count_max: usize) -> Result<()> {
        if self.logs[partition].entries.len() < retention_count_max {
            return Ok(());
        }
        let Some(group) = self.most_lagging(partition) else {
            // Nobody waits for the oldest: retention takes it.
            let log = &mut self.logs[partition];
            log.drop_before(log.first_offset + 1);
            return Ok(());
        };
        Err(Error::new(ErrorKind::ResourceExhausted, "broker.publish", "the partition is full, a group lags behind")
            .with_context("topic", &self.name)
            .with_context("partition", partition)
            .with_context("group", group)
            .with_context("retention_count_max", retention_count_max))
    }

    /// The group that holds the oldest message of the partition; `None` without a group.
    pub(super) fn most_lagging(&self, partition: usize) -> Option<&Arc<str>> {
        self.groups.iter().min_by_key(|(_, shares)| shares[partition].committed).map(|(group, _)| group)
    }

    fn wake_owners(&self, partition: usize) {
        for owner in self.groups.values().filter_map(|shares| shares[partition].owner.as_ref()) {
            owner.wake.notify_one();
        }
    }

    pub(super) fn shares_mut(&mut self, group: &str) -> Option<&mut Vec<Share>> {
        self.groups.get_mut(group)
    }

    /// The group's share of a partition if this member owns it.
    pub(super) fn owned_mut(&mut self, group: &str, partition: i32, member: MemberId) -> Option<&mut Share> {
        let partition = usize::try_from(partition).ok()?;
        self.groups.get_mut(group)?.get_mut(partition).filter(|share| share.is_owned_by(member))
    }

    /// How many deliveries of the partition the group's owner may take now.
    pub(super) fn ready_count(&self, group: &str, partition: usize) -> usize {
        let Some(share) = self.groups.get(group).map(|shares| &shares[partition]) else { return 0 };
        if share.is_paused || share.revocation.is_some() {
            return 0;
        }
        let waiting = self.logs[partition].end() - share.next_offset;
        let room = IN_FLIGHT_COUNT_MAX - (share.next_offset - share.committed);
        usize::try_from(waiting.min(room)).unwrap_or(0)
    }

    /// Hands out the group's next deliveries of the partition.
    pub(super) fn take(&mut self, group: &str, partition: usize, count_max: usize, into: &mut Vec<Delivery>) {
        let count = self.ready_count(group, partition).min(count_max);
        let Some(share) = self.groups.get_mut(group).map(|shares| &mut shares[partition]) else { return };
        into.extend(self.logs[partition].range(share.next_offset, count).cloned());
        share.hand_out(count);
    }

    /// Takes what every group acked out of the partition's log.
    pub(super) fn settle(&mut self, partition: usize) -> Vec<Entry> {
        let done = self.groups.values().map(|shares| shares[partition].committed).min();
        done.map(|offset| self.logs[partition].drop_before(offset)).unwrap_or_default()
    }

    pub(super) fn is_settled(&self, receipt: &Receipt) -> bool {
        let log = usize::try_from(receipt.partition).ok().and_then(|partition| self.logs.get(partition));
        self.groups.is_empty() || log.is_none_or(|log| receipt.offset < log.first_unsettled())
    }

    /// Partitions with unsettled messages and where their logs end.
    pub(super) fn ends(&self) -> impl Iterator<Item = (usize, i64)> {
        let unsettled = self.logs.iter().enumerate().filter(|(_, log)| log.first_unsettled() < log.end());
        unsettled.map(|(partition, log)| (partition, log.end()))
    }

    /// How many messages of the partition below `end` wait for an ack.
    pub(super) fn unsettled_count(&self, partition: usize, end: i64) -> i64 {
        if self.groups.is_empty() { 0 } else { (end - self.logs[partition].first_unsettled()).max(0) }
    }
}

fn partition_number(partition: usize) -> i32 {
    i32::try_from(partition).expect("at most PARTITION_COUNT_MAX")
}

#[derive(Default)]
struct Log {
    first_offset: i64,
    /// Messages before it were published when no group was known: their receipts are given.
    awaited_from: i64,
    entries: VecDeque<Entry>,
}

impl Log {
    fn end(&self) -> i64 {
        self.first_offset + i64::try_from(self.entries.len()).expect("a length in memory fits an i64")
    }

    fn first_unsettled(&self) -> i64 {
        self.first_offset.max(self.awaited_from)
    }

    fn range(&self, from: i64, count: usize) -> impl Iterator<Item = &Delivery> {
        let skipped = usize::try_from(from - self.first_offset).unwrap_or(0);
        self.entries.range(skipped..skipped + count).map(|entry| &entry.delivery)
    }

    fn drop_before(&mut self, offset: i64) -> Vec<Entry> {
        let count = usize::try_from(offset - self.first_offset).unwrap_or(0).min(self.entries.len());
        self.first_offset += i64::try_from(count).expect("a length in memory fits an i64");
        self.entries.drain(..count).collect()
    }
}

/// A message in the log. Its drop is what its publisher waits for.
pub(super) struct Entry {
    delivery: Delivery,
    _ticket: Option<Arc<Ticket>>,
}

/// How far a group is in a partition, and which member works on it.
pub(super) struct Share {
    committed: i64,
    /// What the owner gets next; everything from `committed` on is in its hands.
    next_offset: i64,
    /// The end of what any member was ever given: beyond it an ack makes no sense.
    handed_out_max: i64,
    owner: Option<Owner>,
    /// The revocation that takes the partition from its owner now.
    revocation: Option<u64>,
    is_paused: bool,
}

struct Owner {
    member: MemberId,
    wake: Arc<Notify>,
}

impl Share {
    fn new(offset: i64) -> Self {
        Self {
            committed: offset,
            next_offset: offset,
            handed_out_max: offset,
            owner: None,
            revocation: None,
            is_paused: false,
        }
    }

    pub(super) fn owner(&self) -> Option<MemberId> {
        self.owner.as_ref().map(|owner| owner.member)
    }

    pub(super) fn is_owned_by(&self, member: MemberId) -> bool {
        self.owner() == Some(member)
    }

    pub(super) fn is_revoked_by(&self, revocation: u64) -> bool {
        self.revocation == Some(revocation)
    }

    pub(super) fn is_being_revoked(&self) -> bool {
        self.revocation.is_some()
    }

    pub(super) fn assign(&mut self, member: MemberId, wake: Arc<Notify>) {
        wake.notify_one();
        self.owner = Some(Owner { member, wake });
    }

    pub(super) fn revoke(&mut self, revocation: u64) {
        self.revocation = Some(revocation);
    }

    /// Takes the partition from its owner; the next one begins at the last acked position.
    pub(super) fn release(&mut self) {
        self.owner = None;
        self.revocation = None;
        self.is_paused = false;
        self.next_offset = self.committed;
    }

    pub(super) fn set_paused(&mut self, is_paused: bool) {
        self.is_paused = is_paused;
    }

    fn hand_out(&mut self, count: usize) {
        self.next_offset += i64::try_from(count).expect("a length in memory fits an i64");
        self.handed_out_max = self.handed_out_max.max(self.next_offset);
    }

    /// Moves the committed position; answers whether it moved.
    pub(super) fn ack(&mut self, next_offset: i64) -> Result<bool> {
        if next_offset > self.handed_out_max {
            return Err(Error::new(ErrorKind::InvalidArgument, "broker.ack", "the position was never handed out")
                .with_context("next_offset", next_offset)
                .with_context("handed_out_up_to", self.handed_out_max));
        }
        if next_offset <= self.committed {
            return Ok(false);
        }
        let was_full = self.next_offset - self.committed >= IN_FLIGHT_COUNT_MAX;
        self.committed = next_offset;
        self.next_offset = self.next_offset.max(next_offset);
        if let (true, Some(owner)) = (was_full, &self.owner) {
            owner.wake.notify_one();
        }
        Ok(true)
    }
}

#[cfg(test)]
impl Topic {
    pub(super) fn kept_count(&self) -> usize {
        self.logs.iter().map(|log| log.entries.len()).sum()
    }

    pub(super) fn is_rebalancing(&self) -> bool {
        self.groups.values().flatten().any(Share::is_being_revoked)
    }
}
