//! Topics shared with go-micro v4: each reads what the other writes, keys and groups are the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Stdio,
    time::Duration,
};

use bytes::Bytes;
use micro_broker_kafka::{Assignment, KafkaBroker, KafkaConfig};
use micro_core::broker::{Broker, Delivery, Message, SubscriptionEvent, fnv1a_partition, header};
use micro_testkit::unique;
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::world::{KafkaFixture, PATIENCE, Reader, bodies, new_topic, ready};

/// go-micro with its Kafka plugin, in a process of its own; killed with the value.
struct GoPeer {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// What a Go subscriber was handed.
#[derive(Deserialize)]
struct Handed {
    header: BTreeMap<String, String>,
    body: String,
}

impl GoPeer {
    fn start(subcommand: &str, config: &KafkaConfig, arguments: &[&str]) -> Self {
        let program = dev_servers::go_peer().expect("the Go peer is built");
        let mut child = Command::new(program)
            .args([subcommand, "--kafka", &config.servers])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the Go peer starts");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        Self { child, lines }
    }

    /// The next result; go-micro's own log lines are passed over.
    async fn line(&mut self) -> String {
        timeout(PATIENCE, self.next_result()).await.expect("the Go peer says something")
    }

    async fn handed(&mut self) -> Handed {
        serde_json::from_str(&self.line().await).expect("a message as JSON")
    }

    async fn handed_within(&mut self, wait: Duration) -> Option<Handed> {
        let line = timeout(wait, self.next_result()).await.ok()?;
        Some(serde_json::from_str(&line).expect("a message as JSON"))
    }

    /// Ends it as a stop does: it leaves its group.
    async fn leave(mut self) {
        drop(self.child.stdin.take());
        let ended = timeout(PATIENCE, self.child.wait()).await.expect("the Go peer ends");
        assert!(ended.expect("its status").success());
    }

