//! How far a group is: what is committed, when, and what a log that lost it means.

use std::{collections::BTreeSet, time::Duration};

use micro_broker_kafka::{Assignment, KafkaBroker, KafkaConfig};
use micro_core::{
    ErrorKind,
    broker::{Broker, Position, SubscribeRequest, SubscriptionEvent},
};
use micro_testkit::{eventually, unique};
use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    mocking::MockCluster,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use tokio::time::{Instant, timeout_at};

use crate::{
    heard,
    world::{KafkaFixture, PATIENCE, Reader, bodies, new_topic, numbers, publish, ready},
};

/// Neither handing out nor a later position commits anything but what was acked, as it was acked.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_is_the_position_that_was_acked() {
    let kafka = ready!(KafkaFixture);
    let mut config = kafka.config.clone();
    config.commit_interval = Duration::from_millis(50);
    let broker = micro_broker_kafka::KafkaBroker::connect(config).await.unwrap();
    let (topic, group) = (new_topic(&broker, 1).await, unique("group"));
    publish(&broker, &topic, "a", &numbers(0..10)).await;
    let reader = Reader::join(&broker, &group, &topic).await;
    let deliveries = reader.take(10).await;
    let committed = async || broker.lag(&*group, [&*topic]).await.unwrap()[0].committed;

    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(committed().await, None, "handed out is not done");
    reader.ack(&deliveries[..4]).await;
    eventually(PATIENCE, "the acked position is committed", || async { committed().await == Some(4) }).await;
    // Backwards, and above what was handed out: neither moves anything.
    for next_offset in [2, 11] {
        let partition = deliveries[0].topic_partition();
        reader.0.ack(Position { partition, next_offset }).await.unwrap();
    }
    reader.close().await;
    let lag = broker.lag(&*group, [&*topic]).await.unwrap();
    assert_eq!((lag[0].committed, lag[0].end, lag[0].lag), (Some(4), 10, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_commits_what_was_acked_a_moment_ago() {
    let kafka = ready!(KafkaFixture);
    let mut config: KafkaConfig = kafka.config.clone();
    config.commit_interval = Duration::from_secs(3_600);
    let broker = micro_broker_kafka::KafkaBroker::connect(config).await.unwrap();
    let (topic, group) = (new_topic(&broker, 1).await, unique("group"));
    publish(&broker, &topic, "a", &numbers(0..3)).await;
    let reader = Reader::join(&broker, &group, &topic).await;
    let deliveries = reader.take(3).await;
    reader.ack(&deliveries).await;
    reader.close().await;
    assert_eq!(broker.lag(&*group, [&*topic]).await.unwrap()[0].committed, Some(3));
}

/// The client commits of its own accord when partitions go, namely what it was told last: positions
/// must not fall back to that.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_go_never_take_a_committed_position_back() {
    let kafka = ready!(KafkaFixture);
    let mut config = kafka.config.clone();
    // Each rebalance takes everything away.
    config.assignment = Assignment::Range;
    let broker = &KafkaBroker::connect(config).await.unwrap();
    let (topic, group) = (new_topic(broker, 1).await, unique("group"));
    publish(broker, &topic, "a", &numbers(0..10)).await;
    let committed = async || broker.lag(&*group, [&*topic]).await.unwrap()[0].committed;

    // At a close.
    let reader = Reader::join(broker, &group, &topic).await;
    let deliveries = reader.take(10).await;
    reader.ack(&deliveries[..2]).await;
    // The client has been told.
    eventually(PATIENCE, "it is committed", || async { committed().await == Some(2) }).await;
    reader.ack(&deliveries[..4]).await;
    reader.close().await;
    assert_eq!(committed().await, Some(4));

    // At a rebalance, with an ack right before the member lets go.
    let reader = Reader::join(broker, &group, &topic).await;
    let deliveries = reader.take(6).await;
    reader.ack(&deliveries[..2]).await;
    eventually(PATIENCE, "it is committed", || async { committed().await == Some(6) }).await;
    let other = Reader::join(broker, &group, &topic).await;
    let SubscriptionEvent::Revoked(_, guard) = reader.notice().await else { panic!("expected a revocation") };
    reader.ack(&deliveries[..4]).await;
    drop(guard);
    let again = tokio::select! { batch = reader.take(1) => batch, batch = other.take(1) => batch };
    assert_eq!(bodies(&again)[0], "8", "what was acked does not come again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_log_is_an_alarm_and_goes_on_at_its_earliest_message() {
    let kafka = ready!(KafkaFixture);
    let broker = &kafka.broker;
    let (topic, group) = (new_topic(broker, 1).await, unique("group"));
    publish(broker, &topic, "a", &numbers(0..20)).await;
    let reader = Reader::join(broker, &group, &topic).await;
    let deliveries = reader.take(20).await;
    reader.ack(&deliveries[..5]).await;
    reader.close().await;

    delete_below(&kafka.config, &topic, 12).await;
    let reader = Reader::join(broker, &group, &topic).await;
    let deliveries = reader.take(8).await;
    assert_eq!(bodies(&deliveries), numbers(12..20), "nothing that is there is skipped");
    let alarm = heard::line_of(&topic, "no longer holds the group's position").await;
    assert!(alarm.contains("missing_count=7") && alarm.starts_with("ERROR"), "{alarm}");
    reader.ack(&deliveries).await;
    reader.close().await;
    assert_eq!(broker.lag(&*group, [&*topic]).await.unwrap()[0].committed, Some(20));
}

/// The log moves away under a member that is behind: it is told that what it has is void.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_truncated_under_a_paused_member_is_an_alarm_too() {
    let kafka = ready!(KafkaFixture);
    let broker = &kafka.broker;
    let (topic, group) = (new_topic(broker, 1).await, unique("group"));
    publish(broker, &topic, "a", &numbers(0..1)).await;
    let reader = Reader::join(broker, &group, &topic).await;
    let first = reader.take(1).await;
    reader.0.pause(&[first[0].topic_partition()]).await.unwrap();
    // Until the client has stopped fetching.
    tokio::time::sleep(Duration::from_secs(3)).await;
    publish(broker, &topic, "a", &numbers(1..20)).await;
    delete_below(&kafka.config, &topic, 12).await;
    reader.0.resume(&[first[0].topic_partition()]).await.unwrap();

    let SubscriptionEvent::Lost(lost) = reader.notice().await else { panic!("expected the partition to be lost") };
    assert_eq!(lost, [first[0].topic_partition()]);
    assert_eq!(bodies(&reader.take(8).await), numbers(12..20));
    heard::line_of(&topic, "no longer holds the group's position").await;
}

/// A partition that nobody leads can tell no position: it holds up neither the recovery of another
/// one, whichever comes first, nor what the others deliver; and it is looked into when it is back.
/// With a leader taken away, which one server cannot do to itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_without_a_leader_holds_up_no_other_ones_recovery() {
    heard::listen();
    for (sick, moved) in [("a-sick", "b-moved"), ("b-sick", "a-moved")] {
        let cluster = MockCluster::new(1).unwrap();
        let topics = [sick, moved, "healthy"];
        topics.iter().for_each(|topic| cluster.create_topic(topic, 1, 1).unwrap());
        let mut config = KafkaConfig::new(cluster.bootstrap_servers());
        // The mock cluster has no cooperative rebalance.
        config.assignment = Assignment::Range;
        let broker = KafkaBroker::connect(config).await.unwrap();
        for topic in topics {
            publish(&broker, topic, "a", &numbers(0..1)).await;
        }
        let group = unique("group");
        // Both positions are ones that their logs never reached, as after a truncation.
        let servers = cluster.bootstrap_servers();
        for topic in [sick, moved] {
            let (servers, group) = (servers.clone(), group.clone());
            tokio::task::spawn_blocking(move || commit(&servers, &group, topic, 100)).await.unwrap();
        }
        cluster.partition_leader(sick, 0, None).unwrap();
        let request = SubscribeRequest::new(&*group, topics);
        let reader = Reader(broker.subscribe(request).await.unwrap());
        let end = Instant::now() + PATIENCE;
        let mut came = BTreeSet::new();
        let mut receive = async |count: usize, end: Instant| {
            while came.len() < count {
                let event = timeout_at(end, reader.0.next()).await;
                let event = event.unwrap_or_else(|_| panic!("{sick}: only {came:?} came")).unwrap();
                if let SubscriptionEvent::Batch(batch) = event {
                    came.extend(batch.iter().map(|delivery| delivery.message.topic.to_string()));
                }
            }
        };
        receive(2, end).await;
        let alarm = heard::line_of(&group, "no longer holds the group's position").await;
        assert!(alarm.contains(moved) && alarm.contains("position=100"), "{alarm}");

        // What is healthy is received while the sick one is looked into again and again.
        heard::line_of(&group, "not looked into").await;
        for number in 1..5 {
            publish(&broker, "healthy", "a", &numbers(number..number + 1)).await;
            // The sick one stays so meanwhile.
            let late = Instant::now() + Duration::from_secs(20);
            let next = async { while !matches!(reader.0.next().await.unwrap(), SubscriptionEvent::Batch(_)) {} };
            timeout_at(late, next).await.expect("a healthy partition delivers");
        }

        cluster.partition_leader(sick, 0, Some(1)).unwrap();
        receive(3, Instant::now() + PATIENCE).await;
        reader.close().await;
        let alarms = heard::lines_of(&group, "no longer holds the group's position");
        assert_eq!(alarms.len(), 2, "one a partition: {alarms:?}");
    }
}

