//! What the inbox service does with a batch: once each, in order, and what becomes of failures.

use std::time::Duration;

use bytes::Bytes;
use micro_core::{
    Error, ErrorKind, Result, TransactionManager, Tx,
    broker::{Delivery, Message, header},
    consume::{AfterDeadLetter, DeliveryPolicy, InboxService, Router, UnknownType},
    event::{BaseEvent, seal_payload},
    outbox::OutboxStore as _,
    parked::{DeadLetter, DeadLetterStore as _, ParkedStore as _},
    transaction::{ManagerId, RetryPolicy},
};
use prost::Message as _;

use crate::world::{
    Act, Deducted, Ledger, ORDERS, Paid, PaidDeadLetter, Shipped, World, delivered, delivery, message, settle,
};

fn policy() -> DeliveryPolicy {
    DeliveryPolicy::default()
}

/// Fails for good at once: no retries, no delays.
fn strict() -> DeliveryPolicy {
    let none = RetryPolicy { retry_count_max: 0, ..RetryPolicy::default() };
    policy().with_immediate(none).with_delayed([])
}

async fn letters(world: &World) -> Vec<DeadLetter> {
    world.database.dead_letters().list("stock", 1_000).await.unwrap()
}

async fn parked_count(world: &World) -> u64 {
    world.database.parked().count("stock").await.unwrap()
}

#[tokio::test]
async fn a_duplicate_is_handled_once() {
    let (world, ledger) = (World::new(), Ledger::applying());
    let service = world.inbox(&ledger, policy());
    let sent = message(&Paid::new("a", 1));
    let twice_in_one_batch = [delivered(sent.clone(), 0), delivered(sent.clone(), 1)];
    settle(&service, twice_in_one_batch).await.unwrap();
    settle(&service, [delivered(sent, 2)]).await.unwrap();
    assert_eq!(world.applied("a"), [1]);
    assert_eq!(ledger.call_count("a", 1), 1);
}

#[tokio::test]
async fn an_event_without_an_id_is_known_by_its_origin() {
    let (world, ledger) = (World::new(), Ledger::applying());
    let service = world.inbox(&ledger, policy());
    let mut sent = message(&Paid::new("a", 1));
    sent.headers.remove(header::EVENT_ID);
    settle(&service, [delivered(sent.clone(), 7)]).await.unwrap();
    settle(&service, [delivered(sent.clone(), 7)]).await.unwrap();
    assert_eq!(world.applied("a"), [1]);
    settle(&service, [delivered(sent.clone(), 8)]).await.unwrap();
    assert_eq!(world.applied("a"), [1, 1]);
    // The topic was made anew: another message has this offset now.
    let mut anew = delivered(sent, 7);
    anew.timestamp += Duration::from_millis(1);
    for _ in 0..2 {
        settle(&service, [anew.clone()]).await.unwrap();
        assert_eq!(world.applied("a"), [1, 1, 1]);
    }
}

