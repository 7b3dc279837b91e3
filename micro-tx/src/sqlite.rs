//! SQLite: one writer handed out in order, readers of their own, and statements on either.

use std::{str::FromStr as _, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use micro_core::{Error, ErrorKind, Result};

use sqlx::{
    Arguments as _, AssertSqlSafe, Column as _, ConnectOptions as _, Connection as _, Either, Executor as _, Row as _,
    SqlSafeStr as _, Sqlite, SqliteConnection, SqlitePool, TypeInfo as _, ValueRef as _,
    pool::PoolConnection,
    sqlite::{
        SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
        SqliteTransactionManager,
    },
};
use sqlx_core::transaction::TransactionManager as _;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::{
    config::{PREPARED_COUNT_MAX, SqlConfig, Synchronous, redacted},
    dialect::Dialect,
    error::{from_sqlx, of_unknown_outcome},
    row::Row,
    value::Value,
};

/// How long a connection's thread may take to answer what is quickly done, before that counts as lost: what is
/// sent to a thread that crashes just then is neither refused nor answered.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(1);

/// The connections to one SQLite file.
pub(crate) struct SqliteConnections {
    readers: SqlitePool,
    writer_source: WriterSource,
    /// Whose turn it is to write, and the connection between turns. A tokio mutex is fair; waiting
    /// in SQLite's busy handler is not.
    turn: Arc<Mutex<Option<WriterConnection>>>,
    acquire_timeout: Duration,
}

enum WriterSource {
    File(Box<SqliteConnectOptions>),
    /// A user's own pool: its connection goes back there after each turn.
    Pool(SqlitePool),
}

enum WriterConnection {
    Own(SqliteConnection),
    Pooled(PoolConnection<Sqlite>),
}

impl SqliteConnections {
    /// Opens the file, creating it where it is missing.
    pub(crate) async fn connect(config: &SqlConfig) -> Result<Self> {
        let options = options(config)?;
        // The writer first: it creates the file and turns WAL on, which a reader may not.
        let writer = options
            .connect()
            .await
            .map_err(|error| from_sqlx("sql.connect", error).with_context("url", redacted(&config.url)))?;
        let readers = SqlitePoolOptions::new()
            .max_connections(config.connection_count_max.unwrap_or(4).max(1))
            .acquire_timeout(config.acquire_timeout)
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(options.clone().pragma("query_only", "ON"));
        Ok(Self {
            readers,
            writer_source: WriterSource::File(Box::new(options)),
            turn: Arc::new(Mutex::new(Some(WriterConnection::Own(writer)))),
            acquire_timeout: config.write_acquire_timeout,
        })
    }

    /// Uses a pool that belongs to somebody else.
    pub(crate) fn from_pool(pool: SqlitePool, acquire_timeout: Duration) -> Self {
        Self { readers: pool.clone(), writer_source: WriterSource::Pool(pool), turn: Arc::default(), acquire_timeout }
    }

    /// Opens a transaction when it is its turn.
    ///
    /// # Cancel safety
    ///
    /// No task is needed to shield it: the [`SqliteTx`] owns the connection from before BEGIN is
    /// sent, and its drop rolls back, holding the turn until that is done.
    pub(crate) async fn begin(&self) -> Result<SqliteTx> {
        let mut writer = self.writer("tx.begin").await?;
        writer.is_clean = false;
        let mut tx = SqliteTx { writer: Some(writer), is_broken: false, is_last: false };
        // By sqlx's own command, which is one message to its worker; a statement is several. Where
        // it fails, the drop of `tx` makes sure that nothing is open.
        let begun = SqliteTransactionManager::begin(tx.connection(), Some("BEGIN IMMEDIATE".into_sql_str()));
        let begun = begun.await.map_err(|error| from_sqlx("tx.begin", error));
        tx.is_last = begun.as_ref().is_err_and(is_crashed);
        begun.map(|()| tx)
    }

    /// Runs one statement on the writer's connection, outside a transaction.
    pub(crate) async fn execute(&self, operation: &'static str, statement: &str, values: &[Value]) -> Result<u64> {
        let mut writer = self.writer(operation).await?;
        let done = execute(writer.connection(), operation, statement, values).await;
        writer.is_clean = !done.as_ref().is_err_and(is_crashed);
        done
    }

    /// As [`execute`](Self::execute), of what is not as good when it is done twice.
    ///
    /// # Errors
    ///
    /// `Unknown` when the statement may be done.
    pub(crate) async fn execute_once(&self, operation: &'static str, statement: &str, values: &[Value]) -> Result<u64> {
        let done = self.execute(operation, statement, values).await;
        done.map_err(|error| if may_be_written(&error) { of_unknown_outcome(operation, error) } else { error })
    }

    /// Reads on a reader's connection.
    pub(crate) async fn fetch_all(
        &self,
        operation: &'static str,
        statement: &str,
        values: &[Value],
    ) -> Result<Vec<Row>> {
        let mut reader = self.readers.acquire().await.map_err(|error| from_sqlx(operation, error))?;
        let rows = fetch_all(&mut reader, operation, statement, values).await;
        if rows.as_ref().is_err_and(is_crashed) {
            reader.close_on_drop();
        }
        rows
    }

    /// Closes the connections after the transaction that is open; a user's own pool stays open.
    pub(crate) async fn close(&self) {
        if matches!(self.writer_source, WriterSource::File(_)) {
            self.readers.close().await;
            if let Some(WriterConnection::Own(connection)) = self.turn.lock().await.take() {
                // An error of closing changes nothing: SQLite recovers the file when it is opened.
                let _ = connection.close().await;
            }
        }
    }

    async fn writer(&self, operation: &'static str) -> Result<Writer> {
        let mut turn = self.turn(operation).await?;
        if turn.is_none() {
            let connection = match &self.writer_source {
                WriterSource::File(options) => options.connect().await.map(WriterConnection::Own),
                WriterSource::Pool(pool) => pool.acquire().await.map(WriterConnection::Pooled),
            };
            *turn = Some(connection.map_err(|error| from_sqlx(operation, error))?);
        }
        Ok(Writer { turn, is_clean: true })
    }

    async fn turn(&self, operation: &'static str) -> Result<OwnedMutexGuard<Option<WriterConnection>>> {
        if let Ok(turn) = self.turn.clone().try_lock_owned() {
            return Ok(turn);
        }
        tokio::time::timeout(self.acquire_timeout, self.turn.clone().lock_owned()).await.map_err(|_| {
            Error::new(ErrorKind::ResourceExhausted, operation, "other transactions kept the writer for too long")
                .with_context("acquire_timeout_ms", self.acquire_timeout.as_millis())
        })
    }
}

fn options(config: &SqlConfig) -> Result<SqliteConnectOptions> {
    let invalid = |message| {
        Error::new(ErrorKind::InvalidArgument, "sql.connect", message).with_context("url", redacted(&config.url))
    };
    if is_in_memory(&config.url) {
        return Err(invalid("each connection would have a database of its own: use a file, or MemoryDatabase"));
    }
    // sqlx's error is left out: it would repeat parts of the URL.
    let options = SqliteConnectOptions::from_str(&config.url)
        .map_err(|_| invalid("the URL is not one of SQLite: sqlite:PATH[?mode=ro|rw|rwc]"))?;
    let synchronous = match config.synchronous {
        Synchronous::Full => SqliteSynchronous::Full,
        Synchronous::Normal => SqliteSynchronous::Normal,
    };
    let is_created = !config.url.contains("mode=") || config.url.contains("mode=rwc");
    Ok(options
        .create_if_missing(is_created)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(synchronous)
        .foreign_keys(true)
        .busy_timeout(config.busy_timeout)
        .disable_statement_logging()
        .statement_cache_capacity(PREPARED_COUNT_MAX))
}

fn is_in_memory(url: &str) -> bool {
    let path = url.trim_start_matches("sqlite:").trim_start_matches("//");
    path.is_empty() || path.starts_with('?') || path.starts_with(":memory:") || url.contains("mode=memory")
}

/// The writer's connection for as long as it is one's turn.
struct Writer {
    turn: OwnedMutexGuard<Option<WriterConnection>>,
    /// Whether nothing is open on it and its thread is there. A connection of which that is not known does
    /// not go back.
    is_clean: bool,
}

impl Writer {
    fn connection(&mut self) -> &mut SqliteConnection {
        match self.turn.as_mut().expect("a writer is made with its connection and keeps it") {
            WriterConnection::Own(connection) => connection,
            WriterConnection::Pooled(connection) => connection,
        }
    }

    /// Undoes what is open, savepoints included, or closes the connection if that fails.
    async fn reset(mut self) {
        loop {
            let rollback = SqliteTransactionManager::rollback(self.connection());
            match tokio::time::timeout(ANSWER_WAIT_MAX, rollback).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    // SQLite undoes some transactions by itself; then there is nothing to roll back.
                    tracing::debug!(%error, "rollback failed, closing the connection");
                    return self.close().await;
                }
                // Of a thread that is still at work, closing waits for the end too.
                Err(_) => return self.close().await,
            }
            // Read after the answer: a BEGIN that nobody waited for is counted by then.
            if SqliteTransactionManager::get_transaction_depth(self.connection()) == 0 {
                break;
            }
        }
        self.is_clean = true;
    }

    /// Closes the connection and waits for the statement it may still run; the next turn opens
    /// another.
    ///
    /// It does not wait for a thread that is gone: with the connection goes what was sent to it, and with
    /// that the wait for an answer.
    async fn close(mut self) {
        let closed = match self.turn.take() {
            Some(WriterConnection::Own(connection)) => connection.close().await,
            Some(WriterConnection::Pooled(connection)) => connection.close().await,
            None => Ok(()),
        };
        if let Err(error) = closed {
            tracing::debug!(%error, "closing a broken connection");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        match &*self.turn {
            Some(WriterConnection::Own(_)) if self.is_clean => {}
            Some(WriterConnection::Pooled(_)) if !self.is_clean => {
                // Detached it closes at once; back in the pool it would take the open transaction along.
                if let Some(WriterConnection::Pooled(connection)) = self.turn.take() {
                    drop(connection.detach());
                }
            }
            _ => drop(self.turn.take()),
        }
    }
}

