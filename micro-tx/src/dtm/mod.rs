//! A client of DTM 1.19, the coordinator of distributed transactions (<https://en.dtm.pub>), over its
//! gRPC, its HTTP and its JSON-RPC API.
//!
//! [`DtmClient`] is the connection; [`DtmClient::coordinator`] carries out core's
//! [`Saga`](micro_core::saga::Saga)s, [`TwoPhaseMessage`] are calls that come about if and only if a local
//! transaction commits, [`DtmClient::tcc`] makes reservations, [`DtmClient::xa`] has databases commit
//! together, [`Workflows`] are functions that go on after a crash, [`UrlBranchCaller`] calls branches as DTM
//! does. What all APIs can do is there by its own name as well; what became of transactions, and their
//! administration, over HTTP alone.
//!
//! ```no_run
//! use micro_core::saga::{Outcome, Saga, SagaCoordinator, SagaOptions, Step};
//! use micro_tx::dtm::{DtmClient, DtmConfig};
//!
//! # async fn example() -> micro_core::Result<()> {
//! let dtm = DtmClient::connect(DtmConfig::from_url("dtm://127.0.0.1:36790?http=127.0.0.1:36789")?).await?;
//! let mut options = SagaOptions::default();
//! options.is_waited_for = true;
//! let deduct = Step::new("127.0.0.1:9000/shop.Product/Deduct").compensation("127.0.0.1:9000/shop.Product/GiveBack");
//! let saga = Saga::new().step(deduct).step(Step::new("127.0.0.1:9001/shop.Order/Confirm")).options(options);
//! match dtm.coordinator().submit(saga).await? {
//!     Outcome::Succeeded => println!("every step took effect"),
//!     Outcome::RolledBack { reason } => println!("nothing is left of it: {reason}"),
//!     Outcome::StillRunning => println!("DTM goes on by itself"),
//! }
//! # Ok(()) }
//! ```
//!
//! # DTM submits again
//!
//! A submit whose answer did not come is sent again with the same id. DTM then calls the branches of a
//! transaction that still runs once more, those that are done included: what a branch does belongs
//! behind a [`Barrier`](micro_core::barrier::Barrier).

mod api;
mod branch_ids;
mod callable;
mod calls;
mod config;
mod decision;
mod error;
mod global;
mod grpc;
mod http;
mod json_rpc;
mod json_rpc_calls;
mod limits;
mod message;
mod messages;
mod saga;
mod state;
mod tcc;
mod tls;
mod workflow;
mod workflow_branch;
mod workflow_record;
mod workflow_run;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod workflow_xa;
mod xa;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod xa_participant;

pub use api::{BranchRegistration, WorkflowProgress, WorkflowStep};
pub use branch_ids::BranchIds;
pub use calls::{HttpBranchCaller, UrlBranchCaller};
pub use config::{DtmConfig, StoreLimits};
pub use global::{GlobalTransaction, TransactionOptions};
pub use message::TwoPhaseMessage;
pub use saga::DtmCoordinator;
pub use state::{
    BranchState, ResetCount, Subscriber, Topic, TransactionDetails, TransactionFilter, TransactionPage,
    TransactionState, TransactionStatus,
};
pub use tcc::{Tcc, TccBranch, TccBranches};
pub use workflow::{WorkflowExecution, WorkflowOutcome, Workflows, WorkflowsBuilder};
pub use workflow_branch::{Workflow, WorkflowBranch};
pub use xa::{Xa, XaBranches};
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub use xa_participant::XaParticipant;

use std::{fmt, future::Future, sync::Arc, time::Duration};

use micro_core::{
    Error, ErrorKind, Result,
    branch::{Mode, without_accounts},
    saga::Outcome,
};
use micro_grpc::{GrpcBranchCaller, GrpcClientConfig, RawGrpcClient};
use serde_json::value::RawValue;

use api::{Answer, Api, TopicVerb, Verb};
use error::Failed;
use grpc::GrpcApi;
use http::{ANSWER_BYTES_MAX, HttpApi};
use json_rpc::JsonRpcApi;
use state::{KeyValues, Listed, Queried, Version};

/// How many topics are asked for at a time.
const TOPIC_PAGE: &str = "100";

/// How often, and after which pause, DTM is asked again whether it noted what was undone. It writes every
/// 200 ms (`UpdateBranchAsyncInterval` of DTM 1.19).
const UNDONE_LOOKS_MAX: u32 = 3;
const UNDONE_PAUSE: Duration = Duration::from_millis(300);

