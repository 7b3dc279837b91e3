//! A run of a workflow: its branches, what was recorded of them, and what ends it.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use micro_core::{
    Error, ErrorKind, Result, TransactionManager, Tx,
    barrier::{Barrier, BarrierExt as _, BarrierStore},
    branch::{Branch, BranchAnswer, BranchError, Mode, Op},
    saga::BranchRequest,
};

use super::{BranchIds, BranchRegistration, DtmClient, GlobalTransaction, TransactionOptions, WorkflowStep};

/// DTM's own limit of a call.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
const SUCCEEDED: &str = "succeed";
const FAILED: &str = "failed";

/// A running workflow, as its function has it.
///
/// A function that is run again must make its branches in the same order: what was recorded is told by
/// their numbers.
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
        &self.run.caller.transaction.gid
    }

    /// The next branch: one action, and what commits it or rolls it back in the end.
    ///
    /// # Errors
    ///
    /// `OutOfRange` for the hundredth.
    pub fn branch(&mut self) -> Result<WorkflowBranch> {
        Ok(WorkflowBranch { id: self.ids.next_id()?, run: self.run.clone(), is_undone_when_refused: false })
    }
}

/// A branch of a workflow: what ends it is named first, then its action is run, once.
#[derive(Debug)]
pub struct WorkflowBranch {
    run: Arc<Run>,
    id: String,
    is_undone_when_refused: bool,
}

impl WorkflowBranch {
    /// Its id: two digits, from `01`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Runs `work` once the function has succeeded, after that of later branches, until it succeeds.
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
    /// left".
    #[must_use]
    pub fn undone_when_refused(mut self) -> Self {
        self.is_undone_when_refused = true;
        self
    }

    /// Calls `url` ([`Step::action`](micro_core::saga::Step::action)) as its action, and answers with the
    /// body of the answer, which DTM keeps: a run that resumes does not call again. Over DTM's HTTP API it
    /// must be a text; its SQL stores keep 65,535 bytes.
    ///
    /// # Errors
    ///
    /// `Failed` where the branch refuses, which DTM keeps too; `Ongoing`, and `Other` where nobody knows:
    /// the workflow is then to return it, and DTM has it go on later.
    pub async fn call(self, url: &str, payload: impl Into<Bytes>) -> Result<Bytes, BranchError> {
        let (caller, payload) = (self.run.caller.clone(), payload.into());
        self.recorded(async |branch| caller.call(&branch, url, payload).await).await
    }

    /// Runs `body` in a transaction of `manager` behind the branch's barrier in `store` as its action, and
    /// answers with its value, which DTM keeps. Where the process ends between the commit and that, the
    /// value is empty.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call); an error of a permanent kind is a refusal.
    pub async fn run_in_tx<F>(
        self,
        manager: &(impl TransactionManager + ?Sized),
        store: &dyn BarrierStore,
        body: F,
    ) -> Result<Bytes, BranchError>
    where
        F: AsyncFnOnce(&mut Tx) -> Result<Bytes, BranchError>,
    {
        self.recorded(async |branch| {
            let mut barrier = Barrier::new(branch.clone());
            let done = manager.run_with_barrier(store, &mut barrier, body).await;
            done.map(Option::unwrap_or_default).map_err(|error| error.decided("workflow.run_in_tx", Some(&branch)))
        })
        .await
    }

    fn calling(
        &self,
        url: String,
        payload: Bytes,
    ) -> impl FnOnce(Branch) -> BoxFuture<'static, Result<(), BranchError>> + Send + use<> {
        let caller = self.run.caller.clone();
        move |branch| Box::pin(async move { caller.call(&branch, &url, payload).await.map(drop) })
    }

    fn ended_by<F>(self, op: Op, work: impl FnOnce(Branch) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<(), BranchError>> + Send + 'static,
    {
        let ending = Ending { branch_id: self.id.clone(), op, work: Box::new(move |branch| Box::pin(work(branch))) };
        locked(&self.run.endings).push(ending);
        self
    }

    /// What was recorded of the action, or what it comes to now.
    async fn recorded(
        self,
        action: impl AsyncFnOnce(Branch) -> Result<Bytes, BranchError>,
    ) -> Result<Bytes, BranchError> {
        let outcome = self.run.recorded(&self.id, Op::Action, action).await;
        if matches!(outcome, Err(BranchError::Failed(_))) && !self.is_undone_when_refused {
            locked(&self.run.refused).insert(self.id);
        }
        outcome
    }
}

/// What commits a branch, or rolls it back.
struct Ending {
    branch_id: String,
    op: Op,
    work: Box<dyn FnOnce(Branch) -> BoxFuture<'static, Result<(), BranchError>> + Send>,
}

/// Calls branches; apart from the run, which keeps those who call.
struct Caller {
    client: DtmClient,
    transaction: GlobalTransaction,
}

/// What the branches of a run have in common.
pub(super) struct Run {
    caller: Arc<Caller>,
    steps: Mutex<HashMap<(String, String), WorkflowStep>>,
    endings: Mutex<Vec<Ending>>,
    /// Branches of which nothing is left.
    refused: Mutex<HashSet<String>>,
}

