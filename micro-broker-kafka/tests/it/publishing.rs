//! What publishing promises beside the port's suite: limits, faults of one message, partitions.

use std::{
    ffi::OsString,
    io::Write as _,
    os::unix::ffi::OsStringExt as _,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::poll;
use micro_broker_kafka::{Compression, KafkaBroker, KafkaConfig, Partitioner, TopicSpec};
use micro_core::{
    ErrorKind, Health, TransactionManager as _,
    app::Component as _,
    broker::{Broker, Message, SubscribeRequest, fnv1a_partition},
    outbox::{OutboxCounts, OutboxStore as _, Relay},
    transaction::MemoryDatabase,
};
use micro_testkit::{Fixture, Missing, eventually, unique};
use tokio::time::timeout;

use crate::world::{
    KafkaFixture, OwnKafka, PATIENCE, Reader, bodies, delete_topic, new_topic, numbers, publish, ready,
};

/// What does not fit is refused at once, and nothing behind it in the call takes the place that
/// becomes free.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_the_rest_of_the_call_in_order() {
    let kafka = ready!(KafkaFixture);
    let mut config = kafka.config.clone();
    config.queue_count_max = 50;
    let broker = KafkaBroker::connect(config).await.unwrap();
    let topic = new_topic(&broker, 1).await;
    let mut expected = Vec::new();
    let mut refused_count = 0;
    for round in 0..5 {
        let bodies: Vec<String> = (0..500).map(|number| format!("{round}-{number}")).collect();
        let messages = bodies.iter().map(|body| Message::keyed(&*topic, "a", body.clone())).collect();
        let began = Instant::now();
        let results = broker.publish(messages).await;
        assert!(began.elapsed() < Duration::from_secs(15), "nothing waits for a place: {:?}", began.elapsed());
        let taken_count = results.iter().take_while(|result| result.is_ok()).count();
        assert!(round > 0 || taken_count >= 50, "{taken_count} of the first call");
        for result in &results[taken_count..] {
            assert_eq!(result.as_ref().unwrap_err().kind(), ErrorKind::ResourceExhausted);
        }
        refused_count += results.len() - taken_count;
        expected.extend_from_slice(&bodies[..taken_count]);
    }
    assert!(refused_count > 0, "the queue was full at least once");
    let reader = Reader::join(&broker, &unique("group"), &topic).await;
    assert_eq!(bodies(&reader.take(expected.len()).await), expected);
}

