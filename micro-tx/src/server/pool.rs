//! Connections handed out in the order in which they were asked for, without a ping before or after.
//!
//! sqlx's own pool asks the server on every release whether the connection lives. Here a dead
//! connection is noticed by BEGIN, which then goes to a fresh one.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use micro_core::{Error, ErrorKind, Result, transaction::shielded};
use sqlx::{Connection as _, Pool as SqlxPool, pool::PoolConnection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Call, Driver, Session};
use crate::{
    config::SqlConfig,
    error::{from_sqlx, is_broken, is_read_only, is_refusal, of_unknown_outcome},
    row::Row,
};

/// How long a connection's farewell may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

type Options<D> = <<D as sqlx::Database>::Connection as sqlx::Connection>::Options;

pub(crate) struct Pool<D: Driver> {
    inner: Arc<Inner<D>>,
}

struct Inner<D: Driver> {
    source: Source<D>,
    idle: Mutex<Vec<Established<D>>>,
    slots: Arc<Semaphore>,
    limits: PoolLimits,
    /// Whether a connection of a user's own pool was found to be fit.
    is_checked: AtomicBool,
}

enum Source<D: Driver> {
    Server(Box<Options<D>>),
    /// A user's own pool: its connections go back there after each use.
    Shared(SqlxPool<D>),
}

/// How many connections, and how long things may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolLimits {
    pub(crate) connection_count_max: usize,
    pub(crate) acquire_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) connection_lifetime: Duration,
    pub(crate) session: Session,
}

impl PoolLimits {
    fn new(config: &SqlConfig) -> Self {
        Self {
            connection_count_max: config.connection_count_max.unwrap_or(16).max(1) as usize,
            acquire_timeout: config.acquire_timeout,
            connect_timeout: config.connect_timeout,
            connection_lifetime: config.connection_lifetime,
            session: Session { statement_timeout: config.statement_timeout, lock_timeout: config.lock_timeout },
        }
    }
}

struct Established<D: Driver> {
    connection: D::Connection,
    expires_at: Instant,
}

impl<D: Driver> Pool<D> {
    pub(crate) async fn connect(config: &SqlConfig) -> Result<Self> {
        let limits = PoolLimits::new(config);
        let pool = Self::new(Source::Server(Box::new(D::options(config)?)), limits);
        pool.lease("sql.connect").await?.connect("sql.connect").await?;
        Ok(pool)
    }

    pub(crate) fn shared(pool: SqlxPool<D>) -> Self {
        let mut limits = PoolLimits::new(&SqlConfig::default());
        // The owner's pool counts; it is asked, not this one.
        limits.connection_count_max = Semaphore::MAX_PERMITS;
        Self::new(Source::Shared(pool), limits)
    }

    fn new(source: Source<D>, limits: PoolLimits) -> Self {
        let slots = Arc::new(Semaphore::new(limits.connection_count_max));
        let is_checked = AtomicBool::default();
        Self { inner: Arc::new(Inner { source, idle: Mutex::default(), slots, limits, is_checked }) }
    }

    /// Waits for a turn, in a user's own pool for a connection. Else the lease has none before its
    /// `connect` or `begin`.
    pub(crate) async fn lease(&self, operation: &'static str) -> Result<Lease<D>> {
        let slots = self.inner.slots.clone();
        let slot = match slots.clone().try_acquire_owned() {
            Ok(slot) => slot,
            Err(_) => {
                let limit = self.inner.limits.acquire_timeout;
                let waiting = tokio::time::timeout(limit, slots.acquire_owned());
                let slot = waiting.await.map_err(|_| {
                    Error::new(ErrorKind::ResourceExhausted, operation, "no connection became free in time")
                        .with_context("acquire_timeout_ms", limit.as_millis())
                        .with_context("connection_count_max", self.inner.limits.connection_count_max)
                })?;
                slot.map_err(|_| Error::new(ErrorKind::Unavailable, operation, "the database is closed"))?
            }
        };
        let mut lease =
            Lease { inner: self.inner.clone(), connection: None, state: State::Clean, is_kept: true, slot: Some(slot) };
        // The owner's pool has turns of its own: who waits for one can go away here, and not once what
        // follows is shielded.
        if self.is_shared() {
            lease.connect(operation).await?;
        }
        Ok(lease)
    }

