//! Groups: members come and go while messages flow, and nothing overtakes, stops or is lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use micro_broker_kafka::{Assignment, KafkaBroker};
use micro_core::{
    Error, Health, Result,
    app::Component as _,
    broker::{Broker, Message, SubscribeRequest, SubscriptionEvent},
    consume::{Consumer, ConsumerConfig, DeliveryBatch},
};
use micro_testkit::{eventually, unique};
use tokio::time::{Instant, timeout};
use tower_service::Service;

use crate::world::{KafkaFixture, PATIENCE, Reader, bodies, new_topic, numbers, publish, ready};

/// What all members of a group have seen, as an inbox would take it: an offset counts once.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Record>>);

#[derive(Default)]
struct Record {
    places: BTreeSet<(i32, i64)>,
    /// Of each key, the numbers in the order in which they first came.
    by_key: BTreeMap<Vec<u8>, Vec<u64>>,
    again_count: usize,
}

impl Service<DeliveryBatch> for Seen {
    type Response = ();
    type Error = Error;
    type Future = BoxFuture<'static, Result<()>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, batch: DeliveryBatch) -> Self::Future {
        let seen = self.clone();
        Box::pin(async move {
            // Some work, so that members are always taken in the middle of something.
            tokio::time::sleep(Duration::from_micros(fastrand::u64(..2_000))).await;
            let mut record = seen.0.lock().expect("no holder panics");
            for delivery in &*batch.deliveries {
                if !record.places.insert((delivery.partition, delivery.offset)) {
                    record.again_count += 1;
                    continue;
                }
                let key = delivery.message.key.as_ref().expect("a key").to_vec();
                let number = std::str::from_utf8(&delivery.message.body).unwrap().parse().unwrap();
                record.by_key.entry(key).or_default().push(number);
            }
            Ok(())
        })
    }
}

impl Seen {
    fn count(&self) -> usize {
        self.0.lock().expect("no holder panics").places.len()
    }
}

async fn member(broker: &KafkaBroker, group: &str, topic: &str, seen: &Seen) -> Consumer<Seen> {
    let mut config = ConsumerConfig::default();
    config.batch_count_max = 32;
    let consumer =
        Consumer::with_service(Arc::new(broker.clone()), group, [topic], seen.clone()).config(config).build();
    consumer.start(&Health::new()).await.expect("a member starts");
    consumer
}

