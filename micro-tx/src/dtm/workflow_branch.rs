//! The branches of a workflow, as its function makes them: an action each, and what ends it.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use micro_core::{
    Result, TransactionManager, TransactionManagerExt as _, Tx,
    barrier::{Barrier, BarrierStore, Passage},
    branch::{Branch, BranchError, Op},
};

use super::{
    BranchIds,
    workflow_record::Label,
    workflow_run::{Action, CallOptions, Ending, Run},
};

/// A running workflow, as its function has it.
///
/// A function that is run again must make its branches in the same order: what was recorded is told by
/// their numbers, and a branch that does something else than the one of its number did is an error that
/// decides nothing.
#[derive(Debug)]
pub struct Workflow {
    run: Arc<Run>,
    ids: BranchIds,
}

impl Workflow {
    pub(super) fn new(run: Arc<Run>) -> Self {
        Self { run, ids: BranchIds::default() }
    }

    /// The global id.
    pub fn gid(&self) -> &str {
        self.run.gid()
    }

    /// The next branch: one action, and what commits it or rolls it back in the end.
    ///
    /// # Errors
    ///
    /// `OutOfRange` for the hundredth.
    pub fn branch(&mut self) -> Result<WorkflowBranch> {
        let id = self.ids.next_id()?;
        self.run.note(&id, Action::NotRun);
        let (run, calls) = (self.run.clone(), self.run.call_options());
        Ok(WorkflowBranch { id, run, is_undone_when_refused: false, calls })
    }
}

/// A branch of a workflow: what ends it is named first, then its action is run, once.
#[derive(Debug)]
pub struct WorkflowBranch {
    pub(super) run: Arc<Run>,
    pub(super) id: String,
    is_undone_when_refused: bool,
    calls: CallOptions,
}