/// A client of DTM. Clones share its connections.
#[derive(Clone)]
pub struct DtmClient {
    shared: Arc<Shared>,
}

struct Shared {
    config: DtmConfig,
    api: Box<dyn Api>,
    http: Option<HttpApi>,
    caller: UrlBranchCaller,
}

impl DtmClient {
    /// A client that connects when it is first used.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for settings that name no API.
    pub fn new(config: DtmConfig) -> Result<Self> {
        config.checked()?;
        let mut connections = GrpcClientConfig::default();
        connections.connect_timeout = config.connect_timeout;
        let grpc = RawGrpcClient::new(connections);
        let http = config.http.as_deref().map(|base| HttpApi::new(base, &config)).transpose()?;
        let api: Box<dyn Api> = match (&config.grpc, &http) {
            (Some(address), _) => {
                let grpc = grpc.clone().answer_bytes_max(ANSWER_BYTES_MAX);
                Box::new(GrpcApi::new(grpc, address.clone(), &config))
            }
            (None, Some(http)) if config.is_json_rpc => Box::new(JsonRpcApi::new(http.clone(), &config)?),
            (None, Some(http)) => Box::new(http.clone()),
            (None, None) => unreachable!("the settings name an API: they were checked"),
        };
        let branches = HttpBranchCaller::new()?;
        let branches = if config.is_json_rpc { branches.with_json_rpc() } else { branches };
        let caller = UrlBranchCaller::new(GrpcBranchCaller::new(grpc), branches);
        Ok(Self { shared: Arc::new(Shared { config, api, http, caller }) })
    }

    /// A client of a DTM that answers on each API that the settings name.
    ///
    /// # Errors
    ///
    /// Those of [`new`](Self::new); `Unavailable` and `DeadlineExceeded`, with the address, where DTM does
    /// not answer.
    pub async fn connect(config: DtmConfig) -> Result<Self> {
        let client = Self::new(config)?;
        client.new_gid().await?;
        if client.shared.http.is_some() {
            client.version().await?;
        }
        Ok(client)
    }

    /// What carries sagas out by this DTM.
    pub fn coordinator(&self) -> DtmCoordinator {
        DtmCoordinator::new(self.clone())
    }

    /// What calls branches as this DTM does, but for its own limits of time.
    pub fn caller(&self) -> &UrlBranchCaller {
        &self.shared.caller
    }

    /// Where DTM is, as it is told to who is called on its behalf: `HOST:PORT`, or the base of its HTTP
    /// API, also beside JSON-RPC.
    pub fn address(&self) -> &str {
        self.shared.api.address()
    }

    /// A new global id, of 22 characters at most. None needs to come from DTM: any text is good that is unique.
    pub async fn new_gid(&self) -> Result<String> {
        let answer = self.resent(|| self.shared.api.new_gid()).await;
        answer.map_err(|failed| failed.into_error("dtm.new_gid"))
    }

    /// Begins a transaction without deciding it. Again is the same.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for what is over a limit of the store, before anything is sent;
    /// `FailedPrecondition` for one that is decided.
    pub async fn prepare(&self, transaction: &GlobalTransaction) -> Result<()> {
        limits::check("dtm.prepare", transaction, self.shared.config.store_limits)?;
        let answer = self.resent(|| self.send(Verb::Prepare, transaction)).await;
        answer.map_err(|failed| failed.into_error("dtm.prepare"))
    }

    /// Decides for a transaction, or begins one that is decided.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for what is over a limit of the store, before anything is sent;
    /// `FailedPrecondition` where it is over already, where DTM decided otherwise, and where it was to be
    /// waited for and did not succeed in time.
    pub async fn submit(&self, transaction: &GlobalTransaction) -> Result<()> {
        limits::check("dtm.submit", transaction, self.shared.config.store_limits)?;
        let answer = self.resent(|| self.send(Verb::Submit, transaction)).await;
        answer.map_err(|failed| failed.into_error("dtm.submit"))
    }

    /// Decides against a transaction that is prepared. It is sent once: a second one would fail where the
    /// first was done.
    ///
    /// # Errors
    ///
    /// `FailedPrecondition` where it is decided already; `NotFound`.
    pub async fn abort(&self, transaction: &GlobalTransaction) -> Result<()> {
        limits::check("dtm.abort", transaction, self.shared.config.store_limits)?;
        let answer = self.send(Verb::Abort, transaction).await;
        answer.map_err(|failed| failed.into_error("dtm.abort"))
    }

