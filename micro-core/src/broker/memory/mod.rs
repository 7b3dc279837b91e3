//! The broker in memory: partitions, groups and receipts in one process, nothing on disk.

mod groups;
mod topic;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, timeout, timeout_at},
};

use crate::{Error, ErrorKind, Result};

use super::{
    Broker, Capabilities, Message, Position, Receipt, SubscribeRequest, Subscription, SubscriptionEvent, TopicPartition,
};
use groups::{Handover, MemberId, State};
use topic::Ticket;

/// The partitions of a topic, unless [`MemoryBroker::with_partition_count`] says otherwise.
pub const PARTITION_COUNT: u32 = 8;
/// The largest number of partitions a topic can have here.
pub const PARTITION_COUNT_MAX: u32 = 4_096;
/// How many messages a partition keeps, unless [`MemoryBroker::with_retention_count_max`] says
/// otherwise.
pub const RETENTION_COUNT_MAX: usize = 100_000;
/// How many deliveries of one partition a member may hold without having acked them.
pub const IN_FLIGHT_COUNT_MAX: i64 = 10_000;
/// How long a member may hold up a rebalance with its [`RevokeGuard`](super::RevokeGuard).
pub const REVOKE_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long `publish` waits for the groups' acks, unless [`MemoryBroker::with_receipt_wait_max`]
/// says otherwise.
pub const RECEIPT_WAIT_MAX: Duration = Duration::from_secs(60);

/// A broker within this process. Clones share everything.
///
/// Keyed messages go to [`fnv1a_partition`](super::fnv1a_partition), unkeyed ones to the partitions
/// in turn. It is not durable, so **a receipt comes when every group of the topic has acked the
/// message**: an outbox keeps its row until then, and a crash loses nothing. A topic without a group
/// gives its receipts at once and keeps the latest messages for the group that comes; say
/// [`declare_group`](Self::declare_group) where the group joins later than the first message must
/// wait for it. What every group acked is dropped from memory.
///
/// A group stays known when its last member leaves. When it lets a partition fill up to the
/// retention limit, `publish` answers `ResourceExhausted` for that partition's messages. Each
/// member's rebalances are waited for on the tokio runtime in which it subscribed.
///
/// # Examples
///
/// ```
/// use micro_core::broker::{Broker, MemoryBroker, Message, Position, SubscribeRequest, SubscriptionEvent};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> micro_core::Result<()> {
/// let broker = MemoryBroker::new();
/// let member = broker.subscribe(SubscribeRequest::new("stock", ["OrderEvent"])).await?;
///
/// let messages = vec![Message::keyed("OrderEvent", "A-17", "paid")];
/// let (receipts, _) = tokio::join!(broker.publish(messages), async {
///     let Some(SubscriptionEvent::Batch(deliveries)) = member.next().await else { return };
///     assert_eq!(deliveries[0].message.body, "paid");
///     let done = Position { partition: deliveries[0].topic_partition(), next_offset: deliveries[0].offset + 1 };
///     member.ack(done).await.unwrap();
/// });
/// assert!(receipts[0].is_ok());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
}

impl MemoryBroker {
    /// A broker without topics; they come to be when they are first named.
    pub fn new() -> Self {
        Self { shared: Arc::new(Shared { state: Mutex::new(State::new()), settled: Notify::new() }) }
    }

    /// Sets the partitions of the topics named from now on, 1 to [`PARTITION_COUNT_MAX`]; a number
    /// outside is taken to the nearest one inside.
    #[must_use]
    pub fn with_partition_count(self, count: u32) -> Self {
        self.shared.lock().partition_count = count.clamp(1, PARTITION_COUNT_MAX);
        self
    }

    /// Sets how many messages a partition keeps, at least 1.
    #[must_use]
    pub fn with_retention_count_max(self, count: usize) -> Self {
        self.shared.lock().retention_count_max = count.max(1);
        self
    }

    /// Sets how long `publish` waits for the groups' acks. What was not acked by then answers
    /// `DeadlineExceeded` and is delivered all the same.
    #[must_use]
    pub fn with_receipt_wait_max(self, wait: Duration) -> Self {
        self.shared.lock().receipt_wait_max = wait;
        self
    }

    /// Makes a group known before its first member subscribes, so that receipts wait for it.
    pub fn declare_group(&self, topic: impl Into<Arc<str>>, group: impl Into<Arc<str>>) {
        self.shared.lock().declare(&topic.into(), &group.into());
    }
}

impl Default for MemoryBroker {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBroker").finish_non_exhaustive()
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    async fn publish(&self, messages: Vec<Message>) -> Vec<Result<Receipt>> {
        let (ticket, settled) = oneshot::channel();
        let (mut results, topics, wait) = self.shared.enqueue(messages, ticket);
        // The sender is never used, it is dropped with the last entry that waits: an error is the answer.
        if timeout(wait, settled).await.is_err() {
            self.shared.lock().refuse_unsettled(&mut results, &topics, wait);
        }
        results
    }

    async fn subscribe(&self, request: SubscribeRequest) -> Result<Arc<dyn Subscription>> {
        check(&request)?;
        let wake = Arc::new(Notify::new());
        let (member, handovers) = self.shared.lock().join(&request, wake.clone());
        self.shared.hand_over(handovers);
        Ok(Arc::new(MemorySubscription { shared: self.shared.clone(), member, wake, request }))
    }

