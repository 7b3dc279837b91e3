//! Who is a member of which group, and which member owns which partition.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot},
};

use crate::{
    Error, ErrorKind, Result,
    broker::{Delivery, Message, Position, Receipt, RevokeGuard, SubscribeRequest, SubscriptionEvent, TopicPartition},
};

use super::{
    PARTITION_COUNT, RECEIPT_WAIT_MAX, RETENTION_COUNT_MAX,
    topic::{Entry, Ticket, Topic},
};

pub(super) type MemberId = u64;

/// Everything the broker knows; behind one lock, for each step is short.
pub(super) struct State {
    pub(super) partition_count: u32,
    pub(super) retention_count_max: usize,
    pub(super) receipt_wait_max: Duration,
    topics: HashMap<Arc<str>, Topic>,
    members: BTreeMap<MemberId, Member>,
    next_id: u64,
}

struct Member {
    group: Arc<str>,
    topics: Vec<Arc<str>>,
    owned: VecDeque<(Arc<str>, usize)>,
    events: VecDeque<SubscriptionEvent>,
    wake: Arc<Notify>,
    /// Where the wait for its guards runs.
    runtime: Handle,
}

/// Where the logs ended at some moment.
pub(super) type Ends = Vec<(Arc<str>, usize, i64)>;

impl State {
    pub(super) fn new() -> Self {
        Self {
            partition_count: PARTITION_COUNT,
            retention_count_max: RETENTION_COUNT_MAX,
            receipt_wait_max: RECEIPT_WAIT_MAX,
            topics: HashMap::new(),
            members: BTreeMap::new(),
            next_id: 0,
        }
    }

