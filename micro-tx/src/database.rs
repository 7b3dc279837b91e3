//! The database: transaction manager, stores, reads, migrations.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use micro_core::{
    Error, ErrorKind, Result, TransactionManager, TransactionManagerExt as _, Tx,
    app::Probe,
    consume::InboxStores,
    inbox::InboxStore,
    outbox::{CommitSignal, OutboxStore, SHARD_COUNT, ShardSet},
    parked::{DeadLetterStore, ParkedStore},
    saga::SagaLog,
    transaction::ManagerId,
};

#[cfg(feature = "mysql")]
use crate::mysql::MySqlTx;
#[cfg(feature = "postgres")]
use crate::postgres::PostgresTx;
#[cfg(any(feature = "mysql", feature = "postgres"))]
use crate::server::{Lease, ServerConnections};
#[cfg(feature = "sqlite")]
use crate::sqlite::SqliteConnections;
use crate::{
    config::{SqlConfig, checked_prefix, redacted},
    dialect::Dialect,
    migrate,
    ping::SqlPing,
    row::Row,
    stores::{self, Owner, OwnerSettings, SqlBarrier, SqlDeadLetters, SqlInbox, SqlOutbox, SqlParked, SqlSagaLog},
    transaction::{SqlTx, SqlTxExt as _},
    value::Value,
};

/// A SQL database: begins transactions and hands out the stores. Cheap to clone; clones share it.
///
/// Make one for each database and process. Two on one SQLite file work, but wait for each other in
/// SQLite's busy handler, and both would relay the outbox.
#[derive(Clone)]
pub struct SqlDatabase {
    inner: Arc<Inner>,
}

struct Inner {
    id: ManagerId,
    connections: Connections,
    table_prefix: String,
    committed: CommitSignal,
    owner: Owner,
}

pub(crate) enum Connections {
    #[cfg(feature = "sqlite")]
    Sqlite(SqliteConnections),
    #[cfg(feature = "mysql")]
    MySql(ServerConnections<sqlx::MySql>),
    #[cfg(feature = "postgres")]
    Postgres(ServerConnections<sqlx::Postgres>),
}

/// The right to migrate, until it is dropped.
pub(crate) enum MigrationTurn {
    /// SQLite has one writer.
    #[cfg(feature = "sqlite")]
    OfWriter,
    #[cfg(feature = "mysql")]
    MySql { _lease: Lease<sqlx::MySql> },
    #[cfg(feature = "postgres")]
    Postgres { _lease: Lease<sqlx::Postgres> },
}

impl SqlDatabase {
    /// Opens the database.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for settings that cannot be, `Unimplemented` for a kind of database whose
    /// feature is off, `Unavailable` when it cannot be opened, `Unauthenticated` when the server
    /// refuses user or password, which later is `Internal`: it says nothing about what is done then.
    pub async fn connect(config: SqlConfig) -> Result<Self> {
        let table_prefix = checked_prefix(&config.table_prefix)?.to_owned();
        let connections = match config.url.split(':').next().unwrap_or_default() {
            #[cfg(feature = "sqlite")]
            "sqlite" => Connections::Sqlite(SqliteConnections::connect(&config).await?),
            #[cfg(feature = "mysql")]
            "mysql" | "mariadb" => Connections::MySql(ServerConnections::connect(&config).await?),
            #[cfg(feature = "postgres")]
            "postgres" | "postgresql" => Connections::Postgres(ServerConnections::connect(&config).await?),
            _ => return Err(unknown_scheme(&config.url)),
        };
        let settings =
            OwnerSettings { shard_count: checked_shard_count(&config)?, timeout: config.outbox_owner_timeout };
        Ok(Self::new(connections, table_prefix, settings))
    }

    /// Opens the database at `url` with the default settings.
    ///
    /// # Errors
    ///
    /// Those of [`connect`](Self::connect).
    pub async fn connect_url(url: &str) -> Result<Self> {
        Self::connect(SqlConfig::new(url)).await
    }