    /// Whether the connections are a user's own pool's.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.inner.source, Source::Shared(_))
    }

    /// A connection of its own that is not counted and is closed when it is dropped. Of a user's own
    /// pool it takes one out, set up as its owner wants them, in whose place the pool can open another.
    pub(crate) async fn dedicated(&self, operation: &'static str) -> Result<Lease<D>> {
        let mut lease =
            Lease { inner: self.inner.clone(), connection: None, state: State::Clean, is_kept: false, slot: None };
        lease.connection = Some(match self.inner.open(operation).await? {
            Connection::Pooled(connection) => {
                let expires_at = Instant::now() + self.inner.limits.connection_lifetime;
                Connection::Own(Established { connection: connection.detach(), expires_at })
            }
            own => own,
        });
        Ok(lease)
    }

    pub(crate) async fn close(&self) {
        let count = u32::try_from(self.inner.limits.connection_count_max);
        if let (Source::Server(_), Ok(count)) = (&self.inner.source, count) {
            // Every turn is over once all can be had. Whoever keeps one longer than a statement may
            // take closes it at its end: nobody gets one any more.
            let limit = self.inner.limits.session.statement_timeout;
            let _ = tokio::time::timeout(limit, self.inner.slots.acquire_many(count)).await;
            self.inner.slots.close();
            for idle in self.inner.take_idle() {
                farewell::<D>(idle.connection).await;
            }
        }
    }
}

impl<D: Driver> Clone for Pool<D> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<D: Driver> Inner<D> {
    /// The connection that was used last: it is warm, and those that are not needed grow old.
    fn idle(&self) -> Option<Established<D>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.pop()
    }

    fn take_idle(&self) -> Vec<Established<D>> {
        std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a clean connection back, unless it is old or the pool closed.
    fn put_back(&self, established: Established<D>) {
        let now = Instant::now();
        if established.expires_at <= now || self.slots.is_closed() {
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(farewell::<D>(established.connection));
            }
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // The bottom of the stack is what is needed least: there the old ones are found.
        let is_old = idle.first().is_some_and(|oldest| oldest.expires_at <= now);
        let old = is_old.then(|| idle.remove(0));
        idle.push(established);
        drop(idle);
        drop(old);
    }

    async fn open(&self, operation: &'static str) -> Result<Connection<D>> {
        if self.slots.is_closed() {
            return Err(Error::new(ErrorKind::Unavailable, operation, "the database is closed"));
        }
        match &self.source {
            Source::Shared(pool) => {
                let connection = pool.acquire().await.map_err(|error| from_sqlx(operation, error))?;
                self.checked(operation, connection).await.map(Connection::Pooled)
            }
            Source::Server(options) => {
                let limit = self.limits.connect_timeout;
                let unreachable = |error: Error| {
                    error.with_context("database", D::DIALECT.name()).with_context("address", D::address(options))
                };
                let connecting = tokio::time::timeout(limit, D::connect(options, &self.limits.session));
                let connection = connecting.await.map_err(|_| {
                    let message = "the server did not answer: is it running, and is this its address?";
                    unreachable(Error::new(ErrorKind::Unavailable, operation, message))
                        .with_context("connect_timeout_ms", limit.as_millis())
                })?;
                let connection = connection.map_err(|error| unreachable(crate::error::connecting(operation, error)))?;
                // Not all at once: connections that were opened together do not end together.
                let lifetime = self.limits.connection_lifetime.mul_f64(0.9 + 0.2 * fastrand::f64());
                Ok(Connection::Own(Established { connection, expires_at: Instant::now() + lifetime }))
            }
        }
    }

    /// Asks the first connection of a user's own pool whether its session is one to commit in: all of them
    /// are set up alike.
    async fn checked(&self, operation: &'static str, mut connection: PoolConnection<D>) -> Result<PoolConnection<D>> {
        if self.is_checked.load(Ordering::Relaxed) {
            return Ok(connection);
        }
        let limit = self.limits.connect_timeout;
        // Shielded: dropped half-way it would go back in the middle of an answer.
        let connection = shielded(operation, async move {
            match tokio::time::timeout(limit, D::unfit(&mut connection)).await {
                Ok(Ok(None)) => Ok(connection),
                Ok(Ok(Some(message))) => Err(Error::new(ErrorKind::Internal, operation, message)),
                Ok(Err(error)) => Err(from_sqlx(operation, error)),
                Err(_) => {
                    drop(connection.detach());
                    let message = "the server gave no answer in time: the connection is closed";
                    Err(Error::new(ErrorKind::DeadlineExceeded, operation, message))
                }
            }
        });
        let connection = connection.await?;
        self.is_checked.store(true, Ordering::Relaxed);
        Ok(connection)
    }
}

async fn farewell<D: Driver>(connection: D::Connection) {
    // Its end is the same for the server whether it was said or not.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, connection.close()).await;
}

enum Connection<D: Driver> {
    Own(Established<D>),
    Pooled(PoolConnection<D>),
}

impl<D: Driver> Connection<D> {
    fn get(&mut self) -> &mut D::Connection {
        match self {
            Self::Own(established) => &mut established.connection,
            Self::Pooled(connection) => connection,
        }
    }
}

