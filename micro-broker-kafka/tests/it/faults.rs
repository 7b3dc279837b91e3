//! Servers that die, freeze or refuse: what is acknowledged is there, nothing hangs, and it goes on
//! by itself.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures_util::poll;
use micro_broker_kafka::{KafkaBroker, KafkaConfig};
use micro_core::{
    ErrorKind,
    broker::{Broker, Message, SubscribeRequest, SubscriptionEvent},
};
use micro_testkit::{Fixture, Missing, eventually, unique};
use rdkafka::{
    mocking::MockCluster,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use tokio::time::timeout;

use crate::{
    heard,
    world::{OwnKafka, PATIENCE, Reader, bodies, new_topic, numbers, publish, ready},
};

/// Publishes the numbers of each key one after the other, each until it has its receipt: what an
/// outbox does.
async fn publish_like_a_relay(broker: &KafkaBroker, topic: &str, key: &str, count: usize) {
    for number in 0..count {
        // Long: a server that was killed takes its time on a busy machine.
        eventually(PATIENCE * 4, "a message gets its receipt", || async {
            let message = Message::keyed(topic, key.to_owned(), number.to_string());
            let result = broker.publish(vec![message]).await.pop().expect("one result");
            assert!(result.as_ref().map_or_else(|error| error.is_retryable(), |_| true), "{result:?}");
            result
        })
        .await;
    }
}

/// Reads until each key has so many different numbers, and answers them in the order they first
/// came.
async fn read_by_key(reader: Reader, keys: usize, count: usize) -> BTreeMap<String, Vec<usize>> {
    let mut by_key: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    while by_key.len() < keys || by_key.values().any(|numbers| numbers.len() < count) {
        let Some(SubscriptionEvent::Batch(batch)) = reader.0.next().await else { continue };
        for delivery in batch {
            let key = String::from_utf8(delivery.message.key.clone().unwrap().to_vec()).unwrap();
            let number = std::str::from_utf8(&delivery.message.body).unwrap().parse().unwrap();
            let numbers = by_key.entry(key).or_default();
            if !numbers.contains(&number) {
                numbers.push(number);
            }
        }
    }
    by_key
}

/// Three times `kill -9`, then three times a freeze, while twenty keys are published.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_or_frozen_kafka_loses_nothing_acknowledged_and_keeps_the_order_of_each_key() {
    const KEY_COUNT: usize = 20;
    const COUNT: usize = 400;
    let mut kafka = ready!(OwnKafka);
    let mut config = kafka.config.clone();
    config.delivery_timeout = Duration::from_secs(3);
    let broker = KafkaBroker::connect(config).await.unwrap();
    let topic = new_topic(&broker, 4).await;
    let publishers: Vec<_> = (0..KEY_COUNT)
        .map(|key| {
            let (broker, topic) = (broker.clone(), topic.clone());
            tokio::spawn(async move { publish_like_a_relay(&broker, &topic, &key.to_string(), COUNT).await })
        })
        .collect();
    // It joins before the first kill: what it does afterwards is the client's own.
    let reader = Reader::join(&broker, &unique("judge"), &topic).await;
    let reading = tokio::spawn(read_by_key(reader, KEY_COUNT, COUNT));
    let mut server = kafka.server;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        server = tokio::task::spawn_blocking(move || {
            server.kill();
            server.restart().expect("Kafka comes back");
            server
        })
        .await
        .unwrap();
    }
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.pause();
        // Longer than the delivery timeout: the client gives up what is under way.
        tokio::time::sleep(Duration::from_millis(3_500)).await;
        server.resume();
    }
    kafka.server = server;
    for publisher in publishers {
        publisher.await.unwrap();
    }
    let by_key = timeout(PATIENCE * 4, reading).await.expect("everything acknowledged is there").unwrap();
    let in_order: Vec<usize> = (0..COUNT).collect();
    for (key, numbers) in by_key {
        assert_eq!(numbers, in_order, "key {key}");
    }
}