    /// Uses a pool that exists already; it stays its owner's, as do its settings (journal mode,
    /// busy timeout). Transactions take a connection for as long as they last, reads for as long
    /// as the statement, so it needs two connections at least.
    #[cfg(feature = "sqlite")]
    pub fn from_sqlite_pool(pool: sqlx::SqlitePool) -> Self {
        let config = SqlConfig::default();
        let connections = SqliteConnections::from_pool(pool, config.write_acquire_timeout);
        let settings = OwnerSettings { shard_count: 1, timeout: config.outbox_owner_timeout };
        Self::new(Connections::Sqlite(connections), config.table_prefix, settings)
    }

    /// As [`from_sqlite_pool`](Self::from_sqlite_pool), with another prefix for our tables.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a prefix that is no word.
    #[cfg(feature = "sqlite")]
    pub fn from_sqlite_pool_with_prefix(pool: sqlx::SqlitePool, table_prefix: &str) -> Result<Self> {
        let table_prefix = checked_prefix(table_prefix)?.to_owned();
        let config = SqlConfig::default();
        let connections = SqliteConnections::from_pool(pool, config.write_acquire_timeout);
        let settings = OwnerSettings { shard_count: 1, timeout: config.outbox_owner_timeout };
        Ok(Self::new(Connections::Sqlite(connections), table_prefix, settings))
    }

    /// Uses a pool that exists already; it stays its owner's, as do its settings. Transactions are
    /// READ COMMITTED. A connection is waited for as long as the pool's `acquire_timeout` says. Who
    /// migrates, and who relays the outbox, takes one out of the pool for as long as that lasts, and the
    /// pool opens another in its place: one more than its `max_connections`, which may be 1. sqlx's
    /// pool pings when it gets a connection back, so that each transaction costs a round trip more than
    /// with [`connect`](Self::connect).
    ///
    /// Its sessions are to have `autocommit = 1` and `completion_type = 'NO_CHAIN'`, the defaults: with
    /// others every call is an `Internal` error that says so. On MariaDB leave `max_statement_time` at 0,
    /// for it interrupts commits too.
    #[cfg(feature = "mysql")]
    pub fn from_mysql_pool(pool: sqlx::MySqlPool) -> Self {
        Self::from_pool(Connections::MySql(ServerConnections::from_pool(pool)))
    }

    /// As [`from_mysql_pool`](Self::from_mysql_pool), on PostgreSQL.
    #[cfg(feature = "postgres")]
    pub fn from_postgres_pool(pool: sqlx::PgPool) -> Self {
        Self::from_pool(Connections::Postgres(ServerConnections::from_pool(pool)))
    }

    #[cfg(any(feature = "mysql", feature = "postgres"))]
    fn from_pool(connections: Connections) -> Self {
        let config = SqlConfig::default();
        let settings = OwnerSettings { shard_count: config.outbox_shard_count, timeout: config.outbox_owner_timeout };
        Self::new(connections, config.table_prefix, settings)
    }

