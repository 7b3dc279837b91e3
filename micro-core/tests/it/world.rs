//! What the consume and relay tests share: events, a handler that writes down what it applied, a
//! memory database, and a scripted subscription.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use micro_core::{
    Error, ErrorKind, Result, TransactionManagerExt as _, Tx,
    broker::{
        Broker, Capabilities, Delivery, Message, Position, Receipt, SubscribeRequest, Subscription, SubscriptionEvent,
        TopicPartition,
    },
    consume::{BatchHandler, DeliveryBatch, DeliveryPolicy, Handler, InboxService, InboxStores, Router},
    event::{Event, Received, from_unix_millis, seal},
    outbox::Outbox,
    transaction::{MemoryDatabase, MemoryTxExt as _},
};
use tokio::sync::{Notify, mpsc};
use tower::{Service as _, ServiceExt as _};

pub(crate) const ORDERS: &str = "OrderEvent";

/// Waits until `condition` holds; fails the test after a minute (of tokio's clock).
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..12_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within a minute: {what}");
}

macro_rules! text_event {
    ($type:ident, $topic:expr, $event_type:expr) => {
        /// An event whose payload is the text `order/seq`.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub(crate) struct $type {
            pub(crate) order: String,
            pub(crate) seq: u32,
        }

        impl $type {
            pub(crate) fn new(order: &str, seq: u32) -> Self {
                Self { order: order.to_owned(), seq }
            }
        }

        impl Event for $type {
            const TOPIC: &'static str = $topic;
            const EVENT_TYPE: &'static str = $event_type;

            fn key(&self) -> String {
                self.order.clone()
            }

            fn encode_payload(&self, payload: &mut BytesMut) -> Result<()> {
                payload.extend_from_slice(format!("{}/{}", self.order, self.seq).as_bytes());
                Ok(())
            }

            fn decode_payload(payload: Bytes) -> Result<Self> {
                let parts = std::str::from_utf8(&payload).ok().and_then(|text| text.split_once('/'));
                let parts = parts.and_then(|(order, seq)| Some(Self::new(order, seq.parse().ok()?)));
                parts.ok_or_else(|| Error::new(ErrorKind::DataLoss, "event.decode", "expected order/seq"))
            }
        }
    };
}

text_event!(Paid, "OrderEvent", "OnPaid");
text_event!(Shipped, "OrderEvent", "OnShipped");
text_event!(Deducted, "ProductEvent", "OnDeducted");
text_event!(PaidDeadLetter, "OrderEventDLQ", "OnPaidDLQ");

/// What a handler is to do with an event.
pub(crate) enum Act {
    Apply,
    Fail(ErrorKind),
    Panic,
    /// Waits for a permit first, then applies.
    Wait(Arc<tokio::sync::Semaphore>),
}

type Script = dyn Fn(&str, u32, u32) -> Act + Send + Sync;

/// Appends each event's seq to the row of its order, in the transaction; the script decides by
/// order, seq and attempts what happens.
#[derive(Clone)]
pub(crate) struct Ledger {
    script: Arc<Script>,
    pub(crate) calls: Arc<Mutex<Vec<(String, u32)>>>,
    /// The longest slice a batch handler was called with.
    pub(crate) slice_len_max: Arc<AtomicUsize>,
}

impl Ledger {
    pub(crate) fn new(script: impl Fn(&str, u32, u32) -> Act + Send + Sync + 'static) -> Self {
        Self { script: Arc::new(script), calls: Arc::default(), slice_len_max: Arc::default() }
    }

    pub(crate) fn applying() -> Self {
        Self::new(|_, _, _| Act::Apply)
    }

    pub(crate) fn call_count(&self, order: &str, seq: u32) -> usize {
        self.calls.lock().unwrap().iter().filter(|(o, s)| o == order && *s == seq).count()
    }

