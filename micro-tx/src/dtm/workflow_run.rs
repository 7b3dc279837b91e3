//! A run of a workflow: what was recorded of its branches, what is recorded now, and what ends it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use micro_core::{
    Error, ErrorKind, Result,
    branch::{Branch, BranchAnswer, BranchError, Mode, Op},
    saga::BranchRequest,
};

use super::{
    BranchRegistration, DtmClient, GlobalTransaction, TransactionOptions, WorkflowStep,
    workflow_record::{FAILED, Label, Record, SUCCEEDED},
};

/// DTM's own limit of a call.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// The name under which DTM's Go client records that the work of XA was done, before it is prepared.
pub(super) const XA_WORK: &str = "business";
const NOT_RECORDED: &str = "what a branch came to is not recorded";

/// What commits a branch, or rolls it back.
pub(super) struct Ending {
    pub(super) branch_id: String,
    pub(super) op: Op,
    pub(super) work: Box<dyn FnOnce(Branch) -> BoxFuture<'static, Result<(), BranchError>> + Send>,
}

/// What became of a branch's action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    NotRun,
    /// It was begun, and nobody knows.
    Open,
    Done,
    Refused {
        /// Whether it is rolled back all the same.
        is_undone: bool,
    },
}

impl Action {
    /// Of what refused nothing is left that could be committed.
    fn is_ended_by(self, op: &Op) -> bool {
        match self {
            Self::Refused { is_undone } => is_undone && *op == Op::Rollback,
            Self::NotRun | Self::Open | Self::Done => true,
        }
    }
}

/// Calls branches; apart from the run, which keeps those who call.
pub(super) struct Caller {
    client: DtmClient,
    transaction: GlobalTransaction,
}

/// How a branch is called.
#[derive(Clone, Debug)]
pub(super) struct CallOptions {
    pub(super) headers: BTreeMap<String, String>,
    pub(super) timeout: Duration,
}

/// By branch and operation.
type Records = HashMap<(String, String), Record>;

/// A branch that is another one than was recorded.
struct Misfit {
    branch_id: String,
    recorded: String,
    /// What the function made instead.
    made: String,
}

impl Misfit {
    /// Nothing is decided by it: a run of the function that was recorded goes on.
    fn to_error(&self, gid: &str) -> Error {
        let message = "the function makes other branches than the run that was recorded: have that one run on, and \
                       register what changed by another name";
        Error::new(ErrorKind::Internal, "workflow.run", message)
            .with_context("gid", gid)
            .with_context("branch", &self.branch_id)
            .with_context("recorded", &self.recorded)
            .with_context("made", &self.made)
    }
}

/// What the branches of a run have in common.
pub(super) struct Run {
    /// The workflow's.
    name: String,
    caller: Arc<Caller>,
    records: Mutex<Records>,
    endings: Mutex<Vec<Ending>>,
    /// What the branches' actions came to, of all that the function made.
    actions: Mutex<HashMap<String, Action>>,
    /// Actions that this run did and another one was refused: of these something is left.
    done_all_the_same: Mutex<HashSet<String>>,
    /// The first branch that is not the one that was recorded.
    misfit: Mutex<Option<Misfit>>,
}

