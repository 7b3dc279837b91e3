//! The suites of transactions, outbox, inbox, barrier, parked deliveries and dead letters in memory.

use std::{sync::Arc, time::Duration};

use micro_core::{
    Result, TransactionManager, Tx,
    barrier::BarrierStore,
    inbox::InboxStore,
    outbox::OutboxStore,
    parked::{DeadLetterStore, ParkedStore},
    saga::SagaLog,
    transaction::{MemoryDatabase, MemoryTxExt as _},
};
use micro_testkit::{Fixture, Missing, saga::SagaLogFixture, transaction::DatabaseFixture};

#[derive(Default)]
struct Memory {
    database: MemoryDatabase,
    other: MemoryDatabase,
}

impl Fixture for Memory {
    async fn start() -> Result<Self, Missing> {
        Ok(Self::default())
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(5)
    }
}

impl DatabaseFixture for Memory {
    fn transactions(&self) -> Arc<dyn TransactionManager> {
        self.database.transactions()
    }

    fn other(&self) -> Arc<dyn TransactionManager> {
        self.other.transactions()
    }

    fn outbox(&self) -> Arc<dyn OutboxStore> {
        self.database.outbox()
    }

    async fn outbox_causes(&self) -> Result<Vec<String>> {
        Ok(self.database.outbox().parked().into_iter().map(|(_, cause)| cause).collect())
    }

    fn inbox(&self) -> Arc<dyn InboxStore> {
        self.database.inbox()
    }

    fn barrier(&self) -> Arc<dyn BarrierStore> {
        self.database.barrier()
    }

    fn parked(&self) -> Arc<dyn ParkedStore> {
        self.database.parked()
    }

    fn dead_letters(&self) -> Arc<dyn DeadLetterStore> {
        self.database.dead_letters()
    }

    async fn write(&self, tx: &mut Tx, key: &str, value: &str) -> Result<()> {
        tx.put("orders", key, value.to_owned())
    }

    async fn read(&self, key: &str) -> Result<Option<String>> {
        Ok(self.database.read("orders", key).map(|value| String::from_utf8_lossy(&value).into_owned()))
    }
}

impl SagaLogFixture for Memory {
    fn saga_log(&self) -> Arc<dyn SagaLog> {
        self.database.saga_log()
    }
}

mod transaction {
    micro_testkit::transaction_conformance!(super::Memory);
}

mod outbox {
    micro_testkit::outbox_conformance!(super::Memory);
}

mod inbox {
    micro_testkit::inbox_conformance!(super::Memory);
}

mod barrier {
    micro_testkit::barrier_conformance!(super::Memory);
}

mod parked {
    micro_testkit::parked_conformance!(super::Memory);
}

mod saga {
    micro_testkit::saga_log_conformance!(super::Memory);
}
