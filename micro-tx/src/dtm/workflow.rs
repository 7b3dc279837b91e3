//! Workflows: functions that are run again from their recorded steps until they come to their end.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use micro_core::{
    Error, ErrorKind, Result,
    branch::{Branch, BranchError, Mode, Op, without_accounts},
};
use micro_grpc::WorkflowService;
use uuid::Uuid;

use super::{
    DtmClient, GlobalTransaction, TransactionOptions, WorkflowProgress, state::without_failure,
    workflow_branch::Workflow, workflow_run::Run,
};

/// The method that DTM calls.
const EXECUTE: &str = "/workflow.Workflow/Execute";
/// What DTM's store keeps of a reason.
const REASON_CHARS_MAX: usize = 1000;

type Function = Arc<dyn Fn(Workflow, Bytes) -> BoxFuture<'static, Result<Bytes, BranchError>> + Send + Sync>;

/// A workflow to be executed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkflowExecution {
    /// The function's name.
    pub name: String,
    /// The global id, 1 to 128 bytes without line breaks and `;`; default a UUID.
    /// Whoever executes it again gets what it came to.
    pub gid: String,
    /// What the function is given. DTM's SQL stores keep some 700 bytes together with the name.
    pub data: Bytes,
    /// Of these DTM's pause between two runs, in whole seconds
    /// ([`retry_interval`](TransactionOptions::retry_interval), 10 s by default); for the run of this call
    /// alone the limit of a branch's call ([`request_timeout`](TransactionOptions::request_timeout), 3 s by
    /// default) and its headers. A run that DTM has go on does not know those two: name them in the function,
    /// by [`WorkflowBranch::request_timeout`](super::WorkflowBranch::request_timeout) and
    /// [`header`](super::WorkflowBranch::header). The others mean nothing to a workflow.
    pub options: TransactionOptions,
}

impl WorkflowExecution {
    /// An execution with an id of its own.
    pub fn new(name: impl Into<String>, data: impl Into<Bytes>) -> Self {
        let gid = Uuid::now_v7().to_string();
        Self { name: name.into(), gid, data: data.into(), options: TransactionOptions::default() }
    }

    /// Sets the id.
    #[must_use]
    pub fn gid(mut self, gid: impl Into<String>) -> Self {
        self.gid = gid.into();
        self
    }

    /// Sets the options.
    #[must_use]
    pub fn options(mut self, options: TransactionOptions) -> Self {
        self.options = options;
        self
    }
}

/// What became of a workflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkflowOutcome {
    /// It came to this.
    Succeeded(Bytes),
    /// It refused, and what was done is undone.
    RolledBack {
        /// Why.
        reason: String,
    },
    /// It is not at its end: DTM has it run again later.
    StillRunning,
}

/// The workflows of this process, by their names. Clones share them.
///
/// A function runs in a task of its own, and one run of an id at a time in this process. Where it ends
/// without an outcome, or the process does, DTM calls back every
/// [`retry_interval`](TransactionOptions::retry_interval), and it runs again: branches that were recorded
/// are not.
///
/// # Examples
///
/// ```no_run
/// use micro_tx::dtm::{DtmClient, WorkflowExecution, WorkflowOutcome, Workflows};
/// # async fn example(dtm: DtmClient) -> micro_core::Result<()> {
/// let workflows = Workflows::builder(dtm, "order:9001")
///     .register("pay", async |mut workflow, data| {
///         let branch = workflow.branch()?.on_rollback_call("product:9000/shop.Product/GiveBack", data.clone());
///         branch.call("product:9000/shop.Product/Deduct", data).await
///     })
///     .build()?;
/// // DTM has them go on by `GrpcServer::builder("order").add_service(workflows.grpc_service())`.
/// match workflows.execute(WorkflowExecution::new("pay", &b"two of A-17"[..])).await? {
///     WorkflowOutcome::Succeeded(_) => {}
///     WorkflowOutcome::RolledBack { reason } => println!("nothing is left of it: {reason}"),
///     WorkflowOutcome::StillRunning => {} // DTM has it go on.
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Workflows {
    shared: Arc<Shared>,
}

struct Shared {
    client: DtmClient,
    callback: String,
    functions: HashMap<String, Function>,
    /// Who runs at this moment.
    running: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Whether somebody serves the callback, or was told that nobody does.
    is_served: AtomicBool,
}

/// Registers workflows.
pub struct WorkflowsBuilder {
    client: DtmClient,
    callback: String,
    functions: HashMap<String, Function>,
    /// A name that was registered twice.
    doubled: Option<String>,
}

