//! The connection that holds the locks of the relay, and reads and deletes the rows under them.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use micro_core::{Error, ErrorKind, Result, transaction::shielded};
use tokio::sync::Mutex;

use super::{Driver, Lease, ServerConnections, statements::Call};
use crate::{row::Row, value::Value};

/// How often in [`owner_timeout`](LockConnection::new) the server hears something, and for which part
/// of it an answer is waited for.
const HEARTBEATS_A_TIMEOUT: u32 = 6;
const HEARTBEAT_PATIENCE: u32 = 3;

/// MySQL's limits are whole seconds, and a busy machine may take one.
const OWNER_TIMEOUT_MIN: Duration = Duration::from_secs(2);

/// One connection for all shards that this process owns. A lock lives as long as the connection: a
/// statement under it is sent on that very connection, so that nobody else can be the owner by the
/// time it runs. A server that hears nothing from it for the owner's time limit ends it, and so frees
/// the locks of a process whose machine is gone; while it lives, it says something in time.
pub(crate) struct LockConnection<D: Driver> {
    shared: Arc<Shared<D>>,
}

struct Shared<D: Driver> {
    connections: ServerConnections<D>,
    table_prefix: String,
    owner_timeout: Duration,
    current: Mutex<Current<D>>,
}

struct Current<D: Driver> {
    lease: Option<Lease<D>>,
    /// Which connection it is: what was locked on an earlier one is lost.
    number: u64,
    /// How many handles live on this connection.
    handle_count: usize,
}

/// Locks that are held until this is dropped or their connection breaks.
pub(crate) struct Locked<D: Driver> {
    shared: Arc<Shared<D>>,
    number: u64,
    buckets: Vec<u16>,
}

impl<D: Driver> LockConnection<D> {
    pub(crate) fn new(connections: ServerConnections<D>, table_prefix: &str, owner_timeout: Duration) -> Self {
        let current = Mutex::new(Current { lease: None, number: 0, handle_count: 0 });
        let owner_timeout = owner_timeout.max(OWNER_TIMEOUT_MIN);
        Self { shared: Arc::new(Shared { connections, table_prefix: table_prefix.to_owned(), owner_timeout, current }) }
    }

    /// Takes the locks of all these buckets, or none of them.
    pub(crate) async fn lock(&self, buckets: &[u16]) -> Result<Option<Locked<D>>> {
        let (shared, buckets) = (self.shared.clone(), buckets.to_vec());
        shielded("outbox.own", async move {
            let mut current = shared.current.lock().await;
            if current.lease.is_none() {
                let mut lease = shared.connections.dedicated("outbox.own").await?;
                lease.script("outbox.own", &D::ends_after_silence(shared.owner_timeout)).await?;
                current.lease = Some(lease);
                current.number += 1;
                current.handle_count = 0;
                tokio::spawn(heartbeats(Arc::downgrade(&shared), current.number));
            }
            let statement = D::DIALECT.lock(&shared.table_prefix, &buckets);
            let call = shared.connections.call("outbox.own", &statement, &[])?;
            let rows = current.fetch_all("outbox.own", call).await?;
            let locked = rows.first().map_or(&[][..], Row::values);
            let locked_count = locked.iter().filter(|is_locked| **is_locked == Value::Integer(1)).count();
            if locked_count == buckets.len() {
                current.handle_count += 1;
                let number = current.number;
                drop(current);
                return Ok(Some(Locked { shared, number, buckets }));
            }
            // The connection stays: somebody who stands by asks again and again.
            if locked_count > 0 {
                current.unlock(&shared, &buckets).await;
            }
            Ok(None)
        })
        .await
    }
}

impl<D: Driver> Locked<D> {
    pub(crate) async fn fetch_all(
        &self,
        operation: &'static str,
        statement: &str,
        values: &[Value],
    ) -> Result<Vec<Row>> {
        let call = self.shared.connections.call(operation, statement, values)?;
        let (shared, number) = (self.shared.clone(), self.number);
        shielded(operation, async move {
            let mut current = shared.current.lock().await;
            current.check(operation, number)?;
            current.fetch_all(operation, call).await
        })
        .await
    }

