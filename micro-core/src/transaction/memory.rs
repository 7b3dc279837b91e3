//! A database in memory: serializable transactions over the stores' rows and a user's own.

use std::{
    any::Any,
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::OwnedMutexGuard;

use super::{ManagerId, Transaction, TransactionManager, Tx};
use crate::{
    Error, ErrorKind, Result,
    barrier::{BarrierChanges, BarrierRows, MemoryBarrier},
    inbox::{InboxChanges, InboxRows, MemoryInbox},
    outbox::{CommitSignal, MemoryOutbox, OutboxChanges, OutboxRows, ShardLocks},
    parked::{DeadLetterChanges, DeadLetterRows, MemoryDeadLetters, MemoryParked, ParkedChanges, ParkedRows},
    saga::{MemorySagaLog, SagaRowChanges, SagaRows},
};

/// Transactions and stores that share one state in memory; clones share it too. Nothing survives
/// the end of the process.
///
/// One transaction is open at a time, in the order in which they asked; reads outside a
/// transaction see what was committed and wait for nobody.
///
/// # Examples
///
/// ```
/// # use micro_core::{Error, TransactionManager, TransactionManagerExt, transaction::{MemoryDatabase, MemoryTxExt}};
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let database = MemoryDatabase::new();
/// let transactions = database.transactions();
/// transactions.run(async |tx| tx.put("orders", "A-17", "paid")).await?;
/// assert_eq!(database.read("orders", "A-17").as_deref(), Some(b"paid".as_slice()));
/// # Ok::<_, Error>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct MemoryDatabase {
    shared: Arc<Shared>,
    committed: CommitSignal,
    shards: ShardLocks,
}

impl Default for MemoryDatabase {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryDatabase {
    /// An empty database, in which a transaction waits at most 5 s for its turn.
    pub fn new() -> Self {
        Self::with_acquire_timeout(Duration::from_secs(5))
    }

    /// An empty database, in which a transaction waits at most so long for its turn.
    pub fn with_acquire_timeout(acquire_timeout: Duration) -> Self {
        let shared = Shared {
            id: ManagerId::unique(),
            turn: Arc::default(),
            acquire_timeout,
            state: Mutex::default(),
            next_id: AtomicI64::new(1),
        };
        Self { shared: Arc::new(shared), committed: CommitSignal::default(), shards: ShardLocks::default() }
    }

    /// The transaction manager.
    pub fn transactions(&self) -> Arc<MemoryTransactionManager> {
        Arc::new(MemoryTransactionManager { shared: self.shared.clone() })
    }

    /// The outbox.
    pub fn outbox(&self) -> Arc<MemoryOutbox> {
        Arc::new(MemoryOutbox::new(self.shared.clone(), self.committed.clone(), self.shards.clone()))
    }

    /// The inbox.
    pub fn inbox(&self) -> Arc<MemoryInbox> {
        Arc::new(MemoryInbox::new(self.shared.clone()))
    }

    /// The barrier of global transactions' branches.
    pub fn barrier(&self) -> Arc<MemoryBarrier> {
        Arc::new(MemoryBarrier::new(self.shared.clone(), self.transactions()))
    }

    /// The parked deliveries.
    pub fn parked(&self) -> Arc<MemoryParked> {
        Arc::new(MemoryParked::new(self.shared.clone()))
    }

    /// The dead letters.
    pub fn dead_letters(&self) -> Arc<MemoryDeadLetters> {
        Arc::new(MemoryDeadLetters::new(self.shared.clone()))
    }

    /// The saga log.
    pub fn saga_log(&self) -> Arc<MemorySagaLog> {
        Arc::new(MemorySagaLog::new(self.shared.clone()))
    }

    /// A committed row of the user's own.
    pub fn read(&self, table: &str, key: &str) -> Option<Bytes> {
        self.shared.state().user.get(&(table.to_owned(), key.to_owned())).cloned()
    }

    /// The committed rows of a table of the user's own, by key.
    pub fn read_all(&self, table: &str) -> BTreeMap<String, Bytes> {
        let state = self.shared.state();
        let rows = state.user.iter().filter(|((known, _), _)| known == table);
        rows.map(|((_, key), value)| (key.clone(), value.clone())).collect()
    }
}

/// The [`TransactionManager`] of a [`MemoryDatabase`].
#[derive(Clone)]
pub struct MemoryTransactionManager {
    shared: Arc<Shared>,
}

#[async_trait]
impl TransactionManager for MemoryTransactionManager {
    async fn begin(&self) -> Result<Tx> {
        let limit = self.shared.acquire_timeout;
        let turn = tokio::time::timeout(limit, self.shared.turn.clone().lock_owned()).await.map_err(|_| {
            Error::new(ErrorKind::ResourceExhausted, "tx.begin", "another transaction stayed open for too long")
                .with_context("acquire_timeout_ms", limit.as_millis())
        })?;
        let transaction = MemoryTransaction { shared: self.shared.clone(), changes: Changes::default(), _turn: turn };
        Ok(Tx::new(self.shared.id, transaction))
    }

