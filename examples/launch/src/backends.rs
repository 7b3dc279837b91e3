//! The backends that settings name.

use std::sync::Arc;

use micro_core::{Result, broker::Broker, registry::Registry};
use micro_rs::backends;
use micro_tx::SqlDatabase;

use crate::Settings;

/// What a service is plugged into.
#[derive(Clone)]
pub struct Backends {
    /// Where its instance is announced.
    pub registry: Arc<dyn Registry>,
    /// Where its events go and come from.
    pub broker: Arc<dyn Broker>,
    /// Where its rows are.
    pub database: SqlDatabase,
}

/// Connects the backends that the settings name, and creates the topics that are missing where they
/// ask for it.
///
/// # Errors
///
/// Those of the backends: each is one line with what it could not reach and why.
pub async fn connect(settings: &Settings, topics: &[&str]) -> Result<Backends> {
    Ok(Backends {
        registry: backends::registry(&settings.registry).await?,
        broker: broker(&settings.broker, settings.create_topics, topics).await?,
        database: backends::database_with(settings.database.clone()).await?,
    })
}

#[cfg(feature = "broker-kafka")]
async fn broker(url: &str, create_topics: Option<u32>, topics: &[&str]) -> Result<Arc<dyn Broker>> {
    use micro_rs::broker::kafka::{KafkaBroker, TopicSpec};

    let Some(partition_count) = create_topics.filter(|_| url.starts_with("kafka")) else {
        return backends::broker(url).await;
    };
    let broker = KafkaBroker::connect_url(url).await?;
    let topics: Vec<_> = topics.iter().map(|topic| TopicSpec::new(*topic, partition_count)).collect();
    broker.create_topics(&topics).await?;
    Ok(Arc::new(broker))
}

#[cfg(not(feature = "broker-kafka"))]
async fn broker(url: &str, _create_topics: Option<u32>, _topics: &[&str]) -> Result<Arc<dyn Broker>> {
    backends::broker(url).await
}
