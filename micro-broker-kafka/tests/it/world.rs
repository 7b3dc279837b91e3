//! What the tests run on: the shared server or one of their own, topics of their own, and members
//! that are led step by step.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use dev_servers::{Kind, Server};
use micro_broker_kafka::{KafkaBroker, KafkaConfig, TopicSpec};
use micro_core::{
    Result,
    broker::{Broker, Delivery, Message, Position, Receipt, SubscribeRequest, Subscription, SubscriptionEvent},
};
use micro_testkit::{Fixture, Missing, broker::BrokerFixture, eventually, unique};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};
use tokio::time::timeout;

use crate::heard;

/// How long a test waits for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A broker on the shared server.
pub(crate) struct KafkaFixture {
    pub(crate) config: KafkaConfig,
    pub(crate) broker: KafkaBroker,
}

impl Fixture for KafkaFixture {
    async fn start() -> Result<Self, Missing> {
        heard::listen();
        let url = dev_servers::shared(Kind::Kafka).map_err(Missing::new)?;
        let config = patient(KafkaConfig::from_url(&url).expect("the shared server has a URL"));
        let broker = KafkaBroker::connect(config.clone()).await.map_err(|error| Missing::new(error.report()))?;
        Ok(Self { config, broker })
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(40)
    }

    fn silence(&self) -> Duration {
        Duration::from_millis(700)
    }
}

impl BrokerFixture for KafkaFixture {
    fn broker(&self) -> Arc<dyn Broker> {
        Arc::new(self.broker.clone())
    }

    async fn topic(&self) -> String {
        new_topic(&self.broker, 8).await
    }

    fn refused(&self) -> Message {
        Message::keyed("no-such-topic", "a", "a topic that is not there")
    }
}

/// A server of the test's own, to be killed and frozen.
pub(crate) struct OwnKafka {
    pub(crate) server: Server,
    pub(crate) config: KafkaConfig,
}

impl Fixture for OwnKafka {
    async fn start() -> Result<Self, Missing> {
        Self::start_with(&[])
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

impl OwnKafka {
    pub(crate) fn start_with(settings: &[(&str, &str)]) -> Result<Self, Missing> {
        heard::listen();
        let server = Server::start_with(Kind::Kafka, settings).map_err(Missing::new)?;
        let config = patient(KafkaConfig::from_url(server.url()).expect("a server has a URL"));
        Ok(Self { server, config })
    }
}

/// With limits that a busy machine keeps; a test of a limit sets its own.
fn patient(mut config: KafkaConfig) -> KafkaConfig {
    let limit = Duration::from_secs(20);
    (config.connect_timeout, config.close_timeout, config.revoke_wait_max) = (limit, limit, limit);
    config
}

/// A new topic of so many partitions; a server that has just started may not take it at first.
pub(crate) async fn new_topic(broker: &KafkaBroker, partition_count: u32) -> String {
    let name = unique("topic");
    let spec = [TopicSpec::new(&*name, partition_count)];
    eventually(PATIENCE, "a topic is created", || broker.create_topics(&spec)).await;
    name
}

pub(crate) async fn delete_topic(config: &KafkaConfig, topic: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &config.servers).create().unwrap();
    admin.delete_topics(&[topic], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
}

/// Publishes bodies of one key and answers their receipts.
pub(crate) async fn publish(broker: &dyn Broker, topic: &str, key: &str, bodies: &[String]) -> Vec<Receipt> {
    let messages = bodies.iter().map(|body| Message::keyed(topic, key.to_owned(), body.clone())).collect();
    let results = timeout(PATIENCE, broker.publish(messages)).await.expect("publish answers");
    results.into_iter().map(|result| result.expect("a receipt")).collect()
}

/// `0`, `1`, … as bodies.
pub(crate) fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// A member of a group.
pub(crate) struct Reader(pub(crate) Arc<dyn Subscription>);

impl Reader {
    pub(crate) async fn join(broker: &dyn Broker, group: &str, topic: &str) -> Self {
        let subscribed = timeout(PATIENCE, broker.subscribe(SubscribeRequest::new(group, [topic]))).await;
        Self(subscribed.expect("subscribe answers").expect("a member joins"))
    }

    pub(crate) async fn next(&self) -> SubscriptionEvent {
        let event = timeout(PATIENCE, self.0.next()).await.expect("something happens");
        event.expect("the subscription goes on")
    }

    /// The next deliveries, `count` of them; what else happens is passed over.
    pub(crate) async fn take(&self, count: usize) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        while deliveries.len() < count {
            if let SubscriptionEvent::Batch(batch) = self.next().await {
                deliveries.extend(batch);
            }
        }
        deliveries
    }

    /// Waits for an event that is no batch.
    pub(crate) async fn notice(&self) -> SubscriptionEvent {
        loop {
            match self.next().await {
                SubscriptionEvent::Batch(_) => {}
                event => return event,
            }
        }
    }

    pub(crate) async fn ack(&self, deliveries: &[Delivery]) {
        let mut ends = BTreeMap::new();
        for delivery in deliveries {
            let end = ends.entry(delivery.topic_partition()).or_insert(0);
            *end = delivery.offset.max(*end - 1) + 1;
        }
        for (partition, next_offset) in ends {
            self.0.ack(Position { partition, next_offset }).await.expect("an ack is taken");
        }
    }

    pub(crate) async fn close(&self) {
        timeout(PATIENCE, self.0.close()).await.expect("close answers").expect("a member closes");
    }
}

pub(crate) fn bodies(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(|delivery| String::from_utf8_lossy(&delivery.message.body).into_owned()).collect()
}

/// The fixture, or the end of the test after its reason was printed.
macro_rules! ready {
    ($fixture:ty) => {
        match micro_testkit::ready::<$fixture>().await {
            Some(fixture) => fixture,
            None => return,
        }
    };
}
pub(crate) use ready;
