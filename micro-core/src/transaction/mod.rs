//! The transaction port: [`TransactionManager`] begins, [`Tx`] travels, `run` commits or rolls back.

pub(crate) mod memory;
mod retry;

pub use memory::{MemoryDatabase, MemoryTransactionManager, MemoryTxExt};
pub use retry::{RetryPolicy, retrying};

use std::{
    any::Any,
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context, Poll},
};

use async_trait::async_trait;
use futures_util::FutureExt as _;

use crate::{Error, ErrorKind, Result};

/// Begins transactions on one database.
///
/// # Contract
///
/// - `a_commit_is_visible_and_a_rollback_is_not`.
/// - `a_dropped_tx_is_rolled_back`: dropping a [`Tx`] before commit undoes its work and gives the
///   connection back clean, or closes it.
/// - `a_cancelled_begin_leaves_nothing_open`: dropping the future of `begin` at any await leaves no
///   open transaction behind. sqlx 0.9 does not promise that by itself (its issues 4385, 4393).
/// - `a_cancelled_commit_still_ends`: dropping the future of a commit leaves the commit running to
///   its end; its outcome is unknown to the caller, the connection is clean.
/// - `stores_refuse_the_tx_of_another_manager`: with `InvalidArgument`, naming both.
#[async_trait]
pub trait TransactionManager: Send + Sync + 'static {
    /// Opens a transaction.
    ///
    /// # Errors
    ///
    /// `Unavailable` when the database cannot be reached, `ResourceExhausted` when no connection
    /// became free in time, `Aborted` when a lock could not be had.
    async fn begin(&self) -> Result<Tx>;

    /// Who this manager is; every [`Tx`] carries it, so that a store can tell its own.
    fn id(&self) -> ManagerId;
}

/// Tells the managers of one process apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ManagerId(u64);

impl ManagerId {
    /// An id that no other manager of this process has.
    pub fn unique() -> Self {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Display for ManagerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "manager-{}", self.0)
    }
}

/// What an adapter puts behind a [`Tx`].
///
/// [`Tx`] shields `commit` and `rollback` from a caller that cancels, so an adapter need not.
#[async_trait]
pub trait Transaction: Send + 'static {
    /// Makes the work durable.
    async fn commit(self: Box<Self>) -> Result<()>;

    /// Undoes the work and gives the connection back clean, or closes it.
    async fn rollback(self: Box<Self>) -> Result<()>;

    /// The adapter's own type, for its stores and its `…TxExt`.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

type AfterCommit = Box<dyn FnOnce() + Send>;

/// An open transaction: a concrete handle that domain code passes on and infrastructure opens up.
///
/// Dropped before [`commit`](Self::commit), it is rolled back by a spawned task; without a runtime
/// the adapter's own drop closes the connection.
pub struct Tx {
    manager: ManagerId,
    inner: Option<Box<dyn Transaction>>,
    after_commit: Vec<AfterCommit>,
}

impl Tx {
    /// Wraps an adapter's open transaction.
    pub fn new(manager: ManagerId, transaction: impl Transaction) -> Self {
        Self { manager, inner: Some(Box::new(transaction)), after_commit: Vec::new() }
    }

    /// Puts a decorator around the adapter's transaction; its `as_any_mut` must be the inner one's,
    /// so that the stores still find theirs.
    #[must_use]
    pub fn decorate(mut self, decorate: impl FnOnce(Box<dyn Transaction>) -> Box<dyn Transaction>) -> Self {
        self.inner = self.inner.take().map(decorate);
        self
    }

    /// The manager that opened it.
    pub fn manager(&self) -> ManagerId {
        self.manager
    }

    /// Runs `hook` once the commit succeeded; after a rollback it is dropped unrun. A hook wakes
    /// somebody; it must not block and cannot fail.
    pub fn after_commit(&mut self, hook: impl FnOnce() + Send + 'static) {
        self.after_commit.push(Box::new(hook));
    }

    /// The adapter's transaction, when `expected` opened it and it is a `T`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` when another manager opened it: its work would not be in this database.
    pub fn downcast<T: Transaction>(&mut self, expected: ManagerId, operation: &'static str) -> Result<&mut T> {
        let actual = self.manager;
        let found = self.inner.as_mut().and_then(|inner| inner.as_any_mut().downcast_mut::<T>());
        match found {
            Some(transaction) if actual == expected => Ok(transaction),
            _ => Err(Error::new(
                ErrorKind::InvalidArgument,
                operation,
                "the transaction belongs to another manager: pass the Tx of the manager this store was made with",
            )
            .with_context("expected", expected)
            .with_context("actual", actual)),
        }
    }

    /// The adapter's transaction, when it is a `T`, whichever manager opened it.
    pub fn downcast_any<T: Transaction>(&mut self) -> Option<&mut T> {
        self.inner.as_mut().and_then(|inner| inner.as_any_mut().downcast_mut::<T>())
    }