/// A subscription outlives its broker's restart: an error that is not fatal ends nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_that_is_not_fatal_does_not_end_the_subscription() {
    let mut kafka = ready!(OwnKafka);
    let mut config = kafka.config.clone();
    // A coordinator that has just come up takes its time to let a member go.
    config.close_timeout = Duration::from_secs(20);
    let broker = KafkaBroker::connect(config).await.unwrap();
    let (topic, group) = (new_topic(&broker, 2).await, unique("group"));
    publish(&broker, &topic, "a", &numbers(0..5)).await;
    let reader = Reader::join(&broker, &group, &topic).await;
    reader.ack(&reader.take(5).await).await;
    kafka.server.kill();
    let killed_at = Instant::now();
    heard::line_of(&group, "no broker can be reached").await;
    kafka.server.restart().unwrap();
    publish(&broker, &topic, "a", &numbers(5..10)).await;
    let after = reader.take(5).await;
    let new: Vec<_> = bodies(&after).into_iter().filter(|body| body.parse::<usize>().unwrap() >= 5).collect();
    assert!(!new.is_empty() || bodies(&reader.take(5).await) == numbers(5..10));
    // While it was away the client complained every ten seconds, of two things, not all the time.
    let complaints = heard::lines_of(&group, "no broker can be reached").len() as u64;
    assert!(complaints <= 4 + 2 * (killed_at.elapsed().as_secs() / 10), "{complaints} complaints");
    reader.close().await;
}

/// While the broker is frozen the session runs out: what is in hand is void, nothing of it is
/// committed, and it comes again.
#[tokio::test(flavor = "multi_thread")]
async fn an_assignment_that_was_lost_is_told_and_commits_nothing() {
    let kafka = ready!(OwnKafka);
    let mut config = kafka.config.clone();
    config.session_timeout = Duration::from_secs(2);
    config.commit_interval = Duration::from_secs(3_600);
    let broker = KafkaBroker::connect(config).await.unwrap();
    let (topic, group) = (new_topic(&broker, 1).await, unique("group"));
    publish(&broker, &topic, "a", &numbers(0..5)).await;
    let reader = Reader::join(&broker, &group, &topic).await;
    let in_hand = reader.take(5).await;
    kafka.server.pause();
    let notice = timeout(PATIENCE, reader.notice()).await;
    // An ack of what is lost is ignored, as is everything of it that was acked before.
    reader.ack(&in_hand).await;
    kafka.server.resume();
    let SubscriptionEvent::Lost(lost) = notice.expect("the session runs out") else { panic!("expected a loss") };
    assert_eq!(lost, [in_hand[0].topic_partition()]);
    assert_eq!(bodies(&reader.take(5).await), numbers(0..5), "it comes again");
    assert_eq!(broker.lag(&*group, [&*topic]).await.unwrap()[0].committed, None);
    reader.close().await;
}

