//! One partition in the hands of a consumer: its lanes, what is unfinished, and how far it is acked.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::sync::{Notify, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_service::Service;

use super::{
    ConsumerConfig, DeliveryBatch, KeyLanes, OffsetTracker,
    trouble::{Trouble, TroubleBoard, backoff},
    unwind::unwound,
};
use crate::{
    Error,
    broker::{Delivery, Position, Subscription, TopicPartition},
    share::may_take,
};

/// The first and the longest wait before a batch that the stack could not settle is tried again.
const RETRY_DELAY_INITIAL: Duration = Duration::from_millis(100);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(5);

/// What the partitions of one consumer share.
pub(crate) struct PartitionContext {
    pub(crate) group: Arc<str>,
    pub(crate) config: ConsumerConfig,
    /// Of the deliveries in hand and queued, of all of them.
    pub(crate) unfinished_bytes: AtomicUsize,
    pub(crate) subscription: Arc<dyn Subscription>,
    pub(crate) board: TroubleBoard,
    /// Takes the panic of a lane. What the lane had in hand is lost with it: the consumer lets go of
    /// the subscription, and it comes again.
    pub(crate) panics: mpsc::Sender<Error>,
}

/// One partition while this member owns it. A later ownership is another value: what belongs to a
/// lost one is never acked.
pub(crate) struct Partition {
    id: TopicPartition,
    context: Arc<PartitionContext>,
    lanes: KeyLanes,
    state: Mutex<State>,
    wakes: Vec<Notify>,
    /// The position that was acked last; its lock puts acks in order.
    acked: tokio::sync::Mutex<Option<i64>>,
    /// Whether deliveries are paused; its lock puts pause and resume in order.
    paused: tokio::sync::Mutex<bool>,
    /// Nothing more comes: lanes end when they are empty.
    no_more: CancellationToken,
    /// Lanes end when they have caught up with the one that is ahead.
    hand_over: CancellationToken,
    /// Lanes end after the batch in hand.
    let_go: CancellationToken,
    /// Lanes end at once and ack nothing.
    gone: CancellationToken,
    tasks: TaskTracker,
}

struct State {
    tracker: OffsetTracker,
    first_offset: Option<i64>,
    queues: Vec<VecDeque<Delivery>>,
    /// The highest offset that a lane has taken, which is how far all lanes get at a hand-over, unless one
    /// stops before.
    taken: Option<i64>,
    /// Of the deliveries in hand and queued.
    unfinished_bytes: usize,
}

impl Partition {
    /// A partition whose lanes run `service` until it is handed over, lost, or `abandoned`.
    pub(crate) fn start<S>(
        id: TopicPartition,
        context: Arc<PartitionContext>,
        service: &S,
        abandoned: &CancellationToken,
    ) -> Arc<Self>
    where
        S: Service<DeliveryBatch, Response = (), Error = Error> + Clone + Send + 'static,
        S::Future: Send,
    {
        let lanes = KeyLanes::new(context.config.lane_count);
        let queues = vec![VecDeque::new(); lanes.lane_count()];
        let partition = Arc::new(Self {
            id,
            context,
            lanes,
            state: Mutex::new(State {
                tracker: OffsetTracker::new(),
                first_offset: None,
                queues,
                taken: None,
                unfinished_bytes: 0,
            }),
            wakes: (0..lanes.lane_count()).map(|_| Notify::new()).collect(),
            acked: tokio::sync::Mutex::default(),
            paused: tokio::sync::Mutex::default(),
            no_more: CancellationToken::new(),
            hand_over: CancellationToken::new(),
            let_go: CancellationToken::new(),
            gone: abandoned.child_token(),
            tasks: TaskTracker::new(),
        });
        for lane in 0..lanes.lane_count() {
            let (lanes, service) = (partition.clone(), service.clone());
            partition.tasks.spawn(async move {
                if let Err(panic) = unwound("consumer.lane", lanes.clone().run_lane(lane, service).map(Ok)).await {
                    // A full channel has the panic of another lane, which is enough.
                    let _ = lanes.context.panics.try_send(panic);
                }
            });
        }
        partition
    }

