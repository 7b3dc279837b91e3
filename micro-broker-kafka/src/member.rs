//! A member of a group: a thread that polls, and the subscription that it fills.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use micro_core::{
    Error, ErrorKind, Result,
    broker::{Delivery, Position, SubscribeRequest, Subscription, SubscriptionEvent, TopicPartition},
};
use rdkafka::{
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
    message::{BorrowedMessage, Message as _},
    types::RDKafkaErrorCode as Code,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant as TokioInstant, timeout, timeout_at},
};

use crate::{
    client_log::ClientLog,
    config::KafkaConfig,
    error::from_kafka,
    holdings::{Holdings, PauseChanges},
    rebalance::{MemberContext, list_of},
    record::{self, Blocks},
    recovery::Recovery,
};

/// How long one poll waits, which is how late the thread notices a pause, a resume or a close.
const POLL_WAIT: Duration = Duration::from_millis(50);
/// Records that are put in together, at most.
const CHUNK_COUNT_MAX: usize = 512;
/// How long a consumer that does not receive holds up the thread before everything is paused and
/// polling goes on. A pause throws away what was fetched ahead, so it is not for short waits.
const STALL_WAIT: Duration = Duration::from_millis(100);

type Client = BaseConsumer<MemberContext>;

/// A subscription to Kafka.
pub(crate) struct Member {
    shared: Arc<Shared>,
    request: SubscribeRequest,
    /// Closed when the thread has left the group.
    left: watch::Receiver<()>,
}

/// What the poll thread, its rebalances and the subscription share.
pub(crate) struct Shared {
    pub(crate) group: Arc<str>,
    pub(crate) topics: Vec<Arc<str>>,
    pub(crate) settings: KafkaConfig,
    pub(crate) log: ClientLog,
    holdings: Mutex<Holdings>,
    /// Something can be taken out, or the end has come.
    pub(crate) received: Notify,
    /// Something was taken out.
    room: Condvar,
    is_closing: AtomicBool,
}

impl Member {
    /// Joins the group in the background; blocks while the client is made.
    pub(crate) fn join(settings: KafkaConfig, request: SubscribeRequest) -> Result<Self> {
        let shared = Arc::new(Shared {
            group: request.group.clone(),
            topics: request.topics.clone(),
            log: ClientLog::new(&*request.group),
            settings,
            holdings: Mutex::default(),
            received: Notify::new(),
            room: Condvar::new(),
            is_closing: AtomicBool::new(false),
        });
        let refused = |error| from_kafka("broker.subscribe", error).with_context("group", &request.group);
        let client_config = shared.settings.consumer(&request.group);
        let context = MemberContext::new(shared.clone());
        let client = Client::from_config_and_context(&client_config, context).map_err(refused)?;
        let topics: Vec<&str> = shared.topics.iter().map(|topic| &**topic).collect();
        client.subscribe(&topics).map_err(refused)?;
        let (leave, left) = watch::channel(());
        let thread = thread::Builder::new().name(format!("kafka-{}", request.group));
        let poll = {
            let shared = shared.clone();
            move || {
                // Also when the thread panics: whoever waits in `next` must learn that it is over.
                let _end = EndOfThread { shared: shared.clone(), _leave: leave };
                Poller { shared, client, is_stalled: false, recovery: Recovery::default(), blocks: Blocks::default() }
                    .run();
            }
        };
        thread.spawn(poll).map_err(|error| {
            Error::new(ErrorKind::ResourceExhausted, "broker.subscribe", "no thread can be started").with_source(error)
        })?;
        Ok(Self { shared, request, left })
    }
}

