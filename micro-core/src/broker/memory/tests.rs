//! What the memory broker promises beyond the port.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::time::Instant;

use super::*;
use crate::broker::{Delivery, RevokeGuard};

const TOPIC: &str = "OrderEvent";

#[tokio::test]
async fn a_receipt_comes_when_every_group_acked() {
    let broker = MemoryBroker::new();
    broker.declare_group(TOPIC, "stock");
    broker.declare_group(TOPIC, "audit");
    let mut publish = std::pin::pin!(broker.publish(vec![message("A", "1")]));

    for group in ["stock", "audit"] {
        assert!((&mut publish).now_or_never().is_none(), "{group} has not acked");
        let member = member(&broker, group).await;
        let deliveries = batch(&member).await;
        member.ack(after(&deliveries[0])).await.unwrap();
    }
    let results = publish.now_or_never().expect("every group acked");
    assert_eq!(results[0].as_ref().unwrap().offset, 0);
    assert_eq!(kept_count(&broker), 0, "what every group acked is dropped");
}

#[tokio::test(start_paused = true)]
async fn a_receipt_that_does_not_come_names_the_group_that_lags() {
    let broker = MemoryBroker::new().with_receipt_wait_max(Duration::from_secs(3));
    broker.declare_group("Other", "stock");
    let done = member(&broker, "stock").await;
    let publish = broker.publish(vec![
        message("A", "1"),
        message("A", "2"),
        Message::keyed("Nobody", "A", "3"),
        Message::keyed("Other", "A", "4"),
    ]);
    let (results, ()) = tokio::join!(publish, async {
        let deliveries = batch(&done).await;
        done.ack(after(&deliveries[0])).await.unwrap();
    });
    assert!(results[0].is_ok() && results[2].is_ok());
    for late in [&results[1], &results[3]] {
        let error = late.as_ref().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
        assert!(error.to_string().contains("group=stock"), "{error}");
    }
}

#[tokio::test]
async fn without_a_group_the_latest_messages_are_kept_and_receipts_come_at_once() {
    let broker = MemoryBroker::new().with_retention_count_max(2);
    for body in ["1", "2", "3"] {
        assert!(broker.publish(vec![message("A", body)]).await[0].is_ok());
    }
    let deliveries = batch(&member(&broker, "stock").await).await;
    assert_eq!(bodies(&deliveries), ["2", "3"]);
    assert_eq!(deliveries[0].offset, 1);
}

#[tokio::test]
async fn a_full_partition_refuses_its_message_and_names_limit_and_group() {
    let broker = MemoryBroker::new().with_retention_count_max(1);
    let lagging = member(&broker, "stock").await;
    let mut publish = std::pin::pin!(broker.publish(vec![message("A", "1"), message("A", "2"), message("B", "3")]));
    assert!((&mut publish).now_or_never().is_none());
    let deliveries = batch(&lagging).await;
    assert_eq!(deliveries.len(), 2, "the neighbours were taken");
    for delivery in &deliveries {
        lagging.ack(after(delivery)).await.unwrap();
    }
    let results = publish.await;
    let error = results[1].as_ref().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert!(error.to_string().contains("group=stock, retention_count_max=1"), "{error}");
    assert!(results[0].is_ok() && results[2].is_ok());
}

#[tokio::test]
async fn a_new_member_begins_when_the_old_one_dropped_its_guard() {
    let broker = MemoryBroker::new().with_partition_count(2);
    let first = member(&broker, "stock").await;
    let mut publish = std::pin::pin!(broker.publish(vec![Message::unkeyed(TOPIC, "1"), Message::unkeyed(TOPIC, "2")]));
    assert!((&mut publish).now_or_never().is_none());
    let deliveries = batch(&first).await;

    let second = member(&broker, "stock").await;
    let (partitions, guard) = revoked(&first).await;
    assert_eq!(partitions.len(), 1);
    assert!(second.next().now_or_never().is_none(), "the guard is held");
    let more = vec![Message::unkeyed(TOPIC, "3"), Message::unkeyed(TOPIC, "4")];
    assert!(broker.publish(more).now_or_never().is_none());
    let kept = batch(&first).await;
    assert!(kept.iter().all(|delivery| delivery.topic_partition() != partitions[0]), "{kept:?}");
    let taken = deliveries.iter().find(|delivery| delivery.topic_partition() == partitions[0]).unwrap();
    drop(guard);
    let received = batch(&second).await;
    assert_eq!((&received[0], received.len()), (taken, 2), "what was not acked comes again, then what is new");

    first.ack(after(taken)).await.unwrap();
    assert_eq!(kept_count(&broker), 4, "an ack of a partition that was taken away is ignored");
}