    /// Adds a branch to a transaction that is prepared; always before the branch is called.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for what is over a limit of the store, before anything is sent;
    /// `FailedPrecondition` where the transaction is decided or not known; `AlreadyExists`.
    pub async fn register_branch(&self, branch: &BranchRegistration) -> Result<()> {
        limits::check_branch("dtm.register", branch, self.shared.config.store_limits)?;
        self.shared.api.register(branch).await.map_err(|failed| failed.into_error("dtm.register"))
    }

    /// Begins a workflow, or tells how far it came.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for what is over a limit of the store, before anything is sent.
    pub async fn prepare_workflow(&self, transaction: &GlobalTransaction) -> Result<WorkflowProgress> {
        const OPERATION: &str = "dtm.prepare_workflow";
        limits::check(OPERATION, transaction, self.shared.config.store_limits)?;
        let answer = self.resent(|| self.shared.api.prepare_workflow(transaction)).await;
        answer.map_err(|failed| failed.into_error(OPERATION))
    }

    /// Has messages to `topic://TOPIC` sent to this URL as well. DTM knows it within 3 s.
    ///
    /// # Errors
    ///
    /// `AlreadyExists`; `InvalidArgument` for an empty name or URL.
    pub async fn subscribe(&self, topic: &str, url: &str, remark: &str) -> Result<()> {
        self.topic("dtm.subscribe", TopicVerb::Subscribe { url, remark }, topic).await
    }

    /// Takes a subscriber away.
    ///
    /// # Errors
    ///
    /// `NotFound`.
    pub async fn unsubscribe(&self, topic: &str, url: &str) -> Result<()> {
        self.topic("dtm.unsubscribe", TopicVerb::Unsubscribe { url }, topic).await
    }

    /// Deletes a topic. DTM goes on to know it until it is started again.
    ///
    /// # Errors
    ///
    /// `NotFound`.
    pub async fn delete_topic(&self, topic: &str) -> Result<()> {
        self.topic("dtm.delete_topic", TopicVerb::Delete, topic).await
    }

    async fn topic(&self, operation: &'static str, verb: TopicVerb<'_>, topic: &str) -> Result<()> {
        let url = match verb {
            TopicVerb::Subscribe { url, .. } | TopicVerb::Unsubscribe { url } => Some(url),
            TopicVerb::Delete => None,
        };
        if topic.is_empty() || url == Some("") {
            let message = "a topic and a subscriber need a name";
            return Err(Error::new(ErrorKind::InvalidArgument, operation, message).with_context("topic", topic));
        }
        self.shared.api.topic(verb, topic).await.map_err(|failed| failed.into_error(operation))
    }

    /// Checks what can be known without asking: the limits of the store that the settings name, and what the
    /// API can carry and DTM can call.
    pub(crate) fn check(&self, operation: &'static str, transaction: &GlobalTransaction) -> Result<()> {
        limits::check(operation, transaction, self.shared.config.store_limits)?;
        self.shared.api.check(transaction)
    }

    async fn send(&self, verb: Verb, transaction: &GlobalTransaction) -> Answer<()> {
        let config = &self.shared.config;
        let is_long = transaction.options.is_waited_for && verb != Verb::Prepare;
        let timeout = if is_long { config.wait_timeout } else { config.request_timeout };
        self.shared.api.send(verb, transaction, timeout).await
    }

    /// As often as the settings say, where DTM cannot be reached or the connection breaks.
    async fn resent<T, F: Future<Output = Answer<T>>>(&self, call: impl Fn() -> F) -> Answer<T> {
        let config = &self.shared.config;
        let mut pause = config.resend_pause;
        for _ in 0..config.resend_count_max {
            match call().await {
                Err(Failed::Unanswered(error)) if error.kind() == ErrorKind::Unavailable => {
                    tracing::debug!(error = %error.report(), "a request to DTM is sent again");
                    tokio::time::sleep(pause).await;
                    pause = pause.saturating_mul(2);
                }
                answer => return answer,
            }
        }
        call().await
    }

    /// Submits once more where the answer does not come, without a look at limits.
    pub(crate) async fn submit_raw(&self, transaction: &GlobalTransaction) -> Answer<()> {
        self.resent(|| self.send(Verb::Submit, transaction)).await
    }

