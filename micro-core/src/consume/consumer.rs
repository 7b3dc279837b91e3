//! The component that receives: one subscription, its partitions, and the retries of what is parked.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicUsize},
    time::Duration,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::{
    DeliveryBatch, InboxService,
    inbox_service::Inbox,
    partition::{Partition, PartitionContext},
    shared_batches::SharedBatches,
    trouble::{Trouble, TroubleBoard, backoff},
    unwind::unwound,
};
use crate::{
    Error, ErrorKind, Health, Result,
    app::Component,
    broker::{Broker, Delivery, SubscribeRequest, Subscription, SubscriptionEvent, TopicPartition},
    registry::Instance,
};

/// How long a revoked partition may take to finish the batches in hand and, in the first half of it, what
/// is queued before the last of them.
const HAND_OVER_DEADLINE: Duration = Duration::from_secs(5);

/// The first and the longest wait before a subscription that ended by itself is opened again.
const SUBSCRIBE_DELAY_INITIAL: Duration = Duration::from_millis(100);
const SUBSCRIBE_DELAY_MAX: Duration = Duration::from_secs(5);

/// The first and the longest wait before a consumer that panicked subscribes again; one that ran
/// for longer than the longest begins with the first anew.
const RESTART_DELAY_INITIAL: Duration = Duration::from_millis(500);
const RESTART_DELAY_MAX: Duration = Duration::from_secs(30);

/// How a [`Consumer`] works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ConsumerConfig {
    /// Lanes of one partition that run side by side, at least 1; default 4. Deliveries of one key
    /// share a lane.
    pub lane_count: usize,
    /// The largest number of deliveries in one transaction, at least 1; default 256.
    pub batch_count_max: usize,
    /// How far a partition may be ahead of its first unfinished delivery before it is paused;
    /// default 10,000. It resumes at half of it.
    pub unfinished_count_max: usize,
    /// How many bytes of unfinished deliveries, all partitions together, are kept in memory; default
    /// 64 MiB. A partition that has three quarters of it, less where others have some too, is paused,
    /// and resumes at half of that; what was received by then is kept, and one delivery always passes.
    pub unfinished_bytes_max: usize,
    /// Batches that run side by side, at least 1; default 2. The lanes, of whatever partitions, that
    /// have something meanwhile share the next one: few large transactions cost a database less than
    /// many small ones. What is slow holds up those that share its batch, until it fails: handlers
    /// that wait for something else than the database want as many as there are lanes, and no
    /// [`gather`](Self::gather).
    pub running_count_max: usize,
    /// How long a batch that is not full waits for more deliveries before it is handled; default
    /// 2 ms. Zero handles whatever there is at once.
    pub gather: Duration,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self {
            lane_count: 4,
            batch_count_max: 256,
            unfinished_count_max: 10_000,
            unfinished_bytes_max: 64 * 1_024 * 1_024,
            running_count_max: 2,
            gather: Duration::from_millis(2),
        }
    }
}

/// Builds a [`Consumer`].
pub struct ConsumerBuilder<S> {
    broker: Arc<dyn Broker>,
    group: Arc<str>,
    topics: Vec<Arc<str>>,
    service: S,
    inbox: Option<Arc<Inbox>>,
    config: ConsumerConfig,
}

impl<S> ConsumerBuilder<S> {
    /// Wraps the service in layers: `.stack(|inbox| ServiceBuilder::new().layer(…).service(inbox))`.
    #[must_use]
    pub fn stack<T>(self, wrap: impl FnOnce(S) -> T) -> ConsumerBuilder<T> {
        ConsumerBuilder {
            broker: self.broker,
            group: self.group,
            topics: self.topics,
            service: wrap(self.service),
            inbox: self.inbox,
            config: self.config,
        }
    }

    /// Sets how it works.
    #[must_use]
    pub fn config(mut self, config: ConsumerConfig) -> Self {
        self.config = config;
        self
    }

    /// Sets the number of lanes of a partition.
    #[must_use]
    pub fn lane_count(mut self, count: usize) -> Self {
        self.config.lane_count = count;
        self
    }

    /// Sets the largest number of deliveries in one transaction.
    #[must_use]
    pub fn batch_count_max(mut self, count: usize) -> Self {
        self.config.batch_count_max = count;
        self
    }

    /// Sets how far a partition may be ahead of its first unfinished delivery.
    #[must_use]
    pub fn unfinished_count_max(mut self, count: usize) -> Self {
        self.config.unfinished_count_max = count;
        self
    }