    async fn apply(&self, tx: &mut Tx, order: &str, seq: u32, attempts: u32) -> Result<()> {
        self.calls.lock().unwrap().push((order.to_owned(), seq));
        // Written before the verdict: a rollback must undo it.
        let mut row = tx.get("applied", order)?.map(Vec::from).unwrap_or_default();
        row.extend_from_slice(format!("{seq} ").as_bytes());
        tx.put("applied", order, row)?;
        match (self.script)(order, seq, attempts) {
            Act::Apply => Ok(()),
            Act::Fail(kind) => Err(Error::new(kind, "ledger.apply", "the script says so").with_context("seq", seq)),
            Act::Panic => panic!("the script panics at {order}/{seq}"),
            Act::Wait(permits) => {
                permits.acquire().await.expect("never closed").forget();
                Ok(())
            }
        }
    }
}

macro_rules! ledger_handles {
    ($($type:ident)*) => {$(
        #[async_trait]
        impl Handler<$type> for Ledger {
            async fn handle(&self, tx: &mut Tx, event: Received<$type>) -> Result<()> {
                self.apply(tx, &event.event.order, event.event.seq, event.attempts).await
            }
        }

        #[async_trait]
        impl BatchHandler<$type> for Ledger {
            async fn handle_batch(&self, tx: &mut Tx, events: &[Received<$type>]) -> Result<()> {
                self.slice_len_max.fetch_max(events.len(), Ordering::Relaxed);
                for event in events {
                    self.apply(tx, &event.event.order, event.event.seq, event.attempts).await?;
                }
                Ok(())
            }
        }
    )*};
}

ledger_handles!(Paid Shipped Deducted PaidDeadLetter);

/// A memory database and what the tests ask of it.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) database: MemoryDatabase,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { database: MemoryDatabase::new() }
    }

    pub(crate) fn stores(&self) -> InboxStores {
        InboxStores {
            transactions: self.database.transactions(),
            inbox: self.database.inbox(),
            parked: self.database.parked(),
            dead_letters: self.database.dead_letters(),
            outbox: Some(self.outbox()),
        }
    }

    pub(crate) fn outbox(&self) -> Outbox {
        Outbox::new(self.database.outbox(), "order", "v1")
    }

    pub(crate) fn inbox(&self, ledger: &Ledger, policy: DeliveryPolicy) -> InboxService {
        InboxService::new("stock", self.stores(), Router::new().on::<Paid>(ledger.clone()), policy).unwrap()
    }

    /// The seqs applied to an order, in the order in which they were.
    pub(crate) fn applied(&self, order: &str) -> Vec<u32> {
        seqs(&self.database.read("applied", order).unwrap_or_default())
    }

    pub(crate) fn all_applied(&self) -> BTreeMap<String, Vec<u32>> {
        self.database.read_all("applied").into_iter().map(|(order, row)| (order, seqs(&row))).collect()
    }

    pub(crate) async fn add<E: Event>(&self, events: &[E]) {
        let outbox = self.outbox();
        self.database.transactions().run(async |tx| outbox.add_all(tx, events).await).await.unwrap();
    }
}

fn seqs(row: &[u8]) -> Vec<u32> {
    std::str::from_utf8(row).unwrap().split_whitespace().map(|seq| seq.parse().unwrap()).collect()
}

pub(crate) fn message<E: Event>(event: &E) -> Message {
    seal(event, "order", "v1").unwrap()
}

/// The event as a delivery of partition 0.
pub(crate) fn delivery<E: Event>(event: &E, offset: i64) -> Delivery {
    delivered(message(event), offset)
}

/// The message as a delivery of partition 0: the same whenever this offset is delivered.
pub(crate) fn delivered(message: Message, offset: i64) -> Delivery {
    let timestamp = from_unix_millis(1_700_000_000_000 + offset);
    Delivery { message, partition: 0, offset, timestamp }
}

pub(crate) fn batch(deliveries: impl IntoIterator<Item = Delivery>) -> DeliveryBatch {
    DeliveryBatch::new("stock", deliveries.into_iter().collect::<Vec<_>>())
}