    /// Cancel safe, as the lines are.
    async fn next_result(&mut self) -> String {
        loop {
            let line = self.lines.next_line().await.expect("readable").expect("the Go peer goes on");
            if line.starts_with('{') {
                return line;
            }
            eprintln!("go-micro: {line}");
        }
    }
}

impl Handed {
    fn text(&self) -> String {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        String::from_utf8(STANDARD.decode(&self.body).expect("base64")).expect("UTF-8")
    }
}

/// A broker that writes envelopes, to everything.
async fn fleet_broker(fixture: &KafkaFixture) -> KafkaBroker {
    let mut config = fixture.config.clone();
    config.envelope_topics = vec!["*".to_owned()];
    config.assignment = Assignment::Range;
    KafkaBroker::connect(config).await.expect("the same server")
}

fn event(topic: &str, key: &str, body: String) -> Message {
    Message::keyed(topic, key.to_owned(), body)
        .with_header(header::EVENT_ID, unique("event"))
        .with_header(header::EVENT_TYPE, "OnPaymentSuccess")
        .with_header(header::CONTENT_TYPE, "application/grpc+proto")
        .with_header(header::TRACEPARENT, "00-11111111111111111111111111111111-b0e580f7b827f0ff-01")
}

fn offsets_by_key(deliveries: &[Delivery]) -> BTreeMap<Bytes, Vec<(i32, i64)>> {
    let mut by_key: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for delivery in deliveries {
        let key = delivery.message.key.clone().expect("a key");
        by_key.entry(key).or_default().push((delivery.partition, delivery.offset));
    }
    by_key
}

#[tokio::test]
async fn a_go_subscriber_is_handed_what_we_publish_with_headers_key_and_order() {
    let fixture = ready!(KafkaFixture);
    let broker = fleet_broker(&fixture).await;
    let topic = new_topic(&broker, 4).await;
    let messages: Vec<_> =
        (0..40).map(|number| event(&topic, &format!("key-{}", number % 4), number.to_string())).collect();
    assert!(broker.publish(messages.clone()).await.iter().all(Result::is_ok));
    let mut go =
        GoPeer::start("subscribe", &fixture.config, &["--topic", &topic, "--group", &unique("g"), "--count", "40"]);
    assert!(go.line().await.contains("subscribed"));
    let mut last_by_key = BTreeMap::new();
    for _ in 0..40 {
        let handed = go.handed().await;
        let number: usize = handed.text().parse().expect("the number that was sent");
        let sent = &messages[number];
        for (name, value) in sent.headers.iter() {
            assert_eq!(handed.header[name].as_bytes(), value, "{name}");
        }
        assert_eq!(handed.header["Micro-Topic"], topic);
        let key = handed.header["Pkey"].clone();
        assert_eq!(Some(key.as_bytes()), sent.key.as_deref());
        let last = last_by_key.insert(key, number);
        assert!(last.is_none_or(|last| last < number), "{number} came after {last:?}");
    }
}

#[tokio::test]
async fn a_go_subscriber_takes_our_native_records_where_their_bodies_are_json() {
    let fixture = ready!(KafkaFixture);
    let topic = new_topic(&fixture.broker, 1).await;
    let message = event(&topic, "k", r#"{"order_id":7}"#.to_owned());
    assert!(fixture.broker.publish(vec![message.clone()]).await[0].is_ok());
    let mut go = GoPeer::start("subscribe", &fixture.config, &["--topic", &topic, "--group", &unique("g")]);
    assert!(go.line().await.contains("subscribed"));
    let handed = go.handed().await;
    assert_eq!(handed.text(), r#"{"order_id":7}"#);
    assert_eq!(handed.header[header::EVENT_ID].as_bytes(), message.headers.get(header::EVENT_ID).unwrap());
}

/// As in go-micro: a proxy or a mirror may have added some.
#[tokio::test]
async fn a_records_own_headers_count_for_more_than_its_envelopes() {
    let fixture = ready!(KafkaFixture);
    let topic = new_topic(&fixture.broker, 1).await;
    let value = r#"{"Header":{"Event-Type":"old","Source":"go","Pkey":"of the envelope"},"Body":"aGk="}"#;
    let keyed = Message::keyed(&*topic, "of the record", value).with_header("event-type", "new");
    let unkeyed = Message::unkeyed(&*topic, value);
    assert!(fixture.broker.publish(vec![keyed, unkeyed]).await.iter().all(Result::is_ok));
    let reader = Reader::join(&fixture.broker, &unique("g"), &topic).await;
    let deliveries = reader.take(2).await;
    for (delivery, key, event_type) in
        [(&deliveries[0], "of the record", "new"), (&deliveries[1], "of the envelope", "old")]
    {
        assert_eq!(delivery.message.key.as_deref(), Some(key.as_bytes()));
        assert_eq!(delivery.message.headers.get_str(header::EVENT_TYPE), Some(event_type));
        assert_eq!(delivery.message.headers.get_str(header::SOURCE), Some("go"));
        assert_eq!(delivery.message.body, "hi");
    }
    reader.close().await;
}

/// Whoever may write to a topic can make such a record.
#[tokio::test]
async fn a_record_of_very_many_headers_is_handed_on_as_it_is_and_its_neighbour_follows() {
    let fixture = ready!(KafkaFixture);
    let topic = new_topic(&fixture.broker, 1).await;
    let members: Vec<_> = (0..40_000).map(|number| format!("\"e{number}\":\"\"")).collect();
    let value = format!("{{\"Header\":{{{}}},\"Body\":\"\"}}", members.join(","));
    let headers = (0..40_000).map(|number| (format!("r{number}"), Bytes::new())).collect();
    let message = Message { headers, ..Message::unkeyed(&*topic, value) };
    let sent = [message, Message::unkeyed(&*topic, "next")];
    for result in fixture.broker.publish(sent.to_vec()).await {
        result.expect("both fit into a batch");
    }
    let reader = Reader::join(&fixture.broker, &unique("g"), &topic).await;
    let received: Vec<_> = reader.take(2).await.into_iter().map(|delivery| delivery.message).collect();
    // Not compared with `assert_eq`: it would print a megabyte.
    assert!(received == sent);
    reader.close().await;
}

#[tokio::test]
async fn we_read_what_go_publishes_and_a_key_has_one_partition_for_both() {
    let fixture = ready!(KafkaFixture);
    let fleet = fleet_broker(&fixture).await;
    let topic = new_topic(&fleet, 8).await;
    let arguments = ["--topic", &topic, "--count", "64", "--keys", "16", "--header", "Event-Type=OnHello"];
    assert!(GoPeer::start("publish", &fixture.config, &arguments).line().await.contains("64"));
    // Ours in both forms, of the same keys.
    let ours: Vec<_> = (0..16).map(|key| event(&topic, &format!("key-{key}"), "ours".to_owned())).collect();
    for broker in [&fleet, &fixture.broker] {
        assert!(broker.publish(ours.clone()).await.iter().all(Result::is_ok));
    }

    let reader = Reader::join(&fixture.broker, &unique("g"), &topic).await;
    let deliveries = reader.take(96).await;
    let mut of_go: Vec<_> = deliveries.iter().filter(|delivery| delivery.message.body != "ours").collect();
    of_go.sort_by_key(|delivery| String::from_utf8_lossy(&delivery.message.body).parse::<usize>().expect("its number"));
    assert_eq!(of_go.len(), 64);
    for (number, delivery) in of_go.iter().enumerate() {
        let Message { key, headers, body, .. } = &delivery.message;
        assert_eq!(*body, number.to_string());
        assert_eq!(key.as_deref(), Some(format!("key-{}", number % 16).as_bytes()));
        assert_eq!(headers.get_str(header::EVENT_TYPE), Some("OnHello"));
        assert_eq!(headers.get_str("micro-topic"), Some(&*topic));
    }
    for (key, places) in offsets_by_key(&deliveries) {
        let expected = fnv1a_partition(&key, 8);
        assert_eq!(places.len(), 6, "four of Go's and two of ours");
        assert!(places.iter().all(|(partition, _)| u32::try_from(*partition) == Ok(expected)), "{key:?}: {places:?}");
    }
    let of_one_key = of_go.iter().filter(|delivery| delivery.message.key.as_deref() == Some(b"key-3"));
    assert!(of_one_key.map(|delivery| delivery.offset).is_sorted(), "in the order they were published");
    reader.close().await;
}

/// As the order services have it: the decimal id of the order, in a topic of four partitions.
#[tokio::test]
async fn sixteen_order_ids_have_the_partitions_that_sarama_gives_them() {
    let fixture = ready!(KafkaFixture);
    let fleet = fleet_broker(&fixture).await;
    let topic = new_topic(&fleet, 4).await;
    // Order 10 to 19, and 110 to 115.
    let arguments = ["--topic", &topic, "--count", "16", "--keys", "16", "--key-prefix", "1"];
    assert!(GoPeer::start("publish", &fixture.config, &arguments).line().await.contains("16"));
    let reader = Reader::join(&fixture.broker, &unique("g"), &topic).await;
    let by_go = offsets_by_key(&reader.take(16).await);
    reader.close().await;
    assert_eq!(by_go.len(), 16, "{by_go:?}");
    let partitions: BTreeSet<_> = by_go.values().map(|places| places[0].0).collect();
    assert_eq!(partitions.len(), 4, "they are spread");
    for (key, places) in by_go {
        let key = String::from_utf8(key.to_vec()).unwrap();
        assert_eq!(u32::try_from(places[0].0), Ok(fnv1a_partition(key.as_bytes(), 4)), "{key}");
        for broker in [&fleet, &fixture.broker] {
            let receipt = broker.publish(vec![event(&topic, &key, "ours".to_owned())]).await.remove(0).unwrap();
            assert_eq!(receipt.partition, places[0].0, "{key}");
        }
    }
}

#[tokio::test]
async fn go_and_rust_members_share_a_group_by_range_and_take_over_from_each_other() {
    let fixture = ready!(KafkaFixture);
    let broker = fleet_broker(&fixture).await;
    let topic = new_topic(&broker, 4).await;
    let group = unique("mixed");
    let mut go = GoPeer::start("subscribe", &fixture.config, &["--topic", &topic, "--group", &group, "--count", "0"]);
    assert!(go.line().await.contains("subscribed"));
    let reader = Reader::join(&broker, &group, &topic).await;

    let (mut by_go, mut by_us, mut sent) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let publish = async |name: String| {
        let message = event(&topic, &name, name.clone());
        assert!(broker.publish(vec![message]).await[0].is_ok());
        name
    };
    // Keys of all partitions, until both are members and every message was handed to one of them.
    for round in 0.. {
        assert!(round < 200, "both receive: Go {}, we {}", by_go.len(), by_us.len());
        for key in 0..8 {
            sent.insert(publish(format!("{round}-{key}")).await);
        }
        while let Some(handed) = go.handed_within(Duration::from_millis(100)).await {
            by_go.insert(handed.text());
        }
        while let Ok(Some(event)) = timeout(Duration::from_millis(100), reader.0.next()).await {
            if let SubscriptionEvent::Batch(batch) = event {
                reader.ack(&batch).await;
                by_us.extend(bodies(&batch));
            }
        }
        if !by_go.is_empty() && !by_us.is_empty() && by_go.union(&by_us).count() == sent.len() {
            break;
        }
    }
    // We leave: what is published from now on is Go's, from all partitions.
    reader.close().await;
    let mut left = BTreeSet::new();
    for key in 0..16 {
        left.insert(publish(format!("left-{key}")).await);
    }
    while !left.is_empty() {
        left.remove(&go.handed().await.text());
    }
    // Go goes, too: its partitions come to a new member of ours.
    go.leave().await;
    let again = Reader::join(&broker, &group, &topic).await;
    let last = publish("last".to_owned()).await;
    // What Go had not committed comes before it.
    while !bodies(&again.take(1).await).contains(&last) {}
    again.close().await;
}
