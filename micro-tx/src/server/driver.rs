//! What sqlx's driver of a database must offer, in the words of this crate.

use std::time::Duration;

use micro_core::Result;
use sqlx::{Connection, SqlStr};

use crate::{config::SqlConfig, dialect::Dialect, row::Row, value::Value};

/// A database behind a network.
pub(crate) trait Driver: sqlx::Database<Connection: Sync, Arguments: Send> {
    /// Its dialect.
    const DIALECT: Dialect;

    /// sqlx's options for the configured URL.
    fn options(config: &SqlConfig) -> Result<<Self::Connection as Connection>::Options>;

    /// Where that is, for messages: host and port, or the socket.
    fn address(options: &<Self::Connection as Connection>::Options) -> String;

    /// Connects and sets the session up.
    fn connect(
        options: &<Self::Connection as Connection>::Options,
        session: &Session,
    ) -> impl Future<Output = Result<Self::Connection, sqlx::Error>> + Send;

    /// What is wrong with a session of a user's own pool, if what is executed there by itself would not be
    /// committed.
    fn unfit(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<Option<&'static str>, sqlx::Error>> + Send;

    /// What makes the server end a session whose client says nothing for so long.
    fn ends_after_silence(limit: Duration) -> String;

    /// Begins a transaction in READ COMMITTED, in one round trip. `is_set_up` says that the session
    /// is one of [`connect`](Self::connect).
    fn begin(
        connection: &mut Self::Connection,
        is_set_up: bool,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Commits what [`begin`](Self::begin) began.
    fn commit(connection: &mut Self::Connection) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Rolls back one level: the transaction, or the last savepoint.
    fn rollback(connection: &mut Self::Connection) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// How many levels are open: 1 for a transaction, more with savepoints.
    fn depth(connection: &Self::Connection) -> usize;

    /// Runs a text of several statements without values.
    fn script(connection: &mut Self::Connection, script: &str) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Runs a prepared statement and answers how many rows it changed.
    fn execute(
        connection: &mut Self::Connection,
        statement: SqlStr,
        arguments: Self::Arguments,
        is_kept: bool,
    ) -> impl Future<Output = Result<u64, sqlx::Error>> + Send;

    /// Runs a prepared statement and answers its rows.
    fn fetch_all(
        connection: &mut Self::Connection,
        statement: SqlStr,
        arguments: Self::Arguments,
        is_kept: bool,
    ) -> impl Future<Output = Result<Vec<Row>, sqlx::Error>> + Send;

    /// The values as they are bound.
    fn arguments(values: &[Value]) -> Result<Self::Arguments, sqlx::Error>;
}

/// What every session of ours is set to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Session {
    /// How long a statement may run.
    pub(crate) statement_timeout: Duration,
    /// How long a statement waits for a lock.
    pub(crate) lock_timeout: Duration,
}
