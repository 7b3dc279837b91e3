//! What a topic does not take is refused alone: its neighbours in librdkafka's batches are sent.

use std::{
    collections::BTreeMap,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use futures_util::{future::join_all, poll};
use micro_broker_kafka::{Compression, KafkaBroker, KafkaConfig, TopicSpec};
use micro_core::{
    ErrorKind, Health, Result, TransactionManager as _,
    app::Component as _,
    broker::{Broker, Message, Receipt},
    outbox::{OutboxCounts, OutboxStore as _, Relay},
    transaction::MemoryDatabase,
};
use micro_testkit::{eventually, unique};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier},
    client::DefaultClientContext,
};

use crate::world::{KafkaFixture, PATIENCE, Reader, ready};

const LIMIT: usize = 2_000;

/// A body of so many bytes that begins with its number; the rest cannot be compressed.
fn body_of(number: usize, bytes: usize) -> Vec<u8> {
    let mut body = format!("{number} ").into_bytes();
    body.extend(std::iter::repeat_with(|| fastrand::u8(..)).take(bytes));
    body
}

/// One in sixteen is too large, some are nearly so.
fn is_large(number: usize) -> bool {
    number % 16 == 9
}

fn mixed(topic: &str, numbers: std::ops::Range<usize>, key_count: usize) -> Vec<Message> {
    numbers
        .map(|number| {
            let bytes = [20, 300, 1_500][number % 3] + if is_large(number) { 4_000 } else { 0 };
            Message::keyed(topic, (number % key_count).to_string(), body_of(number, bytes))
        })
        .collect()
}

async fn limited_topic(broker: &KafkaBroker, partition_count: u32, limit: usize) -> String {
    let topic = unique("topic");
    let spec = TopicSpec::new(&*topic, partition_count).with_setting("max.message.bytes", limit.to_string());
    broker.create_topics(&[spec]).await.unwrap();
    topic
}

async fn lower_limit(config: &KafkaConfig, topic: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &config.servers).create().unwrap();
    let limit = LIMIT.to_string();
    let altered = AlterConfig::new(ResourceSpecifier::Topic(topic)).set("max.message.bytes", &limit);
    admin.alter_configs([&altered], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
}

/// Waits until the topic's leader goes by the new limit: it learns of it a little later.
async fn limit_is_in_force(broker: &KafkaBroker, topic: &str) {
    eventually(PATIENCE, "the limit is in force", || async {
        let large = Message::unkeyed(topic, body_of(usize::MAX, 4_000));
        broker.publish(vec![large]).await.remove(0).map_or(Ok(()), Err)
    })
    .await;
}

/// What arrived, by its number, key by key.
async fn arrived(broker: &KafkaBroker, topic: &str, count: usize) -> BTreeMap<String, Vec<usize>> {
    let reader = Reader::join(broker, &unique("group"), topic).await;
    let mut by_key = BTreeMap::<String, Vec<usize>>::new();
    let mut taken = 0;
    while taken < count {
        for delivery in reader.take(1).await {
            let Some(key) = &delivery.message.key else { continue };
            taken += 1;
            let key = String::from_utf8(key.to_vec()).unwrap();
            let number = delivery.message.body.split(|byte| *byte == b' ').next().unwrap();
            by_key.entry(key).or_default().push(std::str::from_utf8(number).unwrap().parse().unwrap());
        }
    }
    reader.close().await;
    by_key
}

fn small_by_key(count: usize, key_count: usize) -> BTreeMap<String, Vec<usize>> {
    let mut by_key = BTreeMap::<String, Vec<usize>>::new();
    for number in (0..count).filter(|number| !is_large(*number)) {
        by_key.entry((number % key_count).to_string()).or_default().push(number);
    }
    by_key
}

fn assert_exactly_the_large_are_refused(results: &[Result<Receipt>], first: usize) {
    for (index, result) in results.iter().enumerate() {
        let number = first + index;
        match result {
            Ok(_) => assert!(!is_large(number), "{number} was taken"),
            Err(error) => {
                assert!(is_large(number), "{number}: {}", error.report());
                assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{number}: {error:?}");
            }
        }
    }
}