    /// Sets how many bytes of unfinished deliveries are kept in memory.
    #[must_use]
    pub fn unfinished_bytes_max(mut self, count: usize) -> Self {
        self.config.unfinished_bytes_max = count;
        self
    }

    /// Sets how many batches run side by side.
    #[must_use]
    pub fn running_count_max(mut self, count: usize) -> Self {
        self.config.running_count_max = count;
        self
    }

    /// Sets how long a batch that is not full waits for more deliveries.
    #[must_use]
    pub fn gather(mut self, gather: Duration) -> Self {
        self.config.gather = gather;
        self
    }

    /// The consumer; it receives nothing before it is started.
    pub fn build(self) -> Consumer<S> {
        Consumer {
            name: format!("consumer:{}", self.group),
            broker: self.broker,
            group: self.group,
            topics: self.topics,
            service: Mutex::new(self.service),
            inbox: self.inbox,
            config: self.config,
            stop: CancellationToken::new(),
            abandoned: CancellationToken::new(),
            running: tokio::sync::Mutex::default(),
        }
    }
}

/// Receives the deliveries of a group and acks what its stack has settled.
///
/// Each partition has lanes: deliveries of one key share one and keep their order, lanes run side
/// by side. A lane hands over what has queued up, one batch at a time; batches that come while one
/// gathers or others run are joined for the next call of the stack, whatever their lanes and
/// partitions. A joined batch in which a handler fails has no effect and is handed in again lane by
/// lane, so that only the lane of the delivery that failed waits for its retries; trace and metrics
/// record it as `cancelled`. After
/// the stack answered `Ok` (the transaction committed) the contiguous prefix of the partition's
/// offsets is acked, never before. While the stack fails, the batch is tried again with growing
/// waits, the consumer is not serving, and nothing is acked.
///
/// While it cannot subscribe again (the broker is away) it is degraded: what was published waits
/// there. A panic in the broker's adapter ends the subscription: the consumer is not serving, lets go of
/// it and subscribes again after a wait, and what was not acked comes again.
pub struct Consumer<S> {
    name: String,
    broker: Arc<dyn Broker>,
    group: Arc<str>,
    topics: Vec<Arc<str>>,
    /// In a lock because a boxed stack is `Send`, not `Sync`.
    service: Mutex<S>,
    inbox: Option<Arc<Inbox>>,
    config: ConsumerConfig,
    /// Receive no more.
    stop: CancellationToken,
    /// Drop what is in hand.
    abandoned: CancellationToken,
    running: tokio::sync::Mutex<Option<Running>>,
}

struct Running {
    receive: JoinHandle<Option<Arc<dyn Subscription>>>,
    retry: Option<JoinHandle<()>>,
}

impl Consumer<InboxService> {
    /// A consumer of the inbox's group and of the topics its handlers name; it also tries the
    /// group's parked deliveries when they are due, and purges the inbox.
    pub fn builder(broker: Arc<dyn Broker>, inbox: InboxService) -> ConsumerBuilder<InboxService> {
        ConsumerBuilder {
            broker,
            group: inbox.group().clone(),
            topics: inbox.topics(),
            inbox: Some(inbox.inbox().clone()),
            service: inbox,
            config: ConsumerConfig::default(),
        }
    }
}

impl<S> Consumer<S> {
    /// A consumer whose deliveries end in another service than the inbox's.
    pub fn with_service<T: Into<Arc<str>>>(
        broker: Arc<dyn Broker>,
        group: impl Into<Arc<str>>,
        topics: impl IntoIterator<Item = T>,
        service: S,
    ) -> ConsumerBuilder<S> {
        let topics = topics.into_iter().map(Into::into).collect();
        let config = ConsumerConfig::default();
        ConsumerBuilder { broker, group: group.into(), topics, service, inbox: None, config }
    }

    /// Ends the tasks; `false` when they took longer than `deadline`.
    async fn end(&self, deadline: Duration) -> Result<bool> {
        self.stop.cancel();
        let mut running = self.running.lock().await;
        let Some(Running { receive, retry }) = running.as_mut() else { return Ok(true) };
        let ended = async {
            if let Some(task) = retry {
                task.await.ok();
                // An ended task must not be asked again when this wait is repeated.
                *retry = None;
            }
            receive.await
        };
        let Ok(subscription) = tokio::time::timeout(deadline, ended).await else { return Ok(false) };
        *running = None;
        match subscription {
            Ok(Some(subscription)) => subscription.close().await.map(|()| true),
            Ok(None) => Ok(true),
            Err(join) => {
                Err(Error::new(ErrorKind::Internal, "consumer.drain", "the receiving task panicked").with_source(join))
            }
        }
    }
}