impl Run {
    pub(super) fn new(client: DtmClient, transaction: GlobalTransaction, steps: Vec<WorkflowStep>) -> Self {
        let (caller, steps) = (Arc::new(Caller { client, transaction }), Mutex::new(by_name(steps)));
        Self { caller, steps, endings: Mutex::default(), refused: Mutex::default() }
    }

    /// Commits the branches, or rolls them back, the last one first. What is done of it is recorded.
    pub(super) async fn end(&self, op: &Op) -> Result<(), BranchError> {
        let endings = std::mem::take(&mut *locked(&self.endings));
        let refused = locked(&self.refused).clone();
        let is_due = |ending: &Ending| ending.op == *op && (*op == Op::Commit || !refused.contains(&ending.branch_id));
        for ending in endings.into_iter().rev().filter(is_due) {
            let Ending { branch_id, op, work } = ending;
            let work = async |branch| match work(branch).await {
                // It is asked for until it succeeds; a refusal must not be recorded.
                Err(BranchError::Failed(reason)) => {
                    let message = "what ends a branch of a workflow may not refuse: it is run again until it succeeds";
                    let error = Error::new(ErrorKind::Unknown, "workflow.end", message);
                    Err(error.with_context("reason", reason).into())
                }
                done => done.map(|()| Bytes::new()),
            };
            self.recorded(&branch_id, op, work).await?;
        }
        Ok(())
    }

    /// What was recorded of a branch's operation, or what it comes to now, which is recorded where it is a
    /// success or a refusal.
    async fn recorded(
        &self,
        branch_id: &str,
        op: Op,
        work: impl AsyncFnOnce(Branch) -> Result<Bytes, BranchError>,
    ) -> Result<Bytes, BranchError> {
        let Caller { client, transaction } = &*self.caller;
        let gid = &transaction.gid;
        let name = (branch_id.to_owned(), op.to_string());
        if let Some(outcome) = self.known(&name) {
            return outcome;
        }
        let mut branch = Branch::new(Mode::Workflow, gid, branch_id, op)?;
        branch.coordinator = Some(client.address().to_owned());
        let outcome = work(branch).await;
        let (status, data) = match &outcome {
            Ok(data) => (SUCCEEDED, data.clone()),
            Err(BranchError::Failed(reason)) => (FAILED, Bytes::from(reason.clone())),
            Err(_) => return outcome,
        };
        let registration = BranchRegistration::new(Mode::Workflow, gid, branch_id)
            .data("op", &name.1)
            .data("status", status)
            // Without it DTM 1.19 may lose the result: it is written later, or never.
            .data("sync", "1")
            .payload(data);
        match client.register_branch(&registration).await {
            Ok(()) => outcome,
            // Another process ran it as well: its record is the one that counts.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let progress = client.prepare_workflow(transaction).await?;
                *locked(&self.steps) = by_name(progress.steps);
                self.known(&name).unwrap_or_else(|| Err(undecided("workflow.record", "DTM lost a record", error)))
            }
            // Too long to be kept, say: no run will get further.
            Err(error) if error.kind() == ErrorKind::InvalidArgument => Err(error.into()),
            Err(error) => Err(undecided("workflow.record", "what a branch came to is not recorded", error)),
        }
    }

    fn known(&self, name: &(String, String)) -> Option<Result<Bytes, BranchError>> {
        let steps = locked(&self.steps);
        let step = steps.get(name)?;
        Some(if step.status == FAILED {
            Err(BranchError::Failed(String::from_utf8_lossy(&step.data).into_owned()))
        } else {
            Ok(step.data.clone())
        })
    }
}

impl Caller {
    async fn call(&self, branch: &Branch, url: &str, payload: Bytes) -> Result<Bytes, BranchError> {
        let options: &TransactionOptions = &self.transaction.options;
        let request = BranchRequest::new(url, branch)
            .payload(payload)
            .headers(&options.headers)
            .timeout(options.request_timeout.unwrap_or(CALL_TIMEOUT));
        match self.client.caller().call_for_body(request).await {
            Ok((BranchAnswer::Succeeded, body)) => Ok(body),
            Ok((BranchAnswer::Failed(reason), _)) => Err(BranchError::Failed(reason)),
            Ok(_) => Err(BranchError::Ongoing),
            // Whatever its kind: nobody knows what was done, and it decides nothing.
            Err(error) => Err(undecided("workflow.call", "the branch neither did it nor refused", error)),
        }
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("gid", &self.caller.transaction.gid).finish_non_exhaustive()
    }
}

/// An error by which nothing is decided, whatever the kind of its cause.
fn undecided(operation: &'static str, message: &'static str, cause: Error) -> BranchError {
    let kind = if cause.is_permanent() { ErrorKind::Unknown } else { cause.kind() };
    Error::new(kind, operation, message).with_source(cause).into()
}

fn by_name(steps: Vec<WorkflowStep>) -> HashMap<(String, String), WorkflowStep> {
    steps.into_iter().map(|step| ((step.branch_id.clone(), step.op.clone()), step)).collect()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