    /// Commits, then runs the after-commit hooks.
    ///
    /// # Cancel safety
    ///
    /// Once polled the commit runs to its end, hooks included: dropping this future moves it into a
    /// task of its own.
    pub async fn commit(mut self) -> Result<()> {
        let inner = self.inner.take().expect("a Tx is consumed by commit and rollback only");
        let hooks = std::mem::take(&mut self.after_commit);
        shielded("tx.commit", async move {
            inner.commit().await?;
            hooks.into_iter().for_each(run_hook);
            Ok(())
        })
        .await
    }

    /// Undoes the work.
    ///
    /// # Cancel safety
    ///
    /// As [`commit`](Self::commit).
    pub async fn rollback(mut self) -> Result<()> {
        let inner = self.inner.take().expect("a Tx is consumed by commit and rollback only");
        shielded("tx.rollback", inner.rollback()).await
    }
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").field("manager", &self.manager).finish_non_exhaustive()
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        let Some(inner) = self.inner.take() else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = inner.rollback().await {
                    tracing::warn!(error = %error.report(), "rollback of a dropped transaction");
                }
            });
        }
    }
}

/// The commit stands whatever a hook does: one that panics fails neither it nor the other hooks.
fn run_hook(hook: AfterCommit) {
    if std::panic::catch_unwind(AssertUnwindSafe(hook)).is_err() {
        tracing::error!("an after-commit hook panicked");
    }
}

/// Runs `work` to its end whatever the caller does: the guard against a client that cancels.
///
/// It runs in the caller's future as long as that is polled, which saves two hops between tasks;
/// dropped before its end, what is left of it goes on in a task of its own.
///
/// # Errors
///
/// Those of `work`; `Internal` when it panicked.
pub async fn shielded<T: Send + 'static>(
    operation: &'static str,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let work = AssertUnwindSafe(work).catch_unwind();
    Shielded(Some(Box::pin(work))).await.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Err(Error::new(ErrorKind::Internal, operation, "the work panicked").with_context("panic", text))
    })
}

/// A future that moves into a task when it is dropped before its end.
struct Shielded<F: Future<Output: Send> + Send + 'static>(Option<Pin<Box<F>>>);

impl<F: Future<Output: Send> + Send + 'static> Future for Shielded<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let work = self.0.as_mut().expect("a future is not polled after its end");
        let output = std::task::ready!(work.as_mut().poll(context));
        self.0 = None;
        Poll::Ready(output)
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for Shielded<F> {
    fn drop(&mut self) {
        if let (Some(work), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(work);
        }
    }
}

/// `run` for every [`TransactionManager`].
pub trait TransactionManagerExt: TransactionManager {
    /// One attempt: begins, runs `body`, commits when it answers `Ok`, rolls back when `Err`.
    ///
    /// The body runs in the caller's future and may borrow. To repeat whole attempts on conflicts
    /// wrap it in [`retrying`].
    ///
    /// # Errors
    ///
    /// Those of `body`, of `begin` and of `commit`. A failing rollback is logged: the body's error
    /// is the one to act on.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future rolls back, unless the commit has begun; that runs to its end.
    fn run<T, E, F>(&self, body: F) -> impl Future<Output = Result<T, E>>
    where
        F: AsyncFnOnce(&mut Tx) -> Result<T, E>,
        E: From<Error>;
}

impl<M: TransactionManager + ?Sized> TransactionManagerExt for M {
    async fn run<T, E, F>(&self, body: F) -> Result<T, E>
    where
        F: AsyncFnOnce(&mut Tx) -> Result<T, E>,
        E: From<Error>,
    {
        let mut tx = self.begin().await?;
        match body(&mut tx).await {
            Ok(value) => {
                tx.commit().await?;
                Ok(value)
            }
            Err(error) => {
                if let Err(rollback) = tx.rollback().await {
                    tracing::warn!(error = %rollback.report(), "rollback after a failed body");
                }
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use super::*;

    #[tokio::test]
    async fn shielded_work_goes_on_when_its_caller_is_dropped() {
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let (ended, end) = tokio::sync::oneshot::channel();
        let mut call = Box::pin(shielded("test", async move {
            let _ = gone.await;
            let _ = ended.send(());
            Ok(())
        }));
        assert!(futures_util::poll!(&mut call).is_pending());
        drop(call);
        go.send(()).expect("the work lives");
        end.await.expect("the work came to its end");
    }

    #[tokio::test]
    async fn a_hook_that_panics_fails_neither_the_commit_nor_the_next_hook() {
        let is_run = Arc::new(AtomicBool::new(false));
        let mut tx = MemoryDatabase::new().transactions().begin().await.unwrap();
        tx.after_commit(|| panic!("no such luck"));
        let flag = is_run.clone();
        tx.after_commit(move || flag.store(true, Ordering::SeqCst));
        tx.commit().await.unwrap();
        assert!(is_run.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn shielded_work_that_panics_is_an_error_and_runs_once() {
        let is_through = Arc::new(AtomicBool::new(false));
        let flag = is_through.clone();
        let call = shielded("test", async move {
            assert!(!flag.swap(true, Ordering::SeqCst), "it ran twice");
            panic!("no such luck");
            #[expect(unreachable_code, reason = "gives the block its type")]
            Ok(())
        });
        let error = call.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert!(error.to_string().contains("no such luck"), "{error}");
        assert!(is_through.load(Ordering::SeqCst));
    }
}