#[async_trait]
impl<S> Component for Consumer<S>
where
    S: Service<DeliveryBatch, Response = (), Error = Error> + Clone + Send + 'static,
    S::Future: Send,
{
    fn name(&self) -> &str {
        &self.name
    }

    async fn start(&self, health: &Health) -> Result<()> {
        let mut running = self.running.lock().await;
        if running.is_some() || self.stop.is_cancelled() {
            let message = "a consumer is started once";
            return Err(
                Error::new(ErrorKind::FailedPrecondition, "consumer.start", message).with_context("group", &self.group)
            );
        }
        let request = SubscribeRequest::new(self.group.clone(), self.topics.iter().cloned())
            .with_batch_count_max(self.config.batch_count_max);
        let subscription = self.broker.subscribe(request.clone()).await?;
        let service = self.service.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let receiver = Receiver {
            broker: self.broker.clone(),
            request,
            config: self.config.clone(),
            service: SharedBatches::new(service, &self.config),
            board: TroubleBoard::new(health, &self.name),
            stop: self.stop.clone(),
            abandoned: self.abandoned.clone(),
            partitions: HashMap::new(),
        };
        let stop = self.stop.clone();
        let retry = self.inbox.clone().map(|inbox| {
            tokio::spawn(async move {
                tokio::join!(inbox.retry_until(stop.clone()), inbox.purge_until(stop));
            })
        });
        *running = Some(Running { receive: tokio::spawn(receiver.run(subscription)), retry });
        Ok(())
    }

    fn instances(&self) -> Vec<Instance> {
        Vec::new()
    }

    /// Receives no more, finishes and acks what was received, leaves the group. What is not
    /// finished by the deadline is dropped unacked and comes again.
    async fn drain(&self, deadline: Duration) -> Result<()> {
        if self.end(deadline).await? {
            return Ok(());
        }
        self.abandoned.cancel();
        self.end(HAND_OVER_DEADLINE).await?;
        let message = "not everything received was finished; the rest comes again";
        Err(Error::new(ErrorKind::DeadlineExceeded, "consumer.drain", message)
            .with_context("group", &self.group)
            .with_context("deadline_ms", deadline.as_millis()))
    }

    async fn flush(&self, _deadline: Duration) -> Result<()> {
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.abandoned.cancel();
        self.end(HAND_OVER_DEADLINE).await.map(drop)
    }
}

impl<S> Drop for Consumer<S> {
    /// A consumer that is dropped without `close` stops as in a crash: nothing more is acked.
    fn drop(&mut self) {
        self.abandoned.cancel();
        self.stop.cancel();
    }
}

/// The receiving task.
struct Receiver<S> {
    broker: Arc<dyn Broker>,
    request: SubscribeRequest,
    config: ConsumerConfig,
    service: S,
    board: TroubleBoard,
    stop: CancellationToken,
    abandoned: CancellationToken,
    partitions: HashMap<TopicPartition, Arc<Partition>>,
}

