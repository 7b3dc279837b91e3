//! What the services have not consumed yet, where the broker alone knows it.

use async_trait::async_trait;
use micro_rs::prelude::*;

/// How far the services are behind.
#[async_trait]
pub trait Backlog: Send + Sync {
    /// How many records wait for the services' groups.
    async fn count(&self) -> Result<u64>;
}

/// Of a broker whose receipts wait for every group: what is not consumed is still in an outbox.
pub struct NoBacklog;

#[async_trait]
impl Backlog for NoBacklog {
    async fn count(&self) -> Result<u64> {
        Ok(0)
    }
}

/// Of Kafka: what the groups have not committed.
#[cfg(feature = "broker-kafka")]
pub struct KafkaBacklog {
    broker: micro_rs::broker::kafka::KafkaBroker,
    /// Each group with its topics.
    groups: Vec<(String, Vec<String>)>,
}

#[cfg(feature = "broker-kafka")]
impl KafkaBacklog {
    /// The backlog of these groups on these topics.
    pub fn new(broker: micro_rs::broker::kafka::KafkaBroker, groups: Vec<(String, Vec<String>)>) -> Self {
        Self { broker, groups }
    }
}

#[cfg(feature = "broker-kafka")]
#[async_trait]
impl Backlog for KafkaBacklog {
    async fn count(&self) -> Result<u64> {
        let mut count = 0;
        for (group, topics) in &self.groups {
            let lags = self.broker.lag(group.as_str(), topics.iter().map(String::as_str)).await?;
            count += lags.iter().map(|partition| partition.lag.unsigned_abs()).sum::<u64>();
        }
        Ok(count)
    }
}
