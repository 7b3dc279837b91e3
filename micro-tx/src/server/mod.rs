//! Databases behind a network: a pool without pings, transactions that survive a caller's drop, and
//! what a driver must offer for them.

mod driver;
mod lock;
mod pool;
mod statements;
mod transaction;
#[cfg(feature = "dtm")]
mod xa;

use std::sync::Arc;

use micro_core::{Error, ErrorKind, Result, transaction::shielded};
use sqlx::Pool as SqlxPool;

pub(crate) use self::{
    driver::{Driver, Session},
    lock::{LockConnection, Locked},
    pool::Lease,
    transaction::ServerTx,
};
use self::{
    pool::Pool,
    statements::{Call, Statements, is_select},
};
use crate::{config::SqlConfig, row::Row, value::Value};

/// The connections to one database on a server. Cheap to clone; clones share them.
pub(crate) struct ServerConnections<D: Driver> {
    pool: Pool<D>,
    statements: Arc<Statements>,
}

impl<D: Driver> ServerConnections<D> {
    /// Connects once, so that a wrong address or password is found now, and keeps that connection.
    pub(crate) async fn connect(config: &SqlConfig) -> Result<Self> {
        let pool = Pool::connect(config).await?;
        let read_limit = D::DIALECT.read_limit(config.statement_timeout);
        Ok(Self { pool, statements: Arc::new(Statements::new(D::DIALECT, read_limit)) })
    }

    /// Uses a pool that belongs to somebody else.
    pub(crate) fn from_pool(pool: SqlxPool<D>) -> Self {
        Self { pool: Pool::shared(pool), statements: Arc::new(Statements::new(D::DIALECT, String::new())) }
    }

    /// Opens a transaction.
    ///
    /// # Cancel safety
    ///
    /// The wait for a connection ends with the caller. Once one is had, BEGIN runs to its end
    /// whatever the caller does; its transaction is then rolled back by the drop.
    pub(crate) async fn begin(&self) -> Result<ServerTx<D>> {
        let lease = self.pool.lease("tx.begin").await?;
        let lease = shielded("tx.begin", lease.begin()).await?;
        Ok(ServerTx::new(lease, self.statements.clone()))
    }

    /// Runs one statement that commits by itself. `is_repeatable` says that running it twice is as
    /// running it once: then it is tried again on another connection when the first one is dead, and
    /// its caller, who may try it again as well, hears of any failure as it is.
    pub(crate) async fn execute(
        &self,
        operation: &'static str,
        statement: &str,
        values: &[Value],
        is_repeatable: bool,
    ) -> Result<u64> {
        let call = self.statements.call::<D>(operation, statement, values)?;
        let may_outlast = !is_repeatable && !is_select(statement);
        match self.execute_once(operation, call, may_outlast).await {
            Err(error) if is_repeatable && pool::is_dead_connection(&error) => {
                let call = self.statements.call::<D>(operation, statement, values)?;
                self.execute_once(operation, call, may_outlast).await
            }
            outcome => outcome,
        }
    }

    /// `may_outlast` says that the statement may be done although it failed here, and that its caller
    /// must hear so.
    async fn execute_once(&self, operation: &'static str, call: Call<D>, may_outlast: bool) -> Result<u64> {
        let mut lease = self.pool.lease(operation).await?;
        shielded(operation, async move {
            lease.connect(operation).await?;
            if may_outlast {
                lease.execute_and_commit(operation, call).await
            } else {
                lease.execute(operation, call).await
            }
        })
        .await
    }

    /// Reads what is committed. A text that begins with SELECT is tried again on another connection
    /// when the first one is dead.
    pub(crate) async fn fetch_all(
        &self,
        operation: &'static str,
        statement: &str,
        values: &[Value],
    ) -> Result<Vec<Row>> {
        let call = self.statements.call::<D>(operation, statement, values)?;
        match self.fetch_once(operation, call).await {
            Err(error) if is_select(statement) && pool::is_dead_connection(&error) => {
                self.fetch_once(operation, self.statements.call::<D>(operation, statement, values)?).await
            }
            outcome => outcome,
        }
    }

    async fn fetch_once(&self, operation: &'static str, call: Call<D>) -> Result<Vec<Row>> {
        let mut lease = self.pool.lease(operation).await?;
        shielded(operation, async move {
            lease.connect(operation).await?;
            lease.fetch_all(operation, call).await
        })
        .await
    }

    /// Asks the server whether it answers, on a connection that is kept for the next time: those of
    /// the pool may all be busy, which is no fault of the server's. A user's own pool is asked for
    /// one, so that there is none beside it for good.
    pub(crate) async fn ping(&self, kept: &mut Option<Lease<D>>) -> Result<()> {
        let call = self.call("sql.ping", "SELECT 1", &[])?;
        if self.pool.is_shared() {
            return self.fetch_once("sql.ping", call).await.map(drop);
        }
        let mut lease = match kept.take() {
            Some(lease) => lease,
            None => self.dedicated("sql.ping").await?,
        };
        lease.fetch_all("sql.ping", call).await?;
        *kept = Some(lease);
        Ok(())
    }

    /// A connection of its own, outside the pool's count, for who keeps it: the relay.
    pub(crate) async fn dedicated(&self, operation: &'static str) -> Result<Lease<D>> {
        self.pool.dedicated(operation).await
    }

    /// Waits until `statement` answers 1, on a connection of its own that holds what the statement
    /// locked until it is dropped, whatever becomes of the caller.
    pub(crate) async fn locked(&self, operation: &'static str, statement: &str) -> Result<Lease<D>> {
        let call = self.call(operation, statement, &[])?;
        let mut lease = self.dedicated(operation).await?;
        let rows = lease.fetch_all(operation, call).await?;
        if rows.first().is_some_and(|row| row.values() == [Value::Integer(1)]) {
            return Ok(lease);
        }
        let message = "another process has the lock and has not given it back in time";
        Err(Error::new(ErrorKind::Aborted, operation, message))
    }

    /// The statement with its values, made ready for this database.
    pub(crate) fn call(&self, operation: &'static str, statement: &str, values: &[Value]) -> Result<Call<D>> {
        self.statements.call::<D>(operation, statement, values)
    }

    /// Waits for the connections in use and closes all; a user's own pool stays open.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

impl<D: Driver> Clone for ServerConnections<D> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone(), statements: self.statements.clone() }
    }
}