    fn id(&self) -> ManagerId {
        self.shared.id
    }
}

/// A user's own rows, on the [`Tx`] of a [`MemoryDatabase`]: bytes by table and key.
///
/// # Errors
///
/// All answer `InvalidArgument` on the [`Tx`] of another kind of manager.
pub trait MemoryTxExt {
    /// Writes a row.
    fn put(&mut self, table: &str, key: &str, value: impl Into<Bytes>) -> Result<()>;

    /// The row as this transaction sees it.
    fn get(&mut self, table: &str, key: &str) -> Result<Option<Bytes>>;

    /// Removes a row; `false` when there is none.
    fn remove(&mut self, table: &str, key: &str) -> Result<bool>;
}

impl MemoryTxExt for Tx {
    fn put(&mut self, table: &str, key: &str, value: impl Into<Bytes>) -> Result<()> {
        opened(self, "memory.put")?.changes.user.insert((table.to_owned(), key.to_owned()), Some(value.into()));
        Ok(())
    }

    fn get(&mut self, table: &str, key: &str) -> Result<Option<Bytes>> {
        let transaction = opened(self, "memory.get")?;
        let name = (table.to_owned(), key.to_owned());
        let changed = transaction.changes.user.get(&name).cloned();
        Ok(changed.unwrap_or_else(|| transaction.shared.state().user.get(&name).cloned()))
    }

    fn remove(&mut self, table: &str, key: &str) -> Result<bool> {
        let is_known = self.get(table, key)?.is_some();
        opened(self, "memory.remove")?.changes.user.insert((table.to_owned(), key.to_owned()), None);
        Ok(is_known)
    }
}

fn opened<'a>(tx: &'a mut Tx, operation: &'static str) -> Result<&'a mut MemoryTransaction> {
    let manager = tx.manager();
    tx.downcast_any::<MemoryTransaction>().ok_or_else(|| {
        Error::new(ErrorKind::InvalidArgument, operation, "the transaction is not one of a MemoryDatabase")
            .with_context("actual", manager)
    })
}

/// What the manager and the stores of one database share.
pub(crate) struct Shared {
    pub(crate) id: ManagerId,
    turn: Arc<tokio::sync::Mutex<()>>,
    acquire_timeout: Duration,
    state: Mutex<State>,
    next_id: AtomicI64,
}

impl Shared {
    /// The committed state. Changes are applied whole and cannot panic half-way, so a poisoned
    /// lock still guards a good state.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn next_id(&self) -> i64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }
}

type UserRow = (String, String);

/// The committed state.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) outbox: OutboxRows,
    pub(crate) inbox: InboxRows,
    pub(crate) barrier: BarrierRows,
    pub(crate) parked: ParkedRows,
    pub(crate) dead_letters: DeadLetterRows,
    pub(crate) sagas: SagaRows,
    user: BTreeMap<UserRow, Bytes>,
}

/// What an open transaction would change: undone by being dropped.
#[derive(Default)]
pub(crate) struct Changes {
    pub(crate) outbox: OutboxChanges,
    pub(crate) inbox: InboxChanges,
    pub(crate) barrier: BarrierChanges,
    pub(crate) parked: ParkedChanges,
    pub(crate) dead_letters: DeadLetterChanges,
    pub(crate) sagas: SagaRowChanges,
    user: BTreeMap<UserRow, Option<Bytes>>,
}

/// An open transaction; it holds the turn until it ends.
pub(crate) struct MemoryTransaction {
    shared: Arc<Shared>,
    pub(crate) changes: Changes,
    _turn: OwnedMutexGuard<()>,
}

#[async_trait]
impl Transaction for MemoryTransaction {
    async fn commit(self: Box<Self>) -> Result<()> {
        let mut state = self.shared.state();
        state.outbox.apply(self.changes.outbox);
        state.inbox.apply(self.changes.inbox);
        state.barrier.apply(self.changes.barrier);
        state.parked.apply(self.changes.parked);
        state.dead_letters.apply(self.changes.dead_letters);
        state.sagas.apply(self.changes.sagas);
        for (name, value) in self.changes.user {
            match value {
                Some(value) => drop(state.user.insert(name, value)),
                None => drop(state.user.remove(&name)),
            }
        }
        Ok(())
    }

    async fn rollback(self: Box<Self>) -> Result<()> {
        Ok(())
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
