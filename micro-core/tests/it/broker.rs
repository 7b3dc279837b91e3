//! The broker suite on the memory broker.

use std::{sync::Arc, time::Duration};

use micro_core::broker::{Broker, MemoryBroker, Message};
use micro_testkit::{Fixture, Missing, broker::BrokerFixture, unique};

struct Memory(MemoryBroker);

impl Fixture for Memory {
    async fn start() -> Result<Self, Missing> {
        Ok(Self(MemoryBroker::new()))
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(5)
    }
}

impl BrokerFixture for Memory {
    fn broker(&self) -> Arc<dyn Broker> {
        Arc::new(self.0.clone())
    }

    async fn topic(&self) -> String {
        unique("topic")
    }

    fn refused(&self) -> Message {
        Message::unkeyed("", "a message without a topic")
    }
}

mod memory {
    micro_testkit::broker_conformance!(super::Memory);
}