/// The queue is what callers wait in while Kafka stalls: none of them is refused, and each key keeps
/// its order.
#[tokio::test(flavor = "multi_thread")]
async fn a_short_stall_is_waited_out_in_the_queue() {
    const STALL: Duration = Duration::from_secs(2);
    let kafka = ready!(OwnKafka);
    let broker = KafkaBroker::connect(kafka.config.clone()).await.unwrap();
    let topic = new_topic(&broker, 1).await;
    publish(&broker, &topic, "a", &numbers(0..1)).await;
    kafka.server.pause();
    let began = Instant::now();
    let mut calls: Vec<_> =
        (1..201).map(|number| broker.publish(vec![Message::keyed(&*topic, "a", number.to_string())])).collect();
    for call in &mut calls {
        assert!(poll!(call).is_pending(), "nothing has its receipt, and nothing is refused");
    }
    tokio::time::sleep(STALL).await;
    kafka.server.resume();
    for call in calls {
        let result = timeout(PATIENCE, call).await.expect("publish answers").pop().expect("one result");
        result.expect("what was taken is sent");
    }
    assert!(began.elapsed() >= STALL);
    let reader = Reader::join(&broker, &unique("group"), &topic).await;
    assert_eq!(bodies(&reader.take(201).await), numbers(0..201));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_large_fails_alone_and_at_once() {
    let kafka = ready!(KafkaFixture);
    let topic = unique("topic");
    let spec = TopicSpec::new(&*topic, 1).with_setting("max.message.bytes", "2000");
    kafka.broker.create_topics(&[spec]).await.unwrap();
    // The first is refused by the client, the second by the broker. Incompressible.
    let noise = |count: usize| (0..count).map(|_| fastrand::u8(..)).collect::<Vec<u8>>();
    for body in [noise(1_100_000), noise(5_000)] {
        let began = Instant::now();
        let large = Message::keyed(&*topic, "a", body);
        let before = kafka.broker.publish(vec![Message::keyed(&*topic, "b", "small")]).await;
        let results = kafka.broker.publish(vec![large]).await;
        let after = kafka.broker.publish(vec![Message::keyed(&*topic, "a", "small")]).await;
        assert!(before[0].is_ok() && after[0].is_ok(), "{before:?} {after:?}");
        let error = results[0].as_ref().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error:?}");
        assert!(error.report().contains("larger") && error.report().contains(&topic), "{}", error.report());
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_to_no_topic_fails_within_seconds_while_other_keys_go_on() {
    let kafka = ready!(KafkaFixture);
    let mut config = kafka.config.clone();
    // Others are to go on within this time.
    config.topic_wait = Duration::from_secs(6);
    let broker = KafkaBroker::connect(config).await.unwrap();
    let (topic, missing) = (new_topic(&broker, 2).await, unique("missing"));
    let began = Instant::now();
    let mut lost = broker.publish(vec![Message::keyed(&*missing, "a", "body")]);
    assert!(poll!(&mut lost).is_pending());
    publish(&broker, &topic, "b", &numbers(0..5)).await;
    assert!(poll!(&mut lost).is_pending(), "others do not wait for it");
    let lost = lost.await;
    let error = lost[0].as_ref().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error:?}");
    assert!(error.report().contains(&missing), "{}", error.report());
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
}

/// A broker that is starting does not know its topics yet: to one that this process has seen, as
/// here by creating it, a message is tried again and not set aside.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_to_a_topic_that_was_there_is_not_refused_for_good() {
    let kafka = ready!(KafkaFixture);
    for is_created_by_us in [true, false] {
        let topic = unique("gone");
        kafka.broker.create_topics(&[TopicSpec::new(&*topic, 1)]).await.unwrap();
        let broker = KafkaBroker::connect(kafka.config.clone()).await.unwrap();
        if is_created_by_us {
            broker.create_topics(&[TopicSpec::new(&*topic, 1)]).await.unwrap();
        } else {
            let request = SubscribeRequest::new(unique("group"), [&*topic]);
            broker.subscribe(request).await.unwrap().close().await.unwrap();
        }
        delete_topic(&kafka.config, &topic).await;
        // The brokers take leave of it in their own time: until then they take a message, or the
        // client loses one at the end of its session with a leader.
        let error = eventually(PATIENCE, "the brokers no longer know the topic", || async {
            let error = broker.publish(vec![Message::keyed(&*topic, "a", "body")]).await.remove(0).err()?;
            assert!(error.is_retryable(), "{error:?}");
            error.report().contains("knew before").then_some(error)
        })
        .await;
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    }
}

/// The relay sets aside what Kafka refuses for good, with its cause; other keys do not wait for it,
/// and the key of one that was refused goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_parks_what_kafka_refuses_for_good_while_other_keys_go_on() {
    let kafka = ready!(KafkaFixture);
    let mut config = kafka.config.clone();
    // Others are to arrive within this time.
    config.topic_wait = Duration::from_secs(15);
    let broker = KafkaBroker::connect(config).await.unwrap();
    let (topic, missing) = (unique("topic"), unique("missing"));
    let spec = TopicSpec::new(&*topic, 2).with_setting("max.message.bytes", "2000");
    broker.create_topics(&[spec]).await.unwrap();
    let reader = Reader::join(&broker, &unique("group"), &topic).await;

    let database = MemoryDatabase::new();
    let outbox = database.outbox();
    let add = async |messages: Vec<Message>| {
        let mut tx = database.transactions().begin().await.unwrap();
        outbox.add(&mut tx, &messages).await.unwrap();
        tx.commit().await.unwrap();
    };
    let others = |range| numbers(range).into_iter().map(|key| Message::keyed(&*topic, key.clone(), key));
    // Incompressible.
    let large: Vec<u8> = (0..5_000).map(|_| fastrand::u8(..)).collect();
    let mut first = vec![
        Message::keyed(&*missing, "a", "nowhere"),
        Message::keyed(&*topic, "b", large),
        Message::keyed(&*topic, "b", "behind it"),
    ];
    first.extend(others(0..20));
    add(first).await;
    let relay = Relay::builder(outbox.clone(), Arc::new(broker.clone())).build();
    relay.start(&Health::new()).await.unwrap();
    let began = Instant::now();
    let mut sent = Vec::new();
    let mut take_all = async |expected: &[String]| {
        while !expected.iter().all(|body| sent.contains(body)) {
            sent.extend(bodies(&reader.take(1).await));
        }
        sent.len()
    };
    take_all(&numbers(0..20)).await;
    add(others(20..40).collect()).await;
    take_all(&numbers(20..40)).await;
    assert!(began.elapsed() < Duration::from_secs(14), "nothing waits for the topic: {:?}", began.elapsed());

    eventually(PATIENCE, "both are parked", || async {
        let counts = outbox.counts().await.unwrap();
        if counts == (OutboxCounts { unsent: 0, parked: 2 }) { Ok(()) } else { Err(counts) }
    })
    .await;
    assert_eq!(take_all(&["behind it".to_owned()]).await, 41);
    let mut parked: Vec<(String, String)> =
        outbox.parked().into_iter().map(|(row, cause)| (row.message.topic.to_string(), cause)).collect();
    parked.sort();
    for ((name, cause), (topic, reason)) in parked.iter().zip([(&missing, "no such topic"), (&topic, "larger")]) {
        assert_eq!(name, topic);
        assert!(cause.contains(reason) && cause.contains(topic), "{cause}");
    }
    relay.drain(PATIENCE).await.unwrap();
    reader.close().await;
}

