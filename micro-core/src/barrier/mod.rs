//! The barrier port: lets each branch of a global transaction take effect once, and in the right order.

mod memory;

pub use memory::MemoryBarrier;
pub(crate) use memory::{BarrierChanges, BarrierRows};

use std::{future::Future, time::Duration};

use async_trait::async_trait;

use crate::{
    Error, ErrorKind, Result, TransactionManager, TransactionManagerExt as _, Tx,
    branch::{Branch, BranchError, Op},
};

/// The k-th barrier of a branch's call, as a row of the barrier's table is named.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BarrierCall<'a> {
    /// The call that the coordinator made.
    pub branch: &'a Branch,
    /// `01` for the first barrier within a call, `02` for the second …
    pub barrier_id: String,
}

impl<'a> BarrierCall<'a> {
    /// The barrier of this number, counted from 1.
    pub fn new(branch: &'a Branch, number: u32) -> Self {
        Self { branch, barrier_id: format!("{number:02}") }
    }
}

/// What a [`BarrierStore`] says about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Passage {
    /// The first one: do it.
    Proceed,
    /// It took effect before.
    Duplicate,
    /// An undoing of what never came; what comes later will be [`Overtaken`](Self::Overtaken).
    Empty,
    /// Its undoing came first: it must not take effect any more.
    Overtaken,
}

/// Whether the local transaction of a two-phase message took place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Prepared {
    /// It committed: the message must go on.
    Committed,
    /// It did not, and never will.
    RolledBack,
}

impl Prepared {
    /// What a coordinator that asks is answered: success, or a failure for good.
    ///
    /// # Errors
    ///
    /// [`BranchError::Failed`] for what was rolled back.
    pub fn answer(self) -> Result<(), BranchError> {
        match self {
            Self::Committed => Ok(()),
            Self::RolledBack => Err(BranchError::failed("the local transaction did not commit")),
        }
    }
}

/// Remembers which branches took effect, in the database where they do.
///
/// The rows are those of DTM's clients in other languages, which may share the table; the algorithm is
/// theirs too (<https://en.dtm.pub/practice/barrier.html>).
///
/// # Contract
///
/// - `a_branch_proceeds_once`: also when two transactions enter at the same time, one waits for the other.
/// - `a_rolled_back_passage_is_open_again`.
/// - `an_undoing_without_its_action_is_empty_and_stops_the_action`.
/// - `an_undoing_after_its_action_proceeds_once`.
/// - `barriers_of_one_call_are_counted_apart`.
/// - `branches_and_transactions_do_not_know_each_other`.
/// - `a_message_that_was_asked_about_before_its_commit_is_rolled_back_for_good`.
/// - `purge_forgets_only_what_is_older`.
#[async_trait]
pub trait BarrierStore: Send + Sync + 'static {
    /// Notes the call and says whether it may take effect. The caller commits also where it may not.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for another manager's [`Tx`], and for a part of the call that is longer than its
    /// column; `Aborted` where another transaction with the same branch won.
    async fn enter(&self, tx: &mut Tx, call: &BarrierCall<'_>) -> Result<Passage>;

    /// Whether the local transaction of this two-phase message committed. If not, it is forbidden from
    /// now on. Waits for one that is open.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an id that is empty or longer than
    /// [`GID_BYTES_MAX`](crate::branch::GID_BYTES_MAX); `Aborted` where the open one stays open for too
    /// long: ask again.
    async fn prepared(&self, gid: &str) -> Result<Prepared>;

    /// Forgets at most `limit` rows older than `older_than` and answers how many. Keep them longer than a
    /// coordinator may ask for a branch again.
    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64>;
}

/// The barriers of one incoming call, or none where no coordinator called.
///
/// Each [`run_with_barrier`](BarrierExt::run_with_barrier) with it is the next barrier of the call; an
/// action and its undoing must have equally many, in the same order.
#[derive(Clone, Debug, Default)]
pub struct Barrier {
    branch: Option<Branch>,
    passed_count: u32,
}

