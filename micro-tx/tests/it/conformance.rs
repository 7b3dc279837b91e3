//! The suites of transactions, outbox, inbox, barrier, parked deliveries, dead letters and sagas on
//! every database.

use std::{sync::Arc, time::Duration};

use micro_core::{
    Result, TransactionManager, Tx,
    barrier::BarrierStore,
    inbox::InboxStore,
    outbox::OutboxStore,
    parked::{DeadLetterStore, ParkedStore},
    saga::SagaLog,
};
use micro_testkit::{Fixture, Missing, saga::SagaLogFixture, transaction::DatabaseFixture};
use micro_tx::{SqlDatabase, SqlTxExt as _};

use crate::{
    server::{Server, Site},
    sqlite::File,
};

/// In the test's own database, which is dropped with it.
const BARRIER: &str = "barrier";

/// Two databases of a kind: the one under test, and another one.
struct On<B: Backend> {
    database: SqlDatabase,
    other: SqlDatabase,
    _guards: [B; 2],
}

/// Where a database lives as long as this does.
trait Backend: Sized + Send + Sync {
    fn start() -> impl Future<Output = Result<(SqlDatabase, Self), Missing>> + Send;
}

impl Backend for File {
    async fn start() -> Result<(SqlDatabase, Self), Missing> {
        let file = Self::new();
        Ok((file.database().await, file))
    }
}

struct Mariadb(#[expect(dead_code, reason = "its drop removes the database")] Site);

impl Backend for Mariadb {
    async fn start() -> Result<(SqlDatabase, Self), Missing> {
        let site = Site::new(Server::Mariadb).await?;
        Ok((site.database().await, Self(site)))
    }
}

struct Postgres(#[expect(dead_code, reason = "its drop removes the database")] Site);

impl Backend for Postgres {
    async fn start() -> Result<(SqlDatabase, Self), Missing> {
        let site = Site::new(Server::Postgres).await?;
        Ok((site.database().await, Self(site)))
    }
}

impl<B: Backend> Fixture for On<B> {
    async fn start() -> Result<Self, Missing> {
        let ((database, first), (other, second)) = (B::start().await?, B::start().await?);
        database.barrier_with(BARRIER).unwrap().create_table().await.unwrap();
        Ok(Self { database, other, _guards: [first, second] })
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(10)
    }
}

impl<B: Backend> DatabaseFixture for On<B> {
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

    fn barrier(&self) -> Arc<dyn BarrierStore> {
        Arc::new(self.database.barrier_with(BARRIER).unwrap())
    }

    fn parked(&self) -> Arc<dyn ParkedStore> {
        self.database.parked()
    }

    fn dead_letters(&self) -> Arc<dyn DeadLetterStore> {
        self.database.dead_letters()
    }

    async fn write(&self, tx: &mut Tx, key: &str, value: &str) -> Result<()> {
        let on_conflict = match self.database.dialect_name() {
            "mysql" => "ON DUPLICATE KEY UPDATE status = VALUES(status)",
            _ => "ON CONFLICT (code) DO UPDATE SET status = excluded.status",
        };
        let upsert = format!("INSERT INTO orders (code, status) VALUES (?, ?) {on_conflict}");
        tx.sql()?.execute(&upsert, &[key.into(), value.into()]).await?;
        Ok(())
    }

    async fn read(&self, key: &str) -> Result<Option<String>> {
        let row = self.database.fetch_optional("SELECT status FROM orders WHERE code = ?", &[key.into()]).await?;
        row.map(|row| row.get(0)).transpose()
    }
}

impl<B: Backend> SagaLogFixture for On<B> {
    fn saga_log(&self) -> Arc<dyn SagaLog> {
        self.database.saga_log()
    }
}

macro_rules! suites {
    ($name:ident, $backend:ident) => {
        mod $name {
            mod transaction {
                micro_testkit::transaction_conformance!(super::super::On<super::super::$backend>);
            }

            mod outbox {
                micro_testkit::outbox_conformance!(super::super::On<super::super::$backend>);
            }

            mod inbox {
                micro_testkit::inbox_conformance!(super::super::On<super::super::$backend>);
            }

            mod barrier {
                micro_testkit::barrier_conformance!(super::super::On<super::super::$backend>);
            }

            mod parked {
                micro_testkit::parked_conformance!(super::super::On<super::super::$backend>);
            }

            mod saga {
                micro_testkit::saga_log_conformance!(super::super::On<super::super::$backend>);
            }
        }
    };
}

suites!(sqlite, File);
suites!(mariadb, Mariadb);
suites!(postgres, Postgres);