    async fn flush(&self, deadline: Duration) -> Result<()> {
        let ends = self.shared.lock().ends();
        let emptied = async {
            loop {
                let mut settled = std::pin::pin!(self.shared.settled.notified());
                settled.as_mut().enable();
                if self.shared.lock().unsettled_count(&ends) == 0 {
                    return;
                }
                settled.await;
            }
        };
        timeout(deadline, emptied).await.map_err(|_| {
            Error::new(ErrorKind::DeadlineExceeded, "broker.flush", "not every group acked what was published")
                .with_context("unsettled", self.shared.lock().unsettled_count(&ends))
        })
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(false, true, false)
    }
}

fn check(request: &SubscribeRequest) -> Result<()> {
    let refused = |what| Err(Error::new(ErrorKind::InvalidArgument, "broker.subscribe", what));
    if request.group.is_empty() {
        return refused("the group's name is empty");
    }
    if request.topics.is_empty() || request.topics.iter().any(|topic| topic.is_empty()) {
        return refused("expected at least one topic, none with an empty name");
    }
    Ok(())
}

struct Shared {
    state: Mutex<State>,
    settled: Notify,
}

type Enqueued = (Vec<Result<Receipt>>, Vec<Arc<str>>, Duration);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent between any two statements that can panic, so poison says nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything of `publish` that must happen before its first await.
    fn enqueue(&self, messages: Vec<Message>, settled: oneshot::Sender<()>) -> Enqueued {
        let now = SystemTime::now();
        let ticket = Arc::new(Ticket::new(settled));
        let topics = messages.iter().map(|message| message.topic.clone()).collect();
        let mut state = self.lock();
        let results = messages.into_iter().map(|message| state.append(message, now, &ticket)).collect();
        (results, topics, state.receipt_wait_max)
    }

    /// Waits for each revoked member in a task of its own, for the caller must not.
    fn hand_over(self: &Arc<Self>, handovers: Vec<Handover>) {
        for mut handover in handovers {
            let shared = self.clone();
            let runtime = handover.runtime.clone();
            runtime.spawn(async move {
                let in_time = timeout(REVOKE_WAIT_MAX, handover.released()).await.is_ok();
                let further = shared.lock().complete(&handover, in_time);
                shared.hand_over(further);
            });
        }
    }

    fn leave(self: &Arc<Self>, member: MemberId) {
        let handovers = self.lock().leave(member);
        self.hand_over(handovers);
    }
}

struct MemorySubscription {
    shared: Arc<Shared>,
    member: MemberId,
    wake: Arc<Notify>,
    request: SubscribeRequest,
}

#[async_trait]
impl Subscription for MemorySubscription {
    async fn next(&self) -> Option<SubscriptionEvent> {
        let mut full_at: Option<Instant> = None;
        loop {
            match self.poll(full_at) {
                Next::Event(event) => return Some(event),
                Next::Left => {
                    // Whoever else waits must learn of the end too; a permit wakes only one.
                    self.wake.notify_one();
                    return None;
                }
                Next::Nothing => {
                    full_at = None;
                    self.wake.notified().await;
                }
                Next::Filling => {
                    let at = *full_at.get_or_insert_with(|| Instant::now() + self.request.batch_linger);
                    let _ = timeout_at(at, self.wake.notified()).await;
                }
            }
        }
    }

    async fn ack(&self, position: Position) -> Result<()> {
        let mut state = self.shared.lock();
        let settled = state.ack(self.member, &position)?;
        if !settled.is_empty() {
            // The receipts go out with the entries, under the lock: who flushes must not see the
            // log empty before they do.
            drop(settled);
            drop(state);
            self.shared.settled.notify_waiters();
        }
        Ok(())
    }

    async fn pause(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.shared.lock().set_paused(self.member, partitions, true);
        Ok(())
    }

    async fn resume(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.shared.lock().set_paused(self.member, partitions, false);
        self.wake.notify_one();
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.shared.leave(self.member);
        self.wake.notify_one();
        Ok(())
    }
}

impl Drop for MemorySubscription {
    fn drop(&mut self) {
        self.shared.leave(self.member);
    }
}

enum Next {
    Event(SubscriptionEvent),
    /// There is something, but the batch may still fill.
    Filling,
    Nothing,
    Left,
}

impl MemorySubscription {
    /// Takes deliveries only in the step that returns them, so that a dropped `next` loses none.
    fn poll(&self, full_at: Option<Instant>) -> Next {
        let mut state = self.shared.lock();
        if !state.is_member(self.member) {
            return Next::Left;
        }
        if let Some(event) = state.pop_event(self.member) {
            return Next::Event(event);
        }
        let count_max = self.request.batch_count_max.max(1);
        let count = state.ready_count(self.member);
        let lingered = self.request.batch_linger.is_zero() || full_at.is_some_and(|at| at <= Instant::now());
        match count {
            0 => Next::Nothing,
            _ if count >= count_max || lingered => {
                Next::Event(SubscriptionEvent::Batch(state.take(self.member, count_max)))
            }
            _ => Next::Filling,
        }
    }
}

#[cfg(test)]
mod tests;