    /// Submits, and says what became of it. Where the answer does not tell, DTM is asked over HTTP.
    pub(crate) async fn submit_for_outcome(
        &self,
        operation: &'static str,
        transaction: &GlobalTransaction,
    ) -> Result<Outcome> {
        limits::check(operation, transaction, self.shared.config.store_limits)?;
        let is_waited_for = transaction.options.is_waited_for;
        let failed = match self.resent(|| self.send(Verb::Submit, transaction)).await {
            Ok(()) if is_waited_for => return Ok(Outcome::Succeeded),
            Ok(()) => return Ok(Outcome::StillRunning),
            Err(failed) => failed,
        };
        let was_sent = !matches!(&failed, Failed::Unanswered(error) if error.kind() == ErrorKind::InvalidArgument);
        // One that is only prepared was not submitted, so that the failure stands.
        if was_sent
            && self.shared.http.is_some()
            && let Ok(Some(details)) = self.query(&transaction.gid).await
            && details.transaction.status != TransactionStatus::Prepared
        {
            return Ok(self.settled(details).await);
        }
        match failed {
            Failed::Refused(refusal) => match (refusal.current_status(), refusal.not_succeeded()) {
                (Some("succeed"), _) => Ok(Outcome::Succeeded),
                (Some("failed"), _) => {
                    Ok(Outcome::RolledBack { reason: "rolled back, or stopped by force, before".to_owned() })
                }
                (Some("aborting"), _) => Ok(Outcome::StillRunning),
                // Of what is not a saga's, what is submitted is not rolled back any more: a branch that
                // refuses is called again.
                (None, Some(reason)) if is_waited_for && transaction.mode == Mode::Saga && !reason.is_empty() => {
                    Ok(Outcome::RolledBack { reason: without_accounts(reason).into_owned() })
                }
                (None, Some(_)) if is_waited_for => Ok(Outcome::StillRunning),
                _ => Err(refusal.into_error(operation)),
            },
            failed => Err(failed.into_error(operation)),
        }
    }

    /// What became of it, with what is not undone: DTM on SQL notes what its branches answered a moment after
    /// it ends the saga, and is asked again where that is not there yet.
    pub(crate) async fn settled(&self, mut details: TransactionDetails) -> Outcome {
        for _ in 0..UNDONE_LOOKS_MAX {
            if details.not_undone().next().is_none() {
                break;
            }
            tokio::time::sleep(UNDONE_PAUSE).await;
            let Ok(Some(found)) = self.query(&details.transaction.gid).await else { break };
            details = found;
        }
        let left: Vec<&str> = details.not_undone().collect();
        match details.outcome() {
            Outcome::RolledBack { reason } if !left.is_empty() && !details.transaction.rollback_reason.is_empty() => {
                let left = left.join(", ");
                Outcome::RolledBack {
                    reason: format!("stopped by force: DTM knows of no undoing of {left} ({reason})"),
                }
            }
            outcome => outcome,
        }
    }

    /// Submits what was prepared, where the caller has decided for it.
    pub(crate) async fn submit_decided(&self, operation: &'static str, transaction: &GlobalTransaction) -> Result<()> {
        let refusal = match self.resent(|| self.send(Verb::Submit, transaction)).await {
            Ok(()) => return Ok(()),
            Err(Failed::Refused(refusal)) => refusal,
            Err(failed) => return Err(failed.into_error(operation)),
        };
        let is_waited_for = transaction.options.is_waited_for;
        let is_done = match refusal.current_status() {
            Some(status) => status == "succeed",
            // It was waited for, and a branch did not do its part yet: DTM goes on.
            None if is_waited_for && refusal.not_succeeded().is_some() => true,
            None if is_waited_for && self.shared.http.is_some() => {
                let status =
                    self.query(&transaction.gid).await.ok().flatten().map(|details| details.transaction.status);
                matches!(status, Some(TransactionStatus::Submitted | TransactionStatus::Succeeded))
            }
            None => false,
        };
        if is_done { Ok(()) } else { Err(refusal.into_error(operation)) }
    }
}

/// What DTM tells over its HTTP API alone. Each is `FailedPrecondition` where the settings do not name it.
impl DtmClient {
    /// A transaction and its branches; `None` where DTM does not know it.
    ///
    /// Do not ask in a tight loop: DTM keeps a metric for each id that it was asked for, for ever.
    pub async fn query(&self, gid: &str) -> Result<Option<TransactionDetails>> {
        const OPERATION: &str = "dtm.query";
        let http = self.http(OPERATION)?;
        let query = [("gid", gid)];
        let answer = self.resent(|| http.get::<Queried>(&["query"], &query)).await;
        let Queried { transaction, branches } = answer.map_err(|failed| failed.into_error(OPERATION))?;
        Ok(transaction.map(|transaction| TransactionDetails { transaction, branches }))
    }