/// With answers that a real coordinator gives while it moves, or while rights are changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_committed_position_that_was_not_read_is_asked_for_until_it_is() {
    const MOVES: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_COORDINATOR;
    const FORBIDS: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED;
    heard::listen();
    // The first answer is to this crate, the next one to the client, the others to those who ask again.
    for answers in [&[MOVES][..], &[MOVES; 2], &[FORBIDS; 4]] {
        let cluster = MockCluster::new(1).unwrap();
        ["done", "moved"].iter().for_each(|topic| cluster.create_topic(topic, 1, 1).unwrap());
        let mut config = KafkaConfig::new(cluster.bootstrap_servers());
        // The mock cluster has no cooperative rebalance.
        config.assignment = Assignment::Range;
        let broker = KafkaBroker::connect(config).await.unwrap();
        let group = unique("group");
        for (topic, position) in [("done", 5), ("moved", 100)] {
            publish(&broker, topic, "a", &numbers(0..5)).await;
            let (servers, group) = (cluster.bootstrap_servers(), group.clone());
            tokio::task::spawn_blocking(move || commit(&servers, &group, topic, position)).await.unwrap();
        }
        cluster.request_errors(RDKafkaApiKey::OffsetFetch, answers);
        let request = SubscribeRequest::new(&*group, ["done", "moved"]);
        let reader = Reader(broker.subscribe(request).await.unwrap());
        // What the log never reached begins again at its earliest message, and that alone.
        let mut came = reader.take(5).await;
        heard::line_of(&group, "no longer holds the group's position").await;
        publish(&broker, "done", "a", &numbers(5..6)).await;
        came.extend(reader.take(1).await);
        let came: Vec<_> = came.iter().map(|delivery| (&*delivery.message.topic, delivery.offset)).collect();
        let expected: Vec<_> = (0..5).map(|offset| ("moved", offset)).chain([("done", 5)]).collect();
        assert_eq!(came, expected, "{answers:?}");
        reader.close().await;
    }
}

fn commit(servers: &str, group: &str, topic: &str, offset: i64) {
    let mut config = rdkafka::ClientConfig::new();
    let client: BaseConsumer = config.set("bootstrap.servers", servers).set("group.id", group).create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(offset)).unwrap();
    client.commit(&list, CommitMode::Sync).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_missing_is_said_at_once() {
    let kafka = ready!(KafkaFixture);
    let topic = unique("missing");
    let error = kafka.broker.subscribe(SubscribeRequest::new("group", [&*topic])).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.report().contains(&topic), "{}", error.report());
    let error = kafka.broker.lag("group", [&*topic]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

async fn delete_below(config: &KafkaConfig, topic: &str, offset: i64) {
    let admin: AdminClient<DefaultClientContext> =
        rdkafka::ClientConfig::new().set("bootstrap.servers", &config.servers).create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(offset)).unwrap();
    admin.delete_records(&list, &AdminOptions::new()).await.expect("records are deleted");
    tokio::task::spawn_blocking(move || drop(admin)).await.unwrap();
}
