//! What the consumer does around its stack: acks, lanes, rebalances, crashes, drains.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use micro_core::{
    Error, ErrorKind, Health, Result,
    app::Component as _,
    broker::{Broker as _, MemoryBroker, Message, RevokeGuard, SubscriptionEvent, TopicPartition},
    consume::{Consumer, ConsumerConfig, DeliveryBatch, DeliveryPolicy, KeyLanes},
    inbox::InboxStore as _,
    parked::DeadLetterStore as _,
    transaction::RetryPolicy,
};
use proptest::prelude::*;
use tokio::sync::Semaphore;
use tower::service_fn;

use crate::world::{
    Act, Ledger, ORDERS, Paid, ScriptedBroker, World, delivered, delivery, eventually, message, settle,
};

fn policy() -> DeliveryPolicy {
    DeliveryPolicy::default()
}

fn partition_0() -> Vec<TopicPartition> {
    vec![TopicPartition { topic: ORDERS.into(), partition: 0 }]
}

#[tokio::test(start_paused = true)]
async fn a_transient_error_is_retried_and_never_acked_as_success() {
    let world = World::new();
    let ledger =
        Ledger::new(|_, _, attempts| if attempts < 2 { Act::Fail(ErrorKind::Unavailable) } else { Act::Apply });
    let broker = ScriptedBroker::new();
    let consumer = Consumer::builder(Arc::new(broker.clone()), world.inbox(&ledger, policy())).build();
    consumer.start(&Health::new()).await.unwrap();
    broker.deliver([delivery(&Paid::new("a", 1), 0)]).await;
    eventually("the first failure", || ledger.call_count("a", 1) == 1).await;
    assert!(world.applied("a").is_empty() && broker.acked().is_none());
    eventually("the ack", || broker.acked() == Some(1)).await;
    assert_eq!((world.applied("a"), ledger.call_count("a", 1)), (vec![1], 3));
    consumer.drain(Duration::from_secs(1)).await.unwrap();
}

#[tokio::test]
async fn a_dead_letter_is_written_before_the_ack() {
    let world = World::new();
    let ledger = Ledger::new(|_, _, _| Act::Fail(ErrorKind::InvalidArgument));
    let broker = MemoryBroker::new();
    let consumer = Consumer::builder(Arc::new(broker.clone()), world.inbox(&ledger, policy())).build();
    consumer.start(&Health::new()).await.unwrap();
    // The receipt of the memory broker is the group's ack.
    let receipts = broker.publish(vec![message(&Paid::new("a", 1))]).await;
    assert!(receipts[0].is_ok());
    assert_eq!(world.database.dead_letters().count("stock").await.unwrap(), 1);
    consumer.close().await.unwrap();
}