impl Barrier {
    /// The barriers of a call that belongs to a global transaction, or does not.
    pub fn new(branch: impl Into<Option<Branch>>) -> Self {
        Self { branch: branch.into(), passed_count: 0 }
    }

    /// The branch that is called.
    pub fn branch(&self) -> Option<&Branch> {
        self.branch.as_ref()
    }

    /// The call's next barrier, for a store that keeps its rows elsewhere than in the caller's transaction;
    /// `None` where no coordinator called. Once it is through, [`mark_passed`](Self::mark_passed).
    pub fn next_call(&self) -> Option<BarrierCall<'_>> {
        self.branch.as_ref().map(|branch| BarrierCall::new(branch, self.passed_count + 1))
    }

    /// Marks the call's next barrier as passed, whether its work was done or must not be done (again):
    /// after an attempt that left nothing the next one is of the same barrier.
    pub fn mark_passed(&mut self) {
        self.passed_count += 1;
    }

    /// Enters the call's next barrier within the caller's transaction; always
    /// [`Passage::Proceed`] where no coordinator called.
    ///
    /// The caller commits the transaction whatever the answer is, and does its work on
    /// [`Passage::Proceed`] only. Who repeats the transaction enters with a clone made before it: after
    /// a rollback it is the same barrier again, and its undoing will not know another one.
    ///
    /// # Errors
    ///
    /// Those of [`BarrierStore::enter`]; `AlreadyExists` for the local transaction of a two-phase message
    /// that took place, or was forbidden, before: it must be rolled back.
    pub async fn enter(&mut self, store: &dyn BarrierStore, tx: &mut Tx) -> Result<Passage> {
        let Some(call) = self.next_call() else { return Ok(Passage::Proceed) };
        let passage = store.enter(tx, &call).await?;
        if passage != Passage::Proceed && call.branch.op == Op::Msg {
            let message = "the local transaction of this message took place, or was forbidden, before";
            let error = Error::new(ErrorKind::AlreadyExists, "barrier.enter", message);
            return Err(error.with_context("gid", &call.branch.gid));
        }
        self.mark_passed();
        Ok(passage)
    }
}

/// `run_with_barrier` for every [`TransactionManager`].
pub trait BarrierExt: TransactionManager {
    /// As [`run`](crate::TransactionManagerExt::run), but for the call's next barrier: `None` where the
    /// work must not be done (again). Where no coordinator called it is `run`.
    ///
    /// # Errors
    ///
    /// Those of `run` and of [`Barrier::enter`]. After an error of `body` nothing is left, the barrier's
    /// rows included, and the next call is of the same barrier: it may be repeated.
    fn run_with_barrier<T, E, F>(
        &self,
        store: &dyn BarrierStore,
        barrier: &mut Barrier,
        body: F,
    ) -> impl Future<Output = Result<Option<T>, E>>
    where
        F: AsyncFnOnce(&mut Tx) -> Result<T, E>,
        E: From<Error>;
}

impl<M: TransactionManager + ?Sized> BarrierExt for M {
    async fn run_with_barrier<T, E, F>(
        &self,
        store: &dyn BarrierStore,
        barrier: &mut Barrier,
        body: F,
    ) -> Result<Option<T>, E>
    where
        F: AsyncFnOnce(&mut Tx) -> Result<T, E>,
        E: From<Error>,
    {
        // Counted when it is through: an attempt that was rolled back, or dropped, is made again with the
        // same number, the one by which its undoing finds it.
        let mut attempt = barrier.clone();
        let run = self.run(async |tx| match attempt.enter(store, tx).await? {
            Passage::Proceed => body(tx).await.map(Some),
            Passage::Duplicate | Passage::Empty | Passage::Overtaken => Ok(None),
        });
        let done = run.await?;
        *barrier = attempt;
        Ok(done)
    }
}