#[async_trait]
impl Subscription for Member {
    async fn next(&self) -> Option<SubscriptionEvent> {
        let mut full_at: Option<TokioInstant> = None;
        loop {
            match self.poll(full_at) {
                Next::Event(event) => return Some(event),
                Next::Ended => {
                    // Whoever else waits must learn of the end too; a permit wakes only one.
                    self.shared.received.notify_one();
                    return None;
                }
                Next::Nothing => {
                    full_at = None;
                    self.shared.received.notified().await;
                }
                Next::Filling => {
                    let at = *full_at.get_or_insert_with(|| TokioInstant::now() + self.request.batch_linger);
                    let _ = timeout_at(at, self.shared.received.notified()).await;
                }
            }
        }
    }

    async fn ack(&self, position: Position) -> Result<()> {
        self.shared.holdings().ack(&position);
        Ok(())
    }

    async fn pause(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.shared.holdings().set_paused(partitions, true);
        self.shared.room.notify_one();
        Ok(())
    }

    async fn resume(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.shared.holdings().set_paused(partitions, false);
        self.shared.received.notify_one();
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.shared.close();
        let deadline = self.shared.settings.close_timeout;
        let mut left = self.left.clone();
        // Nothing is ever sent: the error says that the thread is done.
        match timeout(deadline, left.changed()).await {
            Ok(_) => Ok(()),
            Err(_) => {
                let message = "the client did not leave the group in time and is left to itself";
                Err(Error::new(ErrorKind::DeadlineExceeded, "broker.close", message)
                    .with_context("group", &self.shared.group)
                    .with_context("close_timeout_ms", deadline.as_millis()))
            }
        }
    }
}

impl Drop for Member {
    /// Leaves the group in the background.
    fn drop(&mut self) {
        self.shared.close();
    }
}

enum Next {
    Event(SubscriptionEvent),
    /// There is something, but the batch may still fill.
    Filling,
    Nothing,
    Ended,
}

impl Member {
    /// Takes deliveries only in the step that returns them, so that a dropped `next` loses none.
    fn poll(&self, full_at: Option<TokioInstant>) -> Next {
        let mut holdings = self.shared.holdings();
        if self.shared.is_closing() {
            return Next::Ended;
        }
        if let Some(event) = holdings.pop_event() {
            return Next::Event(event);
        }
        let count_max = self.request.batch_count_max.max(1);
        let is_full = holdings.ready_count() >= count_max;
        let has_lingered = self.request.batch_linger.is_zero() || full_at.is_some_and(|at| at <= TokioInstant::now());
        match holdings.ready_count() {
            0 if holdings.has_ended() => Next::Ended,
            0 => Next::Nothing,
            _ if is_full || has_lingered => {
                let batch = holdings.take(count_max);
                self.shared.room.notify_one();
                Next::Event(SubscriptionEvent::Batch(batch))
            }
            _ => Next::Filling,
        }
    }
}

impl Shared {
    pub(crate) fn holdings(&self) -> MutexGuard<'_, Holdings> {
        // Each step leaves the holdings consistent before it can panic, so poison says nothing.
        self.holdings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::Relaxed)
    }

    fn close(&self) {
        let mut holdings = self.holdings();
        self.is_closing.store(true, Ordering::Relaxed);
        holdings.end();
        self.room.notify_one();
        drop(holdings);
        self.received.notify_one();
    }
}

/// Its drop says that nobody polls any more.
struct EndOfThread {
    shared: Arc<Shared>,
    _leave: watch::Sender<()>,
}

impl Drop for EndOfThread {
    fn drop(&mut self) {
        self.shared.holdings().end();
        self.shared.received.notify_one();
    }
}

/// The poll thread.
struct Poller {
    shared: Arc<Shared>,
    client: Client,
    /// Everything is paused because nobody receives.
    is_stalled: bool,
    recovery: Recovery,
    blocks: Blocks,
}