/// An open transaction on SQLite. Dropped, it is rolled back by a spawned task; without a runtime
/// its connection is closed, which undoes it too.
pub struct SqliteTx {
    writer: Option<Writer>,
    /// Set while a statement runs and after one that may have ended the transaction: SQLite would
    /// run what follows outside of it.
    is_broken: bool,
    /// Whether the connection is closed after this transaction, as its thread crashed or its commit was not
    /// waited for: after that, sqlx leaves out the next rollback of a transaction that is dropped.
    is_last: bool,
}

impl SqliteTx {
    /// sqlx's connection, for what [`SqlTx`](crate::SqlTx) does not offer. Leave the transaction
    /// open: no COMMIT, no ROLLBACK but to a savepoint.
    pub fn connection(&mut self) -> &mut SqliteConnection {
        self.writer.as_mut().expect("only commit, rollback and drop take the writer").connection()
    }

    pub(crate) async fn execute(&mut self, operation: &'static str, statement: &str, values: &[Value]) -> Result<u64> {
        self.enter(operation)?;
        let outcome = execute(self.connection(), operation, statement, values).await;
        self.leave(outcome)
    }

    pub(crate) async fn execute_script(&mut self, operation: &'static str, script: &str) -> Result<()> {
        self.enter(operation)?;
        let connection = self.connection();
        let run = match connection.execute(sqlx::raw_sql(AssertSqlSafe(script))).await {
            Ok(_) if !is_alive(connection).await => Err(sqlx::Error::WorkerCrashed),
            run => run.map(drop),
        };
        self.leave(run.map_err(|error| from_sqlx(operation, error)))
    }

