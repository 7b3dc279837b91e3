//! The suites of transactions, outbox, inbox, parked deliveries and dead letters on SQLite.

use std::{sync::Arc, time::Duration};

use micro_core::{
    Result, TransactionManager, Tx,
    inbox::InboxStore,
    outbox::OutboxStore,
    parked::{DeadLetterStore, ParkedStore},
};
use micro_testkit::{Fixture, Missing, transaction::DatabaseFixture};
use micro_tx::{SqlDatabase, SqlTxExt as _};

use crate::sqlite::File;

struct Sqlite {
    database: SqlDatabase,
    other: SqlDatabase,
    _files: [File; 2],
}

impl Fixture for Sqlite {
    async fn start() -> Result<Self, Missing> {
        let files = [File::new(), File::new()];
        Ok(Self { database: files[0].database().await, other: files[1].database().await, _files: files })
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(10)
    }
}

impl DatabaseFixture for Sqlite {
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
        let select = "SELECT parked_cause FROM micro_outbox WHERE parked_at IS NOT NULL ORDER BY id";
        self.database.fetch_all(select, &[]).await?.iter().map(|row| row.get(0)).collect()
    }

    fn inbox(&self) -> Arc<dyn InboxStore> {
        self.database.inbox()
    }

    fn parked(&self) -> Arc<dyn ParkedStore> {
        self.database.parked()
    }

    fn dead_letters(&self) -> Arc<dyn DeadLetterStore> {
        self.database.dead_letters()
    }

    async fn write(&self, tx: &mut Tx, key: &str, value: &str) -> Result<()> {
        let upsert =
            "INSERT INTO orders (code, status) VALUES (?, ?) ON CONFLICT (code) DO UPDATE SET status = excluded.status";
        tx.sql()?.execute(upsert, &[key.into(), value.into()]).await?;
        Ok(())
    }

    async fn read(&self, key: &str) -> Result<Option<String>> {
        let row = self.database.fetch_optional("SELECT status FROM orders WHERE code = ?", &[key.into()]).await?;
        row.map(|row| row.get(0)).transpose()
    }
}

mod transaction {
    micro_testkit::transaction_conformance!(super::Sqlite);
}

mod outbox {
    micro_testkit::outbox_conformance!(super::Sqlite);
}

mod inbox {
    micro_testkit::inbox_conformance!(super::Sqlite);
}

mod parked {
    micro_testkit::parked_conformance!(super::Sqlite);
}