#[tokio::test]
async fn a_closed_member_hears_no_more_and_the_other_goes_on_behind_its_acks() {
    let broker = MemoryBroker::new().with_partition_count(1);
    broker.publish(vec![message("A", "1"), message("A", "2")]).await;
    let first = member(&broker, "stock").await;
    let second = member(&broker, "stock").await;
    let deliveries = batch(&first).await;
    assert!(second.next().now_or_never().is_none(), "one partition has one owner");
    first.ack(after(&deliveries[0])).await.unwrap();
    first.close().await.unwrap();
    assert!(first.next().await.is_none());
    assert_eq!(bodies(&batch(&second).await), ["2"]);
    first.ack(after(&deliveries[1])).await.unwrap();
    assert_eq!(kept_count(&broker), 1, "who has left acks nothing");
}

#[tokio::test(start_paused = true)]
async fn a_guard_that_is_held_too_long_is_lost() {
    let broker = MemoryBroker::new().with_partition_count(2);
    let first = member(&broker, "stock").await;
    let _second = member(&broker, "stock").await;
    let started = Instant::now();
    let (partitions, _guard) = revoked(&first).await;
    match first.next().await {
        Some(SubscriptionEvent::Lost(lost)) => assert_eq!(lost, partitions),
        other => panic!("expected Lost, got {other:?}"),
    }
    assert!(started.elapsed() >= REVOKE_WAIT_MAX);
}

#[tokio::test]
async fn partitions_are_shared_evenly_and_little_moves() {
    let broker = MemoryBroker::new();
    let mut members = vec![member(&broker, "stock").await];
    for joined in 2..=5 {
        let newest = member(&broker, "stock").await;
        let mut moved_count = 0;
        for old in &members {
            while let Some(Some(SubscriptionEvent::Revoked(partitions, _))) = old.next().now_or_never() {
                moved_count += partitions.len();
            }
        }
        assert_eq!(moved_count, 8 / joined, "only the newest one's share moves");
        members.push(newest);
        settle_rebalances(&broker).await;
        let counts = owned_counts(&broker);
        assert_eq!(counts.iter().sum::<usize>(), 8);
        assert_eq!(counts.len(), joined);
        assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
    }
    members.truncate(1);
    settle_rebalances(&broker).await;
    assert_eq!(owned_counts(&broker), [8]);
}