    /// Queues deliveries of this partition, in offset order.
    pub(crate) fn push(&self, deliveries: impl IntoIterator<Item = Delivery>) {
        let mut state = self.state();
        let counts_before: Vec<usize> = state.queues.iter().map(VecDeque::len).collect();
        let mut bytes = 0;
        for delivery in deliveries {
            // What came before and is in hand or done already is not taken twice.
            if state.tracker.received(delivery.offset) {
                state.first_offset.get_or_insert(delivery.offset);
                let lane = self.lanes.lane(&delivery);
                bytes += delivery.message.bytes_count();
                state.queues[lane].push_back(delivery);
            }
        }
        state.unfinished_bytes += bytes;
        self.context.unfinished_bytes.fetch_add(bytes, Ordering::Relaxed);
        // Once a lane, however many deliveries it got.
        for (lane, count_before) in counts_before.into_iter().enumerate() {
            if state.queues[lane].len() > count_before {
                self.wakes[lane].notify_one();
            }
        }
    }

    /// Pauses or resumes deliveries by how much is unfinished: a slow key must not fill the memory.
    pub(crate) async fn regulate(&self) {
        let mut is_paused = self.paused.lock().await;
        let (held_count, bytes) = self.held();
        let (count_max, bytes_max) =
            (self.context.config.unfinished_count_max, self.context.config.unfinished_bytes_max);
        let bytes_of_all = self.context.unfinished_bytes.load(Ordering::Relaxed);
        let is_full = held_count >= count_max || !may_take(bytes, bytes_of_all, bytes_max);
        let has_room = held_count <= count_max / 2 && may_take(bytes.saturating_mul(2), bytes_of_all, bytes_max);
        let partition = std::slice::from_ref(&self.id);
        if !*is_paused && is_full {
            match self.context.subscription.pause(partition).await {
                Ok(()) => *is_paused = true,
                // Asked again with the next delivery or batch.
                Err(error) => tracing::warn!(partition = ?self.id, error = %error.report(), "pause"),
            }
        } else if *is_paused && has_room {
            *is_paused = !self.resume().await;
        }
    }

    /// How far it is ahead of its first unfinished delivery, and how many bytes are unfinished.
    fn held(&self) -> (usize, usize) {
        let state = self.state();
        (state.tracker.held_count(), state.unfinished_bytes)
    }

    /// Resumes deliveries, however often that takes: nothing else would come that asks again.
    /// `false` when the partition ended first.
    async fn resume(&self) -> bool {
        let mut failure_count = 0;
        while let Err(error) = self.context.subscription.resume(std::slice::from_ref(&self.id)).await {
            failure_count += 1;
            tracing::warn!(partition = ?self.id, failure_count, error = %error.report(), "resume");
            tokio::select! {
                () = tokio::time::sleep(backoff(failure_count, RETRY_DELAY_INITIAL, RETRY_DELAY_MAX)) => {}
                () = self.no_more.cancelled() => return false,
                () = self.hand_over.cancelled() => return false,
                () = self.gone.cancelled() => return false,
            }
        }
        true
    }

    /// Finishes and acks everything that is queued.
    pub(crate) async fn finish(&self) {
        self.no_more.cancel();
        self.end().await;
    }

    /// Finishes and acks the batches in hand and what is queued before the last of them, so that
    /// nothing that is done comes again elsewhere; forgets the rest. After half of `deadline` it
    /// finishes only what is in hand by then, after `deadline` it drops that too.
    pub(crate) async fn hand_over(&self, deadline: Duration) {
        self.hand_over.cancel();
        if tokio::time::timeout(deadline / 2, self.end()).await.is_ok() {
            return;
        }
        self.let_go.cancel();
        if tokio::time::timeout(deadline / 2, self.end()).await.is_err() {
            self.lose();
            self.end().await;
        }
    }

    /// Drops everything, acks nothing.
    pub(crate) fn lose(&self) {
        self.gone.cancel();
    }