    pub(crate) async fn fetch_all(
        &mut self,
        operation: &'static str,
        statement: &str,
        values: &[Value],
    ) -> Result<Vec<Row>> {
        self.enter(operation)?;
        let outcome = fetch_all(self.connection(), operation, statement, values).await;
        self.leave(outcome)
    }

    pub(crate) async fn commit(mut self) -> Result<()> {
        self.enter("tx.commit")?;
        self.is_last = true;
        let committed = SqliteTransactionManager::commit(self.connection()).await;
        let committed = committed.map_err(|error| from_sqlx("tx.commit", error));
        self.is_last = committed.as_ref().is_err_and(is_crashed);
        committed.map_err(of_commit)?;
        // The writer goes back clean; every other way out leaves it to the drop.
        if let Some(mut writer) = self.writer.take() {
            writer.is_clean = true;
        }
        Ok(())
    }

    pub(crate) async fn rollback(mut self) {
        if let Some(writer) = self.writer.take() {
            undo(writer, self.is_last).await;
        }
    }

    /// Counts the transaction as broken until [`leave`](Self::leave): a statement whose future was
    /// dropped may have run or not, so that its transaction must not commit.
    fn enter(&mut self, operation: &'static str) -> Result<()> {
        if std::mem::replace(&mut self.is_broken, true) {
            let message = "a statement of this transaction failed or was dropped half-way: roll it back";
            return Err(Error::new(ErrorKind::Aborted, operation, message));
        }
        Ok(())
    }

