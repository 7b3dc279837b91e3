//! The broker port: keyed publish with receipts, and group subscriptions that the consumer acks.

pub mod memory;
mod message;

pub use memory::MemoryBroker;
pub use message::{Delivery, EVENT_ID_BYTES_MAX, Headers, Message, Position, Receipt, TopicPartition, header};

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::oneshot;

use crate::Result;

/// Sends messages and hands out deliveries to groups.
///
/// # Contract
///
/// - `same_key_keeps_publish_order`: messages of one topic and key are delivered in the order in
///   which they were handed to `publish`.
/// - `publish_enqueues_in_slice_order_before_it_first_awaits`: two calls whose futures were polled
///   once, one after the other, never overtake one another.
/// - `every_message_gets_its_own_result`: the answer has one entry a message, in slice order; one
///   that fails does not fail its neighbours.
/// - `each_group_receives_every_message`: groups are independent; the members of one group share
///   its partitions.
/// - `what_is_not_acked_comes_again`: a subscription that ends before it acked leaves its
///   deliveries to the next member, from the last acked position, each as it came before: offset
///   and timestamp too.
/// - `a_new_group_starts_at_the_earliest_message`.
/// - `key_headers_and_body_arrive_unchanged`.
/// - `flush_returns_when_everything_handed_in_is_settled_or_the_deadline_passed`.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// Sends `messages` and waits for the broker's receipt of each.
    ///
    /// # Errors
    ///
    /// Per message. Retryable: `Unavailable`, `DeadlineExceeded`, `ResourceExhausted` (queue full).
    /// The message's own fault, so that it is never tried again: `InvalidArgument` (too large, no
    /// such topic). The sender's, until somebody mends it: `PermissionDenied`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future takes nothing back: what was enqueued is sent, its receipt is lost.
    async fn publish(&self, messages: Vec<Message>) -> Vec<Result<Receipt>>;

    /// Joins a group and starts to receive its share of the topics' partitions.
    async fn subscribe(&self, request: SubscribeRequest) -> Result<Arc<dyn Subscription>>;

    /// Waits until everything handed to `publish` has its result, at most for `deadline`.
    ///
    /// # Errors
    ///
    /// `DeadlineExceeded`, with the number of messages still on their way.
    async fn flush(&self, deadline: Duration) -> Result<()>;

    /// What this broker guarantees.
    fn capabilities(&self) -> Capabilities;
}

/// What a broker guarantees; `docs/adapters.md` has the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// A receipt means that the message survives the end of the process.
    pub is_durable: bool,
    /// Messages of one key keep their order.
    pub is_ordered: bool,
    /// Other processes see the messages.
    pub is_shared: bool,
}

impl Capabilities {
    /// Capabilities of a broker that is durable, ordered or shared as stated.
    pub const fn new(is_durable: bool, is_ordered: bool, is_shared: bool) -> Self {
        Self { is_durable, is_ordered, is_shared }
    }
}

/// Which group wants which topics.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SubscribeRequest {
    /// The group; its members share the partitions.
    pub group: Arc<str>,
    /// The topics.
    pub topics: Vec<Arc<str>>,
    /// The largest number of deliveries in one batch; default 256.
    pub batch_count_max: usize,
    /// How long a batch waits to fill once it has one delivery; default 2 ms.
    pub batch_linger: Duration,
}

impl SubscribeRequest {
    /// A request with the default batch limits.
    pub fn new<T: Into<Arc<str>>>(group: impl Into<Arc<str>>, topics: impl IntoIterator<Item = T>) -> Self {
        Self {
            group: group.into(),
            topics: topics.into_iter().map(Into::into).collect(),
            batch_count_max: 256,
            batch_linger: Duration::from_millis(2),
        }
    }

    /// Sets the largest number of deliveries in one batch, at least 1.
    #[must_use]
    pub fn with_batch_count_max(mut self, count: usize) -> Self {
        self.batch_count_max = count.max(1);
        self
    }

