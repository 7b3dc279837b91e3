//! The suite of the broker port.

micro_testkit::broker_conformance!(crate::world::KafkaFixture);