    pub(super) fn append(&mut self, message: Message, now: SystemTime, ticket: &Arc<Ticket>) -> Result<Receipt> {
        if message.topic.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArgument, "broker.publish", "the message names no topic"));
        }
        let retention_count_max = self.retention_count_max;
        let topic = message.topic.clone();
        self.topic(&topic).append(message, retention_count_max, now, ticket)
    }

    /// Turns the receipts of what is not acked yet into errors.
    pub(super) fn refuse_unsettled(&self, results: &mut [Result<Receipt>], topics: &[Arc<str>], wait: Duration) {
        for (result, name) in results.iter_mut().zip(topics) {
            let (Ok(receipt), Some(topic)) = (&*result, self.topics.get(name)) else { continue };
            if topic.is_settled(receipt) {
                continue;
            }
            let partition = usize::try_from(receipt.partition).expect("the broker's own number");
            let group = topic.most_lagging(partition).map_or("", |group| group);
            *result = Err(Error::new(ErrorKind::DeadlineExceeded, "broker.publish", "a group did not ack in time")
                .with_context("topic", name)
                .with_context("group", group)
                .with_context("receipt_wait_max", format!("{wait:?}")));
        }
    }

    pub(super) fn declare(&mut self, topic: &Arc<str>, group: &Arc<str>) {
        self.topic(topic).declare(group);
    }

    fn topic(&mut self, name: &Arc<str>) -> &mut Topic {
        let partition_count = self.partition_count;
        self.topics.entry(name.clone()).or_insert_with(|| Topic::new(name.clone(), partition_count))
    }

    pub(super) fn ends(&self) -> Ends {
        let ends = |topic: &Topic| topic.ends().map(|(p, end)| (topic.name.clone(), p, end)).collect::<Vec<_>>();
        self.topics.values().flat_map(ends).collect()
    }

    pub(super) fn unsettled_count(&self, ends: &Ends) -> i64 {
        ends.iter().filter_map(|(name, p, end)| Some(self.topics.get(name)?.unsettled_count(*p, *end))).sum()
    }

    pub(super) fn join(&mut self, request: &SubscribeRequest, wake: Arc<Notify>) -> (MemberId, Vec<Handover>) {
        let member = self.new_id();
        let mut topics = request.topics.clone();
        topics.sort();
        topics.dedup();
        for topic in &topics {
            self.declare(topic, &request.group);
        }
        let group = request.group.clone();
        let entry = Member {
            group: group.clone(),
            topics: topics.clone(),
            owned: VecDeque::new(),
            events: VecDeque::new(),
            wake,
            runtime: Handle::current(),
        };
        self.members.insert(member, entry);
        (member, topics.iter().flat_map(|topic| self.rebalance(&group, topic)).collect())
    }

    /// Takes a member out; what it did not ack goes to the others. No effect the second time.
    pub(super) fn leave(&mut self, member: MemberId) -> Vec<Handover> {
        let Some(left) = self.members.remove(&member) else { return Vec::new() };
        for (topic, partition) in &left.owned {
            if let Some(shares) = self.topics.get_mut(topic).and_then(|topic| topic.shares_mut(&left.group)) {
                shares[*partition].release();
            }
        }
        left.topics.iter().flat_map(|topic| self.rebalance(&left.group, topic)).collect()
    }

    /// Ends a revocation: its partitions are free, and the one who held on too long is told.
    pub(super) fn complete(&mut self, handover: &Handover, in_time: bool) -> Vec<Handover> {
        let Handover { revocation, member, group, topic, .. } = handover;
        let Some(shares) = self.topics.get_mut(topic).and_then(|topic| topic.shares_mut(group)) else {
            return Vec::new();
        };
        let mut freed = Vec::new();
        for (partition, share) in shares.iter_mut().enumerate().filter(|(_, share)| share.is_revoked_by(*revocation)) {
            share.release();
            freed.push(partition);
        }
        if let Some(old) = self.members.get_mut(member) {
            old.owned.retain(|(owned, partition)| owned != topic || !freed.contains(partition));
            if !in_time && !freed.is_empty() {
                old.tell(SubscriptionEvent::Lost(named(topic, &freed)));
            }
        }
        self.rebalance(group, topic)
    }

    /// Gives free partitions to the members that have the fewest, and revokes what others have too
    /// many of. What a member may keep it keeps: a rebalance moves as little as it can.
    fn rebalance(&mut self, group: &Arc<str>, topic: &Arc<str>) -> Vec<Handover> {
        let joined = |member: &Member| member.group == *group && member.topics.contains(topic);
        let ids: Vec<MemberId> =
            self.members.iter().filter(|(_, member)| joined(member)).map(|(member, _)| *member).collect();
        let Some(shares) = self.topics.get_mut(topic).and_then(|topic| topic.shares_mut(group)) else {
            return Vec::new();
        };
        if ids.is_empty() {
            return Vec::new();
        }
        let mut quota = Quota::new(shares.len(), &ids);
        let mut surplus: BTreeMap<MemberId, Vec<usize>> = BTreeMap::new();
        for (partition, share) in shares.iter().enumerate().filter(|(_, share)| !share.is_being_revoked()) {
            if let Some(owner) = share.owner().filter(|owner| !quota.keeps(*owner)) {
                surplus.entry(owner).or_default().push(partition);
            }
        }
        for (partition, share) in shares.iter_mut().enumerate().filter(|(_, share)| share.owner().is_none()) {
            let owner = quota.next_owner();
            let Some(member) = self.members.get_mut(&owner) else { continue };
            member.owned.push_back((topic.clone(), partition));
            share.assign(owner, member.wake.clone());
        }
        surplus.into_iter().filter_map(|(owner, partitions)| self.revoke(owner, topic, &partitions)).collect()
    }

    fn revoke(&mut self, owner: MemberId, topic: &Arc<str>, partitions: &[usize]) -> Option<Handover> {
        let revocation = self.new_id();
        let member = self.members.get_mut(&owner)?;
        let shares = self.topics.get_mut(topic)?.shares_mut(&member.group)?;
        for partition in partitions {
            shares[*partition].revoke(revocation);
        }
        let (guard, released) = RevokeGuard::new();
        member.tell(SubscriptionEvent::Revoked(named(topic, partitions), guard));
        let (group, runtime) = (member.group.clone(), member.runtime.clone());
        Some(Handover { revocation, member: owner, group, topic: topic.clone(), released, runtime })
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn is_member(&self, member: MemberId) -> bool {
        self.members.contains_key(&member)
    }

    pub(super) fn pop_event(&mut self, member: MemberId) -> Option<SubscriptionEvent> {
        self.members.get_mut(&member)?.events.pop_front()
    }

    pub(super) fn ready_count(&self, member: MemberId) -> usize {
        let Some(member) = self.members.get(&member) else { return 0 };
        let ready = |(topic, partition): &(Arc<str>, usize)| {
            self.topics.get(topic).map_or(0, |topic| topic.ready_count(&member.group, *partition))
        };
        member.owned.iter().map(ready).sum()
    }

    /// Hands out the member's next deliveries, beginning where the last batch did not.
    pub(super) fn take(&mut self, member: MemberId, count_max: usize) -> Vec<Delivery> {
        let Some(member) = self.members.get_mut(&member) else { return Vec::new() };
        let mut deliveries = Vec::new();
        for (name, partition) in &member.owned {
            let Some(topic) = self.topics.get_mut(name) else { continue };
            topic.take(&member.group, *partition, count_max - deliveries.len(), &mut deliveries);
        }
        // One full partition must not starve the others: another one is first next time.
        if !member.owned.is_empty() {
            member.owned.rotate_left(1);
        }
        deliveries
    }

    /// Moves the group's position; answers what every group is done with now.
    pub(super) fn ack(&mut self, member: MemberId, position: &Position) -> Result<Vec<Entry>> {
        let TopicPartition { topic, partition } = &position.partition;
        let group = self.members.get(&member).map(|member| &member.group);
        let (Some(group), Some(topic)) = (group, self.topics.get_mut(topic)) else { return Ok(Vec::new()) };
        let Some(share) = topic.owned_mut(group, *partition, member) else { return Ok(Vec::new()) };
        let moved = share
            .ack(position.next_offset)
            .map_err(|error| error.with_context("topic", &topic.name).with_context("partition", partition))?;
        let partition = usize::try_from(*partition).expect("a share was found by it");
        Ok(if moved { topic.settle(partition) } else { Vec::new() })
    }

    pub(super) fn set_paused(&mut self, member: MemberId, partitions: &[TopicPartition], is_paused: bool) {
        let Some(group) = self.members.get(&member).map(|member| member.group.clone()) else { return };
        for TopicPartition { topic, partition } in partitions {
            let topic = self.topics.get_mut(topic);
            if let Some(share) = topic.and_then(|topic| topic.owned_mut(&group, *partition, member)) {
                share.set_paused(is_paused);
            }
        }
    }
}