impl Run {
    pub(super) fn new(client: DtmClient, name: &str, transaction: GlobalTransaction, steps: &[WorkflowStep]) -> Self {
        Self {
            name: name.to_owned(),
            caller: Arc::new(Caller { client, transaction }),
            records: Mutex::new(by_name(steps)),
            endings: Mutex::default(),
            actions: Mutex::default(),
            done_all_the_same: Mutex::default(),
            misfit: Mutex::default(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn gid(&self) -> &str {
        &self.caller.transaction.gid
    }

    pub(super) fn caller(&self) -> Arc<Caller> {
        self.caller.clone()
    }

    /// How branches are called that say nothing of it.
    pub(super) fn call_options(&self) -> CallOptions {
        let TransactionOptions { headers, request_timeout, .. } = &self.caller.transaction.options;
        CallOptions { headers: headers.clone(), timeout: request_timeout.unwrap_or(CALL_TIMEOUT) }
    }

    /// Notes what the action of a branch came to.
    pub(super) fn note(&self, branch_id: &str, action: Action) {
        locked(&self.actions).insert(branch_id.to_owned(), action);
    }

    /// Whether this run did the action although another run's refusal of it was recorded first.
    pub(super) fn did_all_the_same(&self, branch_id: &str) -> bool {
        locked(&self.done_all_the_same).contains(branch_id)
    }

    pub(super) fn add_ending(&self, ending: Ending) {
        locked(&self.endings).push(ending);
    }

    /// Whether what the function came to may be carried out.
    ///
    /// # Errors
    ///
    /// `Internal`, which names the branch, where the function did not make the branches that were recorded,
    /// for what the others did would neither be committed nor rolled back; and where it succeeded though
    /// nobody knows what an action came to that would be committed.
    pub(super) fn check(&self, done: &Result<Bytes, BranchError>) -> Result<()> {
        if let Some(misfit) = &*locked(&self.misfit) {
            return Err(misfit.to_error(self.gid()));
        }
        match done {
            Ok(_) => self.check_made().and_then(|()| self.check_settled()),
            Err(BranchError::Failed(_)) => self.check_made(),
            Err(_) => Ok(()),
        }
    }

    fn check_made(&self) -> Result<()> {
        let (records, actions) = (locked(&self.records), locked(&self.actions));
        let is_left = |(branch_id, op): &&(String, String)| is_of_action(op) && !actions.contains_key(branch_id);
        let Some(name) = records.keys().filter(is_left).min() else { return Ok(()) };
        let recorded = records[name].label.as_ref().map_or("a branch", Label::as_str).to_owned();
        let misfit = Misfit { branch_id: name.0.clone(), recorded, made: "its end".to_owned() };
        Err(misfit.to_error(self.gid()))
    }

    fn check_settled(&self) -> Result<()> {
        let (endings, actions) = (locked(&self.endings), locked(&self.actions));
        let is_open = |ending: &&Ending| {
            ending.op == Op::Commit && actions.get(&ending.branch_id).is_some_and(|action| *action == Action::Open)
        };
        let Some(ending) = endings.iter().find(is_open) else { return Ok(()) };
        let message = "the function succeeded though nobody knows what this branch came to: return the branch's error";
        Err(Error::new(ErrorKind::Internal, "workflow.run", message)
            .with_context("gid", self.gid())
            .with_context("branch", &ending.branch_id))
    }

    /// Commits the branches, or rolls them back, the last one first. What is done of it is recorded, once
    /// everything that ends a branch is.
    pub(super) async fn end(&self, op: &Op) -> Result<(), BranchError> {
        let endings = std::mem::take(&mut *locked(&self.endings));
        let actions = locked(&self.actions).clone();
        let is_due = |ending: &Ending| {
            let action = actions.get(&ending.branch_id).copied().unwrap_or(Action::NotRun);
            ending.op == *op && action.is_ended_by(op)
        };
        let mut due: Vec<(String, Vec<Ending>)> = Vec::new();
        for ending in endings.into_iter().rev().filter(is_due) {
            match due.iter_mut().find(|(branch_id, _)| *branch_id == ending.branch_id) {
                Some((_, of_branch)) => of_branch.push(ending),
                None => due.push((ending.branch_id.clone(), vec![ending])),
            }
        }
        for (branch_id, of_branch) in due {
            // One record for all of them: what is recorded is run no more.
            let work = async |branch: Branch| {
                for ending in of_branch {
                    ended((ending.work)(branch.clone()).await)?;
                }
                Ok(Bytes::new())
            };
            self.recorded(&branch_id, op.clone(), None, work).await?;
        }
        Ok(())
    }

    /// What was recorded of a branch's operation, or what it comes to now, which is recorded where it is a
    /// success or a refusal.
    pub(super) async fn recorded(
        &self,
        branch_id: &str,
        op: Op,
        label: Option<&Label>,
        work: impl AsyncFnOnce(Branch) -> Result<Bytes, BranchError>,
    ) -> Result<Bytes, BranchError> {
        let Caller { client, transaction } = &*self.caller;
        if let Some(outcome) = self.known(branch_id, op.as_str(), label) {
            return outcome;
        }
        let mut branch = Branch::new(Mode::Workflow, &transaction.gid, branch_id, op.clone())?;
        branch.coordinator = Some(client.address().to_owned());
        let outcome = work(branch).await;
        let (status, data) = match &outcome {
            Ok(data) => (SUCCEEDED, &data[..]),
            Err(BranchError::Failed(reason)) => (FAILED, reason.as_bytes()),
            Err(_) => return outcome,
        };
        match self.record(branch_id, op.as_str(), label, status, data).await {
            Ok(()) => outcome,
            // Another process ran it as well: its record is the one that counts.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                self.reload().await?;
                let known = self.known(branch_id, op.as_str(), label);
                if outcome.is_ok() && matches!(known, Some(Err(BranchError::Failed(_)))) {
                    locked(&self.done_all_the_same).insert(branch_id.to_owned());
                }
                known.unwrap_or_else(|| Err(undecided("workflow.record", "DTM lost a record", error)))
            }
            // Another process's run ended the workflow meanwhile.
            Err(error) if error.kind() == ErrorKind::FailedPrecondition && outcome.is_ok() => {
                self.ended_meanwhile(branch_id, &op, outcome, error).await
            }
            // Too long to be kept, say: no run will get further.
            Err(error) if error.kind() == ErrorKind::InvalidArgument => Err(error.into()),
            Err(error) => Err(undecided("workflow.record", NOT_RECORDED, error)),
        }
    }

    /// What an operation counts for that was done after the workflow's end: an action of one that was rolled
    /// back is undone, and what undoes it, or commits it, needs no record any more.
    async fn ended_meanwhile(
        &self,
        branch_id: &str,
        op: &Op,
        outcome: Result<Bytes, BranchError>,
        error: Error,
    ) -> Result<Bytes, BranchError> {
        if *op != Op::Action {
            return outcome;
        }
        let progress = self.caller.client.prepare_workflow(&self.caller.transaction).await?;
        if progress.status != FAILED {
            return Err(undecided("workflow.record", NOT_RECORDED, error));
        }
        locked(&self.done_all_the_same).insert(branch_id.to_owned());
        Err(BranchError::Failed(progress.rollback_reason))
    }

    async fn record(&self, branch_id: &str, op: &str, label: Option<&Label>, status: &str, data: &[u8]) -> Result<()> {
        let payload = label.map_or_else(|| Bytes::copy_from_slice(data), |label| label.record(data));
        let registration = BranchRegistration::new(Mode::Workflow, self.gid(), branch_id)
            .data("op", op)
            .data("status", status)
            // Without it DTM 1.19 may lose the result: it is written later, or never.
            .data("sync", "1")
            .payload(payload);
        self.caller.client.register_branch(&registration).await
    }

    /// What an operation is recorded to have given.
    #[cfg(any(feature = "mysql", feature = "postgres"))]
    pub(super) fn value_of(&self, branch_id: &str, op: &str) -> Option<Bytes> {
        let name = (branch_id.to_owned(), op.to_owned());
        locked(&self.records).get(&name).map(|record| record.data.clone())
    }

    /// Records what an operation gave; `false` where something is recorded of it already.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for what DTM cannot keep; others decide nothing.
    #[cfg(any(feature = "mysql", feature = "postgres"))]
    pub(super) async fn record_value(&self, branch_id: &str, op: &str, label: &Label, value: &[u8]) -> Result<bool> {
        match self.record(branch_id, op, Some(label), SUCCEEDED, value).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) if error.kind() == ErrorKind::InvalidArgument => Err(error),
            Err(error) => Err(unclear("workflow.record", NOT_RECORDED, error)),
        }
    }