impl<S> Receiver<S>
where
    S: Service<DeliveryBatch, Response = (), Error = Error> + Clone + Send + 'static,
    S::Future: Send,
{
    /// Receives until the stop, then finishes; answers the subscription to close.
    async fn run(mut self, mut subscription: Arc<dyn Subscription>) -> Option<Arc<dyn Subscription>> {
        let mut panic_count = 0_u32;
        loop {
            let (panics, lane_panics) = mpsc::channel(1);
            let context = Arc::new(PartitionContext {
                group: self.request.group.clone(),
                config: self.config.clone(),
                unfinished_bytes: AtomicUsize::new(0),
                subscription: subscription.clone(),
                board: self.board.clone(),
                panics,
            });
            let began_at = Instant::now();
            let received = self.receive(&context, lane_panics).await;
            if received.is_ok() && self.stop.is_cancelled() {
                self.finish().await;
                return Some(subscription);
            }
            // What an ended or broken subscription handed out belongs to nobody any more.
            self.partitions.drain().for_each(|(_, partition)| partition.lose());
            let mut trouble = None;
            if let Err(panic) = received {
                panic_count = if began_at.elapsed() > RESTART_DELAY_MAX { 1 } else { panic_count.saturating_add(1) };
                trouble = Some(self.board.trouble(panic.report()));
                self.let_go(subscription, panic_count, panic).await?;
            }
            subscription = self.subscribe_again().await?;
            drop(trouble);
        }
    }

    /// Leaves a group through a subscription that panicked, and waits; `None` at the stop.
    // `&mut`, for a `&Self` across an await would need a `Sync` stack.
    async fn let_go(&mut self, subscription: Arc<dyn Subscription>, panic_count: u32, panic: Error) -> Option<()> {
        let group = self.request.group.clone();
        tracing::error!(%group, panic_count, error = %panic.report(), "consumer panicked, subscribing again");
        let left = tokio::time::timeout(HAND_OVER_DEADLINE, unwound("consumer.leave", subscription.close()));
        if let Ok(Err(error)) = left.await {
            tracing::warn!(%group, error = %error.report(), "leaving the group after a panic");
        }
        let wait = backoff(panic_count, RESTART_DELAY_INITIAL, RESTART_DELAY_MAX);
        self.stop.run_until_cancelled(tokio::time::sleep(wait)).await
    }

    /// Receives until the stop or the subscription's end; a panic here or in a lane is an error.
    async fn receive(&mut self, context: &Arc<PartitionContext>, mut panics: mpsc::Receiver<Error>) -> Result<()> {
        let stop = self.stop.clone();
        let receiving = unwound("consumer.receive", async {
            while let Some(Some(event)) = stop.run_until_cancelled(context.subscription.next()).await {
                match event {
                    SubscriptionEvent::Batch(deliveries) => self.dispatch(deliveries, context).await,
                    SubscriptionEvent::Revoked(partitions, guard) => {
                        self.hand_over(&partitions).await;
                        drop(guard);
                    }
                    SubscriptionEvent::Lost(partitions) => {
                        partitions.iter().filter_map(|id| self.partitions.remove(id)).for_each(|lost| lost.lose());
                    }
                }
            }
            Ok(())
        });
        tokio::select! {
            received = receiving => received,
            Some(panic) = panics.recv() => Err(panic),
        }
    }

    async fn dispatch(&mut self, deliveries: Vec<Delivery>, context: &Arc<PartitionContext>) {
        // Neighbours are mostly of one partition: it is looked up once for all of them.
        let mut deliveries = deliveries.into_iter().peekable();
        while let Some(first) = deliveries.peek() {
            let id = first.topic_partition();
            let is_same = |delivery: &Delivery| {
                delivery.partition == id.partition && Arc::ptr_eq(&delivery.message.topic, &id.topic)
            };
            let partition = self
                .partitions
                .entry(id.clone())
                .or_insert_with_key(|id| Partition::start(id.clone(), context.clone(), &self.service, &self.abandoned));
            partition.push(std::iter::from_fn(|| deliveries.next_if(is_same)));
            partition.regulate().await;
        }
    }

    async fn hand_over(&mut self, ids: &[TopicPartition]) {
        let revoked: Vec<_> = ids.iter().filter_map(|id| self.partitions.remove(id)).collect();
        let handed_over = revoked.iter().map(|partition| partition.hand_over(HAND_OVER_DEADLINE));
        futures_util::future::join_all(handed_over).await;
    }

    async fn finish(&mut self) {
        let partitions: Vec<_> = self.partitions.drain().map(|(_, partition)| partition).collect();
        futures_util::future::join_all(partitions.iter().map(|partition| partition.finish())).await;
    }

    /// Subscribes until it works; `None` at the stop.
    // `&mut`, for a `&Self` across an await would need a `Sync` stack.
    async fn subscribe_again(&mut self) -> Option<Arc<dyn Subscription>> {
        let mut trouble: Option<Trouble> = None;
        let mut failure_count = 0_u32;
        loop {
            let wait = backoff(failure_count + 1, SUBSCRIBE_DELAY_INITIAL, SUBSCRIBE_DELAY_MAX);
            self.stop.run_until_cancelled(tokio::time::sleep(wait)).await?;
            let error = match self.stop.run_until_cancelled(self.broker.subscribe(self.request.clone())).await? {
                Ok(subscription) => return Some(subscription),
                Err(error) => error.report(),
            };
            failure_count = failure_count.saturating_add(1);
            if failure_count.is_power_of_two() {
                tracing::warn!(group = %self.request.group, failure_count, error, "cannot subscribe again");
            }
            if trouble.is_none() {
                // What was published waits in the broker; callers of the service are served.
                trouble = Some(self.board.degraded(error));
            }
        }
    }
}