/// A process that was frozen longer than its session wakes up with deliveries in hand that somebody
/// else has handled since, or is about to: what it does with them must be nothing, or the next thing.
/// The claims in the handlers' own transactions are the fence, with an event id and without one.
#[tokio::test]
async fn a_consumer_that_was_frozen_applies_nothing_twice_and_nothing_out_of_order() {
    for has_ids in [true, false] {
        let (world, ledger) = (World::new(), Ledger::applying());
        let (frozen, heir) = (world.inbox(&ledger, policy()), world.inbox(&ledger, policy()));
        let sent: Vec<Message> = (1..=9)
            .map(|seq| {
                let mut sent = message(&Paid::new("a", seq));
                if !has_ids {
                    sent.headers.remove(header::EVENT_ID);
                }
                sent
            })
            .collect();
        let log = |offsets: std::ops::Range<usize>| {
            offsets.map(|offset| delivered(sent[offset].clone(), i64::try_from(offset).unwrap())).collect::<Vec<_>>()
        };
        settle(&frozen, log(0..2)).await.unwrap();
        // It froze before it acked: its heir begins at the first offset.
        settle(&heir, log(0..5)).await.unwrap();
        // It wakes with two batches in hand: one is behind its heir, the other ahead in part.
        settle(&frozen, log(2..4)).await.unwrap();
        settle(&frozen, log(4..7)).await.unwrap();
        settle(&heir, log(5..9)).await.unwrap();
        assert_eq!(world.applied("a"), [1, 2, 3, 4, 5, 6, 7, 8, 9], "has_ids {has_ids}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_transient_error_is_tried_again_and_its_effect_is_once() {
    let world = World::new();
    let ledger = Ledger::new(|_, seq, attempts| match (seq, attempts) {
        (2, 0..=1) => Act::Fail(ErrorKind::Unavailable),
        _ => Act::Apply,
    });
    let deliveries = [1, 2, 3].map(|seq| delivery(&Paid::new("a", seq), seq.into()));
    settle(&world.inbox(&ledger, policy()), deliveries).await.unwrap();
    assert_eq!(world.applied("a"), [1, 2, 3]);
    assert_eq!(ledger.call_count("a", 2), 3, "the failure within the batch is the first attempt");
    assert!(letters(&world).await.is_empty());
}

#[tokio::test]
async fn a_permanent_error_is_a_dead_letter_with_cause_attempts_and_origin_and_others_go_on() {
    let world = World::new();
    let ledger = Ledger::new(|order, seq, _| match (order, seq) {
        ("bad", 1) => Act::Fail(ErrorKind::InvalidArgument),
        _ => Act::Apply,
    });
    let events = [Paid::new("a", 1), Paid::new("bad", 1), Paid::new("bad", 2), Paid::new("b", 1)];
    let deliveries: Vec<_> = events.iter().zip(40..).map(|(event, offset)| delivery(event, offset)).collect();
    settle(&world.inbox(&ledger, policy()), deliveries.clone()).await.unwrap();

    assert_eq!((world.applied("a"), world.applied("b")), (vec![1], vec![1]));
    assert_eq!(world.applied("bad"), [2], "skip: the later ones of its key go on");
    let letters = letters(&world).await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].delivery, deliveries[1]);
    assert_eq!(letters[0].event_id, deliveries[1].inbox_id());
    assert_eq!((letters[0].kind, letters[0].attempts), (ErrorKind::InvalidArgument, 1));
    assert_eq!(letters[0].cause, "ledger.apply: the script says so (seq=1)");
    settle(&world.inbox(&ledger, policy()), deliveries).await.unwrap();
    assert_eq!(ledger.call_count("bad", 1), 1, "a dead letter that is delivered again is not tried again");
}

#[tokio::test]
async fn undecodable_and_unknown_events_are_dead_letters_and_leave_their_neighbours_alone() {
    let (world, ledger) = (World::new(), Ledger::applying());
    let junk = delivered(Message::keyed(ORDERS, "j", vec![0xff, 0xff]), 1);
    let bad_payload = delivered(seal_payload(ORDERS, "OnPaid", "p", Bytes::from("no slash"), "order", "v1"), 2);
    let unknown = delivered(seal_payload(ORDERS, "OnMoon", "m", Bytes::new(), "order", "v1"), 3);
    let untyped = delivered(seal_payload(ORDERS, "", "u", Bytes::new(), "order", "v1"), 4);
    let deliveries =
        [delivery(&Paid::new("a", 1), 0), junk, bad_payload, unknown, untyped, delivery(&Paid::new("a", 2), 5)];
    settle(&world.inbox(&ledger, policy()), deliveries).await.unwrap();

    assert_eq!(world.applied("a"), [1, 2]);
    assert_eq!(ledger.calls.lock().unwrap().len(), 2, "one transaction: nothing was undone");
    let letters = letters(&world).await;
    let reasons: Vec<_> = letters.iter().map(|letter| (letter.delivery.offset, letter.kind, letter.attempts)).collect();
    let expected = [
        (1, ErrorKind::DataLoss, 0),
        (2, ErrorKind::DataLoss, 0),
        (3, ErrorKind::Unimplemented, 0),
        (4, ErrorKind::DataLoss, 0),
    ];
    assert_eq!(reasons, expected);
    assert!(letters[0].cause.contains("not a BaseEvent"), "{}", letters[0].cause);
    assert!(letters[1].cause.contains("expected order/seq"), "{}", letters[1].cause);
    assert!(letters[2].cause.contains("event_type=OnMoon"), "{}", letters[2].cause);
    assert!(letters[3].cause.contains("no event_type"), "{}", letters[3].cause);
}