    async fn reload(&self) -> Result<()> {
        let progress = self.caller.client.prepare_workflow(&self.caller.transaction).await?;
        *locked(&self.records) = by_name(&progress.steps);
        Ok(())
    }

    fn known(&self, branch_id: &str, op: &str, label: Option<&Label>) -> Option<Result<Bytes, BranchError>> {
        let records = locked(&self.records);
        let other = label.and_then(|label| {
            let is_its = |name: &(String, String)| name.0 == branch_id && is_of_action(&name.1);
            let mut recorded =
                records.iter().filter(|(name, _)| is_its(name)).filter_map(|(_, found)| found.label.clone());
            recorded.find(|recorded| recorded != label).map(|recorded| [recorded, label.clone()])
        });
        let record = records.get(&(branch_id.to_owned(), op.to_owned())).cloned();
        drop(records);
        if let Some(labels) = other {
            let [recorded, made] = labels.map(|label| label.as_str().to_owned());
            let misfit = Misfit { branch_id: branch_id.to_owned(), recorded, made };
            let error = misfit.to_error(self.gid());
            // Told whatever the function makes of it.
            locked(&self.misfit).get_or_insert(misfit);
            return Some(Err(error.into()));
        }
        let record = record?;
        Some(if record.is_failure {
            Err(BranchError::Failed(String::from_utf8_lossy(&record.data).into_owned()))
        } else {
            Ok(record.data)
        })
    }
}

impl Caller {
    pub(super) async fn call(
        &self,
        branch: &Branch,
        url: &str,
        payload: Bytes,
        options: &CallOptions,
    ) -> Result<Bytes, BranchError> {
        let request =
            BranchRequest::new(url, branch).payload(payload).headers(&options.headers).timeout(options.timeout);
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
        f.debug_struct("Run").field("name", &self.name).field("gid", &self.gid()).finish_non_exhaustive()
    }
}

/// It is asked for until it succeeds; a refusal must not be recorded.
fn ended(outcome: Result<(), BranchError>) -> Result<(), BranchError> {
    match outcome {
        Err(BranchError::Failed(reason)) => {
            let message = "what ends a branch of a workflow may not refuse: it is run again until it succeeds";
            let error = Error::new(ErrorKind::Unknown, "workflow.end", message);
            Err(error.with_context("reason", reason).into())
        }
        outcome => outcome,
    }
}

/// An error by which nothing is decided, whatever the kind of its cause.
fn undecided(operation: &'static str, message: &'static str, cause: Error) -> BranchError {
    unclear(operation, message, cause).into()
}

fn unclear(operation: &'static str, message: &'static str, cause: Error) -> Error {
    let kind = if cause.is_permanent() { ErrorKind::Unknown } else { cause.kind() };
    Error::new(kind, operation, message).with_source(cause)
}

/// Whether an operation is recorded of an action: it, or the work of one in XA before it is prepared.
fn is_of_action(op: &str) -> bool {
    op == Op::Action.as_str() || op.starts_with(XA_WORK)
}

fn by_name(steps: &[WorkflowStep]) -> Records {
    steps.iter().map(|step| ((step.branch_id.clone(), step.op.clone()), Record::from(step))).collect()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