#[tokio::test]
async fn a_member_holds_at_most_the_in_flight_limit_of_a_partition() {
    let broker = MemoryBroker::new().with_partition_count(1);
    let limit = usize::try_from(IN_FLIGHT_COUNT_MAX).unwrap();
    let messages = (0..=limit).map(|_| message("A", "1")).collect();
    broker.publish(messages).await;
    let request = SubscribeRequest::new("stock", [TOPIC]).with_batch_count_max(limit * 2);
    let member = broker.subscribe(request.with_batch_linger(Duration::ZERO)).await.unwrap();
    let deliveries = batch(&member).await;
    assert_eq!(deliveries.len(), limit);

    let mut next = std::pin::pin!(batch(&member));
    assert!((&mut next).now_or_never().is_none(), "the limit is reached");
    member.ack(after(&deliveries[0])).await.unwrap();
    assert_eq!(next.await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_batch_lingers_until_it_is_full_and_a_dropped_next_loses_nothing() {
    let broker = MemoryBroker::new();
    let linger = Duration::from_millis(20);
    let request = SubscribeRequest::new("stock", [TOPIC]).with_batch_count_max(2).with_batch_linger(linger);
    broker.publish(vec![message("A", "1")]).await;
    let member = broker.subscribe(request).await.unwrap();
    assert!(member.next().now_or_never().is_none(), "it waits for a second one");

    let started = Instant::now();
    assert_eq!(bodies(&batch(&member).await), ["1"]);
    assert_eq!(started.elapsed().as_millis(), 20);

    let publish = broker.publish(vec![message("A", "2"), message("A", "3"), message("A", "4")]);
    assert!(publish.now_or_never().is_none());
    assert_eq!(bodies(&batch(&member).await), ["2", "3"]);
    assert_eq!(started.elapsed().as_millis(), 20, "a full batch does not wait");
}

#[tokio::test]
async fn a_paused_partition_delivers_nothing_until_it_is_resumed() {
    let broker = MemoryBroker::new().with_partition_count(1);
    broker.publish(vec![message("A", "1")]).await;
    let member = member(&broker, "stock").await;
    let partitions = [TopicPartition { topic: TOPIC.into(), partition: 0 }];
    member.pause(&partitions).await.unwrap();
    let mut next = std::pin::pin!(batch(&member));
    assert!((&mut next).now_or_never().is_none());
    member.resume(&partitions).await.unwrap();
    assert_eq!(bodies(&next.await), ["1"]);
}

#[tokio::test]
async fn an_ack_beyond_what_was_handed_out_is_refused() {
    let broker = MemoryBroker::new().with_partition_count(1);
    broker.publish(vec![message("A", "1")]).await;
    let member = member(&broker, "stock").await;
    let deliveries = batch(&member).await;
    let beyond = Position { next_offset: 2, ..after(&deliveries[0]) };
    let error = member.ack(beyond).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("handed_out_up_to=1"), "{error}");
    assert_eq!(kept_count(&broker), 1);
}

#[tokio::test]
async fn requests_and_messages_without_names_are_refused() {
    let broker = MemoryBroker::new();
    let results = broker.publish(vec![Message::unkeyed("", "1")]).await;
    assert_eq!(results[0].as_ref().unwrap_err().kind(), ErrorKind::InvalidArgument);
    let no_topic: [&str; 0] = [];
    for request in [SubscribeRequest::new("", [TOPIC]), SubscribeRequest::new("g", no_topic)] {
        let error = broker.subscribe(request).await.err().expect("refused");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
}

#[tokio::test(start_paused = true)]
async fn members_that_come_and_go_lose_nothing_and_keep_the_order() {
    for seed in 0..50 {
        let mut run = Run::new(seed);
        for _ in 0..300 {
            run.step().await;
        }
        run.finish().await;
    }
}

/// A random life of one group; a failing seed is the test's name for it.
struct Run {
    seed: u64,
    random: fastrand::Rng,
    broker: MemoryBroker,
    published: HashMap<String, Vec<String>>,
    /// First deliveries by key.
    delivered: HashMap<String, Vec<String>>,
    members: Vec<Arc<dyn Subscription>>,
    /// What a member holds and may ack later, or never.
    in_hand: Vec<(Arc<dyn Subscription>, Delivery)>,
    guards: Vec<RevokeGuard>,
}

impl Run {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            random: fastrand::Rng::with_seed(seed),
            broker: MemoryBroker::new().with_partition_count(4),
            published: HashMap::new(),
            delivered: HashMap::new(),
            members: Vec::new(),
            in_hand: Vec::new(),
            guards: Vec::new(),
        }
    }

    async fn step(&mut self) {
        match self.random.u8(0..12) {
            0..3 => self.publish(),
            3 if self.members.len() < 5 => self.members.push(member(&self.broker, "stock").await),
            4 if !self.members.is_empty() => {
                let left = self.members.swap_remove(self.random.usize(..self.members.len()));
                if self.random.bool() {
                    left.close().await.unwrap();
                }
                if self.random.bool() {
                    self.in_hand.retain(|(member, _)| !Arc::ptr_eq(member, &left));
                }
            }
            5 => self.guards.clear(),
            6..8 if !self.in_hand.is_empty() => {
                let (member, delivery) = self.in_hand.swap_remove(self.random.usize(..self.in_hand.len()));
                member.ack(after(&delivery)).await.unwrap();
            }
            _ if !self.members.is_empty() => {
                let member = self.members[self.random.usize(..self.members.len())].clone();
                self.hear(&member);
            }
            _ => {}
        }
        tokio::task::yield_now().await;
    }

    fn publish(&mut self) {
        let key = self.random.u8(0..10).to_string();
        let bodies = self.published.entry(key.clone()).or_default();
        bodies.push(bodies.len().to_string());
        // The first poll enqueues; whether the receipt comes is not asked here.
        let _ = self.broker.publish(vec![message(&key, &bodies[bodies.len() - 1])]).now_or_never();
    }

    fn hear(&mut self, member: &Arc<dyn Subscription>) {
        match member.next().now_or_never().flatten() {
            Some(SubscriptionEvent::Batch(deliveries)) => {
                for delivery in deliveries {
                    let key = String::from_utf8(delivery.message.key.as_ref().unwrap().to_vec()).unwrap();
                    let body = String::from_utf8(delivery.message.body.to_vec()).unwrap();
                    let bodies = self.delivered.entry(key).or_default();
                    if !bodies.contains(&body) {
                        bodies.push(body);
                    }
                    self.in_hand.push((member.clone(), delivery));
                }
            }
            Some(SubscriptionEvent::Revoked(_, guard)) => self.guards.push(guard),
            Some(SubscriptionEvent::Lost(_)) | None => {}
        }
    }

    async fn finish(mut self) {
        self.guards.clear();
        self.in_hand.clear();
        self.members.clear();
        settle_rebalances(&self.broker).await;
        let last = member(&self.broker, "stock").await;
        while kept_count(&self.broker) > 0 {
            self.hear(&last);
            assert!(!self.in_hand.is_empty(), "seed {}: what is kept is not delivered", self.seed);
            for (member, delivery) in self.in_hand.drain(..) {
                member.ack(after(&delivery)).await.unwrap();
            }
        }
        assert_eq!(self.delivered, self.published, "seed {}", self.seed);
    }
}