impl WorkflowsBuilder {
    /// Registers a function. It must make its branches in the same order each time it is run: register one
    /// whose branches changed by another name, and keep this one until its workflows are over.
    #[must_use]
    pub fn register<F>(
        mut self,
        name: impl Into<String>,
        function: impl Fn(Workflow, Bytes) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Bytes, BranchError>> + Send + 'static,
    {
        match self.functions.entry(name.into()) {
            Entry::Occupied(entry) => self.doubled = Some(entry.key().clone()),
            Entry::Vacant(entry) => {
                entry.insert(Arc::new(move |workflow, data| Box::pin(function(workflow, data))));
            }
        }
        self
    }

    /// The workflows.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` for a name that was registered twice; `InvalidArgument` where DTM could not call back
    /// by the API that the client speaks.
    pub fn build(self) -> Result<Workflows> {
        if let Some(name) = self.doubled {
            let error = Error::new(ErrorKind::AlreadyExists, "workflow.register", "two workflows have one name");
            return Err(error.with_context("name", name));
        }
        let is_http = self.callback.starts_with("http://") || self.callback.starts_with("https://");
        if is_http == self.client.shared.config.grpc.is_some() || self.callback.is_empty() {
            let message =
                "DTM calls back by the API that it was told by: HOST:PORT of a gRPC server, over HTTP a URL http://…";
            let error = Error::new(ErrorKind::InvalidArgument, "workflow.build", message);
            return Err(error.with_context("callback", self.callback.escape_debug()));
        }
        let callback = if is_http { self.callback } else { self.callback + EXECUTE };
        let shared = Shared {
            client: self.client,
            callback,
            functions: self.functions,
            running: Mutex::default(),
            is_served: AtomicBool::new(false),
        };
        Ok(Workflows { shared: Arc::new(shared) })
    }
}

impl Workflows {
    /// Workflows of this client. `callback` is where DTM calls to have one go on: `HOST:PORT` of the gRPC
    /// server with [`grpc_service`](Self::grpc_service); with DTM's HTTP API the URL whose handler calls
    /// [`resume`](Self::resume).
    pub fn builder(client: DtmClient, callback: impl Into<String>) -> WorkflowsBuilder {
        WorkflowsBuilder { client, callback: callback.into(), functions: HashMap::new(), doubled: None }
    }

    /// Runs a workflow to its end, or from where it came to; one that is at its end is not run again, and
    /// answers with what it came to. DTM 1.19 tells that over HTTP alone: where the settings do not name
    /// it, the answer of a second execution is empty.
    ///
    /// # Errors
    ///
    /// `NotFound` for a name that is not registered; those of
    /// [`prepare_workflow`](DtmClient::prepare_workflow): then this call did not run the function, but after
    /// one that tells that nobody knows (`Unavailable`, `DeadlineExceeded`) DTM may have taken it and have it
    /// run later: execute it again with the same id, not with a new one. An error of the function that
    /// decides nothing: DTM has it run again. One of a permanent kind
    /// ([`Error::is_permanent`]) is a refusal, as [`BranchError::Failed`] is. `Internal` where the function
    /// makes other branches than were recorded of this id, for it was changed, or they are another
    /// workflow's, and where it succeeded without what an
    /// [`on_commit`](super::WorkflowBranch::on_commit) needs: nothing is decided, and DTM has it run again.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the run goes on.
    pub async fn execute(&self, execution: WorkflowExecution) -> Result<WorkflowOutcome> {
        self.known("workflow.execute", &execution.name)?;
        let workflows = self.clone();
        spawned(async move {
            let turn = workflows.turn(&execution.gid);
            let _turn = turn.lock().lock().await;
            workflows.run(&execution).await
        })
        .await
    }

    /// What DTM calls, as a service of a [`GrpcServer`](micro_grpc::GrpcServer).
    ///
    /// Where a run is interrupted before somebody made one, or [`resume`](Self::resume) was called, a warning
    /// says so once: another process may serve the callback, or nobody.
    pub fn grpc_service(&self) -> WorkflowService {
        self.shared.is_served.store(true, Ordering::Relaxed);
        let workflows = self.clone();
        WorkflowService::new(move |branch, data| {
            let workflows = workflows.clone();
            async move { workflows.resume(&branch, data).await }
        })
    }