/// What was handed in is sent although nobody waits for it and the last handle is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_broker_sends_what_was_handed_in() {
    let kafka = ready!(KafkaFixture);
    let topic = new_topic(&kafka.broker, 1).await;
    let broker = KafkaBroker::connect(kafka.config.clone()).await.unwrap();
    {
        let messages = numbers(0..1_000).into_iter().map(|body| Message::keyed(&*topic, "a", body)).collect();
        let mut publish = broker.publish(messages);
        assert!(poll!(&mut publish).is_pending());
    }
    drop(broker);
    let reader = Reader::join(&kafka.broker, &unique("group"), &topic).await;
    assert_eq!(bodies(&reader.take(1_000).await), numbers(0..1_000));
}

/// Java's murmur2 of the keys of Kafka's own test (`UtilsTest.testMurmur2`).
const MURMUR2: [(&str, i32); 6] = [
    ("21", -973_932_308),
    ("foobar", -790_332_482),
    ("a-little-bit-long-string", -985_981_536),
    ("a-little-bit-longer-string", -1_486_304_829),
    ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
    ("abc", 479_470_107),
];

/// CRC-32 (IEEE): "123456789" is the check value of the catalogue of parametrised CRC algorithms,
/// the others are zlib's `crc32`.
const CRC32: [(&str, u32); 3] = [("123456789", 0xcbf4_3926), ("a", 0xe8b7_be43), ("abc", 0x3524_41c2)];

