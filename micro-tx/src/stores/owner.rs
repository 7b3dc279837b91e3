//! Who relays which shard: by locks of this process on SQLite, by the server's locks elsewhere.

use std::time::Duration;

use micro_core::{
    Error, ErrorKind, Result,
    outbox::{SHARD_COUNT, ShardLease, ShardLocks},
};

#[cfg(any(feature = "mysql", feature = "postgres"))]
use crate::server::{LockConnection, Locked};
use crate::{
    database::{Connections, SqlDatabase},
    row::Row,
    value::Value,
};

/// Hands out the shards of one database.
///
/// A row is put into one of 16 buckets by the hash of its key; a shard is every n-th bucket, n
/// being how many shards there are. On a server each bucket is a lock, held by the connection that
/// reads and deletes its rows: processes that disagree about n wait for each other.
pub(crate) struct Owner {
    local: ShardLocks,
    shard_count: u16,
    locks: Locks,
}

/// How the outbox is shared.
#[derive(Clone, Copy)]
pub(crate) struct OwnerSettings {
    pub(crate) shard_count: u16,
    /// How long an owner may be silent.
    #[cfg_attr(not(any(feature = "mysql", feature = "postgres")), expect(dead_code, reason = "for servers"))]
    pub(crate) timeout: Duration,
}

enum Locks {
    #[cfg(feature = "sqlite")]
    InProcess,
    #[cfg(feature = "mysql")]
    MySql(LockConnection<sqlx::MySql>),
    #[cfg(feature = "postgres")]
    Postgres(LockConnection<sqlx::Postgres>),
}

impl Owner {
    pub(crate) fn new(connections: &Connections, table_prefix: &str, settings: OwnerSettings) -> Self {
        let locks = match connections {
            #[cfg(feature = "sqlite")]
            Connections::Sqlite(_) => Locks::InProcess,
            #[cfg(feature = "mysql")]
            Connections::MySql(connections) => {
                Locks::MySql(LockConnection::new(connections.clone(), table_prefix, settings.timeout))
            }
            #[cfg(feature = "postgres")]
            Connections::Postgres(connections) => {
                Locks::Postgres(LockConnection::new(connections.clone(), table_prefix, settings.timeout))
            }
        };
        #[cfg(not(any(feature = "mysql", feature = "postgres")))]
        let _ = table_prefix;
        Self { local: ShardLocks::default(), shard_count: settings.shard_count, locks }
    }

    /// The shard of a bucket.
    pub(crate) fn shard_of(&self, bucket: u16) -> u16 {
        bucket % self.shard_count
    }

    /// Takes a shard; `None` while it is taken, here or by another process.
    pub(crate) async fn own(&self, database: &SqlDatabase, shard: u16) -> Result<Option<Owned>> {
        #[cfg(not(feature = "sqlite"))]
        let _ = database;
        let Some(lease) = self.local.own(shard)? else { return Ok(None) };
        let buckets: Vec<u16> = (shard..SHARD_COUNT).step_by(self.shard_count.into()).collect();
        if shard >= self.shard_count {
            return Ok(Some(Owned { _lease: lease, buckets: Vec::new(), way: Way::Nowhere }));
        }
        let way = match &self.locks {
            #[cfg(feature = "sqlite")]
            Locks::InProcess => Some(Way::Database(database.clone())),
            #[cfg(feature = "mysql")]
            Locks::MySql(connection) => connection.lock(&buckets).await?.map(Way::MySql),
            #[cfg(feature = "postgres")]
            Locks::Postgres(connection) => connection.lock(&buckets).await?.map(Way::Postgres),
        };
        Ok(way.map(|way| Owned { _lease: lease, buckets, way }))
    }
}

/// A shard that is owned, and the way on which its rows are read and deleted.
pub(crate) struct Owned {
    _lease: ShardLease,
    buckets: Vec<u16>,
    way: Way,
}

enum Way {
    /// There are fewer shards: it has no rows.
    Nowhere,
    #[cfg(feature = "sqlite")]
    Database(SqlDatabase),
    #[cfg(feature = "mysql")]
    MySql(Locked<sqlx::MySql>),
    #[cfg(feature = "postgres")]
    Postgres(Locked<sqlx::Postgres>),
}

impl Owned {
    /// Its buckets: none, some, or all.
    pub(crate) fn buckets(&self) -> &[u16] {
        &self.buckets
    }

    pub(crate) async fn fetch_all(
        &self,
        operation: &'static str,
        statement: &str,
        values: &[Value],
    ) -> Result<Vec<Row>> {
        match &self.way {
            Way::Nowhere => Ok(Vec::new()),
            #[cfg(feature = "sqlite")]
            Way::Database(database) => database.fetch_all_as(operation, statement, values).await,
            #[cfg(feature = "mysql")]
            Way::MySql(locked) => locked.fetch_all(operation, statement, values).await,
            #[cfg(feature = "postgres")]
            Way::Postgres(locked) => locked.fetch_all(operation, statement, values).await,
        }
    }

    /// Runs the statements, several of them in one transaction.
    pub(crate) async fn execute_all(&self, operation: &'static str, statements: &[(&str, Vec<Value>)]) -> Result<()> {
        match &self.way {
            Way::Nowhere if statements.is_empty() => Ok(()),
            Way::Nowhere => Err(Error::new(ErrorKind::InvalidArgument, operation, "the shard has no such row")),
            #[cfg(feature = "sqlite")]
            Way::Database(database) => database.execute_all_as(operation, statements).await,
            #[cfg(feature = "mysql")]
            Way::MySql(locked) => locked.execute_all(operation, statements).await,
            #[cfg(feature = "postgres")]
            Way::Postgres(locked) => locked.execute_all(operation, statements).await,
        }
    }
}