impl WorkflowBranch {
    /// Its id: two digits, from `01`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Sends a header with the calls that are named from here on; of one name the last value counts.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.calls.headers.insert(name.into(), value.into());
        self
    }

    /// Sets how long each call may take that is named from here on; 3 s by default, no limit.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.calls.timeout = timeout;
        self
    }

    /// Runs `work` once the function has succeeded, after that of later branches, until it succeeds; not
    /// where the action refused. Several of one branch are noted together: all of them are run again until
    /// all have succeeded. A function that succeeds though nobody knows what the action came to is not
    /// committed, and run again.
    #[must_use]
    pub fn on_commit<F>(self, work: impl FnOnce(Branch) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<(), BranchError>> + Send + 'static,
    {
        self.ended_by(Op::Commit, work)
    }

    /// Runs `work` once the function has refused, after that of later branches, until it succeeds; also
    /// where it is not known whether the action took effect. A barrier with the branch that it is given
    /// tells: [`run_with_barrier`](micro_core::barrier::BarrierExt::run_with_barrier).
    #[must_use]
    pub fn on_rollback<F>(self, work: impl FnOnce(Branch) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<(), BranchError>> + Send + 'static,
    {
        self.ended_by(Op::Rollback, work)
    }

    /// As [`on_commit`](Self::on_commit), by a call of `url`.
    #[must_use]
    pub fn on_commit_call(self, url: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        let work = self.calling(url.into(), payload.into());
        self.on_commit(work)
    }

    /// As [`on_rollback`](Self::on_rollback), by a call of `url`.
    #[must_use]
    pub fn on_rollback_call(self, url: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        let work = self.calling(url.into(), payload.into());
        self.on_rollback(work)
    }

    /// Has it rolled back also where its own action refused, which by default is taken for "nothing is
    /// left". Where several processes serve a workflow the same action may run in two of them, and be refused
    /// in one and done in the other: ask for it there, behind a barrier, which keeps out what comes later.
    #[must_use]
    pub fn undone_when_refused(mut self) -> Self {
        self.is_undone_when_refused = true;
        self
    }

    /// Calls `url` ([`Step::action`](micro_core::saga::Step::action)) as its action, and answers with the
    /// body of the answer, which DTM keeps: a run that resumes does not call again. Over DTM's HTTP API it
    /// must be a text; its SQL stores keep some 65,000 bytes.
    ///
    /// # Errors
    ///
    /// `Failed` where the branch refuses, which DTM keeps too; `Ongoing`, and `Other` where nobody knows:
    /// the workflow is then to return it, and DTM has it go on later.
    pub async fn call(self, url: &str, payload: impl Into<Bytes>) -> Result<Bytes, BranchError> {
        let (caller, calls, payload) = (self.run.caller(), self.calls.clone(), payload.into());
        let label = Label::of_call(self.run.name(), url);
        self.recorded(&label, async |branch| caller.call(&branch, url, payload, &calls).await).await
    }

    /// Runs `body` in a transaction of `manager` behind the branch's barrier in `store` as its action, and
    /// answers with its value, which DTM keeps. Where the process ends between the commit and that, the
    /// value is empty.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call); an error of a permanent kind is a refusal, and so is an action that comes
    /// after its rollback.
    pub async fn run_in_tx<F>(
        self,
        manager: &(impl TransactionManager + ?Sized),
        store: &dyn BarrierStore,
        body: F,
    ) -> Result<Bytes, BranchError>
    where
        F: AsyncFnOnce(&mut Tx) -> Result<Bytes, BranchError>,
    {
        let label = Label::new(self.run.name(), "tx");
        self.recorded(&label, async |branch| {
            let done = manager.run(async |tx| {
                if !enter(store, tx, &branch).await? {
                    return Ok(Bytes::new());
                }
                body(tx).await
            });
            done.await.map_err(|error: BranchError| error.decided("workflow.run_in_tx", Some(&branch)))
        })
        .await
    }

    fn calling(
        &self,
        url: String,
        payload: Bytes,
    ) -> impl FnOnce(Branch) -> BoxFuture<'static, Result<(), BranchError>> + Send + use<> {
        let (caller, calls) = (self.run.caller(), self.calls.clone());
        move |branch| Box::pin(async move { caller.call(&branch, &url, payload, &calls).await.map(drop) })
    }

    pub(super) fn ended_by<F>(self, op: Op, work: impl FnOnce(Branch) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<(), BranchError>> + Send + 'static,
    {
        let work = Box::new(move |branch| -> BoxFuture<'static, _> { Box::pin(work(branch)) });
        self.run.add_ending(Ending { branch_id: self.id.clone(), op, work });
        self
    }

    /// What was recorded of the action, or what it comes to now.
    pub(super) async fn recorded(
        self,
        label: &Label,
        action: impl AsyncFnOnce(Branch) -> Result<Bytes, BranchError>,
    ) -> Result<Bytes, BranchError> {
        self.run.note(&self.id, Action::Open);
        let outcome = self.run.recorded(&self.id, Op::Action, Some(label), action).await;
        match &outcome {
            Ok(_) => self.run.note(&self.id, Action::Done),
            Err(BranchError::Failed(_)) => {
                let is_undone = self.is_undone_when_refused || self.run.did_all_the_same(&self.id);
                self.run.note(&self.id, Action::Refused { is_undone });
            }
            Err(_) => {}
        }
        outcome
    }
}

/// Whether the action of this branch is to be done in this transaction: not where it was.
///
/// # Errors
///
/// `Failed` where it was rolled back: it will not take effect any more, and nobody may go on as if it had.
pub(super) async fn enter(store: &dyn BarrierStore, tx: &mut Tx, branch: &Branch) -> Result<bool, BranchError> {
    match Barrier::new(branch.clone()).enter(store, tx).await? {
        Passage::Proceed => Ok(true),
        Passage::Duplicate | Passage::Empty => Ok(false),
        Passage::Overtaken => Err(BranchError::failed("this branch was rolled back before")),
    }
}