/// Hands a batch to the service as the consumer does.
pub(crate) async fn settle(service: &InboxService, deliveries: impl IntoIterator<Item = Delivery>) -> Result<()> {
    let mut service = service.clone();
    service.ready().await?.call(batch(deliveries)).await
}

/// A broker whose one subscription is fed by the test and writes down what the consumer says.
#[derive(Clone)]
pub(crate) struct ScriptedBroker {
    subscription: Arc<ScriptedSubscription>,
    pub(crate) feed: mpsc::Sender<SubscriptionEvent>,
}

pub(crate) struct ScriptedSubscription {
    events: tokio::sync::Mutex<mpsc::Receiver<SubscriptionEvent>>,
    acks: Mutex<Vec<i64>>,
    flow: Mutex<Vec<&'static str>>,
    /// How often a resume is refused before one is taken.
    resume_refusals: AtomicU32,
    closed: Notify,
}

impl ScriptedBroker {
    pub(crate) fn new() -> Self {
        let (feed, events) = mpsc::channel(64);
        let subscription = ScriptedSubscription {
            events: tokio::sync::Mutex::new(events),
            acks: Mutex::default(),
            flow: Mutex::default(),
            resume_refusals: AtomicU32::new(0),
            closed: Notify::new(),
        };
        Self { subscription: Arc::new(subscription), feed }
    }

    /// Refuses the next `count` resumes.
    pub(crate) fn refuse_resumes(&self, count: u32) {
        self.subscription.resume_refusals.store(count, Ordering::Relaxed);
    }

    pub(crate) async fn deliver(&self, deliveries: impl IntoIterator<Item = Delivery>) {
        self.feed.send(SubscriptionEvent::Batch(deliveries.into_iter().collect())).await.unwrap();
    }

    /// The positions acked, in the order of the acks.
    pub(crate) fn acks(&self) -> Vec<i64> {
        self.subscription.acks.lock().unwrap().clone()
    }

    pub(crate) fn acked(&self) -> Option<i64> {
        self.acks().last().copied()
    }

    /// `pause` and `resume`, as they were called.
    pub(crate) fn flow(&self) -> Vec<&'static str> {
        self.subscription.flow.lock().unwrap().clone()
    }
}

#[async_trait]
impl Broker for ScriptedBroker {
    async fn publish(&self, messages: Vec<Message>) -> Vec<Result<Receipt>> {
        messages
            .iter()
            .map(|_| Err(Error::new(ErrorKind::Unimplemented, "scripted.publish", "receives only")))
            .collect()
    }

    async fn subscribe(&self, _request: SubscribeRequest) -> Result<Arc<dyn Subscription>> {
        Ok(self.subscription.clone())
    }

    async fn flush(&self, _deadline: Duration) -> Result<()> {
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(false, true, false)
    }
}

#[async_trait]
impl Subscription for ScriptedSubscription {
    async fn next(&self) -> Option<SubscriptionEvent> {
        let mut events = self.events.lock().await;
        tokio::select! {
            event = events.recv() => event,
            () = self.closed.notified() => None,
        }
    }

    async fn ack(&self, position: Position) -> Result<()> {
        self.acks.lock().unwrap().push(position.next_offset);
        Ok(())
    }

    async fn pause(&self, _partitions: &[TopicPartition]) -> Result<()> {
        self.flow.lock().unwrap().push("pause");
        Ok(())
    }

    async fn resume(&self, _partitions: &[TopicPartition]) -> Result<()> {
        let refused =
            self.resume_refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if refused.is_ok() {
            self.flow.lock().unwrap().push("refused");
            return Err(Error::new(ErrorKind::Unavailable, "scripted.resume", "the broker is away"));
        }
        self.flow.lock().unwrap().push("resume");
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.closed.notify_one();
        Ok(())
    }
}
