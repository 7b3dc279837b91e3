//! Sagas: steps in several services, each with what undoes it, and the coordinators that carry them out.

mod caller;
mod check;
mod discovered;
mod embedded;
mod execution;
mod log;
mod memory;
mod record;
mod relay;
mod worker;

pub use caller::{BranchCaller, BranchRequest};
pub use check::{SAGA_BYTES_MAX, STEP_COUNT_MAX};
pub use discovered::{DiscoveredBranches, REGISTRY_SCHEME};
pub use embedded::{EmbeddedCoordinator, EmbeddedCoordinatorBuilder, EmbeddedCoordinatorConfig};
pub use log::{DueSaga, SagaChange, SagaCounts, SagaEntry, SagaLease, SagaLog, SagaProgress, SagaWrite};
pub use memory::MemorySagaLog;
pub(crate) use memory::{SagaRowChanges, SagaRows};
pub use relay::{SagaRelay, SagaRelayBuilder, SagaRelayConfig};

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use prost::Message;
use uuid::Uuid;

use crate::{Result, Tx};

/// Steps that are done one after the other; where one is refused, what was done is undone in reverse.
///
/// # Examples
///
/// ```
/// use micro_core::saga::{Saga, Step};
///
/// let saga = Saga::new()
///     .step(Step::new("127.0.0.1:9000/shop.Product/Deduct").payload(&b"two of A-17"[..]).compensation(
///         "127.0.0.1:9000/shop.Product/GiveBack",
///     ))
///     .step(Step::new("127.0.0.1:9001/shop.Order/Confirm"));
/// assert_eq!(saga.steps.len(), 2);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Saga {
    /// The global id, 1 to 128 bytes ([`GID_BYTES_MAX`](crate::branch::GID_BYTES_MAX)) without control
    /// characters, and for DTM without `;`: letters, digits and `-` are safe everywhere. Whoever submits it
    /// again submits the same saga. Default a UUID.
    pub gid: String,
    /// In the order in which they are done, unless [`SagaOptions::is_concurrent`]; at most 99
    /// ([`STEP_COUNT_MAX`]).
    pub steps: Vec<Step>,
    /// How patient the coordinator is.
    pub options: SagaOptions,
}

impl Default for Saga {
    fn default() -> Self {
        Self::new()
    }
}

impl Saga {
    /// A saga without steps, with an id of its own.
    pub fn new() -> Self {
        Self::with_gid(Uuid::now_v7().to_string())
    }

    /// A saga with the caller's id: an order's number, say, so that it exists once.
    pub fn with_gid(gid: impl Into<String>) -> Self {
        Self { gid: gid.into(), steps: Vec::new(), options: SagaOptions::default() }
    }

    /// Adds a step.
    #[must_use]
    pub fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// Sets the options.
    #[must_use]
    pub fn options(mut self, options: SagaOptions) -> Self {
        self.options = options;
        self
    }
}

/// A step of a saga: a call, and the call that undoes it. Both get the same payload.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Step {
    /// `HOST:PORT/package.Service/Method`, or `http://…`; empty: nothing to do, and it succeeds. DTM on SQL
    /// keeps 1,024 characters, and the whole reason of a refusal beside 396. Which others there are, the
    /// coordinator's [`BranchCaller`] says.
    pub action: String,
    /// As `action`; called also where the action did not take effect. Empty: nothing to undo.
    pub compensation: String,
    /// The body of both calls: an encoded message for gRPC, JSON for HTTP; default empty. DTM on SQL keeps
    /// 65,535 bytes of each and takes 4 MiB of all, the embedded coordinator 4 MiB of the whole saga
    /// ([`SAGA_BYTES_MAX`]).
    pub payload: Bytes,
}

impl Step {
    /// A step that nothing undoes.
    pub fn new(action: impl Into<String>) -> Self {
        Self { action: action.into(), ..Self::default() }
    }

    /// Sets what undoes the step.
    #[must_use]
    pub fn compensation(mut self, url: impl Into<String>) -> Self {
        self.compensation = url.into();
        self
    }

    /// Sets the body of both calls.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }

    /// Sets the body of both calls to an encoded message.
    #[must_use]
    pub fn message(self, message: &impl Message) -> Self {
        self.payload(message.encode_to_vec())
    }
}

/// How patient a coordinator is with a saga. DTM counts in whole seconds: what is less is rounded up.
/// Zero is refused: it would mean "at once" to one coordinator and "the default" to another.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct SagaOptions {
    /// Whether submitting waits for the outcome; default no. DTM waits for 5 to 8 s at most, the embedded
    /// coordinator for [`outcome_wait_max`](EmbeddedCoordinatorConfig::outcome_wait_max).
    pub is_waited_for: bool,
    /// After this long since its beginning it is rolled back; `None`, the default: never. No limit.
    pub timeout_to_fail: Option<Duration>,
    /// The pause before a call that answered nothing useful is made again; it doubles each time, in the
    /// embedded coordinator up to [`retry_interval_max`](EmbeddedCoordinatorConfig::retry_interval_max)
    /// (5 min; a longer one stays as it is), in DTM without an end. `None`, the default, is the
    /// coordinator's: 10 s. No limit.
    pub retry_interval: Option<Duration>,
    /// So many calls of an action are made again at once, without a pause, before it counts as refused;
    /// `None`, the default: no limit, with pauses. Counted over all steps. DTM counts "ongoing" too.
    pub retry_count_max: Option<u32>,
    /// How long one call may take; `None`, the default, is the coordinator's: 3 s. No limit.
    pub request_timeout: Option<Duration>,
    /// Sent with each call: metadata of gRPC, headers of HTTP; default none. Names are lower case, values
    /// have no control characters, and over gRPC by DTM printable ASCII alone. DTM on SQL keeps 1,024
    /// characters of all options together as JSON, some 900 of headers.
    pub headers: BTreeMap<String, String>,
    /// Whether steps begin at the same time, but for what `orders` says; default no.
    pub is_concurrent: bool,
    /// Steps (counted from 0) that wait for others, where steps are concurrent; default none. DTM on SQL keeps
    /// 1,024 characters of them as JSON.
    pub orders: BTreeMap<usize, Vec<usize>>,
}

/// What became of a saga.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every step took effect.
    Succeeded,
    /// A step was refused, or time was up; what had taken effect is undone. DTM's word is the same for a saga
    /// that somebody stopped by force, of which it may stay: then the reason says so.
    RolledBack {
        /// Why, in the words of the step that refused it, or of the coordinator.
        reason: String,
    },
    /// Not decided yet, or not yet undone: the coordinator goes on by itself.
    StillRunning,
}

/// Carries sagas out. Once it took one, it brings it to an end, whatever fails meanwhile.
#[async_trait]
pub trait SagaCoordinator: Send + Sync + 'static {
    /// Hands a saga over, and waits for its outcome where [`SagaOptions::is_waited_for`]. A `gid` that was
    /// handed over before is the same saga: its outcome is answered.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a saga that cannot be (no id, a limit of the coordinator's store), before
    /// anything is sent; `Unavailable` where the coordinator cannot be reached, which it may have been:
    /// hand it over again.
    async fn submit(&self, saga: Saga) -> Result<Outcome>;

    /// What became of a saga; `None` where the coordinator does not know it.
    async fn outcome(&self, gid: &str) -> Result<Option<Outcome>>;

    /// Whether it could take this saga, by what is known without asking anybody: the limits of its store.
    ///
    /// # Errors
    ///
    /// `InvalidArgument`, with the limit: [`submit`](Self::submit) would be refused.
    fn check(&self, saga: &Saga) -> Result<()>;
}

/// Hands sagas over if and only if a transaction commits.
///
/// The saga is a row of the service's own database until a coordinator has it: there is no moment at
/// which a crash loses it, or starts one whose transaction was rolled back.
#[async_trait]
pub trait SagaOutbox: Send + Sync + 'static {
    /// Adds a saga to the transaction. It is begun after the commit.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for another manager's [`Tx`] and for a saga that cannot be; `AlreadyExists` for a
    /// `gid` that was added before.
    async fn add(&self, tx: &mut Tx, saga: &Saga) -> Result<()>;
}