    /// A part of the list of transactions.
    pub async fn transactions(&self, filter: &TransactionFilter) -> Result<TransactionPage> {
        const OPERATION: &str = "dtm.transactions";
        let http = self.http(OPERATION)?;
        let query = filter.query();
        let query: Vec<(&str, &str)> = query.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let listed: Listed = http.get(&["all"], &query).await.map_err(|failed| failed.into_error(OPERATION))?;
        let next_position = Some(listed.next_position).filter(|position| !position.is_empty());
        Ok(TransactionPage { transactions: listed.transactions.unwrap_or_default(), next_position })
    }

    /// Ends a transaction as failed, without undoing what took effect. A saga's outcome is then
    /// [`RolledBack`](Outcome::RolledBack) with a reason that begins with "stopped by force"; what stays,
    /// [`TransactionDetails::not_undone`] names.
    ///
    /// # Errors
    ///
    /// `FailedPrecondition` where it is over; `NotFound`.
    pub async fn force_stop(&self, gid: &str) -> Result<()> {
        self.post_gid("dtm.force_stop", "forceStop", gid).await
    }

    /// Has a transaction's next call made now and not after its pause. On boltdb and Redis DTM 1.19
    /// notes it, and keeps to the pause.
    ///
    /// # Errors
    ///
    /// `NotFound`.
    pub async fn retry_now(&self, gid: &str) -> Result<()> {
        self.post_gid("dtm.retry_now", "resetNextCronTime", gid).await
    }

    async fn post_gid(&self, operation: &'static str, path: &str, gid: &str) -> Result<()> {
        let body = serde_json::json!({ "gid": gid });
        let timeout = self.shared.config.request_timeout;
        let answer = self.http(operation)?.post::<Box<RawValue>>(path, &body, timeout).await;
        answer.map(drop).map_err(|failed| failed.into_error(operation))
    }

    /// Has the calls of at most `limit` transactions made now whose pause is longer than `longer_than`
    /// (whole seconds, rounded up): after an outage of participants.
    pub async fn retry_all_now(&self, longer_than: Duration, limit: u32) -> Result<ResetCount> {
        const OPERATION: &str = "dtm.retry_all_now";
        let query = [("timeout", global::whole_seconds(longer_than).to_string()), ("limit", limit.to_string())];
        let query = query.each_ref().map(|(name, value)| (*name, value.as_str()));
        let answer = self.http(OPERATION)?.get(&["resetCronTime"], &query).await;
        answer.map_err(|failed| failed.into_error(OPERATION))
    }

    /// DTM's version, as `v1.19.0`.
    pub async fn version(&self) -> Result<String> {
        const OPERATION: &str = "dtm.version";
        let http = self.http(OPERATION)?;
        let answer = self.resent(|| http.get::<Version>(&["version"], &[])).await;
        answer.map(|answer| answer.version).map_err(|failed| failed.into_error(OPERATION))
    }

    /// Every topic with its subscribers.
    pub async fn topics(&self) -> Result<Vec<Topic>> {
        const OPERATION: &str = "dtm.topics";
        let http = self.http(OPERATION)?;
        let mut topics = Vec::new();
        let mut position = String::new();
        loop {
            let query = [("cat", "topics"), ("limit", TOPIC_PAGE), ("position", &position)];
            let page: KeyValues = http.get(&["scanKV"], &query).await.map_err(|failed| failed.into_error(OPERATION))?;
            for pair in page.kv.unwrap_or_default() {
                let subscribers = serde_json::from_str(&pair.v)
                    .map_err(|cause| error::unreadable(OPERATION, http.address(), cause))?;
                topics.push(Topic { name: pair.k, subscribers, version: pair.version });
            }
            // A position that does not move would be asked for without end.
            if page.next_position.is_empty() || page.next_position == position {
                return Ok(topics);
            }
            position = page.next_position;
        }
    }

    fn http(&self, operation: &'static str) -> Result<&HttpApi> {
        self.shared.http.as_ref().ok_or_else(|| {
            let message = "DTM tells this over its HTTP API alone: name it in the settings, dtm://…?http=HOST:PORT";
            Error::new(ErrorKind::FailedPrecondition, operation, message).with_context("address", self.address())
        })
    }
}

impl fmt::Debug for DtmClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DtmClient").field("config", &self.shared.config).finish_non_exhaustive()
    }
}
