//! Which broker takes the events, by URL: where a service knows its broker, this is one line.

use std::sync::Arc;

#[cfg(feature = "broker-kafka")]
use micro_core::event::Event as _;
use micro_core::{
    Error, ErrorKind, Result,
    broker::{Broker, MemoryBroker},
};

/// The broker at `url`.
pub async fn connect(url: &str) -> Result<Arc<dyn Broker>> {
    match url.split(':').next().unwrap_or_default() {
        "memory" => Ok(Arc::new(MemoryBroker::new())),
        #[cfg(feature = "broker-kafka")]
        "kafka" => {
            use micro_broker_kafka::{KafkaBroker, TopicSpec};

            let broker = KafkaBroker::connect_url(url).await?;
            broker.create_topics(&[TopicSpec::new(crate::shop::OrderPlaced::TOPIC, 4)]).await?;
            Ok(Arc::new(broker))
        }
        _ => {
            let message = "no such broker: expected memory: or, with the feature broker-kafka, kafka://HOST:PORT";
            Err(Error::new(ErrorKind::InvalidArgument, "embed.broker", message))
        }
    }
}