/// One's turn, and the connection once there is one. Dropped, a transaction that is open is rolled
/// back by a spawned task; a connection in the middle of an answer is closed.
pub(crate) struct Lease<D: Driver> {
    inner: Arc<Inner<D>>,
    connection: Option<Connection<D>>,
    state: State,
    /// Whether the connection goes back to the pool.
    is_kept: bool,
    slot: Option<OwnedSemaphorePermit>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing is open.
    Clean,
    /// A transaction may be open.
    Open,
    /// A statement was sent and its answer not read to its end.
    Busy,
}

impl<D: Driver> Lease<D> {
    /// Takes a connection that is idle, or opens one.
    pub(crate) async fn connect(&mut self, operation: &'static str) -> Result<()> {
        if self.connection.is_none() {
            self.connection = Some(match self.inner.idle() {
                Some(established) => Connection::Own(established),
                None => self.inner.open(operation).await?,
            });
        }
        Ok(())
    }

    /// Begins a transaction; on a dead connection, on a fresh one.
    pub(crate) async fn begin(mut self) -> Result<Self> {
        self.connect("tx.begin").await?;
        match self.begin_here("tx.begin").await {
            // Nothing was done on it: another one is as good. The idle ones are gone with it.
            Err(error) if is_dead_connection(&error) => {
                self.connect("tx.begin").await?;
                self.begin_here("tx.begin").await?;
            }
            begun => begun?,
        }
        Ok(self)
    }

    /// Begins a transaction on the connection that is there.
    pub(crate) async fn begin_here(&mut self, operation: &'static str) -> Result<()> {
        let is_set_up = matches!(self.inner.source, Source::Server(_));
        let limit = self.inner.limits.connect_timeout;
        let connection = self.enter(operation)?;
        let begun = tokio::time::timeout(limit, D::begin(connection, is_set_up)).await;
        let begun = self.leave(operation, State::Open, begun);
        if begun.is_err() {
            // Whether it began is not known.
            self.discard();
        }
        begun
    }

    pub(crate) async fn execute(&mut self, operation: &'static str, call: Call<D>) -> Result<u64> {
        let (before, limit) = (self.state, self.statement_limit());
        let connection = self.enter(operation)?;
        let running = D::execute(connection, call.statement, call.arguments, call.is_kept);
        let outcome = tokio::time::timeout(limit, running).await;
        self.leave(operation, before, outcome)
    }

    pub(crate) async fn fetch_all(&mut self, operation: &'static str, call: Call<D>) -> Result<Vec<Row>> {
        let (before, limit) = (self.state, self.statement_limit());
        let connection = self.enter(operation)?;
        let running = D::fetch_all(connection, call.statement, call.arguments, call.is_kept);
        let outcome = tokio::time::timeout(limit, running).await;
        self.leave(operation, before, outcome)
    }

    pub(crate) async fn script(&mut self, operation: &'static str, script: &str) -> Result<()> {
        let (before, limit) = (self.state, self.statement_limit());
        let connection = self.enter(operation)?;
        let outcome = tokio::time::timeout(limit, D::script(connection, script)).await;
        self.leave(operation, before, outcome)
    }

    /// Commits; the connection is clean then, or has something to roll back, or is closed.
    ///
    /// # Errors
    ///
    /// `Unknown` when the answer did not come, or says a failure half-way: the transaction may be
    /// committed.
    pub(crate) async fn commit(&mut self, operation: &'static str) -> Result<()> {
        let limit = self.statement_limit();
        let connection = self.enter(operation)?;
        if D::depth(connection) != 1 {
            self.state = State::Open;
            let message = "a savepoint of this transaction is still open: release it before the commit";
            return Err(Error::new(ErrorKind::FailedPrecondition, operation, message));
        }
        let outcome = tokio::time::timeout(limit, D::commit(connection)).await;
        let is_refused = matches!(&outcome, Ok(Err(_)));
        let state = if is_refused { State::Open } else { State::Clean };
        let committed = self.leave(operation, state, outcome);
        committed.map_err(|error| self.of_commit(operation, error))
    }

    /// As [`execute`](Self::execute), of a statement that commits by itself.
    ///
    /// # Errors
    ///
    /// `Unknown` when the answer did not come, or says a failure half-way: the statement may be done.
    pub(crate) async fn execute_and_commit(&mut self, operation: &'static str, call: Call<D>) -> Result<u64> {
        let done = self.execute(operation, call).await;
        done.map_err(|error| {
            let is_undone = match D::DIALECT.has_unlimited_writes() {
                // Wrong SQL is refused before it runs.
                true => is_wrong_statement(&error) || self.is_undone_after(&error),
                false => is_refused(&error),
            };
            if is_undone { error } else { of_unknown_outcome(operation, error) }
        })
    }