#[tokio::test]
async fn an_unknown_type_can_be_ignored() {
    let (world, ledger) = (World::new(), Ledger::applying());
    let service = world.inbox(&ledger, policy().with_unknown_type(UnknownType::Ignore));
    settle(&service, [delivery(&Shipped::new("a", 1), 0)]).await.unwrap();
    assert!(letters(&world).await.is_empty());
}

#[tokio::test]
async fn a_type_of_another_topic_is_unknown_here() {
    let (world, ledger) = (World::new(), Ledger::applying());
    let router = Router::new().on::<Paid>(ledger.clone()).on::<Deducted>(ledger.clone());
    let service = InboxService::new("stock", world.stores(), router, policy()).unwrap();
    let strayed = Message { topic: "ProductEvent".into(), ..message(&Paid::new("a", 1)) };
    settle(&service, [delivered(strayed, 0)]).await.unwrap();
    assert_eq!(world.applied("a"), [0_u32; 0]);
    let letters = letters(&world).await;
    assert_eq!(letters[0].kind, ErrorKind::Unimplemented);
    assert!(letters[0].cause.contains("topic=ProductEvent"), "{}", letters[0].cause);
}

#[tokio::test(start_paused = true)]
async fn a_panic_costs_its_own_message_a_retry_and_its_neighbours_nothing() {
    let world = World::new();
    let ledger = Ledger::new(|_, seq, attempts| if seq == 2 && attempts == 0 { Act::Panic } else { Act::Apply });
    let deliveries = [1, 2, 3].map(|seq| delivery(&Paid::new("a", seq), seq.into()));
    settle(&world.inbox(&ledger, policy()), deliveries).await.unwrap();
    assert_eq!(world.applied("a"), [1, 2, 3]);
    assert_eq!(ledger.call_count("a", 2), 2);
}

#[tokio::test]
async fn a_panic_that_stays_is_a_dead_letter_with_its_text() {
    let world = World::new();
    let ledger = Ledger::new(|_, _, _| Act::Panic);
    settle(&world.inbox(&ledger, strict()), [delivery(&Paid::new("a", 1), 0)]).await.unwrap();
    let letters = letters(&world).await;
    assert_eq!(letters[0].kind, ErrorKind::Internal);
    assert_eq!(letters[0].cause, "handler.handle: panicked: the script panics at a/1");
}

#[tokio::test]
async fn bisecting_isolates_one_poison_in_256() {
    for poison in [0, 100, 255] {
        let world = World::new();
        let script = move |_: &str, seq, _| {
            if seq == poison { Act::Fail(ErrorKind::InvalidArgument) } else { Act::Apply }
        };
        let ledger = Ledger::new(script);
        let router = Router::new().on_batch::<Paid>(ledger.clone());
        let service = InboxService::new("stock", world.stores(), router, policy()).unwrap();
        let deliveries = (0..256).map(|seq| delivery(&Paid::new("a", seq), seq.into()));
        settle(&service, deliveries).await.unwrap();
        let expected: Vec<u32> = (0..256).filter(|seq| *seq != poison).collect();
        assert_eq!(world.applied("a"), expected, "in order, each once");
        assert_eq!(letters(&world).await.len(), 1);
        // Halving tries the poison once in each of 256, 128, …, 1.
        assert_eq!(ledger.call_count("a", poison), 9);
    }
}