    fn leave<T>(&mut self, outcome: Result<T>) -> Result<T> {
        self.is_broken = outcome.as_ref().is_err_and(|error| Dialect::Sqlite.is_ended_by(error));
        self.is_last |= outcome.as_ref().is_err_and(is_crashed);
        outcome
    }
}

impl Drop for SqliteTx {
    fn drop(&mut self) {
        let Some(writer) = self.writer.take() else { return };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(undo(writer, self.is_last))),
            Err(_) => drop(writer),
        }
    }
}

async fn undo(writer: Writer, is_last: bool) {
    if is_last { writer.close().await } else { writer.reset().await }
}

/// What a failure to commit is to the caller.
///
/// A full disk is met before the last frame of the transaction is whole in the write-ahead log, and
/// without that one none of them counts: <https://www.sqlite.org/walformat.html>.
fn of_commit(error: Error) -> Error {
    let is_undone = Dialect::Sqlite.is_undone_after(&error) && !may_be_written(&error);
    if is_undone { error } else { of_unknown_outcome("tx.commit", error) }
}

/// Whether the error can come from behind the last frame. Of a commit whose fsync failed, say, the
/// file has all of it: undone here, it is back if the process dies before another one overwrites it.
fn may_be_written(error: &Error) -> bool {
    const NOMEM: u32 = 7;
    const IOERR: u32 = 10;
    const IOERR_READ: u32 = 266;
    const IOERR_SHORT_READ: u32 = 522;
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref());
    match source {
        Some(sqlx::Error::Database(error)) => {
            let code = error.code().and_then(|code| code.parse().ok()).unwrap_or_default();
            matches!(code & 0xff, NOMEM | IOERR) && !matches!(code, IOERR_READ | IOERR_SHORT_READ)
        }
        _ => is_crashed(error),
    }
}

/// Whether the connection's thread is gone, and with it what could answer the next statement.
fn is_crashed(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref());
    matches!(source, Some(sqlx::Error::WorkerCrashed))
}

async fn execute(
    connection: &mut SqliteConnection,
    operation: &'static str,
    statement: &str,
    values: &[Value],
) -> Result<u64> {
    run(connection, operation, statement, values, drop).await
}