#[tokio::test]
async fn a_crash_before_the_ack_delivers_again_and_the_effect_is_once() {
    let world = World::new();
    let broker = MemoryBroker::new();
    let ledger = Ledger::applying();
    let inbox = world.inbox(&ledger, policy());
    // Settles, and never comes back to ack.
    let hanging = service_fn(move |batch: DeliveryBatch| {
        let mut inbox = inbox.clone();
        async move {
            tower::Service::call(&mut inbox, batch).await?;
            std::future::pending::<Result<()>>().await
        }
    });
    let crashing = Consumer::with_service(Arc::new(broker.clone()), "stock", [ORDERS], hanging).build();
    crashing.start(&Health::new()).await.unwrap();
    let publish = tokio::spawn({
        let broker = broker.clone();
        async move { broker.publish(vec![message(&Paid::new("a", 1))]).await }
    });
    eventually("the effect", || world.applied("a") == [1]).await;
    drop(crashing);
    assert!(!publish.is_finished(), "nothing was acked");

    let next = Consumer::builder(Arc::new(broker), world.inbox(&ledger, policy())).build();
    next.start(&Health::new()).await.unwrap();
    assert!(publish.await.unwrap()[0].is_ok());
    assert_eq!((world.applied("a"), ledger.call_count("a", 1)), (vec![1], 1));
    next.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn while_the_stack_fails_nothing_is_acked_and_the_consumer_is_not_serving() {
    let (world, ledger) = (World::new(), Ledger::applying());
    let is_down = Arc::new(AtomicBool::new(true));
    let broker = ScriptedBroker::new();
    let down = is_down.clone();
    let consumer = Consumer::builder(Arc::new(broker.clone()), world.inbox(&ledger, policy()))
        .stack(|inbox| {
            service_fn(move |batch: DeliveryBatch| {
                let (mut inbox, is_down) = (inbox.clone(), down.load(Ordering::Relaxed));
                async move {
                    if is_down {
                        return Err(Error::new(ErrorKind::Unavailable, "tx.begin", "no connection"));
                    }
                    tower::Service::call(&mut inbox, batch).await
                }
            })
        })
        .build();
    let health = Health::new();
    consumer.start(&health).await.unwrap();
    assert!(health.is_serving());
    broker.deliver([delivery(&Paid::new("a", 1), 0)]).await;
    eventually("not serving", || !health.is_serving()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(broker.acked().is_none());
    is_down.store(false, Ordering::Relaxed);
    eventually("the ack", || broker.acked() == Some(1)).await;
    eventually("serving again", || health.is_serving()).await;
    assert_eq!(world.applied("a"), [1]);
    consumer.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_panicking_stack_does_not_end_the_consumer() {
    let broker = ScriptedBroker::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let service = service_fn(move |_: DeliveryBatch| {
        let is_first = count.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            assert!(!is_first, "the first call panics");
            Ok::<_, Error>(())
        }
    });
    let consumer = Consumer::with_service(Arc::new(broker.clone()), "stock", [ORDERS], service).build();
    consumer.start(&Health::new()).await.unwrap();
    broker.deliver([delivery(&Paid::new("a", 1), 0)]).await;
    eventually("the ack", || broker.acked() == Some(1)).await;
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    consumer.close().await.unwrap();
}

/// A ledger whose order `slow` waits for a permit.
fn slow_ledger() -> (Ledger, Arc<Semaphore>) {
    let permits = Arc::new(Semaphore::new(0));
    let gate = permits.clone();
    let ledger = Ledger::new(move |order, _, _| if order == "slow" { Act::Wait(gate.clone()) } else { Act::Apply });
    (ledger, permits)
}

/// A stack without transactions, so that lanes do not wait for one another in the memory database.
fn slow_service(
    permits: Arc<Semaphore>,
    finished: Arc<AtomicUsize>,
) -> impl tower::Service<DeliveryBatch, Response = (), Error = Error, Future: Send> + Clone + Send + 'static {
    service_fn(move |batch: DeliveryBatch| {
        let (permits, finished) = (permits.clone(), finished.clone());
        async move {
            if batch.deliveries.iter().any(|delivery| delivery.message.key.as_deref() == Some(b"slow")) {
                permits.acquire().await.expect("never closed").forget();
            }
            finished.fetch_add(batch.deliveries.len(), Ordering::Relaxed);
            Ok(())
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_slow_key_holds_up_the_ack_and_not_the_other_lanes_and_a_full_partition_is_paused() {
    let broker = ScriptedBroker::new();
    let (permits, finished) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let service = slow_service(permits.clone(), finished.clone());
    let consumer = Consumer::with_service(Arc::new(broker.clone()), "stock", [ORDERS], service)
        .unfinished_count_max(100)
        // As many as lanes, at once: none of them shares the slow one's batch.
        .running_count_max(4)
        .gather(Duration::ZERO)
        .build();
    consumer.start(&Health::new()).await.unwrap();
    broker.deliver([delivery(&Paid::new("slow", 0), 0)]).await;
    broker.deliver((1..150).map(|offset| delivery(&Paid::new(&format!("fast-{offset}"), 0), offset))).await;
    // Some keys share the slow one's lane; three lanes of four go on.
    eventually("the other lanes", || finished.load(Ordering::Relaxed) > 80).await;
    eventually("the pause", || broker.flow() == ["pause"]).await;
    assert!(broker.acked().is_none());
    permits.add_permits(1);
    eventually("the ack of all", || broker.acked() == Some(150)).await;
    eventually("the resume", || broker.flow() == ["pause", "resume"]).await;
    let acks = broker.acks();
    assert!(acks.is_sorted(), "{acks:?}");
    consumer.close().await.unwrap();
}

/// While the stack fails nothing is finished: what is received meanwhile stays within the limit.
#[tokio::test(start_paused = true)]
async fn a_failing_stack_pauses_a_partition_by_the_bytes_that_are_unfinished() {
    const BODY_BYTES: usize = 100 * 1_024;
    let broker = ScriptedBroker::new();
    let is_failing = Arc::new(AtomicBool::new(true));
    let fails = is_failing.clone();
    let service = service_fn(move |_: DeliveryBatch| {
        let outcome = match fails.load(Ordering::Relaxed) {
            true => Err(Error::new(ErrorKind::Unavailable, "test", "the database is away")),
            false => Ok(()),
        };
        std::future::ready(outcome)
    });
    let consumer = Consumer::with_service(Arc::new(broker.clone()), "stock", [ORDERS], service)
        .unfinished_bytes_max(1_024 * 1_024)
        .build();
    consumer.start(&Health::new()).await.unwrap();
    let large = |offset: i64, len: usize| delivered(Message::keyed(ORDERS, offset.to_string(), vec![0; len]), offset);
    let mut offset = 0;
    while broker.flow().is_empty() {
        assert!(offset < 20, "twice the limit and no pause");
        broker.deliver([large(offset, BODY_BYTES)]).await;
        offset += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(offset >= 7, "three quarters of the limit are its own: {offset}");
    is_failing.store(false, Ordering::Relaxed);
    eventually("the resume", || broker.flow() == ["pause", "resume"]).await;
    // One that is larger than the limit passes alone, and is waited for.
    for _ in 0..3 {
        broker.deliver([large(offset, 2 * 1_024 * 1_024)]).await;
        offset += 1;
        eventually("the ack", || broker.acked() == Some(offset)).await;
    }
    eventually("the last resume", || broker.flow().last() == Some(&"resume")).await;
    consumer.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_key_whose_handler_fails_holds_up_its_own_lane_only() {
    for running_count_max in [ConsumerConfig::default().running_count_max, 1] {
        let world = World::new();
        let ledger = Ledger::new(|order, seq, attempts| match (order, seq) {
            ("bad", 0) if attempts < 2 => Act::Fail(ErrorKind::Unavailable),
            _ => Act::Apply,
        });
        // Its retries take longer than everything else may.
        let minute = RetryPolicy {
            delay_initial: Duration::from_secs(60),
            delay_max: Duration::from_secs(60),
            ..RetryPolicy::default()
        };
        let broker = ScriptedBroker::new();
        let inbox = world.inbox(&ledger, policy().with_immediate(minute));
        let consumer = Consumer::builder(Arc::new(broker.clone()), inbox).running_count_max(running_count_max).build();
        consumer.start(&Health::new()).await.unwrap();
        let deliveries: Vec<_> = (0..40_u32)
            .flat_map(|seq| {
                (0..8)
                    .map(move |key| if key == 3 { "bad".to_owned() } else { format!("o-{key}") })
                    .zip(std::iter::repeat(seq))
            })
            .zip(0..)
            .map(|((order, seq), offset)| delivery(&Paid::new(&order, seq), offset))
            .collect();
        let lanes = KeyLanes::new(ConsumerConfig::default().lane_count);
        let bad_lane = lanes.lane(&deliveries[3]);
        let others: Vec<_> = (0..8).filter(|key| lanes.lane(&deliveries[*key]) != bad_lane).collect();
        assert!(others.len() >= 3, "keys of other lanes: {others:?}");

        let started = tokio::time::Instant::now();
        for part in deliveries.chunks(25) {
            broker.deliver(part.iter().cloned()).await;
        }
        let all: Vec<u32> = (0..40).collect();
        eventually("the other lanes", || others.iter().all(|key| world.applied(&format!("o-{key}")) == all)).await;
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        assert!(world.applied("bad").is_empty());
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert_eq!((world.applied("bad"), broker.acked()), (all, Some(320)), "in order, and everything is acked");
        assert_eq!(world.database.dead_letters().count("stock").await.unwrap(), 0);
        consumer.close().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_resume_that_failed_is_asked_for_again_though_nothing_else_comes() {
    let broker = ScriptedBroker::new();
    broker.refuse_resumes(2);
    let (permits, finished) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let service = slow_service(permits.clone(), finished);
    let consumer =
        Consumer::with_service(Arc::new(broker.clone()), "stock", [ORDERS], service).unfinished_count_max(100).build();
    consumer.start(&Health::new()).await.unwrap();
    broker.deliver((0..150).map(|offset| delivery(&Paid::new("slow", 0), offset))).await;
    eventually("the pause", || broker.flow() == ["pause"]).await;
    permits.add_permits(150);
    eventually("the resume", || broker.flow() == ["pause", "refused", "refused", "resume"]).await;
    consumer.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_revoked_partition_finishes_and_acks_what_is_in_hand_and_forgets_the_rest() {
    let world = World::new();
    let (ledger, permits) = slow_ledger();
    let broker = ScriptedBroker::new();
    let consumer = Consumer::builder(Arc::new(broker.clone()), world.inbox(&ledger, policy())).lane_count(1).build();
    consumer.start(&Health::new()).await.unwrap();
    broker.deliver([delivery(&Paid::new("slow", 1), 0)]).await;
    eventually("the batch in hand", || ledger.call_count("slow", 1) == 1).await;
    broker.deliver([delivery(&Paid::new("a", 2), 1)]).await;
    let (guard, released) = RevokeGuard::new();
    broker.feed.send(SubscriptionEvent::Revoked(partition_0(), guard)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(world.applied("slow").is_empty(), "the guard waits for the batch in hand");
    permits.add_permits(1);
    released.await.unwrap_err();
    assert_eq!((broker.acked(), world.applied("slow")), (Some(1), vec![1]));
    assert!(world.applied("a").is_empty());

    // The partition comes back from the acked position.
    broker.deliver([delivery(&Paid::new("a", 2), 1)]).await;
    eventually("the ack of the rest", || broker.acked() == Some(2)).await;
    assert_eq!(world.applied("a"), [2]);
    consumer.close().await.unwrap();
}

/// Otherwise what the lane that is ahead has done would come again elsewhere.
#[tokio::test(start_paused = true)]
async fn the_lanes_of_a_revoked_partition_catch_up_with_the_one_that_is_ahead() {
    let broker = ScriptedBroker::new();
    let (permits, finished) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let service = slow_service(permits.clone(), finished.clone());
    let builder = Consumer::with_service(Arc::new(broker.clone()), "stock", [ORDERS], service);
    let consumer = builder.lane_count(2).batch_count_max(1).running_count_max(2).build();
    consumer.start(&Health::new()).await.unwrap();
    let ahead = ahead_of("slow");
    broker.deliver([delivery(&Paid::new("slow", 0), 0)]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let rest = [("slow", 1), ("slow", 2), (&*ahead, 0), ("slow", 3)];
    broker.deliver((1..).zip(rest).map(|(offset, (order, seq))| delivery(&Paid::new(order, seq), offset))).await;
    eventually("the other lane is ahead", || finished.load(Ordering::Relaxed) == 1).await;
    let (guard, released) = RevokeGuard::new();
    broker.feed.send(SubscriptionEvent::Revoked(partition_0(), guard)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(broker.acked(), None);
    permits.add_permits(9);
    released.await.unwrap_err();
    // The last one was queued behind it and is forgotten.
    assert_eq!((broker.acked(), finished.load(Ordering::Relaxed)), (Some(4), 4));
    consumer.close().await.unwrap();
}

/// Behind a batch that fails nothing is acked.
#[tokio::test(start_paused = true)]
async fn the_lanes_of_a_revoked_partition_get_no_further_than_one_that_fails() {
    let broker = ScriptedBroker::new();
    let [fails, succeeds] = [(); 2].map(|()| Arc::new(Semaphore::new(0)));
    let finished = Arc::new(AtomicUsize::new(0));
    let service = {
        let (fails, succeeds, finished) = (fails.clone(), succeeds.clone(), finished.clone());
        service_fn(move |batch: DeliveryBatch| {
            let (fails, succeeds, finished) = (fails.clone(), succeeds.clone(), finished.clone());
            async move {
                let is_slow = batch.deliveries[0].message.key.as_deref() == Some(b"slow");
                let gate = if is_slow { fails } else { succeeds };
                gate.acquire().await.expect("never closed").forget();
                if is_slow {
                    return Err(Error::new(ErrorKind::Unavailable, "test", "it fails"));
                }
                finished.fetch_add(batch.deliveries.len(), Ordering::Relaxed);
                Ok(())
            }
        })
    };
    let builder = Consumer::with_service(Arc::new(broker.clone()), "stock", [ORDERS], service);
    let consumer = builder.lane_count(2).running_count_max(2).build();
    consumer.start(&Health::new()).await.unwrap();
    let other = ahead_of("slow");
    broker.deliver([delivery(&Paid::new(&other, 0), 0)]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let rest = [("slow", 0), (&*other, 1), (&*other, 2), ("slow", 1)];
    broker.deliver((1..).zip(rest).map(|(offset, (order, seq))| delivery(&Paid::new(order, seq), offset))).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (guard, released) = RevokeGuard::new();
    broker.feed.send(SubscriptionEvent::Revoked(partition_0(), guard)).await.unwrap();
    fails.add_permits(9);
    tokio::time::sleep(Duration::from_secs(1)).await;
    succeeds.add_permits(9);
    released.await.unwrap_err();
    assert_eq!((broker.acked(), finished.load(Ordering::Relaxed)), (Some(1), 1));
    consumer.close().await.unwrap();
}

/// Others wait for the partition: half of the time is for catching up, the rest for what is in hand.
#[tokio::test(start_paused = true)]
async fn a_lane_that_is_far_behind_does_not_catch_up_with_others_for_ever() {
    let broker = ScriptedBroker::new();
    let service = service_fn(async |batch: DeliveryBatch| {
        let is_slow = batch.deliveries[0].message.key.as_deref() == Some(b"slow");
        tokio::time::sleep(Duration::from_secs(u64::from(is_slow))).await;
        Ok(())
    });
    let builder = Consumer::with_service(Arc::new(broker.clone()), "stock", [ORDERS], service);
    let consumer = builder.lane_count(2).batch_count_max(1).running_count_max(2).gather(Duration::ZERO).build();
    consumer.start(&Health::new()).await.unwrap();
    let slow = (0..20).map(|offset| delivery(&Paid::new("slow", 0), offset));
    broker.deliver(slow.chain([delivery(&Paid::new(&ahead_of("slow"), 0), 20)])).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (guard, released) = RevokeGuard::new();
    let began = tokio::time::Instant::now();
    broker.feed.send(SubscriptionEvent::Revoked(partition_0(), guard)).await.unwrap();
    released.await.unwrap_err();
    assert_eq!(broker.acked(), Some(3), "the batch in hand after half of 5 s is the third");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    consumer.close().await.unwrap();
}

/// An order of the other one of two lanes.
fn ahead_of(order: &str) -> String {
    let lane_of = |order: &str| KeyLanes::new(2).lane(&delivery(&Paid::new(order, 0), 0));
    (0..).map(|number| format!("o-{number}")).find(|other| lane_of(other) != lane_of(order)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_revoked_partition_that_takes_too_long_is_dropped_unacked() {
    let world = World::new();
    let (ledger, permits) = slow_ledger();
    let broker = ScriptedBroker::new();
    let consumer = Consumer::builder(Arc::new(broker.clone()), world.inbox(&ledger, policy())).build();
    consumer.start(&Health::new()).await.unwrap();
    broker.deliver([delivery(&Paid::new("slow", 1), 0)]).await;
    eventually("the batch in hand", || ledger.call_count("slow", 1) == 1).await;
    let (guard, released) = RevokeGuard::new();
    broker.feed.send(SubscriptionEvent::Revoked(partition_0(), guard)).await.unwrap();
    tokio::time::timeout(Duration::from_secs(6), released).await.expect("the guard is dropped in time").unwrap_err();
    permits.add_permits(1);
    assert!(world.applied("slow").is_empty() && broker.acked().is_none());
    consumer.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lost_partition_drops_what_is_in_hand_and_acks_nothing() {
    let world = World::new();
    let (ledger, permits) = slow_ledger();
    let broker = ScriptedBroker::new();
    let consumer = Consumer::builder(Arc::new(broker.clone()), world.inbox(&ledger, policy())).build();
    consumer.start(&Health::new()).await.unwrap();
    let slow = message(&Paid::new("slow", 1));
    broker.deliver([delivered(slow.clone(), 5)]).await;
    eventually("the batch in hand", || ledger.call_count("slow", 1) == 1).await;
    broker.feed.send(SubscriptionEvent::Lost(partition_0())).await.unwrap();
    // The same member gets the partition again, from an earlier position.
    permits.add_permits(1);
    broker.deliver([delivery(&Paid::new("a", 1), 4), delivered(slow, 5)]).await;
    eventually("the ack", || broker.acked() == Some(6)).await;
    assert_eq!((world.applied("a"), world.applied("slow")), (vec![1], vec![1]));
    consumer.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn draining_finishes_and_acks_what_was_received() {
    let (world, ledger) = (World::new(), Ledger::applying());
    let broker = ScriptedBroker::new();
    let consumer = Consumer::builder(Arc::new(broker.clone()), world.inbox(&ledger, policy())).build();
    consumer.start(&Health::new()).await.unwrap();
    broker.deliver((0..500_u32).map(|seq| delivery(&Paid::new("a", seq), seq.into()))).await;
    eventually("the start", || !world.applied("a").is_empty()).await;
    consumer.drain(Duration::from_secs(10)).await.unwrap();
    assert_eq!((world.applied("a").len(), broker.acked()), (500, Some(500)));
    assert!(consumer.start(&Health::new()).await.is_err(), "a consumer is started once");
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_takes_too_long_says_so_and_drops_the_rest() {
    let world = World::new();
    let (ledger, _permits) = slow_ledger();
    let broker = ScriptedBroker::new();
    let consumer = Consumer::builder(Arc::new(broker.clone()), world.inbox(&ledger, policy())).build();
    consumer.start(&Health::new()).await.unwrap();
    broker.deliver([delivery(&Paid::new("slow", 1), 0)]).await;
    eventually("the batch in hand", || ledger.call_count("slow", 1) == 1).await;
    let error = consumer.drain(Duration::from_secs(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert!(world.applied("slow").is_empty());
}

#[tokio::test(start_paused = true)]
async fn parked_deliveries_are_tried_again_by_the_consumer() {
    let world = World::new();
    let ledger = Ledger::new(|_, seq, attempts| match seq {
        1 if attempts < 4 => Act::Fail(ErrorKind::NotFound),
        _ => Act::Apply,
    });
    let broker = ScriptedBroker::new();
    let consumer = Consumer::builder(Arc::new(broker.clone()), world.inbox(&ledger, policy())).build();
    consumer.start(&Health::new()).await.unwrap();
    broker.deliver([delivery(&Paid::new("a", 1), 0), delivery(&Paid::new("a", 2), 1)]).await;
    eventually("the ack: nothing pins the offsets", || broker.acked() == Some(2)).await;
    assert!(world.applied("a").is_empty());
    tokio::time::sleep(Duration::from_secs(10)).await;
    eventually("both, in order", || world.applied("a") == [1, 2]).await;
    consumer.close().await.unwrap();
}

#[tokio::test]
async fn a_second_member_that_joins_in_the_middle_changes_nothing() {
    let (world, ledger) = (World::new(), Ledger::applying());
    let broker = MemoryBroker::new().with_partition_count(4);
    let consumers = [(); 2].map(|()| {
        Consumer::builder(Arc::new(broker.clone()), world.inbox(&ledger, policy())).batch_count_max(8).build()
    });
    consumers[0].start(&Health::new()).await.unwrap();
    let events = (0..40_u32).flat_map(|seq| (0..20).map(move |order| Paid::new(&format!("o-{order}"), seq)));
    let messages: Vec<_> = events.map(|event| message(&event)).collect();
    let publish = tokio::spawn({
        let broker = broker.clone();
        async move { broker.publish(messages).await }
    });
    eventually("the middle", || !world.all_applied().is_empty()).await;
    consumers[1].start(&Health::new()).await.unwrap();
    assert!(publish.await.unwrap().iter().all(Result::is_ok));
    let expected: Vec<u32> = (0..40).collect();
    let applied = world.all_applied();
    assert_eq!(applied.len(), 20);
    assert!(applied.values().all(|seqs| *seqs == expected), "{applied:?}");
    for consumer in &consumers {
        consumer.close().await.unwrap();
    }
}

/// What a chaos run does to each event: how often it fails, and how often it is delivered.
#[derive(Clone, Debug)]
struct Fate {
    order: usize,
    failure_count: u32,
    is_panic: bool,
    copies: usize,
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = (0..6_usize, prop_oneof![6 => Just(0), 2 => 1..4_u32, 1 => 4..6_u32], any::<bool>(), 1..3_usize)
        .prop_map(|(order, failure_count, is_panic, copies)| Fate { order, failure_count, is_panic, copies });
    prop::collection::vec(fate, 1..60)
}

/// Publishes the events, duplicates among them, and answers what was applied once all is settled.
async fn live_through(fates: Vec<Fate>, lane_count: usize, batch_count_max: usize) -> BTreeMap<String, Vec<u32>> {
    let world = World::new();
    let mut failures = BTreeMap::new();
    let mut messages = Vec::new();
    for (seq, fate) in (0_u32..).zip(&fates) {
        let event = Paid::new(&format!("o-{}", fate.order), seq);
        let sent = message(&event);
        messages.extend(std::iter::repeat_n(sent.clone(), fate.copies));
        // An old event once more, long after it was handled.
        messages.extend((fate.copies == 2).then_some(messages[0].clone()));
        failures.insert(seq, (fate.failure_count, fate.is_panic));
    }
    let ledger = Ledger::new(move |_, seq, attempts| match failures[&seq] {
        (count, true) if attempts < count => Act::Panic,
        (count, false) if attempts < count => Act::Fail(ErrorKind::Unavailable),
        _ => Act::Apply,
    });
    let fast = RetryPolicy { retry_count_max: 2, ..RetryPolicy::default() };
    let patient = policy().with_immediate(fast).with_delayed([Duration::from_secs(1); 5]);
    let broker = MemoryBroker::new().with_partition_count(2);
    let consumer = Consumer::builder(Arc::new(broker.clone()), world.inbox(&ledger, patient))
        .lane_count(lane_count)
        .batch_count_max(batch_count_max)
        .build();
    consumer.start(&Health::new()).await.unwrap();
    assert!(broker.publish(messages).await.iter().all(Result::is_ok));
    let count = fates.len();
    eventually("everything is applied", || world.all_applied().values().map(Vec::len).sum::<usize>() >= count).await;
    consumer.drain(Duration::from_secs(10)).await.unwrap();
    world.all_applied()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_fails_each_event_is_applied_once_and_in_the_order_of_its_key(
        fates in fates(), lane_count in 1..5_usize, batch_count_max in 1..20_usize,
    ) {
        let mut expected: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for (seq, fate) in (0_u32..).zip(&fates) {
            expected.entry(format!("o-{}", fate.order)).or_default().push(seq);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let applied = runtime.block_on(live_through(fates, lane_count, batch_count_max));
        prop_assert_eq!(applied, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn the_inbox_forgets_what_is_older_than_its_retention_and_nothing_else() {
    let (world, ledger) = (World::new(), Ledger::applying());
    let day = Duration::from_secs(24 * 60 * 60);
    let inbox = world.inbox(&ledger, DeliveryPolicy::default());
    let old: Vec<_> = (0..2_500).map(|seq| delivery(&Paid::new("old", seq), seq.into())).collect();
    settle(&inbox, old.clone()).await.unwrap();
    tokio::time::sleep(3 * day).await;
    let young = delivery(&Paid::new("young", 1), 2_500);
    settle(&inbox, [young.clone()]).await.unwrap();
    tokio::time::sleep(4 * day - Duration::from_secs(600)).await;

    let consumer = Consumer::builder(Arc::new(ScriptedBroker::new()), inbox.clone()).build();
    consumer.start(&Health::new()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(500)).await;
    settle(&inbox, old.clone()).await.unwrap();
    assert_eq!(ledger.call_count("old", 7), 1, "an id was forgotten before 7 days");
    tokio::time::sleep(Duration::from_secs(300)).await;
    consumer.close().await.unwrap();
    let left = world.database.inbox().purge(7 * day, usize::MAX).await.unwrap();
    assert_eq!(left, 0, "old ids are still there");
    settle(&inbox, [young, old[0].clone(), old[2_499].clone()]).await.unwrap();
    assert_eq!((ledger.call_count("young", 1), ledger.call_count("old", 0)), (1, 2));
    assert_eq!(ledger.call_count("old", 2_499), 2);
}