    /// Runs the statements, several of them in one transaction.
    pub(crate) async fn execute_all(&self, operation: &'static str, statements: &[(&str, Vec<Value>)]) -> Result<()> {
        let connections = &self.shared.connections;
        let call = |(statement, values): &(&str, Vec<Value>)| connections.call(operation, statement, values);
        let calls: Vec<Call<D>> = statements.iter().map(call).collect::<Result<_>>()?;
        let (shared, number) = (self.shared.clone(), self.number);
        shielded(operation, async move {
            let mut current = shared.current.lock().await;
            current.check(operation, number)?;
            current.execute_all(operation, calls).await
        })
        .await
    }
}

impl<D: Driver> Drop for Locked<D> {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (shared, number, buckets) = (self.shared.clone(), self.number, std::mem::take(&mut self.buckets));
        runtime.spawn(async move {
            let mut current = shared.current.lock().await;
            if current.number == number && current.lease.is_some() {
                current.handle_count -= 1;
                current.unlock(&shared, &buckets).await;
                if current.handle_count == 0 {
                    current.lease = None;
                }
            }
        });
    }
}

impl<D: Driver> Current<D> {
    fn check(&self, operation: &'static str, number: u64) -> Result<()> {
        if self.number == number && self.lease.is_some() {
            return Ok(());
        }
        let message = "the connection that owned this shard is gone: it is to be owned again";
        Err(Error::new(ErrorKind::Unavailable, operation, message))
    }

    async fn fetch_all(&mut self, operation: &'static str, call: Call<D>) -> Result<Vec<Row>> {
        let Some(lease) = self.lease.as_mut() else { return self.check(operation, 0).map(|()| Vec::new()) };
        let outcome = lease.fetch_all(operation, call).await;
        self.look();
        outcome
    }

    async fn execute_all(&mut self, operation: &'static str, calls: Vec<Call<D>>) -> Result<()> {
        let Some(lease) = self.lease.as_mut() else { return self.check(operation, 0) };
        let outcome = execute_all(lease, operation, calls).await;
        if outcome.is_err() {
            // A transaction may be open on it. Its shards are given back after an error anyway.
            self.lease = None;
        }
        self.look();
        outcome
    }

    /// Gives the locks back.
    async fn unlock(&mut self, shared: &Shared<D>, buckets: &[u16]) {
        let statement = D::DIALECT.unlock(&shared.table_prefix, buckets);
        let unlocked = match shared.connections.call("outbox.disown", &statement, &[]) {
            Ok(call) => self.fetch_all("outbox.disown", call).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = unlocked {
            tracing::debug!(error = %error.report(), "locks not given back, closing their connection");
            self.lease = None;
        }
    }

    fn look(&mut self) {
        if self.lease.as_ref().is_some_and(|lease| !lease.is_connected()) {
            self.lease = None;
        }
    }
}

/// Says something to the server now and then, until the connection of this number is gone: there may
/// be nothing to read or delete for long.
async fn heartbeats<D: Driver>(shared: Weak<Shared<D>>, number: u64) {
    loop {
        let Some(interval) = shared.upgrade().map(|shared| shared.owner_timeout / HEARTBEATS_A_TIMEOUT) else { return };
        tokio::time::sleep(interval).await;
        let Some(shared) = shared.upgrade() else { return };
        let mut current = shared.current.lock().await;
        if current.check("outbox.heartbeat", number).is_err() {
            return;
        }
        let Ok(call) = shared.connections.call("outbox.heartbeat", "SELECT 1", &[]) else { return };
        let limit = shared.owner_timeout / HEARTBEAT_PATIENCE;
        let answer = tokio::time::timeout(limit, current.fetch_all("outbox.heartbeat", call)).await;
        if answer.is_err() {
            tracing::warn!(limit_ms = limit.as_millis(), "the database did not answer, giving the outbox's locks up");
            current.lease = None;
        }
    }
}

async fn execute_all<D: Driver>(lease: &mut Lease<D>, operation: &'static str, calls: Vec<Call<D>>) -> Result<()> {
    let is_transaction = calls.len() > 1;
    if is_transaction {
        lease.begin_here(operation).await?;
    }
    for call in calls {
        lease.execute(operation, call).await?;
    }
    if is_transaction { lease.commit(operation).await } else { Ok(()) }
}