    fn new(connections: Connections, table_prefix: String, settings: OwnerSettings) -> Self {
        let inner = Inner {
            id: ManagerId::unique(),
            owner: Owner::new(&connections, &table_prefix, settings),
            connections,
            table_prefix,
            committed: CommitSignal::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Itself, as the port.
    pub fn transactions(&self) -> Arc<dyn TransactionManager> {
        Arc::new(self.clone())
    }

    /// The outbox.
    pub fn outbox(&self) -> Arc<dyn OutboxStore> {
        Arc::new(SqlOutbox::new(self.clone(), self.inner.committed.clone()))
    }

    /// Lets the relay send rows of the outbox again that it had parked, once the reason is mended (a
    /// topic that was not there, a broker's limit): all of them. Answers how many. They go out in the
    /// order they were added, behind what was sent meanwhile. After a failure the first of them may be
    /// released, and another call releases the rest.
    ///
    /// # Errors
    ///
    /// Those of [`SqlTx::execute`].
    pub async fn release_outbox(&self) -> Result<u64> {
        let released = stores::release(self).await;
        self.inner.committed.notify(ShardSet::ALL);
        released
    }

    /// The inbox.
    pub fn inbox(&self) -> Arc<dyn InboxStore> {
        Arc::new(SqlInbox::new(self.clone()))
    }

    /// The barrier of global transactions' branches, on the table that DTM's Go client takes by default,
    /// `dtm_barrier.barrier`; in SQLite, which has no schemas, `barrier`.
    ///
    /// Not one of the framework's own tables, which [`migrate`](Self::migrate) creates: while a service
    /// is replaced by one in Rust, the one undoes what the other did, and must find its rows. With a table
    /// apart it would find nothing, take the undoing for an empty one, and leave the effect for good,
    /// without a word; a table that is missing is an error. [`SqlBarrier::create_table`] creates it.
    pub fn barrier(&self) -> SqlBarrier {
        SqlBarrier::of_dtm(self.clone())
    }

    /// As [`barrier`](Self::barrier), on another table: `barrier` in the current schema, as DTM's clients
    /// in Java, PHP and Node have it, or `products.barrier`, say. All participants that share a database
    /// name the same.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for anything but `TABLE` or `SCHEMA.TABLE`, of letters, digits, `_`, `-`, `$`.
    pub fn barrier_with(&self, table: &str) -> Result<SqlBarrier> {
        SqlBarrier::new(self.clone(), table)
    }

    /// The parked deliveries.
    pub fn parked(&self) -> Arc<dyn ParkedStore> {
        Arc::new(SqlParked::new(self.clone()))
    }

    /// The dead letters.
    pub fn dead_letters(&self) -> Arc<dyn DeadLetterStore> {
        Arc::new(SqlDeadLetters::new(self.clone()))
    }

    /// The sagas of an embedded coordinator.
    pub fn saga_log(&self) -> Arc<dyn SagaLog> {
        Arc::new(SqlSagaLog::new(self.clone()))
    }

    /// Lets sagas be handed over again that were parked, once the reason is mended (a limit of the
    /// coordinator's store): all of them. Answers how many. They are looked for within 2 s.
    ///
    /// # Errors
    ///
    /// Those of [`SqlTx::execute`].
    pub async fn release_sagas(&self) -> Result<u64> {
        stores::release_sagas(self).await
    }

    /// What an inbox service works on, without an outbox for copies of dead letters.
    pub fn inbox_stores(&self) -> InboxStores {
        InboxStores {
            transactions: self.transactions(),
            inbox: self.inbox(),
            parked: self.parked(),
            dead_letters: self.dead_letters(),
            outbox: None,
        }
    }

    /// A component that asks the database once a second whether it answers: the application is not
    /// serving after two failures, and serving again after one answer. Name it first, so that it
    /// runs as long as the others.
    pub fn probe(&self) -> Probe {
        Probe::new("database", SqlPing::new(self.clone()))
    }

    /// Creates the framework's tables, or brings them up to date, in one transaction. It keeps its
    /// own version table; a user's own migrations are not touched.
    ///
    /// # Errors
    ///
    /// `FailedPrecondition` when the tables are of a newer version than this one knows,
    /// `PermissionDenied` when the user may not create them.
    pub async fn migrate(&self) -> Result<()> {
        migrate::run(self).await
    }

    /// Runs a script of several statements, without values, in one transaction: a user's own
    /// tables.
    ///
    /// # Errors
    ///
    /// Those of [`SqlTx::execute`].
    pub async fn execute_script(&self, script: &str) -> Result<()> {
        self.run(async |tx| tx.sql()?.execute_script(script).await).await
    }

    /// Runs one statement outside a transaction, as the writer, and answers how many rows it
    /// changed.
    ///
    /// # Errors
    ///
    /// Those of [`SqlTx::execute`], and `Unknown` for a write that may be done: it was not answered,
    /// or, on MySQL, MariaDB and SQLite, failed half-way. On MySQL and MariaDB only wrong SQL, a
    /// broken rule and a lost conflict are certain.
    pub async fn execute(&self, statement: &str, values: &[Value]) -> Result<u64> {
        self.execute_as("sql.execute", statement, values).await
    }

    /// Reads what is committed; waits for no transaction.
    ///
    /// # Errors
    ///
    /// `ResourceExhausted` when no reader became free in time, `Internal` for a statement that writes
    /// on SQLite, and those of [`SqlTx::execute`].
    pub async fn fetch_all(&self, statement: &str, values: &[Value]) -> Result<Vec<Row>> {
        self.fetch_all_as("sql.fetch_all", statement, values).await
    }

    /// Reads the first row of what is committed, if there is one.
    ///
    /// # Errors
    ///
    /// Those of [`fetch_all`](Self::fetch_all).
    pub async fn fetch_optional(&self, statement: &str, values: &[Value]) -> Result<Option<Row>> {
        Ok(self.fetch_all_as("sql.fetch_optional", statement, values).await?.into_iter().next())
    }

    /// Waits for the transaction that is open and closes the connections; a pool that was handed
    /// in stays open. Without it they are closed when the last clone is dropped.
    pub async fn close(&self) {
        match &self.inner.connections {
            #[cfg(feature = "sqlite")]
            Connections::Sqlite(connections) => connections.close().await,
            #[cfg(feature = "mysql")]
            Connections::MySql(connections) => connections.close().await,
            #[cfg(feature = "postgres")]
            Connections::Postgres(connections) => connections.close().await,
        }
    }

    /// Which SQL it speaks: `sqlite`, `mysql` (MariaDB too) or `postgres`; for who has a schema or a
    /// statement for each.
    pub fn dialect_name(&self) -> &'static str {
        self.dialect().name()
    }

    pub(crate) async fn execute_as(&self, operation: &'static str, statement: &str, values: &[Value]) -> Result<u64> {
        match &self.inner.connections {
            #[cfg(feature = "sqlite")]
            Connections::Sqlite(connections) => connections.execute_once(operation, statement, values).await,
            #[cfg(feature = "mysql")]
            Connections::MySql(connections) => connections.execute(operation, statement, values, false).await,
            #[cfg(feature = "postgres")]
            Connections::Postgres(connections) => connections.execute(operation, statement, values, false).await,
        }
    }

    /// As [`execute`](Self::execute), where running it twice is as running it once.
    pub(crate) async fn repeat_as(&self, operation: &'static str, statement: &str, values: &[Value]) -> Result<u64> {
        match &self.inner.connections {
            #[cfg(feature = "sqlite")]
            Connections::Sqlite(connections) => connections.execute(operation, statement, values).await,
            #[cfg(feature = "mysql")]
            Connections::MySql(connections) => connections.execute(operation, statement, values, true).await,
            #[cfg(feature = "postgres")]
            Connections::Postgres(connections) => connections.execute(operation, statement, values, true).await,
        }
    }

    /// Runs the statements, several of them in one transaction, so that the disk is waited for once.
    /// Running them twice is as running them once.
    #[cfg(feature = "sqlite")]
    pub(crate) async fn execute_all_as(
        &self,
        operation: &'static str,
        statements: &[(&str, Vec<Value>)],
    ) -> Result<()> {
        if let [(statement, values)] = statements {
            self.repeat_as(operation, statement, values).await?;
            return Ok(());
        }
        self.run(async |tx| {
            let sql = self.opened(tx, operation)?;
            for (statement, values) in statements {
                sql.execute_as(operation, statement, values).await?;
            }
            Ok(())
        })
        .await
    }

    pub(crate) async fn fetch_all_as(
        &self,
        operation: &'static str,
        statement: &str,
        values: &[Value],
    ) -> Result<Vec<Row>> {
        match &self.inner.connections {
            #[cfg(feature = "sqlite")]
            Connections::Sqlite(connections) => connections.fetch_all(operation, statement, values).await,
            #[cfg(feature = "mysql")]
            Connections::MySql(connections) => connections.fetch_all(operation, statement, values).await,
            #[cfg(feature = "postgres")]
            Connections::Postgres(connections) => connections.fetch_all(operation, statement, values).await,
        }
    }

    /// Waits until no other process migrates this database.
    pub(crate) async fn migration_turn(&self) -> Result<MigrationTurn> {
        #[cfg(any(feature = "mysql", feature = "postgres"))]
        let lock = self.prefixed(self.dialect().migration_lock());
        match &self.inner.connections {
            #[cfg(feature = "sqlite")]
            Connections::Sqlite(_) => Ok(MigrationTurn::OfWriter),
            #[cfg(feature = "mysql")]
            Connections::MySql(connections) => {
                connections.locked("sql.migrate", &lock).await.map(|lease| MigrationTurn::MySql { _lease: lease })
            }
            #[cfg(feature = "postgres")]
            Connections::Postgres(connections) => {
                connections.locked("sql.migrate", &lock).await.map(|lease| MigrationTurn::Postgres { _lease: lease })
            }
        }
    }

    pub(crate) fn connections(&self) -> &Connections {
        &self.inner.connections
    }

    pub(crate) fn dialect(&self) -> Dialect {
        match &self.inner.connections {
            #[cfg(feature = "sqlite")]
            Connections::Sqlite(_) => Dialect::Sqlite,
            #[cfg(feature = "mysql")]
            Connections::MySql(_) => Dialect::MySql,
            #[cfg(feature = "postgres")]
            Connections::Postgres(_) => Dialect::Postgres,
        }
    }

    /// Who relays which shard.
    pub(crate) fn owner(&self) -> &Owner {
        &self.inner.owner
    }

    /// A text that names our tables `micro_…`, with the configured prefix.
    pub(crate) fn prefixed(&self, text: &str) -> String {
        text.replace("micro_", &self.inner.table_prefix)
    }

    /// The transaction, when this database began it.
    pub(crate) fn opened<'a>(&self, tx: &'a mut Tx, operation: &'static str) -> Result<&'a mut SqlTx> {
        tx.downcast::<SqlTx>(self.inner.id, operation)
    }
}

#[async_trait]
impl TransactionManager for SqlDatabase {
    async fn begin(&self) -> Result<Tx> {
        let transaction = match &self.inner.connections {
            #[cfg(feature = "sqlite")]
            Connections::Sqlite(connections) => SqlTx::Sqlite(connections.begin().await?),
            #[cfg(feature = "mysql")]
            Connections::MySql(connections) => SqlTx::MySql(MySqlTx(connections.begin().await?)),
            #[cfg(feature = "postgres")]
            Connections::Postgres(connections) => SqlTx::Postgres(PostgresTx(connections.begin().await?)),
        };
        Ok(Tx::new(self.inner.id, transaction))
    }