/// Three members, of which one leaves and comes back again and again, while a thousand keys flow
/// through eight partitions.
async fn order_is_kept_while_members_come_and_go(assignment: Assignment) {
    const KEY_COUNT: usize = 1_000;
    const ROUND_COUNT: usize = 40;
    let kafka = ready!(KafkaFixture);
    let mut config = kafka.config.clone();
    config.assignment = assignment;
    config.close_timeout = PATIENCE;
    let broker = KafkaBroker::connect(config).await.unwrap();
    let (topic, group, seen) = (new_topic(&broker, 8).await, unique("group"), Seen::default());
    let steady = [member(&broker, &group, &topic, &seen).await, member(&broker, &group, &topic, &seen).await];

    let is_published = AtomicBool::new(false);
    let come_and_go_count = AtomicUsize::new(0);
    let publish = async {
        for round in 0..ROUND_COUNT {
            let messages = (0..KEY_COUNT).map(|key| Message::keyed(&*topic, key.to_string(), round.to_string()));
            let results = broker.publish(messages.collect()).await;
            assert!(results.iter().all(Result::is_ok));
            // As long as it takes for the members to have moved.
            let goal = round / 8;
            eventually(PATIENCE, "a member moves", || async { come_and_go_count.load(Ordering::Relaxed) >= goal })
                .await;
        }
        is_published.store(true, Ordering::Relaxed);
    };
    let come_and_go = async {
        while !is_published.load(Ordering::Relaxed) {
            let guest = member(&broker, &group, &topic, &seen).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            guest.drain(PATIENCE).await.expect("a member drains");
            come_and_go_count.fetch_add(1, Ordering::Relaxed);
        }
    };
    tokio::join!(publish, come_and_go);
    let expected = KEY_COUNT * ROUND_COUNT;
    eventually(PATIENCE, "everything is seen", || async {
        let count = seen.count();
        if count == expected { Ok(()) } else { Err(count) }
    })
    .await;
    // What a member that left had in hand was seen, and may be on its way again.
    eventually(PATIENCE, "everything is committed", || async {
        let lag = broker.lag(&*group, [&*topic]).await.map_err(|error| error.report())?;
        if lag.iter().all(|partition| partition.lag == 0) { Ok(()) } else { Err(format!("{lag:?}")) }
    })
    .await;
    for consumer in &steady {
        consumer.drain(PATIENCE).await.expect("a member drains");
    }

    let record = seen.0.lock().expect("no holder panics");
    let in_order: Vec<u64> = (0..ROUND_COUNT as u64).collect();
    for (key, numbers) in &record.by_key {
        assert_eq!(*numbers, in_order, "key {}", String::from_utf8_lossy(key));
    }
    assert!(come_and_go_count.load(Ordering::Relaxed) >= 4);
    // Members that leave in order hand over what they have. Only of one that is cut off by a limit of
    // time does something come twice.
    assert!(record.again_count < expected / 100, "{} of {expected} came again", record.again_count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebalance_in_mid_run_keeps_the_order_of_each_key() {
    order_is_kept_while_members_come_and_go(Assignment::CooperativeSticky).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebalance_that_stops_everything_keeps_the_order_of_each_key() {
    order_is_kept_while_members_come_and_go(Assignment::Range).await;
}

/// What stays is not even told; what goes, goes when the guard is dropped.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebalance_takes_away_only_what_moves() {
    let kafka = ready!(KafkaFixture);
    let broker = &kafka.broker;
    let (topic, group) = (new_topic(broker, 8).await, unique("group"));
    let old = Reader::join(broker, &group, &topic).await;
    for number in 0..64 {
        publish(broker, &topic, &number.to_string(), &numbers(0..1)).await;
    }
    let in_hand = old.take(64).await;
    old.ack(&in_hand).await;
    let new = Reader::join(broker, &group, &topic).await;
    let SubscriptionEvent::Revoked(revoked, guard) = old.notice().await else { panic!("expected a revocation") };
    assert_eq!(revoked.len(), 4, "half of eight: {revoked:?}");
    drop(guard);
    for number in 0..64 {
        publish(broker, &topic, &number.to_string(), &numbers(1..2)).await;
    }
    let count = AtomicUsize::new(0);
    let (of_old, of_new) = tokio::join!(take_all(&old, &count, 64), take_all(&new, &count, 64));
    assert_eq!(of_old.len() + of_new.len(), 64);
    assert!(!of_old.is_empty() && !of_new.is_empty());
    assert!(of_old.iter().all(|delivery| !revoked.contains(&delivery.topic_partition())));
    assert!(bodies(&of_new).iter().all(|body| body == "1"), "what was acked does not come again");
}

/// What comes until all members together have so much, and for two seconds beyond.
async fn take_all(reader: &Reader, taken: &AtomicUsize, count: usize) -> Vec<micro_core::broker::Delivery> {
    let mut deliveries = Vec::new();
    let end = Instant::now() + PATIENCE;
    loop {
        match timeout(Duration::from_secs(2), reader.0.next()).await {
            Ok(Some(SubscriptionEvent::Batch(batch))) => {
                taken.fetch_add(batch.len(), Ordering::Relaxed);
                deliveries.extend(batch);
            }
            Ok(_) => {}
            Err(_) if taken.load(Ordering::Relaxed) >= count || Instant::now() > end => return deliveries,
            Err(_) => {}
        }
    }
}

/// A consumer that stops receiving stays a member, holds little, and misses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_does_not_receive_stays_in_the_group_and_holds_a_bounded_number() {
    let kafka = ready!(KafkaFixture);
    let mut config = kafka.config.clone();
    config.receive_count_max = 100;
    // Without polls the member would be out of the group after this.
    config.properties.insert("max.poll.interval.ms".to_owned(), "9000".to_owned());
    config.session_timeout = Duration::from_secs(8);
    let broker = KafkaBroker::connect(config).await.unwrap();
    let (topic, group) = (new_topic(&broker, 2).await, unique("group"));
    for key in ["a", "b", "c", "d"] {
        publish(&broker, &topic, key, &numbers(0..2_000)).await;
    }
    let reader = Reader::join(&broker, &group, &topic).await;
    let first = reader.take(1).await;
    tokio::time::sleep(Duration::from_secs(14)).await;
    let rest = async {
        let mut all = first;
        while all.len() < 8_000 {
            match reader.next().await {
                SubscriptionEvent::Batch(batch) => all.extend(batch),
                event => panic!("the member lost its partitions: {event:?}"),
            }
        }
        all
    };
    let all = timeout(PATIENCE, rest).await.expect("everything comes");
    for key in ["a", "b", "c", "d"] {
        let of_key: Vec<_> =
            all.iter().filter(|delivery| delivery.message.key.as_deref() == Some(key.as_bytes())).cloned().collect();
        assert_eq!(bodies(&of_key), numbers(0..2_000), "key {key}");
    }
    reader.close().await;
}

/// Two members with one name: the elder one is told that it is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_fatal_error_ends_the_subscription() {
    let kafka = ready!(KafkaFixture);
    let mut config = kafka.config.clone();
    config.instance_id = Some("order-0".to_owned());
    let broker = KafkaBroker::connect(config).await.unwrap();
    let (topic, group) = (new_topic(&broker, 1).await, unique("group"));
    publish(&broker, &topic, "a", &numbers(0..1)).await;
    let elder = Reader::join(&broker, &group, &topic).await;
    elder.take(1).await;
    let younger = Reader::join(&broker, &group, &topic).await;
    assert_eq!(bodies(&younger.take(1).await), numbers(0..1));
    let ended = async {
        let mut is_lost = false;
        while let Some(event) = elder.0.next().await {
            is_lost |= matches!(event, SubscriptionEvent::Lost(_));
        }
        is_lost
    };
    assert!(timeout(PATIENCE, ended).await.expect("the elder member ends"), "it is told what it lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_make_no_sense_are_refused() {
    let kafka = ready!(KafkaFixture);
    for request in [
        SubscribeRequest::new("", ["topic"]),
        SubscribeRequest::new("group", Vec::<String>::new()),
        SubscribeRequest::new("group", [""]),
        SubscribeRequest::new("group", ["^.*"]),
        SubscribeRequest::new("gr\0up", ["topic"]),
    ] {
        let error = kafka.broker.subscribe(request).await.err().unwrap();
        assert_eq!(error.kind(), micro_core::ErrorKind::InvalidArgument);
    }
}