    /// Has a workflow go on that DTM calls back for: its name is the branch's operation. One that runs in
    /// this process at this moment is ongoing.
    ///
    /// # Errors
    ///
    /// `Failed` for one that is rolled back, `Ongoing` for one that is not at its end, `Other` with
    /// `NotFound` for a name that is not registered, and with what [`execute`](Self::execute) would return.
    /// After `Other` DTM calls again.
    pub async fn resume(&self, branch: &Branch, data: Bytes) -> Result<(), BranchError> {
        self.shared.is_served.store(true, Ordering::Relaxed);
        if branch.mode != Mode::Workflow {
            let message = "not a call of a workflow";
            let error = Error::new(ErrorKind::InvalidArgument, "workflow.resume", message);
            return Err(error.with_context("trans_type", branch.mode.as_str()).into());
        }
        self.known("workflow.resume", branch.op.as_str())?;
        let execution = WorkflowExecution::new(branch.op.as_str(), data).gid(&branch.gid);
        let workflows = self.clone();
        let resumed = spawned(async move {
            let turn = workflows.turn(&execution.gid);
            let Ok(_turn) = turn.lock().try_lock() else { return Ok(WorkflowOutcome::StillRunning) };
            workflows.run(&execution).await
        });
        match resumed.await? {
            WorkflowOutcome::Succeeded(_) => Ok(()),
            WorkflowOutcome::RolledBack { reason } => Err(BranchError::Failed(reason)),
            WorkflowOutcome::StillRunning => Err(BranchError::Ongoing),
        }
    }

    async fn run(&self, execution: &WorkflowExecution) -> Result<WorkflowOutcome> {
        let client = &self.shared.client;
        let transaction = self.transaction(execution);
        let progress = client.prepare_workflow(&transaction).await?;
        if let Some(outcome) = self.ended(&execution.gid, &progress).await? {
            return Ok(outcome);
        }
        let run = Arc::new(Run::new(client.clone(), &execution.name, transaction.clone(), &progress.steps));
        let function = self.known("workflow.execute", &execution.name)?;
        let done = function(Workflow::new(run.clone()), execution.data.clone()).await;
        let done = done.and_then(|result| self.checked(&transaction, result));
        // A permanent kind is a refusal here, as it is a branch's.
        let name = Op::Other(execution.name.clone());
        let branch = Branch::new(Mode::Workflow, &execution.gid, "00", name)?;
        let done = done.map_err(|error| error.decided(&execution.name, Some(&branch)));
        run.check(&done)?;
        let (op, outcome) = match done {
            Ok(result) => (Op::Commit, WorkflowOutcome::Succeeded(result)),
            Err(BranchError::Failed(reason)) => (Op::Rollback, WorkflowOutcome::RolledBack { reason }),
            Err(error) => return self.undecided(error),
        };
        if let Err(error) = run.end(&op).await {
            return self.undecided(error);
        }
        self.submit(transaction, outcome).await
    }

    fn transaction(&self, execution: &WorkflowExecution) -> GlobalTransaction {
        let mut transaction = GlobalTransaction::new(Mode::Workflow, &execution.gid);
        transaction.options = execution.options.clone();
        transaction.query_prepared.clone_from(&self.shared.callback);
        let data = BASE64_STANDARD.encode(&execution.data);
        transaction.custom_data = serde_json::json!({ "name": execution.name, "data": data }).to_string();
        transaction
    }

    /// What it came to before.
    async fn ended(&self, gid: &str, progress: &WorkflowProgress) -> Result<Option<WorkflowOutcome>> {
        match progress.status.as_str() {
            "succeed" => {
                let result = self.result(gid, progress).await?;
                Ok(Some(WorkflowOutcome::Succeeded(result)))
            }
            "failed" => {
                // As other clients tell it.
                let reason = without_accounts(without_failure(&progress.rollback_reason)).into_owned();
                Ok(Some(WorkflowOutcome::RolledBack { reason }))
            }
            _ => Ok(None),
        }
    }

    /// Over gRPC DTM 1.19 leaves it out.
    async fn result(&self, gid: &str, progress: &WorkflowProgress) -> Result<Bytes> {
        let client = &self.shared.client;
        if !progress.result.is_empty() || client.shared.http.is_none() {
            return Ok(progress.result.clone());
        }
        let details = client.query(gid).await?;
        let result = details.map(|details| details.transaction.result).unwrap_or_default();
        let result = BASE64_STANDARD.decode(result);
        result.map(Bytes::from).map_err(|cause| super::error::unreadable("workflow.execute", client.address(), cause))
    }

    /// A result that DTM can keep.
    fn checked(&self, transaction: &GlobalTransaction, result: Bytes) -> Result<Bytes, BranchError> {
        let mut transaction = transaction.clone();
        transaction.extra.insert("result".to_owned(), BASE64_STANDARD.encode(&result));
        super::limits::check("workflow.submit", &transaction, self.shared.client.shared.config.store_limits)?;
        Ok(result)
    }

