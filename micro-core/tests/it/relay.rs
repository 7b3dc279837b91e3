//! What the relay promises: order by key, one message of a key on its way, nothing lost.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use micro_core::{
    Error, ErrorKind, Health, HealthStatus, Result, TransactionManagerExt as _, Tx,
    app::Component as _,
    broker::{Broker, Capabilities, MemoryBroker, Message, Receipt, SubscribeRequest, Subscription},
    consume::{Consumer, DeliveryPolicy},
    event::{BaseEvent, Event as _},
    flow::BrokerService,
    outbox::{OutboxCounts, OutboxRow, OutboxShard, OutboxStore, Relay, RelayConfig, SHARD_COUNT, ShardSet},
};
use prost::Message as _;

use crate::world::{Deducted, Ledger, Paid, ScriptedBroker, World, eventually};

/// What becomes of a message, by order, seq and how often it was sent before.
enum Fate {
    Receipt,
    Fails(ErrorKind),
    /// The broker has it, and never says so.
    Silent,
}

type Script = dyn Fn(&str, u32, u32) -> Fate + Send + Sync;

/// A broker that writes down what it took and notices two messages of one key on their way.
#[derive(Clone)]
struct ProbeBroker {
    script: Arc<Script>,
    state: Arc<Mutex<Probe>>,
    receipt_delay: Duration,
}

#[derive(Default)]
struct Probe {
    on_their_way: HashSet<Bytes>,
    overlaps: Vec<Bytes>,
    tries: HashMap<(String, u32), u32>,
    /// The seqs that got a receipt, by order.
    taken: BTreeMap<String, Vec<u32>>,
}

impl ProbeBroker {
    fn new(script: impl Fn(&str, u32, u32) -> Fate + Send + Sync + 'static) -> Self {
        Self { script: Arc::new(script), state: Arc::default(), receipt_delay: Duration::from_millis(3) }
    }

    fn taken(&self) -> BTreeMap<String, Vec<u32>> {
        self.state.lock().unwrap().taken.clone()
    }

    fn taken_count(&self) -> usize {
        self.state.lock().unwrap().taken.values().map(Vec::len).sum()
    }

    fn tries(&self, order: &str, seq: u32) -> u32 {
        self.state.lock().unwrap().tries.get(&(order.to_owned(), seq)).copied().unwrap_or(0)
    }

    fn assert_no_overlap(&self) {
        let overlaps = &self.state.lock().unwrap().overlaps;
        assert!(overlaps.is_empty(), "two unacknowledged messages of {overlaps:?}");
    }

    async fn take(&self, message: Message) -> Result<Receipt> {
        let key = message.key.clone().expect("every test event has a key");
        let envelope = BaseEvent::decode(message.body).expect("sealed by the outbox");
        let event = Paid::decode_payload(envelope.payload).unwrap();
        let fate = {
            let mut probe = self.state.lock().unwrap();
            if !probe.on_their_way.insert(key.clone()) {
                probe.overlaps.push(key.clone());
            }
            let tries = probe.tries.entry((event.order.clone(), event.seq)).or_default();
            *tries += 1;
            (self.script)(&event.order, event.seq, *tries - 1)
        };
        tokio::time::sleep(self.receipt_delay).await;
        if let Fate::Silent = fate {
            // The sender's deadline drops this future; its key is free then.
            let _free = FreeOnDrop(self.clone(), key);
            return std::future::pending().await;
        }
        let mut probe = self.state.lock().unwrap();
        probe.on_their_way.remove(&key);
        match fate {
            Fate::Fails(kind) => Err(Error::new(kind, "probe.publish", "the script says so")),
            Fate::Receipt | Fate::Silent => {
                probe.taken.entry(event.order).or_default().push(event.seq);
                Ok(Receipt { partition: 0, offset: 0 })
            }
        }
    }
}

struct FreeOnDrop(ProbeBroker, Bytes);

impl Drop for FreeOnDrop {
    fn drop(&mut self) {
        self.0.state.lock().unwrap().on_their_way.remove(&self.1);
    }
}

#[async_trait]
impl Broker for ProbeBroker {
    async fn publish(&self, messages: Vec<Message>) -> Vec<Result<Receipt>> {
        futures_util::future::join_all(messages.into_iter().map(|message| self.take(message))).await
    }