#[tokio::test(flavor = "multi_thread")]
async fn each_partitioner_sends_a_key_where_its_fleet_sends_it() {
    let kafka = ready!(KafkaFixture);
    for partition_count in [4_u32, 7, 8] {
        let topic = new_topic(&kafka.broker, partition_count).await;
        let count = i32::try_from(partition_count).unwrap();
        // Go's: of records that Go services wrote, and of any key.
        let mut fnv1a: Vec<(String, i32)> = numbers(0..300)
            .into_iter()
            .map(|key| (key.clone(), i32::try_from(fnv1a_partition(key.as_bytes(), partition_count)).unwrap()))
            .collect();
        match partition_count {
            4 => fnv1a.push(("2".to_owned(), 1)),
            8 => fnv1a.extend([("526".to_owned(), 0), ("319".to_owned(), 0)]),
            _ => {}
        }
        let murmur2 = MURMUR2.map(|(key, hash)| (key.to_owned(), (hash & i32::MAX) % count));
        let crc32 = CRC32.map(|(key, hash)| (key.to_owned(), i32::try_from(hash % partition_count).unwrap()));
        for (partitioner, expected) in [
            (Partitioner::Fnv1a, fnv1a),
            (Partitioner::Murmur2, murmur2.to_vec()),
            (Partitioner::Crc32, crc32.to_vec()),
        ] {
            let mut config: KafkaConfig = kafka.config.clone();
            config.partitioner = partitioner;
            let broker = KafkaBroker::connect(config).await.unwrap();
            let messages = expected.iter().map(|(key, _)| Message::keyed(&*topic, key.clone(), "")).collect();
            let receipts = broker.publish(messages).await;
            for ((key, partition), receipt) in expected.iter().zip(receipts) {
                assert_eq!(receipt.unwrap().partition, *partition, "{partitioner:?} of {key} among {partition_count}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_compression_arrives_as_it_was_sent() {
    let kafka = ready!(KafkaFixture);
    let topic = new_topic(&kafka.broker, 1).await;
    let all = [Compression::None, Compression::Lz4, Compression::Zstd, Compression::Gzip, Compression::Snappy];
    let body = "much the same ".repeat(500);
    for compression in all {
        let mut config = kafka.config.clone();
        config.compression = compression;
        let broker = KafkaBroker::connect(config).await.unwrap();
        publish(&broker, &topic, "a", &[format!("{compression:?} {body}")]).await;
    }
    let reader = Reader::join(&kafka.broker, &unique("group"), &topic).await;
    let expected = all.map(|compression| format!("{compression:?} {body}"));
    assert_eq!(bodies(&reader.take(all.len()).await), expected);
}

/// Whatever another program wrote: a header whose name is no text, a null value, no key, no body.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_any_bytes_is_received_and_ends_nothing() {
    let kafka = ready!(KafkaFixture);
    let _kcat = ready!(Kcat);
    let topic = new_topic(&kafka.broker, 1).await;
    let mut arguments: Vec<OsString> =
        ["-P", "-b", &kafka.config.servers, "-t", &topic, "-Z", "-K", ":"].map(OsString::from).to_vec();
    arguments.extend(["-H".into(), OsString::from_vec(b"na\xffme=value".to_vec()), "-H".into(), "kept=\u{fc}".into()]);
    let mut kcat = Command::new("kcat").args(arguments).stdin(Stdio::piped()).spawn().unwrap();
    kcat.stdin.take().unwrap().write_all(b"\xfe:\xfd\n:\n").unwrap();
    assert!(kcat.wait().unwrap().success());
    publish(&kafka.broker, &topic, "a", &numbers(0..1)).await;

    let reader = Reader::join(&kafka.broker, &unique("group"), &topic).await;
    let deliveries = reader.take(3).await;
    assert_eq!(deliveries[0].message.body, &b"\xfd"[..]);
    assert_eq!(deliveries[0].message.key.as_deref(), Some(&b"\xfe"[..]));
    let names: Vec<&str> = deliveries[0].message.headers.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["kept"], "a name that is no text has no place in the port's headers");
    assert_eq!(deliveries[1].message.body, "");
    assert_eq!(deliveries[2].message.body, "0");
}

/// A client that is not ours.
struct Kcat;

impl Fixture for Kcat {
    async fn start() -> Result<Self, Missing> {
        let found = || Command::new("kcat").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if found().is_err() {
            dev_servers::install_packages(&["kcat"]).map_err(Missing::new)?;
        }
        found().map(|_| Self).map_err(|error| Missing::new(format!("kcat, Debian's package of this name: {error}")))
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

/// What no topic can be called is refused alone: the cluster is not asked about it, and messages to
/// topics that come after it are sent.
#[tokio::test]
async fn a_name_that_no_topic_has_holds_up_no_other_topic() {
    let fixture = ready!(KafkaFixture);
    let broker = KafkaBroker::connect(fixture.config.clone()).await.unwrap();
    for wrong in ["", "a\0b", "no spaces", "."] {
        let topic = new_topic(&broker, 1).await;
        let messages = vec![Message::unkeyed(wrong, "body"), Message::unkeyed(&*topic, "body")];
        let results = tokio::time::timeout(PATIENCE, broker.publish(messages)).await.expect("publish answers");
        assert_eq!(results[0].as_ref().unwrap_err().kind(), ErrorKind::InvalidArgument, "{wrong:?}");
        assert!(results[1].is_ok(), "{wrong:?}: {results:?}");
    }
    tokio::time::timeout(PATIENCE, broker.flush(PATIENCE)).await.expect("flush answers").unwrap();
}