async fn fetch_all(
    connection: &mut SqliteConnection,
    operation: &'static str,
    statement: &str,
    values: &[Value],
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    run(connection, operation, statement, values, |row| rows.push(row)).await?;
    let Some(first) = rows.first() else { return Ok(Vec::new()) };
    let columns: Arc<[String]> = first.columns().iter().map(|column| column.name().to_owned()).collect();
    rows.iter().map(|row| read(row, columns.clone()).map_err(|error| from_sqlx(operation, error))).collect()
}

/// Runs a statement to its end and answers how many rows it changed.
async fn run(
    connection: &mut SqliteConnection,
    operation: &'static str,
    statement: &str,
    values: &[Value],
    mut each: impl FnMut(SqliteRow) + Send,
) -> Result<u64> {
    let arguments = arguments(operation, statement, values)?;
    let mut steps = connection.fetch_many(sqlx::query_with(AssertSqlSafe(statement), arguments));
    let mut changed_count = None;
    while let Some(step) = steps.try_next().await.map_err(|error| from_sqlx(operation, error))? {
        match step {
            Either::Left(done) => changed_count = Some(changed_count.unwrap_or(0) + done.rows_affected()),
            Either::Right(row) => each(row),
        }
    }
    drop(steps);
    // Where the connection's thread panics, the steps end as if all were done. One statement has ended when
    // its count is there. That is not known of several, nor of a text with none, which has no count.
    let is_one = !statement.trim_end_matches(|c: char| c == ';' || c.is_whitespace()).contains(';');
    let is_done = changed_count.is_some() && is_one;
    if !is_done && !is_alive(connection).await {
        return Err(from_sqlx(operation, sqlx::Error::WorkerCrashed));
    }
    Ok(changed_count.unwrap_or(0))
}

/// Whether the connection's thread still answers, and so has not crashed at what it was sent before.
async fn is_alive(connection: &mut SqliteConnection) -> bool {
    loop {
        // Asked again, a thread that is slow answers later, and one that is gone refuses.
        if let Ok(answer) = tokio::time::timeout(ANSWER_WAIT_MAX, connection.ping()).await {
            return answer.is_ok();
        }
    }
}

fn arguments(operation: &'static str, statement: &str, values: &[Value]) -> Result<SqliteArguments> {
    Dialect::Sqlite.checked(operation, statement, values)?;
    let mut arguments = SqliteArguments::default();
    arguments.reserve(values.len(), 0);
    for value in values {
        let added = match value {
            Value::Null => arguments.add(None::<i64>),
            Value::Integer(number) => arguments.add(*number),
            Value::Real(number) => arguments.add(*number),
            Value::Text(text) => arguments.add(text.as_str()),
            Value::Blob(bytes) => arguments.add(&bytes[..]),
        };
        added.map_err(|error| from_sqlx(operation, sqlx::Error::Encode(error)))?;
    }
    Ok(arguments)
}

/// Reads each column by the type that its value has: SQLite's columns have none.
fn read(row: &SqliteRow, columns: Arc<[String]>) -> Result<Row, sqlx::Error> {
    let values = (0..row.len()).map(|index| {
        let value = row.try_get_raw(index)?;
        if value.is_null() {
            return Ok(Value::Null);
        }
        let type_info = value.type_info().into_owned();
        Ok(match type_info.name() {
            "REAL" => Value::Real(row.try_get_unchecked(index)?),
            "TEXT" => Value::Text(row.try_get_unchecked(index)?),
            "BLOB" => Value::Blob(Bytes::from(row.try_get_unchecked::<Vec<u8>, _>(index)?)),
            _ => Value::Integer(row.try_get_unchecked(index)?),
        })
    });
    let values = values.collect::<Result<Vec<_>, sqlx::Error>>()?;
    Ok(Row::new(columns, values))
}