    async fn subscribe(&self, _request: SubscribeRequest) -> Result<Arc<dyn Subscription>> {
        Err(Error::new(ErrorKind::Unimplemented, "probe.subscribe", "sends only"))
    }

    async fn flush(&self, _deadline: Duration) -> Result<()> {
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(true, true, false)
    }
}

fn relay(world: &World, broker: &ProbeBroker) -> Relay<BrokerService> {
    Relay::builder(world.database.outbox(), Arc::new(broker.clone())).build()
}

async fn counts(world: &World) -> OutboxCounts {
    world.database.outbox().counts().await.unwrap()
}

fn orders(count: usize, seqs: u32) -> Vec<Paid> {
    (0..seqs).flat_map(|seq| (0..count).map(move |order| Paid::new(&format!("o-{order}"), seq))).collect()
}

#[tokio::test(start_paused = true)]
async fn order_by_key_holds_under_failing_receipts_with_one_message_of_a_key_on_its_way() {
    let world = World::new();
    let broker = ProbeBroker::new(|_, _, tries| match (fastrand::u8(0..10), tries) {
        (0..=2, 0..=3) => Fate::Fails(ErrorKind::Unavailable),
        (3, 0..=3) => Fate::Silent,
        _ => Fate::Receipt,
    });
    let relay = relay(&world, &broker);
    relay.start(&Health::new()).await.unwrap();
    // Committed while the relay runs, in many transactions.
    for events in orders(20, 30).chunks(17) {
        world.add(events).await;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..5))).await;
    }
    // Silent receipts take 30 s each, of the paused clock.
    for _ in 0..60 {
        if broker.taken_count() == 600 {
            break;
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
    let expected: Vec<u32> = (0..30).collect();
    let taken = broker.taken();
    assert_eq!(taken.len(), 20);
    assert!(taken.values().all(|seqs| *seqs == expected), "{taken:?}");
    broker.assert_no_overlap();
    relay.drain(Duration::from_secs(1)).await.unwrap();
    assert_eq!(counts(&world).await, OutboxCounts::default());
}

#[tokio::test(start_paused = true)]
async fn a_key_without_receipts_does_not_hold_up_the_others() {
    let world = World::new();
    let broker = ProbeBroker::new(|order, _, _| if order == "stuck" { Fate::Silent } else { Fate::Receipt });
    // More rows of the stuck key than are read at once, before all others.
    world.add(&(0..1_000).map(|seq| Paid::new("stuck", seq)).collect::<Vec<_>>()).await;
    world.add(&orders(50, 20)).await;
    let relay = relay(&world, &broker);
    relay.start(&Health::new()).await.unwrap();
    eventually("the others", || broker.taken_count() == 1_000).await;
    assert_eq!(broker.taken().values().filter(|seqs| seqs.is_sorted()).count(), 50);
    assert!(broker.tries("stuck", 0) >= 1);
    assert_eq!(broker.tries("stuck", 1), 0);
    broker.assert_no_overlap();
    relay.close().await.unwrap();
}

/// Whatever is wrong with it: it fails at once, or nothing is heard of it. One key has more rows than
/// are kept in memory of a shard, and there are more keys than may be on their way.
#[tokio::test(start_paused = true)]
async fn a_topic_that_cannot_be_sent_holds_up_no_other() {
    for failure in [Some(ErrorKind::Unavailable), Some(ErrorKind::PermissionDenied), None] {
        let world = World::new();
        let broker = ProbeBroker::new(move |_, seq, _| match (seq, failure) {
            (10_000.., _) => Fate::Receipt,
            (_, Some(kind)) => Fate::Fails(kind),
            (_, None) => Fate::Silent,
        });
        world.add(&(0..5_000).map(|seq| Paid::new("stuck", seq)).collect::<Vec<_>>()).await;
        world.add(&orders(5_000, 1)).await;
        world.add(&(10_000..10_100).map(|seq| Deducted::new("stuck", seq)).collect::<Vec<_>>()).await;
        let relay = relay(&world, &broker);
        relay.start(&Health::new()).await.unwrap();
        let began = tokio::time::Instant::now();
        eventually("the other topic's", || broker.taken_count() == 100).await;
        assert!(began.elapsed() < Duration::from_secs(20), "{failure:?}: {:?}", began.elapsed());
        assert!(broker.taken()["stuck"].is_sorted(), "{failure:?}");
        relay.close().await.unwrap();
    }
}

/// An outbox that counts the bytes that are read of it.
struct CountingOutbox {
    inner: Arc<dyn OutboxStore>,
    bytes: Arc<std::sync::atomic::AtomicUsize>,
}

struct CountingShard {
    inner: Box<dyn OutboxShard>,
    bytes: Arc<std::sync::atomic::AtomicUsize>,
}

#[async_trait]
impl OutboxStore for CountingOutbox {
    async fn add(&self, tx: &mut Tx, messages: &[Message]) -> Result<()> {
        self.inner.add(tx, messages).await
    }

    async fn own(&self, shard: u16) -> Result<Option<Box<dyn OutboxShard>>> {
        let bytes = self.bytes.clone();
        Ok(self.inner.own(shard).await?.map(|inner| Box::new(CountingShard { inner, bytes }) as Box<_>))
    }

    async fn committed(&self) -> ShardSet {
        self.inner.committed().await
    }

    fn shard_of(&self, message: &Message) -> u16 {
        self.inner.shard_of(message)
    }

    async fn counts(&self) -> Result<OutboxCounts> {
        self.inner.counts().await
    }
}

#[async_trait]
impl OutboxShard for CountingShard {
    async fn unsent(&mut self, known: &[i64], but_topics: &[Arc<str>], limit: usize) -> Result<Vec<OutboxRow>> {
        let rows = self.inner.unsent(known, but_topics, limit).await?;
        let bytes = rows.iter().map(|row| row.message.body.len()).sum();
        self.bytes.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        Ok(rows)
    }

    async fn sent(&mut self, ids: &[i64]) -> Result<()> {
        self.inner.sent(ids).await
    }

    async fn park(&mut self, id: i64, cause: &Error) -> Result<()> {
        self.inner.park(id, cause).await
    }
}

/// While the broker is away no more is kept in memory than the limit says.
#[tokio::test(start_paused = true)]
async fn what_a_relay_keeps_in_memory_is_bounded_in_bytes() {
    let world = World::new();
    let bytes = Arc::<std::sync::atomic::AtomicUsize>::default();
    let store = Arc::new(CountingOutbox { inner: world.database.outbox(), bytes: bytes.clone() });
    let messages: Vec<_> = (0..100_u8).map(|number| Message::keyed("t", "a", vec![number; 100 * 1_024])).collect();
    world.database.transactions().run(async |tx| store.add(tx, &messages).await).await.unwrap();
    let mut config = RelayConfig::default();
    config.known_bytes_max = 1_024 * 1_024;
    let relay = Relay::builder(store, Arc::new(ScriptedBroker::new())).config(config).build();
    relay.start(&Health::new()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let bytes = bytes.load(std::sync::atomic::Ordering::Relaxed);
    // Each row that is kept was read once; those there was no room for, at most once more.
    assert!((700 * 1_024..2 * 1_024 * 1_024).contains(&bytes), "{bytes} bytes of 10 MB were read");
    relay.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn rows_that_are_larger_than_the_limit_are_sent_one_by_one() {
    let world = World::new();
    let broker = ProbeBroker::new(|_, _, _| Fate::Receipt);
    let mut config = RelayConfig::default();
    config.known_bytes_max = 1;
    world.add(&orders(3, 20)).await;
    let relay = Relay::builder(world.database.outbox(), Arc::new(broker.clone())).config(config).build();
    relay.start(&Health::new()).await.unwrap();
    eventually("all of them", || broker.taken_count() == 60).await;
    assert!(broker.taken().values().all(|seqs| seqs.is_sorted()));
    relay.drain(Duration::from_secs(1)).await.unwrap();
    assert_eq!(counts(&world).await, OutboxCounts::default());
}

/// What was left out while its topic was stuck goes out in order once it is mended.
#[tokio::test(start_paused = true)]
async fn a_topic_that_is_mended_sends_all_of_its_rows_in_order() {
    let world = World::new();
    let is_stuck = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let stuck = is_stuck.clone();
    let broker = ProbeBroker::new(move |_, _, _| match stuck.load(std::sync::atomic::Ordering::Relaxed) {
        true => Fate::Fails(ErrorKind::Unavailable),
        false => Fate::Receipt,
    });
    // Of one shard all of them.
    world.add(&(0..6_000).map(|seq| Paid::new("one", seq)).collect::<Vec<_>>()).await;
    let relay = relay(&world, &broker);
    relay.start(&Health::new()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    world.add(&(6_000..6_010).map(|seq| Paid::new("one", seq)).collect::<Vec<_>>()).await;
    is_stuck.store(false, std::sync::atomic::Ordering::Relaxed);
    eventually("all of them", || broker.taken_count() == 6_010).await;
    assert_eq!(broker.taken()["one"], (0..6_010).collect::<Vec<_>>());
    broker.assert_no_overlap();
    relay.drain(Duration::from_secs(1)).await.unwrap();
    assert_eq!(counts(&world).await, OutboxCounts::default());
}

#[tokio::test(start_paused = true)]
async fn rows_that_come_while_a_wave_is_on_its_way_go_out_together_and_wait_no_longer_than_they_may() {
    let world = World::new();
    let mut broker = ProbeBroker::new(|order, _, _| if order == "stuck" { Fate::Silent } else { Fate::Receipt });
    broker.receipt_delay = Duration::from_millis(20);
    let relay = relay(&world, &broker);
    relay.start(&Health::new()).await.unwrap();
    let tries = |order: &str| broker.tries(order, 0);
    world.add(&[Paid::new("first", 0)]).await;
    eventually("the first wave", || tries("first") == 1).await;
    for order in ["a", "b"] {
        tokio::time::sleep(Duration::from_millis(2)).await;
        world.add(&[Paid::new(order, 0)]).await;
    }
    assert_eq!((tries("a"), tries("b")), (0, 0), "they wait for the first one's receipt");
    eventually("the second wave", || tries("a") + tries("b") > 0).await;
    assert_eq!((tries("a"), tries("b"), broker.taken_count()), (1, 1, 1));

    world.add(&[Paid::new("stuck", 0)]).await;
    eventually("the stuck one", || tries("stuck") == 1).await;
    let began = tokio::time::Instant::now();
    world.add(&[Paid::new("c", 0)]).await;
    eventually("the one behind it", || tries("c") == 1).await;
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
    relay.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_row_the_broker_refuses_for_good_is_parked_and_its_key_goes_on() {
    let world = World::new();
    let broker = ProbeBroker::new(|order, seq, _| match (order, seq) {
        ("o-1", 1) => Fate::Fails(ErrorKind::InvalidArgument),
        _ => Fate::Receipt,
    });
    world.add(&orders(3, 3)).await;
    let relay = relay(&world, &broker);
    relay.start(&Health::new()).await.unwrap();
    eventually("the rest", || broker.taken_count() == 8).await;
    assert_eq!(broker.taken()["o-1"], [0, 2]);
    relay.drain(Duration::from_secs(1)).await.unwrap();
    assert_eq!(counts(&world).await, OutboxCounts { unsent: 0, parked: 1 });
    let parked = world.database.outbox().parked();
    assert_eq!(parked[0].1, "probe.publish: the script says so");
    assert_eq!(broker.tries("o-1", 1), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_receipt_is_waited_for_only_so_long() {
    let world = World::new();
    let broker = ProbeBroker::new(|_, _, tries| if tries == 0 { Fate::Silent } else { Fate::Receipt });
    world.add(&orders(1, 1)).await;
    let relay = relay(&world, &broker);
    relay.start(&Health::new()).await.unwrap();
    eventually("the first send", || broker.tries("o-0", 0) == 1).await;
    tokio::time::sleep(Duration::from_secs(29)).await;
    assert_eq!(broker.tries("o-0", 0), 1);
    eventually("the second send", || broker.taken_count() == 1).await;
    relay.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn rolled_back_rows_are_never_sent() {
    let world = World::new();
    let broker = ProbeBroker::new(|_, _, _| Fate::Receipt);
    let relay = relay(&world, &broker);
    relay.start(&Health::new()).await.unwrap();
    let outbox = world.outbox();
    let rolled_back: Result<()> = world
        .database
        .transactions()
        .run(async |tx| {
            outbox.add(tx, &Paid::new("ghost", 1)).await?;
            Err(Error::new(ErrorKind::FailedPrecondition, "orders.pay", "not in this state"))
        })
        .await;
    assert!(rolled_back.is_err());
    world.add(&[Paid::new("real", 1)]).await;
    eventually("the committed one", || broker.taken_count() == 1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(broker.taken().into_keys().collect::<Vec<_>>(), ["real"]);
    relay.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_restart_sends_again_what_had_no_receipt() {
    let world = World::new();
    let silent = ProbeBroker::new(|_, _, _| Fate::Silent);
    world.add(&orders(5, 2)).await;
    let first = relay(&world, &silent);
    first.start(&Health::new()).await.unwrap();
    eventually("the first send", || silent.tries("o-0", 0) == 1).await;
    drop(first);

    let broker = ProbeBroker::new(|_, _, _| Fate::Receipt);
    let second = relay(&world, &broker);
    second.start(&Health::new()).await.unwrap();
    eventually("all of them", || broker.taken_count() == 10).await;
    assert!(broker.taken().values().all(|seqs| seqs == &[0, 1]));
    second.drain(Duration::from_secs(1)).await.unwrap();
    assert_eq!(counts(&world).await, OutboxCounts::default());
}

#[tokio::test(start_paused = true)]
async fn a_second_relay_waits_for_the_shards_and_takes_over() {
    let world = World::new();
    let (broker_1, broker_2) = (ProbeBroker::new(|_, _, _| Fate::Receipt), ProbeBroker::new(|_, _, _| Fate::Receipt));
    let (first, second) = (relay(&world, &broker_1), relay(&world, &broker_2));
    first.start(&Health::new()).await.unwrap();
    world.add(&orders(20, 1)).await;
    eventually("the first relay", || broker_1.taken_count() == 20).await;
    second.start(&Health::new()).await.unwrap();
    world.add(&orders(20, 1)).await;
    eventually("the first relay again", || broker_1.taken_count() == 40).await;
    assert_eq!(broker_2.taken_count(), 0);
    first.drain(Duration::from_secs(1)).await.unwrap();
    world.add(&orders(20, 1)).await;
    eventually("the second relay", || broker_2.taken_count() == 20).await;
    second.close().await.unwrap();
    for shard in 0..SHARD_COUNT {
        assert!(world.database.outbox().own(shard).await.unwrap().is_some(), "a closed relay frees its shards");
    }
}

#[tokio::test(start_paused = true)]
async fn draining_sends_what_is_there_and_does_not_wait_for_a_broker_that_is_silent() {
    let world = World::new();
    let broker = ProbeBroker::new(|order, _, _| if order == "o-0" { Fate::Silent } else { Fate::Receipt });
    world.add(&orders(10, 5)).await;
    let relay = relay(&world, &broker);
    relay.start(&Health::new()).await.unwrap();
    relay.drain(Duration::from_secs(10)).await.unwrap();
    assert_eq!(broker.taken_count(), 45);
    assert_eq!(counts(&world).await, OutboxCounts { unsent: 5, parked: 0 });
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_down_for_long_makes_the_relay_degraded_until_it_is_back() {
    let world = World::new();
    let is_down = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let down = is_down.clone();
    let broker = ProbeBroker::new(move |_, _, _| {
        let is_down = down.load(std::sync::atomic::Ordering::Relaxed);
        if is_down { Fate::Fails(ErrorKind::Unavailable) } else { Fate::Receipt }
    });
    world.add(&orders(2, 1)).await;
    let (relay, health) = (relay(&world, &broker), Health::new());
    relay.start(&health).await.unwrap();
    let said = || health.parts().into_values().next().expect("what the relay says");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(said(), HealthStatus::Serving);
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert!(matches!(said(), HealthStatus::Degraded(why) if why.contains("publish")), "{:?}", said());
    assert!(health.is_serving(), "callers are served, their events wait");
    // 100, 200, … ms, then every 5 s: some 7 tries in 12 s.
    assert!((4..=9).contains(&broker.tries("o-0", 0)), "{}", broker.tries("o-0", 0));
    is_down.store(false, std::sync::atomic::Ordering::Relaxed);
    eventually("all is well", || said() == HealthStatus::Serving).await;
    assert_eq!(broker.taken_count(), 2);
    relay.close().await.unwrap();
}

#[tokio::test]
async fn an_event_goes_from_a_transaction_through_the_broker_into_another() {
    let (world, ledger) = (World::new(), Ledger::applying());
    let broker = MemoryBroker::new();
    let consumer = Consumer::builder(Arc::new(broker.clone()), world.inbox(&ledger, DeliveryPolicy::default())).build();
    let relay = Relay::builder(world.database.outbox(), Arc::new(broker)).config(RelayConfig::default()).build();
    consumer.start(&Health::new()).await.unwrap();
    relay.start(&Health::new()).await.unwrap();
    for events in orders(10, 50).chunks(5) {
        world.add(events).await;
    }
    eventually("all of them", || world.all_applied().values().map(Vec::len).sum::<usize>() == 500).await;
    let expected: Vec<u32> = (0..50).collect();
    assert!(world.all_applied().values().all(|seqs| *seqs == expected));
    relay.drain(Duration::from_secs(60)).await.unwrap();
    consumer.drain(Duration::from_secs(60)).await.unwrap();
    assert_eq!(counts(&world).await, OutboxCounts::default());
}

/// An outbox whose shards fail every so many calls.
struct FailingOutbox {
    inner: Arc<dyn OutboxStore>,
    failure_in: u32,
}

struct FailingShard {
    inner: Box<dyn OutboxShard>,
    failure_in: u32,
}

#[async_trait]
impl OutboxStore for FailingOutbox {
    async fn add(&self, tx: &mut Tx, messages: &[Message]) -> Result<()> {
        self.inner.add(tx, messages).await
    }

    async fn own(&self, shard: u16) -> Result<Option<Box<dyn OutboxShard>>> {
        maybe_fail(self.failure_in)?;
        let inner = self.inner.own(shard).await?;
        Ok(inner.map(|inner| Box::new(FailingShard { inner, failure_in: self.failure_in }) as Box<_>))
    }

    async fn committed(&self) -> ShardSet {
        self.inner.committed().await
    }

    fn shard_of(&self, message: &Message) -> u16 {
        self.inner.shard_of(message)
    }

    async fn counts(&self) -> Result<OutboxCounts> {
        self.inner.counts().await
    }
}

#[async_trait]
impl OutboxShard for FailingShard {
    async fn unsent(&mut self, known: &[i64], but_topics: &[Arc<str>], limit: usize) -> Result<Vec<OutboxRow>> {
        maybe_fail(self.failure_in)?;
        self.inner.unsent(known, but_topics, limit).await
    }

    // Slow, as among many writers, and fails before or after its work.
    async fn sent(&mut self, ids: &[i64]) -> Result<()> {
        tokio::time::sleep(Duration::from_millis(30)).await;
        maybe_fail(self.failure_in)?;
        self.inner.sent(ids).await?;
        maybe_fail(self.failure_in)
    }

    async fn park(&mut self, id: i64, cause: &Error) -> Result<()> {
        maybe_fail(self.failure_in)?;
        self.inner.park(id, cause).await
    }
}

fn maybe_fail(failure_in: u32) -> Result<()> {
    if fastrand::u32(0..failure_in) == 0 {
        return Err(Error::new(ErrorKind::Unavailable, "outbox.test", "the connection is gone"));
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_now_and_then_loses_nothing_and_keeps_the_order_of_a_key() {
    let world = World::new();
    let broker = ProbeBroker::new(|order, seq, _| match (order, seq) {
        ("o-3", 7) => Fate::Fails(ErrorKind::InvalidArgument),
        _ => Fate::Receipt,
    });
    let store = Arc::new(FailingOutbox { inner: world.database.outbox(), failure_in: 8 });
    let relay = Relay::builder(store, Arc::new(broker.clone())).build();
    relay.start(&Health::new()).await.unwrap();
    for events in orders(20, 20).chunks(9) {
        world.add(events).await;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..20))).await;
    }
    for _ in 0..600 {
        if counts(&world).await.unsent == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(counts(&world).await, OutboxCounts { unsent: 0, parked: 1 });
    broker.assert_no_overlap();
    for (order, seqs) in broker.taken() {
        // What was sent again after a failed deletion is a duplicate, which an inbox knows.
        let mut seen = HashSet::new();
        let first: Vec<u32> = seqs.into_iter().filter(|seq| seen.insert(*seq)).collect();
        let expected: Vec<u32> = (0..20).filter(|seq| (order.as_str(), *seq) != ("o-3", 7)).collect();
        assert_eq!(first, expected, "{order}");
    }
    relay.close().await.unwrap();
}

/// What is wrong with a [`FaultyOutbox`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Reads,
    Deletions,
    /// The first read panics.
    Panics,
    /// No shard is given, and no answer.
    SilentOwner,
    SilentReads,
    SilentDeletions,
}

/// An outbox whose shards can be owned but not used.
struct FaultyOutbox {
    inner: Arc<dyn OutboxStore>,
    fault: Arc<Mutex<Option<Fault>>>,
    calls: Arc<std::sync::atomic::AtomicUsize>,
}

struct FaultyShard {
    inner: Box<dyn OutboxShard>,
    fault: Arc<Mutex<Option<Fault>>>,
    calls: Arc<std::sync::atomic::AtomicUsize>,
}

impl FaultyOutbox {
    fn new(world: &World, fault: Fault) -> Self {
        let fault = Arc::new(Mutex::new(Some(fault)));
        Self { inner: world.database.outbox(), fault, calls: Arc::default() }
    }
}

#[async_trait]
impl OutboxStore for FaultyOutbox {
    async fn add(&self, tx: &mut Tx, messages: &[Message]) -> Result<()> {
        self.inner.add(tx, messages).await
    }

    async fn own(&self, shard: u16) -> Result<Option<Box<dyn OutboxShard>>> {
        if *self.fault.lock().unwrap() == Some(Fault::SilentOwner) {
            std::future::pending::<()>().await;
        }
        let inner = self.inner.own(shard).await?;
        let (fault, calls) = (self.fault.clone(), self.calls.clone());
        Ok(inner.map(|inner| Box::new(FaultyShard { inner, fault, calls }) as Box<_>))
    }

    async fn committed(&self) -> ShardSet {
        self.inner.committed().await
    }

    fn shard_of(&self, message: &Message) -> u16 {
        self.inner.shard_of(message)
    }

    async fn counts(&self) -> Result<OutboxCounts> {
        self.inner.counts().await
    }
}

impl FaultyShard {
    fn check(&self, fault: Fault) -> Result<()> {
        if *self.fault.lock().unwrap() != Some(fault) {
            return Ok(());
        }
        self.calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Err(Error::new(ErrorKind::ResourceExhausted, "outbox.test", "the disk is full"))
    }

    async fn hang(&mut self, fault: Fault) {
        if *self.fault.lock().unwrap() == Some(fault) {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl OutboxShard for FaultyShard {
    async fn unsent(&mut self, known: &[i64], but_topics: &[Arc<str>], limit: usize) -> Result<Vec<OutboxRow>> {
        self.check(Fault::Reads)?;
        self.hang(Fault::SilentReads).await;
        let panics = self.fault.lock().unwrap().take_if(|fault| *fault == Fault::Panics).is_some();
        assert!(!panics, "the store panics");
        self.inner.unsent(known, but_topics, limit).await
    }

    async fn sent(&mut self, ids: &[i64]) -> Result<()> {
        self.check(Fault::Deletions)?;
        self.hang(Fault::SilentDeletions).await;
        self.inner.sent(ids).await
    }

    async fn park(&mut self, id: i64, cause: &Error) -> Result<()> {
        self.inner.park(id, cause).await
    }
}

#[tokio::test(start_paused = true)]
async fn rows_that_cannot_be_deleted_are_sent_once_and_make_the_relay_not_serving() {
    let world = World::new();
    let broker = ProbeBroker::new(|_, _, _| Fate::Receipt);
    let store = FaultyOutbox::new(&world, Fault::Deletions);
    let (fault, calls) = (store.fault.clone(), store.calls.clone());
    let relay = Relay::builder(Arc::new(store), Arc::new(broker.clone())).build();
    let health = Health::new();
    world.add(&orders(5, 4)).await;
    relay.start(&health).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(broker.taken_count(), 20, "a row with a receipt was sent again: {:?}", broker.taken());
    assert!(!health.is_serving(), "deletions fail for a minute");
    let calls = calls.load(std::sync::atomic::Ordering::Relaxed);
    assert!(calls < 1_000, "{calls} deletions in a minute");

    *fault.lock().unwrap() = None;
    eventually("serving", || health.is_serving()).await;
    world.add(&orders(5, 1)).await;
    eventually("the new rows", || broker.taken_count() == 25).await;
    relay.drain(Duration::from_secs(5)).await.unwrap();
    assert_eq!(counts(&world).await, OutboxCounts::default());
    assert_eq!(broker.taken_count(), 25);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_be_read_makes_the_relay_not_serving_until_it_can() {
    let world = World::new();
    let broker = ProbeBroker::new(|_, _, _| Fate::Receipt);
    let store = FaultyOutbox::new(&world, Fault::Reads);
    let fault = store.fault.clone();
    let relay = Relay::builder(Arc::new(store), Arc::new(broker.clone())).build();
    let health = Health::new();
    world.add(&orders(5, 1)).await;
    relay.start(&health).await.unwrap();
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert!(!health.is_serving(), "reads fail for 15 s");
    *fault.lock().unwrap() = None;
    eventually("all of them", || broker.taken_count() == 5).await;
    eventually("serving", || health.is_serving()).await;
    relay.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_store_that_gives_no_answer_is_waited_for_only_so_long() {
    for fault in [Fault::SilentOwner, Fault::SilentReads, Fault::SilentDeletions] {
        let world = World::new();
        let broker = ProbeBroker::new(|_, _, _| Fate::Receipt);
        let store = FaultyOutbox::new(&world, fault);
        let silence = store.fault.clone();
        let relay = Relay::builder(Arc::new(store), Arc::new(broker.clone())).build();
        let health = Health::new();
        world.add(&orders(5, 1)).await;
        relay.start(&health).await.unwrap();
        eventually("not serving", || !health.is_serving()).await;
        *silence.lock().unwrap() = None;
        eventually("all of them", || broker.taken_count() == 5).await;
        eventually("serving", || health.is_serving()).await;
        relay.drain(Duration::from_secs(60)).await.unwrap();
        assert_eq!(counts(&world).await, OutboxCounts::default());
        assert_eq!(broker.taken_count(), 5, "a row with a receipt was sent again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_relay_whose_store_panics_runs_again() {
    let world = World::new();
    let broker = ProbeBroker::new(|_, _, _| Fate::Receipt);
    let store = FaultyOutbox::new(&world, Fault::Panics);
    let relay = Relay::builder(Arc::new(store), Arc::new(broker.clone())).build();
    let health = Health::new();
    world.add(&orders(5, 1)).await;
    relay.start(&health).await.unwrap();
    eventually("not serving", || !health.is_serving()).await;
    eventually("all of them", || broker.taken_count() == 5).await;
    assert!(health.is_serving());
    relay.drain(Duration::from_secs(5)).await.unwrap();
    assert_eq!(counts(&world).await, OutboxCounts::default());
}

#[tokio::test(start_paused = true)]
async fn missing_rights_park_nothing_and_are_tried_again() {
    let world = World::new();
    let broker = ProbeBroker::new(|_, _, tries| match tries {
        0 => Fate::Fails(ErrorKind::PermissionDenied),
        1 => Fate::Fails(ErrorKind::Unauthenticated),
        _ => Fate::Receipt,
    });
    world.add(&orders(3, 2)).await;
    let relay = relay(&world, &broker);
    relay.start(&Health::new()).await.unwrap();
    eventually("all of them", || broker.taken_count() == 6).await;
    assert!(broker.taken().values().all(|seqs| seqs == &[0, 1]), "{:?}", broker.taken());
    relay.drain(Duration::from_secs(1)).await.unwrap();
    assert_eq!(counts(&world).await, OutboxCounts::default());
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_may_have_nothing_in_flight_sends_one_by_one() {
    let world = World::new();
    let broker = ProbeBroker::new(|_, _, _| Fate::Receipt);
    let mut config = RelayConfig::default();
    config.in_flight_count_max = 0;
    world.add(&orders(3, 2)).await;
    let relay = Relay::builder(world.database.outbox(), Arc::new(broker.clone())).config(config).build();
    relay.start(&Health::new()).await.unwrap();
    eventually("all of them", || broker.taken_count() == 6).await;
    relay.close().await.unwrap();
}