/// Whether Kafka took so long to tell the topic's limit that the client went on without it, and met
/// the limit by surprise.
fn was_not_told(results: &[Result<Receipt>], began: Instant) -> bool {
    let is_aborted = |result: &Result<Receipt>| result.as_ref().is_err_and(|error| error.kind() == ErrorKind::Aborted);
    began.elapsed() >= Duration::from_secs(2) && results.iter().any(is_aborted)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_topic_does_not_take_takes_no_neighbour_along() {
    let kafka = ready!(KafkaFixture);
    for (compression, partition_count) in [(Compression::None, 1), (Compression::Lz4, 3)] {
        let mut config = kafka.config.clone();
        config.compression = compression;
        // In one call, and one a call, all under way at once.
        for size in [256, 1] {
            let (topic, results) = loop {
                // By a client that knows nothing of the topic.
                let topic = limited_topic(&kafka.broker, partition_count, LIMIT).await;
                let broker = KafkaBroker::connect(config.clone()).await.unwrap();
                let messages = mixed(&topic, 0..256, 8);
                let began = Instant::now();
                let calls = messages.chunks(size).map(|messages| broker.publish(messages.to_vec()));
                let results: Vec<_> = join_all(calls).await.into_iter().flatten().collect();
                if !was_not_told(&results, began) {
                    break (topic, results);
                }
            };
            assert_exactly_the_large_are_refused(&results, 0);
            assert_eq!(arrived(&kafka.broker, &topic, 240).await, small_by_key(256, 8), "{compression:?}");
        }
    }
}

/// A limit that was lowered is met by surprise, and so is one that may not be asked for.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_in_company_is_sent_again_alone() {
    let kafka = ready!(KafkaFixture);
    let broker = KafkaBroker::connect(kafka.config.clone()).await.unwrap();
    let topic = limited_topic(&broker, 3, 1_000_000).await;
    broker.publish(vec![Message::unkeyed(&*topic, "the topic is known")]).await.remove(0).unwrap();
    lower_limit(&kafka.config, &topic).await;
    limit_is_in_force(&kafka.broker, &topic).await;
    // Each of a key of its own, so that none is behind another. Twice: what was learned is kept.
    for first in [0, 256] {
        let results = broker.publish(mixed(&topic, first..first + 256, usize::MAX)).await;
        assert_exactly_the_large_are_refused(&results, first);
    }
    assert_eq!(arrived(&broker, &topic, 480).await, small_by_key(512, usize::MAX));
}

/// Where a later message of a key was in the next batch and has been taken, what was refused does
/// not follow it: the caller is told so.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_in_company_never_follows_a_later_message_of_its_key() {
    let kafka = ready!(KafkaFixture);
    let mut config = kafka.config.clone();
    // Some of these are refused, some not.
    config.properties.insert("batch.num.messages".to_owned(), "10".to_owned());
    let broker = KafkaBroker::connect(config).await.unwrap();
    let topic = limited_topic(&broker, 1, 1_000_000).await;
    broker.publish(vec![Message::unkeyed(&*topic, "the topic is known")]).await.remove(0).unwrap();
    lower_limit(&kafka.config, &topic).await;
    limit_is_in_force(&kafka.broker, &topic).await;
    let messages = (0..512).map(|number| {
        let bytes = if number == 100 { 4_000 } else { 20 };
        Message::keyed(&*topic, (number % 2).to_string(), body_of(number, bytes))
    });
    let results = broker.publish(messages.collect()).await;
    let mut sent = BTreeMap::<String, Vec<usize>>::new();
    let mut overtaken_count = 0;
    for (number, result) in results.into_iter().enumerate() {
        match result {
            Ok(_) => sent.entry((number % 2).to_string()).or_default().push(number),
            Err(error) if error.kind() == ErrorKind::Aborted => overtaken_count += 1,
            Err(error) => assert_eq!((number, error.kind()), (100, ErrorKind::InvalidArgument), "{}", error.report()),
        }
    }
    // The batch of the large one, no more.
    assert!(overtaken_count <= 10, "{overtaken_count}");
    assert_eq!(arrived(&broker, &topic, sent.values().map(Vec::len).sum()).await, sent);

    // From now on no batch is too large.
    let mut next = (2..).map(|round| round * 256);
    let (first, topic_is_known) = loop {
        let (first, began) = (next.next().unwrap(), Instant::now());
        let results = broker.publish(mixed(&topic, first..first + 256, 2)).await;
        if !was_not_told(&results, began) {
            break (first, results);
        }
    };
    assert_exactly_the_large_are_refused(&topic_is_known, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_a_topic_does_not_take_is_refused_without_its_neighbours() {
    let kafka = ready!(KafkaFixture);
    let broker = KafkaBroker::connect(kafka.config.clone()).await.unwrap();
    let topic = unique("topic");
    let spec = TopicSpec::new(&*topic, 1).with_setting("cleanup.policy", "compact");
    broker.create_topics(&[spec]).await.unwrap();
    let message = |number: usize| match number {
        70 => Message::unkeyed(&*topic, body_of(number, 20)),
        _ => Message::keyed(&*topic, number.to_string(), body_of(number, 20)),
    };
    let results = broker.publish((0..256).map(message).collect()).await;
    for (number, result) in results.iter().enumerate() {
        assert_eq!(result.is_err(), number == 70, "{number}: {result:?}");
    }
    let error = results[70].as_ref().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error:?}");
    assert!(error.report().contains("without a key"), "{}", error.report());
    let arrived = arrived(&broker, &topic, 255).await;
    assert_eq!(arrived.len(), 255);
}

