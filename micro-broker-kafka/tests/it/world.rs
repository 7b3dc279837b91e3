//! What the tests run on: the shared server, topics of their own.

use std::{sync::Arc, time::Duration};

use dev_servers::Kind;
use micro_broker_kafka::{KafkaBroker, KafkaConfig, TopicSpec};
use micro_core::broker::{Broker, Message};
use micro_testkit::{Fixture, Missing, broker::BrokerFixture, unique};

/// A broker on the shared server.
pub(crate) struct KafkaFixture {
    pub(crate) broker: KafkaBroker,
}

impl KafkaFixture {
    /// A new topic of so many partitions.
    pub(crate) async fn topic_of(&self, partition_count: u32) -> String {
        let name = unique("topic");
        self.broker.create_topics(&[TopicSpec::new(&*name, partition_count)]).await.expect("a topic is created");
        name
    }
}

/// Settings for the shared server.
pub(crate) fn shared_config() -> Result<KafkaConfig, Missing> {
    let url = dev_servers::shared(Kind::Kafka).map_err(Missing::new)?;
    Ok(KafkaConfig::from_url(&url).expect("the shared server has a URL"))
}

impl Fixture for KafkaFixture {
    async fn start() -> Result<Self, Missing> {
        let broker = KafkaBroker::connect(shared_config()?).await.map_err(|error| Missing::new(error.report()))?;
        Ok(Self { broker })
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(20)
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
        self.topic_of(8).await
    }

    fn refused(&self) -> Message {
        Message::keyed("no-such-topic", "a", "a topic that is not there")
    }
}