    fn id(&self) -> ManagerId {
        self.inner.id
    }
}

impl fmt::Debug for SqlDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlDatabase")
            .field("id", &self.inner.id)
            .field("dialect", &self.dialect())
            .field("table_prefix", &self.inner.table_prefix)
            .finish_non_exhaustive()
    }
}

fn checked_shard_count(config: &SqlConfig) -> Result<u16> {
    match config.outbox_shard_count {
        // SQLite's database is relayed by one process, as it has one writer.
        _ if config.url.starts_with("sqlite:") => Ok(1),
        count @ 1..=SHARD_COUNT => Ok(count),
        count => Err(Error::new(ErrorKind::InvalidArgument, "sql.connect", "an outbox has 1 to 16 shards")
            .with_context("outbox_shard_count", count)),
    }
}

fn unknown_scheme(url: &str) -> Error {
    let scheme = url.split(':').next().filter(|_| url.contains(':')).unwrap_or_default();
    let (kind, message) = match scheme {
        "sqlite" => (ErrorKind::Unimplemented, "SQLite is not compiled in: turn the feature tx-sqlite on"),
        "mysql" | "mariadb" => (ErrorKind::Unimplemented, "MySQL is not compiled in: turn the feature tx-mysql on"),
        "postgres" | "postgresql" => {
            (ErrorKind::Unimplemented, "PostgreSQL is not compiled in: turn the feature tx-postgres on")
        }
        _ => {
            // Without the text: what is no URL may begin with a password.
            let message = "the URL names no database that is known: sqlite:PATH, mysql://… or postgres://…";
            return Error::new(ErrorKind::InvalidArgument, "sql.connect", message);
        }
    };
    Error::new(kind, "sql.connect", message).with_context("url", redacted(url))
}
