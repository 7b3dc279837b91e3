//! The broker port on Kafka.
//!
//! [`KafkaBroker`] publishes through an idempotent producer and receives as a member of a group.
//! What it does that librdkafka does not do by itself: positions are committed after the work and
//! never before; a group begins at the earliest message, and a log that no longer holds its position
//! is an alarm; a rebalance waits for the work in hand; a queue that is full refuses in order; a
//! message that a topic does not take is refused without its neighbours; a fatal error begins a new
//! producer; nothing blocks a worker of the runtime, and nothing waits without a deadline.
//!
//! A message is a Kafka record: its key, headers and body are the record's. On topics that are shared
//! with go-micro v4 ([`KafkaConfig::envelope_topics`]) it is written as go-micro does; what is
//! received may be either.
//!
//! # Examples
//!
//! ```no_run
//! use micro_broker_kafka::{KafkaBroker, KafkaConfig, TopicSpec};
//! use micro_core::broker::{Broker, Message};
//!
//! # async fn example() -> micro_core::Result<()> {
//! let broker = KafkaBroker::connect(KafkaConfig::new("127.0.0.1:9092")).await?;
//! broker.create_topics(&[TopicSpec::new("OrderEvent", 8)]).await?;
//! let receipts = broker.publish(vec![Message::keyed("OrderEvent", "A-17", "paid")]).await;
//! assert!(receipts[0].is_ok());
//! # Ok(())
//! # }
//! ```

mod address;
mod admin;
mod broker;
mod client_log;
mod config;
#[doc(hidden)]
pub mod envelope;
mod error;
mod holdings;
mod known_topics;
mod limits;
mod member;
mod producer;
mod rebalance;
mod receipts;
mod record;
mod recovery;
mod session;
mod topics;

pub use admin::{PartitionLag, TopicSpec};
pub use broker::KafkaBroker;
pub use config::{Assignment, Compression, KafkaConfig, Partitioner, Sasl, SaslMechanism, Tls};