/// Publish, flush, subscribe and close against a broker that does not answer: each ends at its
/// deadline, and the one worker of this runtime is never blocked meanwhile.
#[tokio::test(flavor = "current_thread")]
async fn a_frozen_broker_blocks_no_worker_and_nothing_waits_for_ever() {
    const LIMIT: Duration = Duration::from_secs(8);
    let kafka = ready!(OwnKafka);
    let mut config = kafka.config.clone();
    config.delivery_timeout = LIMIT;
    config.connect_timeout = LIMIT;
    config.close_timeout = LIMIT;
    let broker = KafkaBroker::connect(config.clone()).await.unwrap();
    let topic = new_topic(&broker, 1).await;
    publish(&broker, &topic, "a", &numbers(0..5)).await;
    let reader = Reader::join(&broker, &unique("group"), &topic).await;
    reader.ack(&reader.take(5).await).await;

    kafka.server.pause();
    let began = Instant::now();
    let work = async {
        let publish = broker.publish(vec![Message::keyed(&*topic, "a", "body")]);
        let flush = broker.flush(LIMIT / 3);
        let subscribe = broker.subscribe(SubscribeRequest::new("other", [&*topic]));
        let connect = KafkaBroker::connect(config.clone());
        let lag = broker.lag("other", [&*topic]);
        let (published, flushed, subscribed, connected, lag, closed) =
            tokio::join!(publish, flush, subscribe, connect, lag, reader.0.close());
        assert_eq!(published[0].as_ref().unwrap_err().kind(), ErrorKind::DeadlineExceeded, "{published:?}");
        let flushed = flushed.unwrap_err();
        assert_eq!(flushed.kind(), ErrorKind::DeadlineExceeded);
        assert!(flushed.report().contains("unsettled=1"), "{}", flushed.report());
        assert!(subscribed.err().unwrap().is_retryable());
        assert!(lag.unwrap_err().is_retryable());
        assert_eq!(connected.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(closed.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    };
    let mut longest = Duration::ZERO;
    let watch = async {
        loop {
            let at = Instant::now();
            tokio::time::sleep(Duration::from_millis(5)).await;
            longest = longest.max(at.elapsed());
        }
    };
    tokio::select! {
        () = work => {}
        () = watch => {}
        () = tokio::time::sleep(PATIENCE) => panic!("not within {PATIENCE:?}"),
    }
    assert!(began.elapsed() < 5 * LIMIT, "{:?}", began.elapsed());
    // What blocks is blocked for the whole of its limit.
    assert!(longest < LIMIT * 3 / 4, "a worker was blocked for {longest:?}");
    kafka.server.resume();
}

/// Leaving a group whose coordinator is gone, with deliveries in hand, ends, and ends without a crash:
/// at once after the kill, when the member knows of it, and when it is dropped without a close. What
/// was in hand comes to the next member.
#[tokio::test(flavor = "multi_thread")]
async fn closing_while_the_broker_is_dead_ends_at_its_deadline() {
    let mut kafka = ready!(OwnKafka);
    let mut config = kafka.config.clone();
    config.close_timeout = Duration::from_secs(3);
    // The next member waits for the end of one that could not leave.
    config.session_timeout = Duration::from_secs(2);
    let topic = new_topic(&KafkaBroker::connect(config.clone()).await.unwrap(), 1).await;
    for (is_noticed, is_closed) in [(false, true), (true, true), (true, false)] {
        let broker = KafkaBroker::connect(config.clone()).await.unwrap();
        publish(&broker, &topic, "a", &numbers(0..5)).await;
        let group = unique("group");
        let reader = Reader::join(&broker, &group, &topic).await;
        let in_hand = reader.take(5).await;
        reader.ack(&in_hand[..3]).await;
        kafka.server.kill();
        if is_noticed {
            heard::line_of(&group, "no broker can be reached").await;
        }
        let began = Instant::now();
        if is_closed {
            // Whether it can leave or not depends on how far the client noticed.
            drop(timeout(PATIENCE, reader.0.close()).await.expect("close answers"));
            assert!(reader.0.next().await.is_none());
        }
        // The producer has a message under way when its last handle goes.
        assert!(poll!(broker.publish(vec![Message::keyed(&*topic, "a", "late")])).is_pending());
        drop((reader, broker));
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        kafka.server.restart().unwrap();

        let broker = KafkaBroker::connect(config.clone()).await.unwrap();
        // Of a server that has just come up the topic may have no leader yet.
        let request = SubscribeRequest::new(&*group, [&*topic]);
        let next = Reader(eventually(PATIENCE, "a member joins", || broker.subscribe(request.clone())).await);
        let mut left: Vec<i64> = in_hand[3..].iter().map(|delivery| delivery.offset).collect();
        while !left.is_empty() {
            let again = next.take(1).await;
            left.retain(|offset| again.iter().all(|delivery| delivery.offset != *offset));
        }
        next.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_not_there_is_one_line_with_address_and_cause_in_time() {
    for (servers, cause) in [("127.0.0.1:1", "refused"), ("no-such-host.invalid:9092", "resolve")] {
        let mut config = KafkaConfig::new(servers);
        config.connect_timeout = Duration::from_secs(4);
        let began = Instant::now();
        let error = KafkaBroker::connect(config).await.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let text = error.report();
        assert!(text.contains("Kafka") && text.contains(servers) && text.contains("check"), "{text}");
        assert!(text.to_lowercase().contains(cause) && !text.contains('\n'), "{text}");
    }
}

/// A code that no real broker gives at will: the producer is over, a new one takes its place.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_fatal_error_a_new_producer_sends() {
    heard::listen();
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("topic", 2, 1).unwrap();
    let mut config = KafkaConfig::new(cluster.bootstrap_servers());
    config.delivery_timeout = Duration::from_secs(10);
    let broker = KafkaBroker::connect(config).await.unwrap();
    publish(&broker, "topic", "a", &numbers(0..3)).await;
    // The broker lost the producer's sequence: nothing the producer could mend.
    cluster
        .request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER; 1]);
    let mut failure_count = 0;
    let sent = async {
        loop {
            let result = broker.publish(vec![Message::keyed("topic", "a", "3")]).await.pop().unwrap();
            match result {
                Ok(_) => return,
                Err(error) => {
                    assert!(error.is_retryable(), "{error:?}");
                    failure_count += 1;
                }
            }
        }
    };
    timeout(PATIENCE, sent).await.expect("the new producer sends");
    publish(&broker, "topic", "a", &numbers(4..6)).await;
    assert!(failure_count > 0, "the fault was met");
    heard::line_of("producer's session ended", "").await;
}

/// Commits that the coordinator refuses are made up for.
#[tokio::test(flavor = "multi_thread")]
async fn positions_that_the_coordinator_refused_are_committed_again() {
    heard::listen();
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("topic", 1, 1).unwrap();
    let mut config = KafkaConfig::new(cluster.bootstrap_servers());
    config.commit_interval = Duration::from_millis(100);
    // The mock cluster has no cooperative rebalance.
    config.assignment = micro_broker_kafka::Assignment::Range;
    let broker = KafkaBroker::connect(config).await.unwrap();
    publish(&broker, "topic", "a", &numbers(0..5)).await;
    let reader = Reader::join(&broker, "group", "topic").await;
    let mut acked = reader.take(5).await;
    for error in [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION,
    ] {
        cluster.request_errors(RDKafkaApiKey::OffsetCommit, &[error]);
        reader.ack(&acked).await;
        let end = acked.last().unwrap().offset + 1;
        let committed = eventually(PATIENCE, "the position is committed after all", || async {
            let lag = broker.lag("group", ["topic"]).await.unwrap();
            (lag[0].committed == Some(end)).then_some(()).ok_or(lag)
        });
        // Some errors make the member join anew: then what was acked comes again and is acked again.
        let ack_again = async {
            loop {
                if let SubscriptionEvent::Batch(batch) = reader.next().await {
                    reader.ack(&batch).await;
                }
            }
        };
        tokio::select! {
            () = committed => {}
            () = ack_again => {}
        }
        cluster.clear_request_errors(RDKafkaApiKey::OffsetCommit);
        publish(&broker, "topic", "a", &numbers(0..1)).await;
        acked = reader.take(1).await;
        assert!(acked[0].offset >= end, "what is committed does not come again: {acked:?}");
    }
}

const SASL: &[(&str, &str)] = &[
    ("listeners", "SASL_PLAINTEXT://127.0.0.1:${port},CONTROLLER://127.0.0.1:${other}"),
    ("advertised.listeners", "SASL_PLAINTEXT://127.0.0.1:${port}"),
    ("inter.broker.listener.name", "SASL_PLAINTEXT"),
    ("sasl.enabled.mechanisms", "PLAIN"),
    ("sasl.mechanism.inter.broker.protocol", "PLAIN"),
    (
        "listener.name.sasl_plaintext.plain.sasl.jaas.config",
        "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"admin\" password=\"admin\" \
         user_admin=\"admin\" user_order=\"right-4711\";",
    ),
];

/// A server that knows the users `admin` and `order`.
struct SaslKafka(OwnKafka);

impl Fixture for SaslKafka {
    async fn start() -> Result<Self, Missing> {
        OwnKafka::start_with(SASL).map(Self)
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_unauthenticated_and_shown_nowhere() {
    let SaslKafka(kafka) = ready!(SaslKafka);
    let servers = &kafka.config.servers;
    let right = format!("kafka://order:right-4711@{servers}");
    let broker = KafkaBroker::connect_url(&right).await.unwrap();
    let topic = new_topic(&broker, 1).await;
    publish(&broker, &topic, "a", &numbers(0..1)).await;
    let reader = Reader::join(&broker, &unique("group"), &topic).await;
    assert_eq!(bodies(&reader.take(1).await), numbers(0..1));
    reader.close().await;

    let began = Instant::now();
    let wrong = format!("kafka://order:canary-4711@{servers}?connect_timeout_ms=60000");
    let error = KafkaBroker::connect_url(&wrong).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");
    // Soon, and not only when the time to connect is over.
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(!format!("{error:?} {}", error.report()).contains("canary-4711"), "{error:?}");
    assert!(!format!("{broker:?}").contains("right-4711"));
    for secret in ["canary-4711", "right-4711"] {
        assert!(heard::lines_of(secret, "").is_empty(), "{:?}", heard::lines_of(secret, ""));
    }
}