    /// Tells DTM what it came to.
    async fn submit(&self, mut transaction: GlobalTransaction, outcome: WorkflowOutcome) -> Result<WorkflowOutcome> {
        let (status, reason, result) = match &outcome {
            WorkflowOutcome::Succeeded(result) => ("succeed", String::new(), BASE64_STANDARD.encode(result)),
            WorkflowOutcome::RolledBack { reason } => {
                ("failed", reason.chars().take(REASON_CHARS_MAX).collect(), String::new())
            }
            WorkflowOutcome::StillRunning => return Ok(outcome),
        };
        let extra = [("status", status.to_owned()), ("rollback_reason", reason), ("result", result)];
        transaction.extra = extra.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let Err(failed) = self.shared.client.submit_raw(&transaction).await else { return Ok(outcome) };
        // Another process was faster, or an answer was lost.
        transaction.extra.clear();
        if let Ok(progress) = self.shared.client.prepare_workflow(&transaction).await
            && let Some(outcome) = self.ended(&transaction.gid, &progress).await?
        {
            return Ok(outcome);
        }
        Err(failed.into_error("workflow.submit"))
    }

    /// What the end of a run says that decided nothing.
    fn undecided(&self, error: BranchError) -> Result<WorkflowOutcome> {
        if !self.shared.is_served.swap(true, Ordering::Relaxed) {
            let callback = &self.shared.callback;
            tracing::warn!(callback, "DTM has a workflow go on here, which this process does not serve: does another?");
        }
        match error {
            BranchError::Ongoing => Ok(WorkflowOutcome::StillRunning),
            BranchError::Other(error) => Err(error),
            other => Err(Error::new(ErrorKind::Unknown, "workflow.execute", other.to_string())),
        }
    }

    fn known(&self, operation: &'static str, name: &str) -> Result<&Function> {
        self.shared.functions.get(name).ok_or_else(|| {
            let message = "no workflow of this name is registered here";
            Error::new(ErrorKind::NotFound, operation, message).with_context("name", name.escape_debug())
        })
    }

    fn turn(&self, gid: &str) -> Turn {
        let mut running = self.shared.running.lock().unwrap_or_else(PoisonError::into_inner);
        let lock = running.entry(gid.to_owned()).or_default().clone();
        Turn { shared: self.shared.clone(), gid: gid.to_owned(), lock: Some(lock) }
    }
}

impl fmt::Debug for Workflows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.shared.functions.keys().collect();
        f.debug_struct("Workflows").field("functions", &names).field("callback", &self.shared.callback).finish()
    }
}

impl fmt::Debug for WorkflowsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkflowsBuilder").field("callback", &self.callback).finish_non_exhaustive()
    }
}

/// An id's lock, which is forgotten with the last who wants it.
struct Turn {
    shared: Arc<Shared>,
    gid: String,
    /// There until it is dropped.
    lock: Option<Arc<tokio::sync::Mutex<()>>>,
}

impl Turn {
    fn lock(&self) -> &tokio::sync::Mutex<()> {
        self.lock.as_ref().expect("a turn that is not dropped has its lock")
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut running = self.shared.running.lock().unwrap_or_else(PoisonError::into_inner);
        self.lock = None;
        // The map's alone is left: others are added, and given back, under the map's lock alone.
        if running.get(&self.gid).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            running.remove(&self.gid);
        }
    }
}

/// Runs to its end whatever becomes of the caller.
async fn spawned(run: impl Future<Output = Result<WorkflowOutcome>> + Send + 'static) -> Result<WorkflowOutcome> {
    tokio::spawn(run).await.unwrap_or_else(|cause| {
        let message = "the workflow panicked, or the runtime ends: DTM has it run again";
        Err(Error::new(ErrorKind::Internal, "workflow.execute", message).with_source(cause))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtm::DtmConfig;

    #[test]
    fn an_ids_lock_is_there_as_long_as_somebody_wants_it() {
        let client = DtmClient::new(DtmConfig::from_url("dtm://127.0.0.1:1").unwrap()).unwrap();
        let workflows = Workflows::builder(client, "127.0.0.1:2").build().unwrap();
        let ids = || {
            let mut ids: Vec<String> = workflows.shared.running.lock().unwrap().keys().cloned().collect();
            ids.sort();
            ids
        };
        let [first, other, second] = ["one", "two", "one"].map(|gid| workflows.turn(gid));
        let held = first.lock().try_lock().unwrap();
        assert!(second.lock().try_lock().is_err(), "it is one lock");
        assert!(other.lock().try_lock().is_ok());
        drop(held);
        drop((first, other));
        assert_eq!(ids(), ["one"], "somebody still waits");
        assert!(second.lock().try_lock().is_ok());
        drop(second);
        assert_eq!(ids(), [""; 0]);
    }
}
