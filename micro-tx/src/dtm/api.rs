//! What both of DTM's APIs do.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use micro_core::branch::Mode;

use super::{error::Failed, global::GlobalTransaction};

pub(crate) type Answer<T> = Result<T, Failed>;

/// What is done with a whole transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Prepare,
    Submit,
    Abort,
}

/// What is done with a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TopicVerb<'a> {
    Subscribe { url: &'a str, remark: &'a str },
    Unsubscribe { url: &'a str },
    Delete,
}

/// A branch that its transaction did not begin with: of TCC, XA and workflows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BranchRegistration {
    /// The transaction: 1 to 128 bytes without line breaks and `;`.
    pub gid: String,
    /// How it is carried out.
    pub mode: Mode,
    /// The branch: two digits a level, from `01`.
    pub branch_id: String,
    /// What the mode defines: `confirm` and `cancel` are the URLs of a TCC branch, `url` is that of an XA
    /// branch, `op` and `status` are a workflow's, with `sync` = `1` so that no crash loses them. DTM on SQL keeps 1,024 characters of each value.
    pub data: BTreeMap<String, String>,
    /// The body of the calls, or a workflow step's result; default empty. DTM on SQL keeps 65,535 bytes.
    pub payload: Bytes,
}

impl BranchRegistration {
    /// A branch without data and payload.
    pub fn new(mode: Mode, gid: impl Into<String>, branch_id: impl Into<String>) -> Self {
        let (gid, branch_id) = (gid.into(), branch_id.into());
        Self { gid, mode, branch_id, data: BTreeMap::new(), payload: Bytes::new() }
    }

    /// Adds a pair of what the mode defines.
    #[must_use]
    pub fn data(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.data.insert(name.into(), value.into());
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }
}

/// How far a workflow came.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkflowProgress {
    /// DTM's word for its state: `prepared`, `succeed`, `failed`.
    pub status: String,
    /// Why it failed.
    pub rollback_reason: String,
    /// What it came to; DTM 1.19 tells it over HTTP alone.
    pub result: Bytes,
    /// The steps that were recorded.
    pub steps: Vec<WorkflowStep>,
}

/// A recorded step of a workflow.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkflowStep {
    /// Its branch.
    pub branch_id: String,
    /// Its operation.
    pub op: String,
    /// `succeed` or `failed`.
    pub status: String,
    /// Its result, or the text of its failure.
    pub data: Bytes,
}

impl WorkflowStep {
    pub(crate) fn new(branch_id: String, op: String, status: String, data: Bytes) -> Self {
        Self { branch_id, op, status, data }
    }
}

#[async_trait]
pub(crate) trait Api: Send + Sync {
    /// As participants are told who coordinates.
    fn address(&self) -> &str;

    /// # Errors
    ///
    /// `InvalidArgument` for what this API cannot carry.
    fn check(&self, transaction: &GlobalTransaction) -> micro_core::Result<()>;

    async fn new_gid(&self) -> Answer<String>;

    async fn send(&self, verb: Verb, transaction: &GlobalTransaction, timeout: Duration) -> Answer<()>;

    async fn register(&self, branch: &BranchRegistration) -> Answer<()>;

    async fn prepare_workflow(&self, transaction: &GlobalTransaction) -> Answer<WorkflowProgress>;

    async fn topic(&self, verb: TopicVerb<'_>, topic: &str) -> Answer<()>;
}