#[tokio::test]
async fn a_batch_of_one_key_keeps_its_order_and_runs_of_a_type_are_one_slice() {
    let (world, ledger) = (World::new(), Ledger::applying());
    let router = Router::new().on_batch::<Paid>(ledger.clone()).on::<Shipped>(ledger.clone());
    let service = InboxService::new("stock", world.stores(), router, policy()).unwrap();
    let deliveries = (0..200_u32).map(|seq| match seq {
        50 | 120 => delivery(&Shipped::new("a", seq), seq.into()),
        _ => delivery(&Paid::new("a", seq), seq.into()),
    });
    settle(&service, deliveries).await.unwrap();
    assert_eq!(world.applied("a"), (0..200).collect::<Vec<_>>());
    assert_eq!(ledger.slice_len_max.load(std::sync::atomic::Ordering::Relaxed), 79);
}

#[tokio::test(start_paused = true)]
async fn a_parked_delivery_keeps_its_key_waiting_in_order_while_others_go_on() {
    let world = World::new();
    // Fails its four tries in the lane and the first delayed one.
    let ledger = Ledger::new(|order, seq, attempts| match (order, seq) {
        ("a", 1) if attempts < 5 => Act::Fail(ErrorKind::NotFound),
        _ => Act::Apply,
    });
    let service = world.inbox(&ledger, policy());
    let events = [Paid::new("a", 1), Paid::new("a", 2), Paid::new("b", 1)];
    settle(&service, events.iter().zip(0..).map(|(event, offset)| delivery(event, offset))).await.unwrap();
    settle(&service, [delivery(&Paid::new("a", 3), 3), delivery(&Paid::new("b", 2), 4)]).await.unwrap();
    assert_eq!((world.applied("a"), world.applied("b")), (vec![], vec![1, 2]));
    assert_eq!((ledger.call_count("a", 1), parked_count(&world).await), (4, 3));

    assert_eq!(service.retry_due().await.unwrap(), 0, "not before its time");
    tokio::time::advance(Duration::from_secs(11)).await;
    assert_eq!(service.retry_due().await.unwrap(), 1, "only the head is tried");
    assert_eq!((world.applied("a"), parked_count(&world).await), (vec![], 3));
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(service.retry_due().await.unwrap(), 3, "the next of the key goes on at once");
    assert_eq!((world.applied("a"), parked_count(&world).await), (vec![1, 2, 3], 0));
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_fails_every_delayed_try_is_a_dead_letter_and_the_next_goes_on() {
    let world = World::new();
    let ledger = Ledger::new(|_, seq, _| if seq == 1 { Act::Fail(ErrorKind::Unavailable) } else { Act::Apply });
    let service = world.inbox(&ledger, policy());
    settle(&service, [delivery(&Paid::new("a", 1), 0), delivery(&Paid::new("a", 2), 1)]).await.unwrap();
    for seconds in [11, 61, 301] {
        assert_eq!(world.applied("a"), [0_u32; 0]);
        tokio::time::advance(Duration::from_secs(seconds)).await;
        service.retry_due().await.unwrap();
    }
    let letters = letters(&world).await;
    assert_eq!((letters.len(), letters[0].attempts), (1, 7));
    assert_eq!(world.applied("a"), [2]);
}

#[tokio::test]
async fn park_key_holds_the_key_of_a_dead_letter_until_it_is_replayed() {
    for is_undecodable in [false, true] {
        let world = World::new();
        let is_mended = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let mended = is_mended.clone();
        let ledger = Ledger::new(move |order, seq, _| match (order, seq) {
            ("a", 1) if !mended.load(std::sync::atomic::Ordering::Relaxed) => Act::Fail(ErrorKind::InvalidArgument),
            _ => Act::Apply,
        });
        let service = world.inbox(&ledger, policy().with_after_dead_letter(AfterDeadLetter::ParkKey));
        let first = if is_undecodable {
            delivered(seal_payload(ORDERS, "OnPaid", "a", Bytes::from("no slash"), "order", "v1"), 0)
        } else {
            delivery(&Paid::new("a", 1), 0)
        };
        settle(&service, [first, delivery(&Paid::new("a", 2), 1), delivery(&Paid::new("b", 1), 2)]).await.unwrap();
        settle(&service, [delivery(&Paid::new("a", 3), 3)]).await.unwrap();
        service.retry_due().await.unwrap();
        assert_eq!((world.applied("a"), world.applied("b")), (vec![], vec![1]));

        let letters = letters(&world).await;
        assert_eq!((letters.len(), parked_count(&world).await), (1, 3));
        is_mended.store(true, std::sync::atomic::Ordering::Relaxed);
        let dead_letters = service.dead_letters();
        let expected = if is_undecodable {
            dead_letters.replay(&letters[0].event_id).await.unwrap_err();
            assert!(dead_letters.discard(&letters[0].event_id).await.unwrap());
            vec![2, 3]
        } else {
            assert!(dead_letters.replay(&letters[0].event_id).await.unwrap());
            vec![1, 2, 3]
        };
        service.retry_due().await.unwrap();
        assert_eq!((world.applied("a"), parked_count(&world).await), (expected, 0));
        assert!(!dead_letters.replay(&letters[0].event_id).await.unwrap(), "applied once");
    }
}

#[tokio::test(start_paused = true)]
async fn park_key_holds_a_key_that_failed_its_delayed_tries_too() {
    let world = World::new();
    let ledger = Ledger::new(|_, seq, _| if seq == 1 { Act::Fail(ErrorKind::Unavailable) } else { Act::Apply });
    let held = policy().with_after_dead_letter(AfterDeadLetter::ParkKey).with_delayed([Duration::from_secs(1)]);
    let service = world.inbox(&ledger, held);
    settle(&service, [delivery(&Paid::new("a", 1), 0), delivery(&Paid::new("a", 2), 1)]).await.unwrap();
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(service.retry_due().await.unwrap(), 1);
    assert_eq!((letters(&world).await.len(), parked_count(&world).await), (1, 2));
    assert_eq!(world.applied("a"), [0_u32; 0]);
    assert!(service.dead_letters().discard(&letters(&world).await[0].event_id).await.unwrap());
    service.retry_due().await.unwrap();
    assert_eq!(world.applied("a"), [2]);
}

/// The messages in the outbox.
async fn outgoing(world: &World) -> Vec<Message> {
    let mut messages = Vec::new();
    for shard in 0..micro_core::outbox::SHARD_COUNT {
        let mut owned = world.database.outbox().own(shard).await.unwrap().unwrap();
        messages.extend(owned.unsent(&[], &[], 100).await.unwrap().into_iter().map(|row| row.message));
    }
    messages
}

#[tokio::test]
async fn the_copy_of_a_dead_letter_says_what_it_was_and_keeps_its_event_id() {
    let world = World::new();
    let ledger = Ledger::new(|_, _, _| Act::Fail(ErrorKind::FailedPrecondition));
    let service = world.inbox(&ledger, policy().with_copy_to_dead_letter_topic(true));
    let original = delivery(&Paid::new("a", 1), 42);
    settle(&service, [original.clone()]).await.unwrap();

    let copies = outgoing(&world).await;
    assert_eq!(copies.len(), 1);
    let copy = &copies[0];
    assert_eq!((&*copy.topic, &copy.key), ("OrderEventDLQ", &original.message.key));
    let envelope = BaseEvent::decode(copy.body.clone()).unwrap();
    let sent = BaseEvent::open(&original).unwrap();
    assert_eq!(envelope, BaseEvent { event_type: "OnPaidDLQ".to_owned(), ..sent });
    let text = |name| copy.headers.get_str(name).unwrap_or("missing").to_owned();
    assert_eq!(text(header::EVENT_ID), original.event_id());
    assert_eq!(text(header::EVENT_TYPE), "OnPaidDLQ");
    assert_eq!(text(header::ERROR), "ledger.apply: the script says so (seq=1)");
    assert_eq!(text(header::ATTEMPTS), "1");
    assert_eq!(text(header::ORIGIN_TOPIC), "OrderEvent");
    assert_eq!((text(header::ORIGIN_PARTITION), text(header::ORIGIN_OFFSET)), ("0".to_owned(), "42".to_owned()));
    assert_eq!(text(header::ORIGIN_TIMESTAMP), original.message.headers.get_str(header::TIMESTAMP).unwrap());
}

#[tokio::test]
async fn the_copy_of_what_no_handler_saw_has_its_body_as_it_came() {
    let world = World::new();
    let service = world.inbox(&Ledger::applying(), policy().with_copy_to_dead_letter_topic(true));
    let mut unknown = delivery(&Paid::new("a", 1), 0);
    let envelope = BaseEvent { event_type: "OnUnheardOf".to_owned(), ..BaseEvent::open(&unknown).unwrap() };
    // Field 9, of a newer envelope.
    unknown.message.body = [&envelope.encode_to_vec()[..], &[0x48, 7]].concat().into();
    let mut unreadable = delivery(&Paid::new("b", 1), 1);
    unreadable.message.body = vec![0xff; 9].into();
    settle(&service, [unknown.clone(), unreadable.clone()]).await.unwrap();

    let copies = outgoing(&world).await;
    assert_eq!(copies.len(), 2);
    assert_eq!([&copies[0].body, &copies[1].body], [&unknown.message.body, &unreadable.message.body]);
    assert_eq!(copies[0].headers.get_str(header::EVENT_TYPE), Some("OnUnheardOfDLQ"));
}

#[tokio::test]
async fn one_group_handles_an_event_and_its_dead_letter_copy() {
    let world = World::new();
    let failing = Ledger::new(|_, _, _| Act::Fail(ErrorKind::FailedPrecondition));
    let ledger = Ledger::applying();
    let router = Router::new().on::<Paid>(failing).on::<PaidDeadLetter>(ledger.clone());
    let copying = policy().with_copy_to_dead_letter_topic(true);
    let service = InboxService::new("stock", world.stores(), router, copying).unwrap();
    settle(&service, [delivery(&Paid::new("a", 1), 0)]).await.unwrap();
    let copy = outgoing(&world).await.remove(0);
    settle(&service, [delivered(copy.clone(), 0), delivered(copy, 1)]).await.unwrap();
    assert_eq!(world.applied("a"), [1]);
}

#[tokio::test]
async fn a_dead_letter_topic_finds_types_that_were_not_rewritten() {
    let (world, ledger) = (World::new(), Ledger::applying());
    let router = Router::new().on::<PaidDeadLetter>(ledger.clone());
    let service = InboxService::new("stock", world.stores(), router, policy()).unwrap();
    let unwritten = Message { topic: "OrderEventDLQ".into(), ..message(&Paid::new("a", 1)) };
    settle(&service, [delivered(unwritten, 0)]).await.unwrap();
    assert_eq!(world.applied("a"), [1]);
}

#[tokio::test]
async fn a_dead_letter_topic_gets_no_dead_letter_topic_of_its_own() {
    let world = World::new();
    let ledger = Ledger::new(|_, _, _| Act::Fail(ErrorKind::FailedPrecondition));
    let router = Router::new().on::<PaidDeadLetter>(ledger);
    let copying = policy().with_copy_to_dead_letter_topic(true);
    let service = InboxService::new("stock", world.stores(), router, copying).unwrap();
    settle(&service, [delivery(&PaidDeadLetter::new("a", 1), 0)]).await.unwrap();
    assert_eq!(letters(&world).await.len(), 1);
    assert!(outgoing(&world).await.is_empty());
}

#[tokio::test]
async fn the_copy_of_bytes_that_are_no_envelope_keeps_them() {
    let (world, ledger) = (World::new(), Ledger::applying());
    let service = world.inbox(&ledger, policy().with_copy_to_dead_letter_topic(true));
    let junk = Message::keyed(ORDERS, "j", vec![0xff, 0xff]).with_header(header::EVENT_TYPE, "OnPaid");
    settle(&service, [delivered(junk, 3)]).await.unwrap();
    let copy = outgoing(&world).await.remove(0);
    assert_eq!(copy.body, Bytes::from(vec![0xff, 0xff]));
    assert_eq!(copy.headers.get_str(header::EVENT_TYPE), Some("OnPaidDLQ"));
    assert_eq!(copy.headers.get_str(header::EVENT_ID), Some("OrderEvent/0/3@1700000000003"));
}

#[tokio::test]
async fn the_copy_of_a_record_that_nobody_can_read_is_no_second_dead_letter() {
    let (world, ledger) = (World::new(), Ledger::applying());
    let copying = policy().with_copy_to_dead_letter_topic(true).with_after_dead_letter(AfterDeadLetter::ParkKey);
    let router = Router::new().on::<Paid>(ledger.clone()).on::<PaidDeadLetter>(ledger.clone());
    let service = InboxService::new("stock", world.stores(), router, copying).unwrap();
    let junk = Message::keyed(ORDERS, "j", vec![0xff, 0xff]);
    let bad_payload = seal_payload(ORDERS, "OnPaid", "p", Bytes::from("no slash"), "order", "v1");
    let unknown = seal_payload(ORDERS, "OnMoon", "m", Bytes::new(), "order", "v1");
    settle(&service, [delivered(junk, 1), delivered(bad_payload, 2), delivered(unknown, 3)]).await.unwrap();
    let copies = outgoing(&world).await;
    assert_eq!((copies.len(), letters(&world).await.len(), parked_count(&world).await), (3, 3, 3));

    let after = [delivery(&PaidDeadLetter::new("j", 1), 9)];
    settle(&service, copies.iter().cloned().zip(4..).map(|(copy, offset)| delivered(copy, offset)).chain(after))
        .await
        .unwrap();
    assert_eq!((letters(&world).await.len(), parked_count(&world).await), (3, 3), "acked, and no key is held");
    assert_eq!(world.applied("j"), [1], "what comes behind them goes on");

    // What a handler has seen, and what somebody else put there, is kept here.
    let seen = copies[1].clone().with_header(header::ATTEMPTS, "1").with_header(header::EVENT_ID, "seen");
    let foreign = Message::keyed("OrderEventDLQ", "f", vec![0xff]);
    settle(&service, [delivered(seen, 20), delivered(foreign, 21)]).await.unwrap();
    assert_eq!(letters(&world).await.len(), 5);
}

#[tokio::test]
async fn a_service_that_cannot_be_meant_is_refused() {
    let (world, ledger) = (World::new(), Ledger::applying());
    let kind = |stores, router, policy| InboxService::new("stock", stores, router, policy).err().map(|e| e.kind());
    assert_eq!(kind(world.stores(), Router::new(), policy()), Some(ErrorKind::InvalidArgument));
    let doubled = Router::new().on::<Paid>(ledger.clone()).on_batch::<Paid>(ledger.clone());
    assert_eq!(kind(world.stores(), doubled, policy()), Some(ErrorKind::AlreadyExists));
    let mut stores = world.stores();
    stores.outbox = None;
    let copying = policy().with_copy_to_dead_letter_topic(true);
    assert_eq!(kind(stores, Router::new().on::<Paid>(ledger), copying), Some(ErrorKind::InvalidArgument));
}

/// A manager whose next transactions cannot begin.
struct FailingBegins {
    inner: std::sync::Arc<dyn TransactionManager>,
    failures: std::sync::Arc<std::sync::Mutex<Vec<ErrorKind>>>,
}

#[async_trait::async_trait]
impl TransactionManager for FailingBegins {
    async fn begin(&self) -> Result<Tx> {
        match self.failures.lock().unwrap().pop() {
            None => {}
            Some(kind) => return Err(Error::new(kind, "tx.begin", "the test says so")),
        }
        self.inner.begin().await
    }

    fn id(&self) -> ManagerId {
        self.inner.id()
    }
}

fn failing(world: &World, ledger: &Ledger, failures: &[ErrorKind]) -> InboxService {
    let mut stores = world.stores();
    let failures = std::sync::Arc::new(std::sync::Mutex::new(failures.to_vec()));
    stores.transactions = std::sync::Arc::new(FailingBegins { inner: stores.transactions, failures });
    InboxService::new("stock", stores, Router::new().on::<Paid>(ledger.clone()), policy()).unwrap()
}

#[tokio::test]
async fn an_error_of_the_store_is_the_callers_and_settles_nothing() {
    let (world, ledger) = (World::new(), Ledger::applying());
    let service = failing(&world, &ledger, &[ErrorKind::Unavailable]);
    let deliveries: [Delivery; 2] = [delivery(&Paid::new("a", 1), 0), delivery(&Paid::new("a", 2), 1)];
    let error = settle(&service, deliveries.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(world.all_applied().is_empty() && letters(&world).await.is_empty());
    settle(&service, deliveries).await.unwrap();
    assert_eq!(world.applied("a"), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_conflict_repeats_the_whole_batch() {
    let (world, ledger) = (World::new(), Ledger::applying());
    let service = failing(&world, &ledger, &[ErrorKind::Aborted, ErrorKind::Aborted]);
    settle(&service, [delivery(&Paid::new("a", 1), 0), delivery(&Paid::new("a", 2), 1)]).await.unwrap();
    assert_eq!(world.applied("a"), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_in_a_handler_repeats_the_whole_batch_before_it_is_cut() {
    let world = World::new();
    let conflicts = std::sync::atomic::AtomicU32::new(0);
    let ledger = Ledger::new(move |_, seq, _| {
        let is_lost = seq == 2 && conflicts.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 2;
        if is_lost { Act::Fail(ErrorKind::Aborted) } else { Act::Apply }
    });
    let service = world.inbox(&ledger, policy());
    settle(&service, [1, 2, 3].map(|seq| delivery(&Paid::new("a", seq), seq.into()))).await.unwrap();
    assert_eq!(world.applied("a"), [1, 2, 3]);
    assert_eq!((ledger.call_count("a", 1), ledger.call_count("a", 3)), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_hangs_is_a_failure_and_holds_up_its_lane_only_so_long() {
    let world = World::new();
    let never = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let ledger = Ledger::new(move |_, seq, _| if seq == 1 { Act::Wait(never.clone()) } else { Act::Apply });
    let service = world.inbox(&ledger, strict().with_handler_timeout(Duration::from_secs(2)));
    settle(&service, [delivery(&Paid::new("a", 1), 0), delivery(&Paid::new("a", 2), 1)]).await.unwrap();
    assert_eq!(world.applied("a"), [2]);
    assert_eq!(letters(&world).await[0].kind, ErrorKind::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn a_row_that_became_a_held_dead_letter_is_not_tried_by_who_read_it_before() {
    let world = World::new();
    // Parked at its first failure. Of two that try it then, the first is told that it fails for
    // good, the second that it fails for now.
    let calls = std::sync::atomic::AtomicU32::new(0);
    let ledger = Ledger::new(move |_, _, _| match calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        0 | 2 => Act::Fail(ErrorKind::Unavailable),
        1 => Act::Fail(ErrorKind::FailedPrecondition),
        _ => Act::Apply,
    });
    let none = RetryPolicy { retry_count_max: 0, ..RetryPolicy::default() };
    let delays = [Duration::ZERO, Duration::from_secs(10), Duration::from_secs(10)];
    let policy = policy().with_immediate(none).with_delayed(delays);
    let service = world.inbox(&ledger, policy.with_after_dead_letter(AfterDeadLetter::ParkKey));
    settle(&service, [delivery(&Paid::new("a", 1), 0)]).await.unwrap();
    // Both read the row before either has its turn.
    let turn = world.database.transactions().begin().await.unwrap();
    let (first, second, ()) = tokio::join!(service.retry_due(), service.retry_due(), async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        turn.rollback().await.unwrap();
    });
    first.and(second).unwrap();
    assert_eq!(ledger.call_count("a", 1), 3);
    assert_eq!(letters(&world).await.len(), 1);
    tokio::time::sleep(Duration::from_secs(60)).await;
    service.retry_due().await.unwrap();
    assert!(world.applied("a").is_empty(), "a dead letter was tried again: replaying it would apply it twice");
    assert!(service.dead_letters().replay(&letters(&world).await[0].event_id).await.unwrap());
    assert_eq!(world.applied("a"), [1]);
}