    /// Sets how long a batch waits to fill once it has one delivery.
    #[must_use]
    pub fn with_batch_linger(mut self, linger: Duration) -> Self {
        self.batch_linger = linger;
        self
    }
}

/// A member of a group. Dropping it leaves the group; what it did not ack goes to another member.
///
/// Its methods take `&self`: the loop that waits in `next` and the tasks that ack share it.
///
/// # Contract
///
/// - `a_paused_partition_delivers_nothing_until_it_is_resumed`.
/// - `a_revoked_partition_waits_for_its_guard`: the member it goes to begins when the guard is
///   dropped, at the position acked by then.
/// - `a_closed_subscription_has_no_next`, and a `next` that waits meanwhile ends.
#[async_trait]
pub trait Subscription: Send + Sync + 'static {
    /// The next thing that happened; `None` after [`close`](Self::close).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a delivery is not lost when the future is dropped.
    async fn next(&self) -> Option<SubscriptionEvent>;

    /// Says that everything below the position is done. Positions only move forward; one of a
    /// partition that this member no longer owns is ignored.
    async fn ack(&self, position: Position) -> Result<()>;

    /// Stops deliveries of these partitions; the membership stays.
    async fn pause(&self, partitions: &[TopicPartition]) -> Result<()>;

    /// Resumes deliveries of these partitions.
    async fn resume(&self, partitions: &[TopicPartition]) -> Result<()>;

    /// Leaves the group after the acks handed in so far are stored.
    async fn close(&self) -> Result<()>;
}

/// What a subscription hands to its consumer.
#[derive(Debug)]
#[non_exhaustive]
pub enum SubscriptionEvent {
    /// Deliveries, of one or several partitions, each partition's in offset order; never empty.
    Batch(Vec<Delivery>),
    /// The group takes these partitions away and waits for the guard's drop: finish what is in
    /// hand, ack it, then drop the guard.
    Revoked(Vec<TopicPartition>, RevokeGuard),
    /// These partitions are gone already: drop what is in hand, do not ack.
    Lost(Vec<TopicPartition>),
}

/// Holds up a rebalance until it is dropped (adapters bound the wait).
#[derive(Debug)]
pub struct RevokeGuard {
    _release: oneshot::Sender<()>,
}

impl RevokeGuard {
    /// A guard, and a receiver that resolves (with an error, by design of oneshot) at its drop.
    pub fn new() -> (Self, oneshot::Receiver<()>) {
        let (release, released) = oneshot::channel();
        (Self { _release: release }, released)
    }
}

/// The partition of a key among `partition_count`, as the go-micro fleet computes it.
///
/// FNV-1a (32 bit) taken as a signed number, remainder, absolute value: sarama's
/// `NewHashPartitioner`, librdkafka's `fnv1a_random`. `partition_count` is at least 1.
pub fn fnv1a_partition(key: &[u8], partition_count: u32) -> u32 {
    let hash = key.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    let count = i64::from(partition_count.max(1));
    // i64, so that the remainder of i32::MIN has an absolute value.
    u32::try_from((i64::from(hash.cast_signed()) % count).abs()).expect("a remainder is below the u32 count")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_partition_that_sarama_gave_it() {
        // Key, partitions of the topic, partition: of records that Go services wrote.
        for (key, partition_count, partition) in [("2", 4, 1), ("526", 8, 0), ("319", 8, 0)] {
            assert_eq!(fnv1a_partition(key.as_bytes(), partition_count), partition, "{key}");
        }
    }

    #[test]
    fn a_hash_above_the_largest_i32_counts_as_negative() {
        // FNV-1a 32 of "a" is 0xe40c292c (the vectors of draft-eastlake-fnv): signed, its absolute
        // value is 468965076, a multiple of 3; unsigned, the remainder would be 1.
        assert_eq!(fnv1a_partition(b"a", 3), 0);
        assert_eq!(fnv1a_partition(b"a", 0), 0, "no partition counts as one");
    }
}
