//! The suite of the broker port.

mod broken;
mod consumer;

pub use broken::{BrokenBroker, BrokerFault};

use std::{collections::BTreeSet, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{future::join, poll};
use micro_core::{
    ErrorKind, Result,
    broker::{Broker, Delivery, Message, Receipt, SubscriptionEvent},
};
use tokio::time::timeout;

use crate::{Fixture, eventually, unique};
use consumer::{Collector, Consumer};

/// What the broker suite runs on.
pub trait BrokerFixture: Fixture {
    /// The broker.
    fn broker(&self) -> Arc<dyn Broker>;

    /// The name of a topic that is new and has at least two partitions.
    fn topic(&self) -> impl Future<Output = String> + Send;

    /// A message that this broker refuses.
    fn refused(&self) -> Message;
}

/// Makes a test of every promise of [`Broker`] and [`Subscription`](micro_core::broker::Subscription),
/// or of those that are listed.
#[macro_export]
macro_rules! broker_conformance {
    ($fixture:ty) => {
        $crate::broker_conformance!(
            $fixture;
            same_key_keeps_publish_order
            publish_enqueues_in_slice_order_before_it_first_awaits
            every_message_gets_its_own_result
            each_group_receives_every_message
            what_is_not_acked_comes_again
            a_new_group_starts_at_the_earliest_message
            key_headers_and_body_arrive_unchanged
            flush_returns_when_everything_handed_in_is_settled_or_the_deadline_passed
            a_paused_partition_delivers_nothing_until_it_is_resumed
            a_revoked_partition_waits_for_its_guard
            a_closed_subscription_has_no_next
        );
    };
    ($fixture:ty; $($promise:ident)+) => { $crate::__conformance!(broker, $fixture, $($promise)+); };
}

/// Messages of one topic and key are delivered in the order in which they were handed in, in one
/// call and in one after the other.
pub async fn same_key_keeps_publish_order(fixture: &impl BrokerFixture) {
    let broker = fixture.broker();
    const CALL_COUNT: usize = 10;
    let topic = fixture.topic().await;
    let consumer = Consumer::join(fixture, &topic, &unique("group")).await;
    let keys = ["a", "b", "c"];
    let bodies = |call: usize| (0..5).map(move |number| format!("{call}-{number}"));
    let publish = async {
        for call in 0..CALL_COUNT {
            let messages = bodies(call).flat_map(|body| keys.map(|key| Message::keyed(&*topic, key, body.clone())));
            all_sent(fixture, broker.publish(messages.collect())).await;
        }
    };
    let expected: Vec<String> = (0..CALL_COUNT).flat_map(bodies).collect();
    let (_, deliveries) = join(publish, consumer.consume(expected.len() * keys.len())).await;
    for key in keys {
        assert_eq!(bodies_of(&deliveries, key), expected, "the order of key {key}");
    }
}

/// Two calls whose futures were polled once, one after the other, never overtake one another, even
/// when the second one is awaited first.
pub async fn publish_enqueues_in_slice_order_before_it_first_awaits(fixture: &impl BrokerFixture) {
    let topic = fixture.topic().await;
    let broker = fixture.broker();
    let consumer = Consumer::join(fixture, &topic, &unique("group")).await;
    let mut expected = Vec::new();
    for pair in 0..5 {
        let bodies = ["first", "second"].map(|place| [0, 1].map(|number| format!("{pair}-{place}-{number}")));
        let publish = |bodies: &[String; 2]| {
            broker.publish(bodies.iter().map(|body| Message::keyed(&*topic, "a", body.clone())).collect())
        };
        let (mut first, mut second) = (publish(&bodies[0]), publish(&bodies[1]));
        let polled = (poll!(&mut first), poll!(&mut second));
        let finish = async {
            if polled.1.is_pending() {
                all_sent(fixture, second).await;
            }
            if polled.0.is_pending() {
                all_sent(fixture, first).await;
            }
        };
        let ((), deliveries) = join(finish, consumer.consume(4)).await;
        expected.extend(bodies.into_iter().flatten());
        let received = bodies_of(&deliveries, "a");
        assert_eq!(received, expected[expected.len() - 4..], "the first call's messages come first");
    }
}

/// One result a message, in slice order: it says where the message stands, and one that is refused
/// does not fail its neighbours.
pub async fn every_message_gets_its_own_result(fixture: &impl BrokerFixture) {
    let broker = fixture.broker();
    let topic = fixture.topic().await;
    let consumer = Consumer::join(fixture, &topic, &unique("group")).await;
    let keyed = |key: &'static str| Message::keyed(&*topic, key, key);
    let messages = vec![keyed("a"), keyed("b"), fixture.refused(), keyed("c"), Message::unkeyed(&*topic, "none")];
    let publish = within(fixture, "publish answers", broker.publish(messages));
    let (results, deliveries) = join(publish, consumer.consume(4)).await;

    assert_eq!(results.len(), 5, "one result a message: {results:?}");
    assert!(results[2].is_err(), "the refused message has no receipt: {results:?}");
    for (index, body) in [(0, "a"), (1, "b"), (3, "c"), (4, "none")] {
        let receipt = results[index].as_ref().expect("a neighbour of the refused message is sent");
        let delivery = deliveries.iter().find(|delivery| delivery.message.body == body).expect("every body came");
        let place = Receipt { partition: delivery.partition, offset: delivery.offset };
        assert_eq!(receipt, &place, "result {index} is another message's");
    }
}

/// Groups are independent; the members of one share its partitions and receive a message once.
pub async fn each_group_receives_every_message(fixture: &impl BrokerFixture) {
    let topic = fixture.topic().await;
    let (stock, audit) = (unique("stock"), unique("audit"));
    let alone = Collector::start(fixture, &topic, &audit).await;
    let members = [Collector::start(fixture, &topic, &stock).await, Collector::start(fixture, &topic, &stock).await];
    let by_members = |round: usize| -> Vec<String> { members.iter().flat_map(|m| m.bodies(round)).collect() };

    // A member may need some rounds until it has its partitions.
    let mut round = 0;
    let share = async {
        while members.iter().any(|member| member.is_empty()) {
            publish_round(fixture, &topic, round, &alone, &by_members).await;
            round += 1;
        }
    };
    assert!(timeout(fixture.patience(), share).await.is_ok(), "both members of a group have a share");

    let sent = publish_round(fixture, &topic, round, &alone, &by_members).await;
    tokio::time::sleep(fixture.silence()).await;
    for (who, mut received) in [("the members together", by_members(round)), ("the other group", alone.bodies(round))] {
        received.sort();
        assert_eq!(received, sent, "{who} receive each message once");
    }
}

/// Publishes 32 messages of as many keys and waits until both groups have them all.
async fn publish_round(
    fixture: &impl BrokerFixture,
    topic: &str,
    round: usize,
    alone: &Collector,
    by_members: &impl Fn(usize) -> Vec<String>,
) -> Vec<String> {
    let broker = fixture.broker();
    let sent: BTreeSet<String> = (0..32).map(|number| Collector::body(round, number)).collect();
    let messages = sent.iter().map(|body| Message::keyed(topic, body.clone(), body.clone())).collect();
    let all_received = eventually(fixture.patience(), "each group receives every message", || async {
        let missing = |bodies: Vec<String>| sent.iter().filter(|body| !bodies.contains(body)).count();
        match (missing(by_members(round)), missing(alone.bodies(round))) {
            (0, 0) => Ok(()),
            counts => Err(format!("missing in the shared group and in the other: {counts:?}")),
        }
    });
    let publish = broker.publish(messages);
    within(fixture, "publish answers", join(publish, all_received)).await;
    sent.into_iter().collect()
}

/// A member that ends before it acked leaves its deliveries to the next one, from the last acked
/// position, whether it was closed or dropped, each as it came before.
pub async fn what_is_not_acked_comes_again(fixture: &impl BrokerFixture) {
    let broker = fixture.broker();
    let topic = fixture.topic().await;
    let group = unique("group");
    let bodies: Vec<String> = (0..10).map(|number| number.to_string()).collect();
    let messages = bodies.iter().map(|body| Message::keyed(&*topic, "a", body.clone())).collect();
    let consume = async {
        let closed = Consumer::join(fixture, &topic, &group).await;
        let first = closed.take(10).await;
        closed.ack(&first[..4]).await;
        closed.subscription().close().await.expect("a member closes");

        let dropped = Consumer::join(fixture, &topic, &group).await;
        let deliveries = dropped.take(6).await;
        assert_eq!(bodies_of(&deliveries, "a"), bodies[4..], "from the last acked position, after a close");
        assert_eq!(deliveries, first[4..], "a delivery comes again as it came before");
        drop(dropped);

        let last = Consumer::join(fixture, &topic, &group).await;
        let deliveries = last.consume(6).await;
        assert_eq!(bodies_of(&deliveries, "a"), bodies[4..], "from the last acked position, after a drop");
        assert_eq!(deliveries, first[4..], "a delivery comes again as it came before");
    };
    join(all_sent(fixture, broker.publish(messages)), consume).await;
}

/// What was published before the group's first member came is delivered to it.
pub async fn a_new_group_starts_at_the_earliest_message(fixture: &impl BrokerFixture) {
    let broker = fixture.broker();
    let topic = fixture.topic().await;
    let bodies = ["1", "2", "3"];
    let messages = bodies.map(|body| Message::keyed(&*topic, "a", body)).into();
    all_sent(fixture, broker.publish(messages)).await;
    let consumer = Consumer::join(fixture, &topic, &unique("group")).await;
    assert_eq!(bodies_of(&consumer.consume(3).await, "a"), bodies);
}

/// Bytes arrive as they were sent: any key, no key, header names in their case and order, twice
/// the same name, any value, an empty body.
pub async fn key_headers_and_body_arrive_unchanged(fixture: &impl BrokerFixture) {
    let broker = fixture.broker();
    let topic = fixture.topic().await;
    let consumer = Consumer::join(fixture, &topic, &unique("group")).await;
    let mut full = Message::keyed(&*topic, &b"\x00\xffkey"[..], &b"\x00\x01\xfe\xff"[..]);
    let headers: [(&str, &[u8]); 5] = [
        ("Event_id", b"8f9b607b-aa8b-4da6-8ea6-9cfe5c6078bf"),
        ("Event-Type", b"OnPaymentSuccess"),
        ("trace-bin", b"\xff\x00"),
        ("X-Twice", b"1"),
        ("X-Twice", b"2"),
    ];
    for (name, value) in headers {
        full.headers.append(name, Bytes::from_static(value));
    }
    let plain = Message::unkeyed(&*topic, "");
    let publish = all_sent(fixture, broker.publish(vec![full.clone(), plain.clone()]));
    let (_, deliveries) = join(publish, consumer.consume(2)).await;
    for sent in [full, plain] {
        assert!(deliveries.iter().any(|delivery| delivery.message == sent), "{sent:?} came as {deliveries:?}");
    }
}

/// Without anything on its way flush returns at once; with something it says so at its deadline,
/// and returns once that is settled.
pub async fn flush_returns_when_everything_handed_in_is_settled_or_the_deadline_passed(fixture: &impl BrokerFixture) {
    let topic = fixture.topic().await;
    let broker = fixture.broker();
    let consumer = Consumer::join(fixture, &topic, &unique("group")).await;
    let flush = |deadline| within(fixture, "flush returns at its deadline", broker.flush(deadline));
    flush(fixture.patience() / 2).await.expect("nothing is on its way");

    let mut publish = broker.publish((0..20).map(|number| Message::unkeyed(&*topic, number.to_string())).collect());
    assert!(poll!(&mut publish).is_pending(), "a receipt takes at least one turn");
    let is_settled = |publish| async move { timeout(Duration::from_millis(20), publish).await };
    match flush(Duration::ZERO).await {
        Err(error) => assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error}"),
        Ok(()) => {
            let results = is_settled(&mut publish).await;
            return assert!(results.is_ok(), "flush returned before everything handed in had its result");
        }
    }
    let (flushed, _) = join(flush(fixture.patience() / 2), consumer.consume(20)).await;
    flushed.expect("everything was consumed");
    let results = is_settled(&mut publish).await.expect("flush returned before everything had its result");
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

/// Nothing of a paused partition is delivered; it is when the partition is resumed.
pub async fn a_paused_partition_delivers_nothing_until_it_is_resumed(fixture: &impl BrokerFixture) {
    let broker = fixture.broker();
    let topic = fixture.topic().await;
    let publish = |body| all_sent(fixture, broker.publish(vec![Message::keyed(&*topic, "a", body)]));
    let consumer = Consumer::join(fixture, &topic, &unique("group")).await;
    let (_, deliveries) = join(publish("before"), consumer.consume(1)).await;
    let partitions = [deliveries[0].topic_partition()];

    consumer.subscription().pause(&partitions).await.expect("a partition pauses");
    let resume = async {
        let early = timeout(fixture.silence(), consumer.take(1)).await;
        assert!(early.is_err(), "a paused partition delivered {early:?}");
        consumer.subscription().resume(&partitions).await.expect("a partition resumes");
        consumer.consume(1).await
    };
    let (_, deliveries) = join(publish("behind"), resume).await;
    assert_eq!(bodies_of(&deliveries, "a"), ["behind"]);
}

/// A member that joins receives nothing of a partition until the one it is taken from dropped its
/// guard; then it goes on where that one stopped.
pub async fn a_revoked_partition_waits_for_its_guard(fixture: &impl BrokerFixture) {
    let broker = fixture.broker();
    let topic = fixture.topic().await;
    let group = unique("group");
    let messages: Vec<Message> = (0..32).map(|n| Message::keyed(&*topic, n.to_string(), n.to_string())).collect();
    let hand_over = async {
        let old = Consumer::join(fixture, &topic, &group).await;
        let in_hand = old.take(32).await;
        let new = Consumer::join(fixture, &topic, &group).await;
        let (partitions, guard) = old.revoked().await;
        let early = timeout(fixture.silence(), new.take(1)).await;
        assert!(early.is_err(), "the guard is held, and {early:?} was delivered");

        let revoked = in_hand.iter().filter(|delivery| partitions.contains(&delivery.topic_partition()));
        let mut begun = BTreeSet::new();
        let (done, left): (Vec<_>, Vec<_>) =
            revoked.cloned().partition(|delivery| begun.insert(delivery.topic_partition()));
        assert!(!left.is_empty(), "the fixture's topic spreads 32 keys so thinly that nothing is left");
        old.ack(&done).await;
        drop(guard);
        // A backend may take everything away and give some of it back: either member may have it.
        let received = Consumer::take_together([&old, &new], left.len()).await;
        assert!(bodies(&received).is_superset(&bodies(&left)), "what was not acked comes again");
        assert!(bodies(&received).is_disjoint(&bodies(&done)), "what was acked under the guard came again");
    };
    // Who acks what depends on the hand-over, so the receipts are of no interest here.
    tokio::select! {
        () = hand_over => {}
        () = async { drop(broker.publish(messages).await); std::future::pending().await } => {}
    }
}

/// `next` answers `None` after a close, and so does one that waits while the member is closed.
pub async fn a_closed_subscription_has_no_next(fixture: &impl BrokerFixture) {
    let topic = fixture.topic().await;
    let consumer = Consumer::join(fixture, &topic, &unique("group")).await;
    let member = consumer.subscription();
    let waiting = async {
        // A backend may tell of a rebalance before the end.
        while let Some(event) = member.next().await {
            assert!(!matches!(event, SubscriptionEvent::Batch(_)), "nothing was published: {event:?}");
        }
    };
    let close = async { member.close().await.expect("a member closes") };
    within(fixture, "a waiting next ends with the close", join(waiting, close)).await;
    let after = within(fixture, "next answers after a close", member.next()).await;
    assert!(after.is_none(), "{after:?} came after the close");
}

/// Waits for a publish, at most the fixture's patience; every message must have its receipt.
async fn all_sent(fixture: &impl BrokerFixture, publish: impl Future<Output = Vec<Result<Receipt>>>) {
    let results = within(fixture, "publish answers", publish).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

async fn within<T>(fixture: &impl BrokerFixture, what: &str, future: impl Future<Output = T>) -> T {
    // A little longer than the waits inside, whose reasons are better.
    let deadline = fixture.patience() * 2;
    timeout(deadline, future).await.unwrap_or_else(|_| panic!("{what}: not within {deadline:?}"))
}

fn bodies(deliveries: &[Delivery]) -> BTreeSet<Bytes> {
    deliveries.iter().map(|delivery| delivery.message.body.clone()).collect()
}

/// The bodies of a key, in the order they came.
fn bodies_of(deliveries: &[Delivery], key: &str) -> Vec<String> {
    let of_key = deliveries.iter().filter(|delivery| delivery.message.key.as_deref() == Some(key.as_bytes()));
    of_key.map(|delivery| String::from_utf8_lossy(&delivery.message.body).into_owned()).collect()
}