impl Poller {
    fn run(mut self) {
        while !self.shared.is_closing() {
            self.shared.store(&self.client);
            self.recovery.open(self.shared.holdings().unread());
            self.recovery.look_if_due(&self.shared, &self.client);
            self.regulate();
            if let Err(error) = self.receive() {
                self.end(&error);
                break;
            }
        }
        self.finish();
        // Dropping the client leaves the group. That polls without a limit, which is why it is done
        // here and nobody waits for this thread longer than the close timeout.
        drop(self.client);
    }

    /// Commits what was acked, however often that takes within the deadline: in the middle of a
    /// rebalance, which goes on only while polled, the coordinator takes no commit.
    fn finish(&self) {
        let end = Instant::now() + self.shared.settings.close_timeout;
        loop {
            let owned: Vec<_> = self.shared.holdings().partitions().map(|(id, _)| id.clone()).collect();
            if self.shared.commit(&self.client, &owned) || Instant::now() >= end {
                return;
            }
            // Nothing is received any more.
            drop(self.client.poll(POLL_WAIT));
        }
    }

    /// Polls once and then takes what is there.
    fn receive(&mut self) -> Result<(), KafkaError> {
        let mut chunk = Vec::with_capacity(CHUNK_COUNT_MAX);
        let mut wait = POLL_WAIT;
        while let Some(polled) = self.client.poll(wait) {
            match polled {
                Ok(record) => chunk.push(Self::delivery(&record, &self.shared.topics, &mut self.blocks)),
                Err(error @ KafkaError::MessageConsumptionFatal(_)) => return Err(error),
                Err(error) => {
                    // The context has logged it. The client goes on by itself, but for a position
                    // that the log does not hold.
                    if error.rdkafka_error_code() == Some(Code::AutoOffsetReset) {
                        self.recovery.open(self.shared.holdings().partitions().map(|(id, _)| id.clone()));
                    }
                    break;
                }
            }
            if chunk.len() >= CHUNK_COUNT_MAX {
                break;
            }
            wait = Duration::ZERO;
        }
        if !chunk.is_empty() {
            self.shared.holdings().receive(chunk);
            self.shared.received.notify_one();
        }
        Ok(())
    }

    /// The delivery has the subscription's own name of its topic, so that names are compared by
    /// their address.
    fn delivery(record: &BorrowedMessage<'_>, topics: &[Arc<str>], blocks: &mut Blocks) -> Delivery {
        let name = record.topic();
        match topics.iter().find(|topic| ***topic == *name) {
            Some(topic) => record::delivery_of(record, topic, blocks),
            None => record::delivery_of(record, &name.into(), blocks),
        }
    }

    /// Waits a little for room; pauses everything when none comes, and resumes when there is some.
    fn regulate(&mut self) {
        let settings = &self.shared.settings;
        let has_room = |holdings: &mut Holdings| {
            holdings.has_ended() || holdings.has_room(settings.receive_count_max, settings.receive_bytes_max)
        };
        let mut holdings = self.shared.holdings();
        if !self.is_stalled && !has_room(&mut holdings) {
            let waited = self.shared.room.wait_timeout_while(holdings, STALL_WAIT, |holdings| !has_room(holdings));
            holdings = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        self.is_stalled = !has_room(&mut holdings);
        let PauseChanges { paused, resumed } = holdings.pause_changes(self.is_stalled);
        drop(holdings);
        if paused.is_empty() && resumed.is_empty() {
            return;
        }
        let told = self.client.pause(&list_of(&paused)).and_then(|()| self.client.resume(&list_of(&resumed)));
        if let Err(error) = told {
            tracing::warn!(group = %self.shared.group, %error, "pause or resume");
        }
    }

    /// A fatal error: this client will never receive again.
    fn end(&self, error: &KafkaError) {
        let mut holdings = self.shared.holdings();
        let all: Vec<_> = holdings.partitions().map(|(id, _)| id.clone()).collect();
        holdings.lose(&all);
        holdings.end();
        drop(holdings);
        tracing::error!(group = %self.shared.group, %error, "the subscription ends");
        self.shared.received.notify_one();
    }
}