impl Member {
    fn tell(&mut self, event: SubscriptionEvent) {
        self.events.push_back(event);
        self.wake.notify_one();
    }
}

/// A member's partitions on their way to others, until its guard is dropped.
pub(super) struct Handover {
    revocation: u64,
    member: MemberId,
    group: Arc<str>,
    topic: Arc<str>,
    released: oneshot::Receiver<()>,
    pub(super) runtime: Handle,
}

impl Handover {
    /// Resolves when the guard is dropped.
    pub(super) async fn released(&mut self) {
        let _ = (&mut self.released).await;
    }
}

/// How many partitions each member may have: all the same number, some one more.
struct Quota {
    each: usize,
    one_more: usize,
    held: BTreeMap<MemberId, usize>,
}

impl Quota {
    fn new(partition_count: usize, members: &[MemberId]) -> Self {
        Self {
            each: partition_count / members.len(),
            one_more: partition_count % members.len(),
            held: members.iter().map(|member| (*member, 0)).collect(),
        }
    }

    /// Counts a partition its owner has; `false` when it has enough without it.
    fn keeps(&mut self, owner: MemberId) -> bool {
        let Some(held) = self.held.get_mut(&owner) else { return false };
        if *held >= self.each {
            if *held > self.each || self.one_more == 0 {
                return false;
            }
            self.one_more -= 1;
        }
        *held += 1;
        true
    }

    /// The member that has the fewest, counted up by one.
    fn next_owner(&mut self) -> MemberId {
        let (member, held) = self.held.iter_mut().min_by_key(|(_, held)| **held).expect("a group that has members");
        *held += 1;
        *member
    }
}

fn named(topic: &Arc<str>, partitions: &[usize]) -> Vec<TopicPartition> {
    let number = |partition: &usize| i32::try_from(*partition).expect("at most PARTITION_COUNT_MAX");
    partitions.iter().map(|p| TopicPartition { topic: topic.clone(), partition: number(p) }).collect()
}

#[cfg(test)]
impl State {
    pub(super) fn kept_count(&self) -> usize {
        self.topics.values().map(Topic::kept_count).sum()
    }

    pub(super) fn owned_counts(&self) -> Vec<usize> {
        self.members.values().map(|member| member.owned.len()).collect()
    }

    pub(super) fn is_rebalancing(&self) -> bool {
        self.topics.values().any(Topic::is_rebalancing)
    }
}