#[tokio::test]
async fn many_messages_through_two_groups_leave_nothing_behind() {
    const COUNT: usize = 20_000;
    let broker = MemoryBroker::new();
    let members = [member(&broker, "stock").await, member(&broker, "audit").await];
    let consumers = members.map(|member| {
        tokio::spawn(async move {
            let mut seen = 0;
            while seen < COUNT {
                let deliveries = batch(&member).await;
                seen += deliveries.len();
                for delivery in &deliveries {
                    member.ack(after(delivery)).await.unwrap();
                }
            }
            member
        })
    });
    for wave in 0..COUNT / 100 {
        let messages = (0..100).map(|number| message(&format!("{wave}-{number}"), "1")).collect();
        assert!(broker.publish(messages).await.iter().all(Result::is_ok));
    }
    for consumer in consumers {
        consumer.await.unwrap();
    }
    assert_eq!(kept_count(&broker), 0);
}

fn message(key: &str, body: &str) -> Message {
    Message::keyed(TOPIC, key.to_owned(), body.to_owned())
}

async fn member(broker: &MemoryBroker, group: &str) -> Arc<dyn Subscription> {
    broker.subscribe(SubscribeRequest::new(group, [TOPIC]).with_batch_linger(Duration::ZERO)).await.unwrap()
}

async fn batch(member: &Arc<dyn Subscription>) -> Vec<Delivery> {
    match member.next().await {
        Some(SubscriptionEvent::Batch(deliveries)) => deliveries,
        other => panic!("expected a batch, got {other:?}"),
    }
}

async fn revoked(member: &Arc<dyn Subscription>) -> (Vec<TopicPartition>, RevokeGuard) {
    match member.next().await {
        Some(SubscriptionEvent::Revoked(partitions, guard)) => (partitions, guard),
        other => panic!("expected a revocation, got {other:?}"),
    }
}

fn after(delivery: &Delivery) -> Position {
    Position { partition: delivery.topic_partition(), next_offset: delivery.offset + 1 }
}

fn bodies(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries.iter().map(|delivery| std::str::from_utf8(&delivery.message.body).unwrap()).collect()
}

fn kept_count(broker: &MemoryBroker) -> usize {
    broker.shared.lock().kept_count()
}

fn owned_counts(broker: &MemoryBroker) -> Vec<usize> {
    broker.shared.lock().owned_counts()
}

async fn settle_rebalances(broker: &MemoryBroker) {
    while broker.shared.lock().is_rebalancing() {
        tokio::task::yield_now().await;
    }
}
