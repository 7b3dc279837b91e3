//! What happens when the group moves partitions: hand over, commit, let go; take over.
//!
//! Runs on the poll thread, inside `poll`, where it may block: no message comes in meanwhile.

use std::{
    future::Future as _,
    pin::pin,
    sync::Arc,
    task::{Context, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use micro_core::broker::{Position, TopicPartition};
use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, RebalanceProtocol},
    error::{KafkaError, KafkaResult},
    types::RDKafkaRespErr,
};
use tokio::sync::oneshot;

use crate::{holdings::Start, member::Shared};

/// What librdkafka calls on behalf of a member.
pub(crate) struct MemberContext {
    shared: Arc<Shared>,
}

impl MemberContext {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl ClientContext for MemberContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.shared.log.line(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.shared.log.error(&error, reason);
    }
}

impl ConsumerContext for MemberContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let result = match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.shared.take_over(consumer, partitions),
            _ => self.shared.hand_over(consumer, partitions),
        };
        if let Err(error) = result {
            tracing::warn!(group = %self.shared.group, %error, "rebalance");
        }
    }

    /// Of the client's own commits; those of this crate are told of where they are made.
    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        // It tries again with the next ones, or whoever owns the partition now takes it from there.
        if let Err(error) = result {
            tracing::warn!(group = %self.shared.group, %error, "positions not committed");
        }
    }
}

impl Shared {
    fn take_over(&self, consumer: &BaseConsumer<MemberContext>, partitions: &TopicPartitionList) -> KafkaResult<()> {
        // Nothing new; asking for the positions of nothing would wait until the deadline.
        let starts = match partitions.count() {
            0 => Vec::new(),
            _ => self.starts(consumer, partitions),
        };
        let mut list = TopicPartitionList::with_capacity(starts.len());
        for (id, start) in &starts {
            let offset = match start {
                Start::At(offset) => Offset::Offset(*offset),
                Start::Beginning => Offset::Beginning,
                // The client asks once; after a failure the recovery asks again.
                Start::Unknown => Offset::Stored,
            };
            list.add_partition_offset(&id.topic, id.partition, offset)?;
        }
        self.holdings().assign(starts.iter().cloned());
        tracing::info!(group = %self.group, partitions = ?names(&starts), "partitions assigned");
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(&list),
            _ => consumer.assign(&list),
        }
    }

    /// Where each partition begins: at the committed position, or at its earliest message.
    fn starts(
        &self,
        consumer: &BaseConsumer<MemberContext>,
        partitions: &TopicPartitionList,
    ) -> Vec<(TopicPartition, Start)> {
        let committed = consumer.committed_offsets(partitions.clone(), self.settings.connect_timeout);
        if let Err(error) = &committed {
            tracing::warn!(group = %self.group, %error, "committed positions not read, which is tried again");
        }
        let ids = |list: &TopicPartitionList| self.partitions_of(list);
        let Ok(committed) = committed else {
            return ids(partitions).into_iter().map(|id| (id, Start::Unknown)).collect();
        };
        let start_of = |(id, element): (TopicPartition, rdkafka::topic_partition_list::TopicPartitionListElem<'_>)| {
            let start = match (element.error(), element.offset()) {
                (Ok(()), Offset::Offset(offset)) => Start::At(offset),
                (Ok(()), _) => Start::Beginning,
                (Err(_), _) => Start::Unknown,
            };
            (id, start)
        };
        ids(&committed).into_iter().zip(committed.elements()).map(start_of).collect()
    }

    fn hand_over(&self, consumer: &BaseConsumer<MemberContext>, partitions: &TopicPartitionList) -> KafkaResult<()> {
        let ids = self.partitions_of(partitions);
        tracing::info!(group = %self.group, partitions = ?ids, is_lost = consumer.assignment_lost(), "partitions revoked");
        self.resume_paused(consumer, &ids);
        if consumer.assignment_lost() {
            // They may be somebody else's by now, who may be further: nothing is committed.
            self.holdings().lose(&ids);
            self.received.notify_one();
        } else {
            self.revoke(&ids);
            self.commit(consumer, &ids);
            self.holdings().drop_partitions(&ids);
        }
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(partitions),
            _ => consumer.unassign(),
        }
    }

    /// A partition that goes is resumed first: the client would remember the pause when it comes back.
    pub(crate) fn resume_paused(&self, consumer: &BaseConsumer<MemberContext>, ids: &[TopicPartition]) {
        let paused = self.holdings().take_paused_in_client(ids);
        if let Err(error) = consumer.resume(&list_of(&paused)) {
            tracing::warn!(group = %self.group, %error, "resume");
        }
    }

    /// Waits until the consumer has let go of what it has in hand.
    fn revoke(&self, ids: &[TopicPartition]) {
        if self.holdings().has_ended() {
            return;
        }
        let revocation = self.holdings().revoke(ids);
        self.received.notify_one();
        if !revocation.is_in_hand {
            return;
        }
        let end = Instant::now() + self.settings.revoke_wait_max;
        if !released(revocation.released, end, || self.is_closing()) {
            tracing::warn!(group = %self.group, partitions = ?ids, "the consumer did not let go in time");
            self.holdings().tell_lost(ids);
            self.received.notify_one();
        }
    }

    /// Tells the client how far it may commit, in its time.
    pub(crate) fn store(&self, consumer: &BaseConsumer<MemberContext>) {
        let moved = self.holdings().take_moved();
        if moved.is_empty() {
            return;
        }
        if let Err(error) = next_offsets(&moved).and_then(|list| consumer.store_offsets(&list)) {
            // A partition that has just been taken away: its positions were committed at that.
            tracing::debug!(group = %self.group, %error, "positions not stored");
        }
    }

    /// Commits how far these are acked, and waits for that; `false` when it must be tried again.
    pub(crate) fn commit(&self, consumer: &BaseConsumer<MemberContext>, ids: &[TopicPartition]) -> bool {
        let acked = self.holdings().acked(ids);
        if acked.is_empty() {
            return true;
        }
        let committed = next_offsets(&acked).and_then(|list| {
            // The client commits what it was told last once more when the partitions go: were that
            // older, the group would fall back to it.
            if let Err(error) = consumer.store_offsets(&list) {
                tracing::debug!(group = %self.group, %error, "positions not stored");
            }
            // Not in the background: the driver tells nobody how that ends.
            consumer.commit(&list, CommitMode::Sync)
        });
        if let Err(error) = &committed {
            tracing::warn!(group = %self.group, %error, "positions not committed");
        }
        committed.is_ok()
    }

    fn partitions_of(&self, list: &TopicPartitionList) -> Vec<TopicPartition> {
        let id = |topic: &str, partition| TopicPartition { topic: known(topic, &self.topics), partition };
        list.elements().iter().map(|element| id(element.topic(), element.partition())).collect()
    }
}