    async fn end(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn run_lane<S>(self: Arc<Self>, lane: usize, mut service: S)
    where
        S: Service<DeliveryBatch, Response = (), Error = Error> + Clone + Send + 'static,
        S::Future: Send,
    {
        while let Some(deliveries) = self.next_batch(lane).await {
            if !self.settle(&mut service, &deliveries).await {
                self.stop_at(deliveries[0].offset);
                return;
            }
            self.done(&deliveries);
            self.ack().await;
            self.regulate().await;
        }
    }

    /// What has queued up in a lane; `None` when the lane is to end.
    async fn next_batch(&self, lane: usize) -> Option<Arc<[Delivery]>> {
        loop {
            if self.let_go.is_cancelled() || self.gone.is_cancelled() {
                return None;
            }
            // Asked before the queue is looked at: what was queued before it is seen.
            let is_last = self.no_more.is_cancelled() || self.hand_over.is_cancelled();
            let deliveries = self.take(lane);
            if !deliveries.is_empty() {
                return Some(deliveries);
            }
            if is_last {
                return None;
            }
            tokio::select! {
                () = self.wakes[lane].notified() => {}
                () = self.no_more.cancelled() => {}
                () = self.hand_over.cancelled() => {}
                () = self.gone.cancelled() => {}
            }
        }
    }

    fn take(&self, lane: usize) -> Arc<[Delivery]> {
        let mut state = self.state();
        let State { queues, taken, .. } = &mut *state;
        let queue = &mut queues[lane];
        let mut count = queue.len().min(self.context.config.batch_count_max.max(1));
        if self.hand_over.is_cancelled() {
            // No lane takes more than the one that is ahead has taken.
            count = count.min(queue.partition_point(|delivery| Some(delivery.offset) < *taken));
        }
        let deliveries: Arc<[Delivery]> = queue.drain(..count).collect();
        *taken = (*taken).max(deliveries.last().map(|delivery| delivery.offset));
        deliveries
    }

    /// A lane ends here: what others do behind this offset is not acked, so they need not get further.
    fn stop_at(&self, offset: i64) {
        let mut state = self.state();
        state.taken = state.taken.map(|taken| taken.min(offset));
    }

    /// Hands a batch to the stack until that settles it; `false` when the lane is to end before.
    // `&mut`, for a `&S` across an await would need a `Sync` stack.
    async fn settle<S>(&self, service: &mut S, deliveries: &Arc<[Delivery]>) -> bool
    where
        S: Service<DeliveryBatch, Response = (), Error = Error> + Clone + Send + 'static,
        S::Future: Send,
    {
        let mut failure_count = 0_u32;
        let mut trouble: Option<Trouble> = None;
        loop {
            let batch = DeliveryBatch::new(self.context.group.clone(), deliveries.clone());
            let Some(outcome) = self.gone.run_until_cancelled(service.call(batch)).await else { return false };
            let Err(error) = outcome else { return true };
            failure_count = failure_count.saturating_add(1);
            self.report(failure_count, &error, &mut trouble);
            let ended = tokio::time::timeout(backoff(failure_count, RETRY_DELAY_INITIAL, RETRY_DELAY_MAX), async {
                tokio::select! { () = self.hand_over.cancelled() => {}, () = self.gone.cancelled() => {} }
            });
            if ended.await.is_ok() {
                return false;
            }
        }
    }

    /// The first failure and then ever fewer are logged.
    fn report(&self, failure_count: u32, error: &Error, trouble: &mut Option<Trouble>) {
        let report = error.report();
        if failure_count.is_power_of_two() {
            tracing::warn!(
                group = %self.context.group, topic = %self.id.topic, partition = self.id.partition,
                failure_count, kind = %error.kind(), error = %report, "batch not settled, trying again"
            );
        }
        if trouble.is_none() {
            *trouble = Some(self.context.board.trouble(report));
        }
    }

    fn done(&self, deliveries: &[Delivery]) {
        let mut state = self.state();
        deliveries.iter().for_each(|delivery| state.tracker.done(delivery.offset));
        let bytes: usize = deliveries.iter().map(|delivery| delivery.message.bytes_count()).sum();
        state.unfinished_bytes -= bytes;
        self.context.unfinished_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Acks the contiguous prefix of what is done, when it grew. One that fails is made up for by
    /// the next.
    async fn ack(&self) {
        let mut acked = self.acked.lock().await;
        if self.gone.is_cancelled() {
            return;
        }
        let Some(next_offset) = self.next_offset_to_ack(*acked) else { return };
        let position = Position { partition: self.id.clone(), next_offset };
        match self.context.subscription.ack(position).await {
            Ok(()) => *acked = Some(next_offset),
            Err(error) => tracing::warn!(partition = ?self.id, next_offset, error = %error.report(), "ack"),
        }
    }

    fn next_offset_to_ack(&self, acked: Option<i64>) -> Option<i64> {
        let state = self.state();
        let known = acked.or(state.first_offset)?;
        state.tracker.next_offset().filter(|next| *next > known)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Partition {
    /// What is not finished is forgotten with it.
    fn drop(&mut self) {
        let bytes = self.state().unfinished_bytes;
        self.context.unfinished_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}