    /// What a failure to commit is to the caller.
    fn of_commit(&self, operation: &'static str, error: Error) -> Error {
        if self.is_undone_after(&error) { error } else { of_unknown_outcome(operation, error) }
    }

    fn is_undone_after(&self, error: &Error) -> bool {
        of_driver(error).is_some_and(is_read_only) || (self.is_connected() && D::DIALECT.is_undone_after(error))
    }

    /// Undoes what is open, savepoints included, or closes the connection if that fails.
    pub(crate) async fn rollback(mut self) {
        let limit = self.statement_limit();
        loop {
            let Ok(connection) = self.enter("tx.rollback") else { return };
            if D::depth(connection) == 0 {
                self.state = State::Clean;
                return;
            }
            let outcome = tokio::time::timeout(limit, D::rollback(connection)).await;
            if let Err(error) = self.leave("tx.rollback", State::Open, outcome) {
                tracing::debug!(error = %error.report(), "rollback failed, closing the connection");
                return self.discard();
            }
        }
    }

    /// Says whether the connection may go back to the pool; one that may not is closed at the end.
    #[cfg(all(feature = "dtm", feature = "mysql"))]
    pub(crate) fn keep(&mut self, is_kept: bool) {
        self.is_kept = is_kept;
    }

    /// sqlx's connection.
    pub(crate) fn connection(&mut self) -> Option<&mut D::Connection> {
        self.connection.as_mut().map(Connection::get)
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    fn statement_limit(&self) -> Duration {
        // The server's own limit comes first where it has one; its error leaves the connection whole.
        self.inner.limits.session.statement_timeout + Duration::from_secs(1)
    }

    fn enter(&mut self, operation: &'static str) -> Result<&mut D::Connection> {
        self.state = State::Busy;
        let connection = self.connection.as_mut().map(Connection::get);
        connection.ok_or_else(|| Error::new(ErrorKind::Unavailable, operation, "the connection is closed"))
    }

    /// After an answer the connection is as `state` says; without one it is closed.
    fn leave<T>(
        &mut self,
        operation: &'static str,
        state: State,
        outcome: Result<Result<T, sqlx::Error>, tokio::time::error::Elapsed>,
    ) -> Result<T> {
        match outcome {
            Ok(Ok(value)) => {
                self.state = state;
                Ok(value)
            }
            Ok(Err(error)) if is_broken(&error) => {
                self.discard();
                // They were opened before it broke and are dead as well, as a rule.
                drop(self.inner.take_idle());
                Err(from_sqlx(operation, error))
            }
            Ok(Err(error)) => {
                self.state = state;
                Err(from_sqlx(operation, error))
            }
            Err(_) => {
                self.discard();
                let message = "the server gave no answer in time: the connection is closed";
                Err(Error::new(ErrorKind::DeadlineExceeded, operation, message))
            }
        }
    }

    /// Closes the connection without a word: the server rolls back what is open on it.
    fn discard(&mut self) {
        if let Some(Connection::Pooled(connection)) = self.connection.take() {
            // Back in its pool it would take what is open along.
            drop(connection.detach());
        }
        self.state = State::Clean;
    }
}

impl<D: Driver> Drop for Lease<D> {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        match (self.state, connection) {
            (State::Clean, Connection::Own(established)) if self.is_kept => self.inner.put_back(established),
            (State::Clean, Connection::Pooled(connection)) if self.is_kept => drop(connection),
            (State::Open, connection) if self.is_kept && tokio::runtime::Handle::try_current().is_ok() => {
                let lease = Self {
                    inner: self.inner.clone(),
                    connection: Some(connection),
                    state: State::Open,
                    is_kept: true,
                    slot: self.slot.take(),
                };
                tokio::spawn(lease.rollback());
            }
            (_, connection) => {
                self.connection = Some(connection);
                self.discard();
            }
        }
    }
}

/// Whether the error says that the connection it was met on is of no use, so that the same call on
/// another one can succeed at once.
pub(super) fn is_dead_connection(error: &Error) -> bool {
    of_driver(error).is_some_and(is_broken)
}

/// Whether the server ended a statement that commits by itself with an error, and its session goes
/// on: then nothing is done. A session that ends, by an administrator's order say, can end between
/// the commit and its answer.
fn is_refused(error: &Error) -> bool {
    of_driver(error).is_some_and(is_refusal)
}

/// Whether the server did not understand the statement, or does not allow it: SQLSTATE's class 42.
fn is_wrong_statement(error: &Error) -> bool {
    let database = of_driver(error).and_then(sqlx::Error::as_database_error);
    database.and_then(|error| error.code()).is_some_and(|code| code.starts_with("42"))
}

fn of_driver(error: &Error) -> Option<&sqlx::Error> {
    std::error::Error::source(error)?.downcast_ref()
}