fn names(starts: &[(TopicPartition, Start)]) -> Vec<String> {
    starts.iter().map(|(id, start)| format!("{}/{} from {start:?}", id.topic, id.partition)).collect()
}

pub(crate) fn list_of(ids: &[TopicPartition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(ids.len());
    for id in ids {
        list.add_partition(&id.topic, id.partition);
    }
    list
}

/// Positions as Kafka has them: the offset that comes next, as it is. librdkafka's calls for one
/// message and for `store_offset` add one to what they are given; lists are taken as they are.
fn next_offsets(positions: &[Position]) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(positions.len());
    for Position { partition, next_offset } in positions {
        list.add_partition_offset(&partition.topic, partition.partition, Offset::Offset(*next_offset))?;
    }
    Ok(list)
}

/// The subscription's own name of a topic.
fn known(topic: &str, topics: &[Arc<str>]) -> Arc<str> {
    topics.iter().find(|known| ***known == *topic).cloned().unwrap_or_else(|| topic.into())
}

/// Waits on this thread for the guard's drop; `false` when that took too long.
fn released(released: oneshot::Receiver<()>, end: Instant, is_given_up: impl Fn() -> bool) -> bool {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut released = pin!(released);
    loop {
        if released.as_mut().poll(&mut context).is_ready() {
            return true;
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || is_given_up() {
            return false;
        }
        // A close is looked for now and then.
        thread::park_timeout(left.min(Duration::from_millis(50)));
    }
}
