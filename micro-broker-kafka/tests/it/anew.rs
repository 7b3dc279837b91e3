//! A topic that is deleted and made anew: its records have the offsets of others, and are others.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use micro_broker_kafka::{KafkaBroker, KafkaConfig, TopicSpec};
use micro_core::{
    Health, Result, Tx,
    app::{Component as _, ComponentExt as _},
    broker::{Broker, header},
    consume::{Consumer, DeliveryPolicy, Handler, InboxService, InboxStores, Router},
    event::{Event, Received, seal, unix_millis},
    transaction::{MemoryDatabase, MemoryTxExt as _},
};
use micro_testkit::{eventually, unique};
use tokio::time::timeout;

use crate::world::{KafkaFixture, PATIENCE, Reader, delete_topic, numbers, publish, ready};

#[derive(Clone, Debug)]
struct Paid(String);

impl Event for Paid {
    const TOPIC: &'static str = "MadeAnewEvent";
    const EVENT_TYPE: &'static str = "OnPaid";

    fn key(&self) -> String {
        "order".to_owned()
    }

    fn encode_payload(&self, payload: &mut BytesMut) -> Result<()> {
        payload.extend_from_slice(self.0.as_bytes());
        Ok(())
    }

    fn decode_payload(payload: Bytes) -> Result<Self> {
        Ok(Self(String::from_utf8_lossy(&payload).into_owned()))
    }
}

/// Writes down the payloads that it applied, in its transaction.
struct Ledger;

#[async_trait]
impl Handler<Paid> for Ledger {
    async fn handle(&self, tx: &mut Tx, received: Received<Paid>) -> Result<()> {
        let mut row = tx.get("applied", "all")?.map(Vec::from).unwrap_or_default();
        row.extend_from_slice(format!("{} ", received.event.0).as_bytes());
        tx.put("applied", "all", row)
    }
}

/// A group with its inbox, which outlives its members.
struct Group {
    name: String,
    database: MemoryDatabase,
}

impl Group {
    async fn join(&self, broker: &KafkaBroker) -> Consumer<InboxService> {
        let stores = InboxStores {
            transactions: self.database.transactions(),
            inbox: self.database.inbox(),
            parked: self.database.parked(),
            dead_letters: self.database.dead_letters(),
            outbox: None,
        };
        let router = Router::new().on::<Paid>(Ledger);
        let inbox = InboxService::new(&*self.name, stores, router, DeliveryPolicy::default()).unwrap();
        let consumer = Consumer::builder(Arc::new(broker.clone()), inbox).build();
        consumer.start(&Health::new()).await.unwrap();
        consumer
    }

    async fn applied(&self, expected: &str) {
        let read = || String::from_utf8(self.database.read("applied", "all").unwrap_or_default().to_vec()).unwrap();
        eventually(PATIENCE, "what came is applied", || async { (read() == expected).then_some(()).ok_or_else(read) })
            .await;
    }
}

/// A topic without a record, and a client that never saw an earlier one of that name.
async fn made_anew(config: &KafkaConfig) -> KafkaBroker {
    delete_topic(config, Paid::TOPIC).await;
    let broker = KafkaBroker::connect(config.clone()).await.unwrap();
    broker.create_topics(&[TopicSpec::new(Paid::TOPIC, 1)]).await.unwrap();
    broker
}

/// As a producer does that knows nothing of event ids.
async fn publish_without_ids(broker: &KafkaBroker, payloads: &[&str]) {
    let message = |payload: &&str| {
        let mut message = seal(&Paid((*payload).to_owned()), "order", "v1").unwrap();
        message.headers.remove(header::EVENT_ID);
        message
    };
    let results = timeout(PATIENCE, broker.publish(payloads.iter().map(message).collect())).await.unwrap();
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

/// Records without an event id are known by their origin. The offsets of a topic that was made anew
/// begin at zero again: what the group handled there before is no reason to leave its records out,
/// whether the group was away meanwhile or not, as a record of its own or in go-micro's envelope.
#[tokio::test(flavor = "multi_thread")]
async fn records_without_an_id_in_a_topic_made_anew_are_no_duplicates() {
    let kafka = ready!(KafkaFixture);
    kafka.broker.create_topics(&[TopicSpec::new(Paid::TOPIC, 1)]).await.unwrap();
    for (is_away, is_enveloped) in [(true, false), (false, false), (true, true)] {
        let mut config = kafka.config.clone();
        config.envelope_topics = is_enveloped.then(|| Paid::TOPIC.to_owned()).into_iter().collect();
        let group = Group { name: unique("group"), database: MemoryDatabase::new() };
        let before = made_anew(&config).await;
        let mut member = group.join(&before).await;
        publish_without_ids(&before, &["1", "2", "3"]).await;
        group.applied("1 2 3 ").await;
        if is_away {
            member.stop(PATIENCE).await.unwrap();
        }
        let after = made_anew(&config).await;
        publish_without_ids(&after, &["4", "5"]).await;
        if is_away {
            member = group.join(&after).await;
        }
        group.applied("1 2 3 4 5 ").await;
        member.stop(PATIENCE).await.unwrap();
    }
}

/// An origin holds the record's time, so it must not depend on who set it or on when it is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_has_the_time_that_the_topic_keeps_at_each_delivery() {
    let kafka = ready!(KafkaFixture);
    for time in ["CreateTime", "LogAppendTime"] {
        let topic = unique(time);
        let spec = TopicSpec::new(&*topic, 1).with_setting("message.timestamp.type", time);
        kafka.broker.create_topics(&[spec]).await.unwrap();
        let earliest = SystemTime::now() - Duration::from_millis(1);
        publish(&kafka.broker, &topic, "a", &numbers(0..3)).await;
        let first = Reader::join(&kafka.broker, &unique("group"), &topic).await.take(3).await;
        let latest = SystemTime::now();
        for delivery in &first {
            assert!((earliest..=latest).contains(&delivery.timestamp), "{time}: {delivery:?}");
            let millis = unix_millis(delivery.timestamp);
            assert_eq!(delivery.inbox_id(), format!("{topic}/0/{}@{millis}", delivery.offset));
        }
        let again = Reader::join(&kafka.broker, &unique("group"), &topic).await.take(3).await;
        assert_eq!(again, first, "{time}");
    }
}
