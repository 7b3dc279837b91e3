//! The broker port on Kafka.