/// `flush` and the end of the broker wait for what is sent again and for what waits behind it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_again_is_flushed_and_outlives_the_broker() {
    let kafka = ready!(KafkaFixture);
    for is_flushed in [true, false] {
        let broker = KafkaBroker::connect(kafka.config.clone()).await.unwrap();
        let topic = limited_topic(&broker, 1, 1_000_000).await;
        broker.publish(vec![Message::unkeyed(&*topic, "the topic is known")]).await.remove(0).unwrap();
        lower_limit(&kafka.config, &topic).await;
        limit_is_in_force(&kafka.broker, &topic).await;
        let mut publish = broker.publish(mixed(&topic, 0..256, usize::MAX));
        assert!(poll!(&mut publish).is_pending());
        if is_flushed {
            broker.flush(PATIENCE).await.unwrap();
            let Poll::Ready(results) = poll!(&mut publish) else { panic!("flush did not wait") };
            assert_exactly_the_large_are_refused(&results, 0);
        }
        drop(publish);
        drop(broker);
        assert_eq!(arrived(&kafka.broker, &topic, 240).await, small_by_key(256, usize::MAX));
    }
}

/// Also where a limit is met by surprise.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_parks_what_is_too_large_and_none_of_its_neighbours() {
    let kafka = ready!(KafkaFixture);
    let broker = KafkaBroker::connect(kafka.config.clone()).await.unwrap();
    let topic = limited_topic(&broker, 2, 1_000_000).await;
    broker.publish(vec![Message::unkeyed(&*topic, "the topic is known")]).await.remove(0).unwrap();
    lower_limit(&kafka.config, &topic).await;
    limit_is_in_force(&kafka.broker, &topic).await;

    let database = MemoryDatabase::new();
    let outbox = database.outbox();
    let mut tx = database.transactions().begin().await.unwrap();
    outbox.add(&mut tx, &mixed(&topic, 0..512, 64)).await.unwrap();
    tx.commit().await.unwrap();
    let relay = Relay::builder(outbox.clone(), Arc::new(broker.clone())).build();
    relay.start(&Health::new()).await.unwrap();
    eventually(PATIENCE, "only the large are parked", || async {
        let counts = outbox.counts().await.unwrap();
        if counts == (OutboxCounts { unsent: 0, parked: 32 }) { Ok(()) } else { Err(counts) }
    })
    .await;
    relay.drain(PATIENCE).await.unwrap();
    for (row, cause) in outbox.parked() {
        assert!(row.message.body.len() > LIMIT && cause.contains("larger"), "{cause}");
    }
    assert_eq!(arrived(&broker, &topic, 480).await, small_by_key(512, 64));
}
