//! The log port: sagas kept in the service's own database until they are at an end.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Outcome, Saga};
use crate::{Result, Tx};

/// Keeps sagas in the service's own database, and says who works on which.
///
/// A saga is *due*, *held* under a lease, *waiting*, *parked*, or *finished*. Who takes one that is due holds it
/// until the lease ends or is given back; a holder that died, or was frozen for too long, loses it to
/// the next who asks. All times are those of one clock, the database's.
///
/// # Contract
///
/// - `a_saga_is_due_exactly_when_its_transaction_committed`, and comes back as it was added.
/// - `a_gid_is_added_once`: `AlreadyExists`, also after its end; an addition that was rolled back does
///   not count.
/// - `a_saga_has_one_holder_until_its_lease_ends`: also when two ask at the same time; who takes it then
///   is told that it was abandoned.
/// - `a_saga_that_is_added_held_is_not_due_before_its_lease_ends`.
/// - `a_renewed_lease_lasts_longer`.
/// - `a_lost_lease_writes_nothing`, and is told so.
/// - `a_waiting_saga_is_due_after_its_pause_with_its_progress`, and was not abandoned.
/// - `what_was_recorded_is_found_by_the_next_holder`.
/// - `a_parked_saga_is_not_due_and_is_counted`: it stays, with its progress and reason.
/// - `a_finished_saga_is_not_due_and_keeps_its_outcome`; a removed one is not known.
/// - `those_due_longest_come_first`, at most as many as are asked for.
/// - `purge_forgets_only_what_finished_earlier`.
#[async_trait]
pub trait SagaLog: Send + Sync + 'static {
    /// Adds sagas to the transaction: held where they come with a lease, due otherwise.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for another manager's [`Tx`]; `AlreadyExists` where one of the global ids was
    /// added before: then none of these is.
    async fn add(&self, tx: &mut Tx, entries: &[SagaEntry]) -> Result<()>;

    /// Takes sagas that are due, at most `limit`, under this lease.
    async fn take(&self, lease: SagaLease, limit: usize) -> Result<Vec<DueSaga>>;

    /// Writes what holders say, in one transaction, and answers for each write whether its lease still
    /// held. Writing the same twice is as writing it once.
    async fn write(&self, writes: &[SagaWrite]) -> Result<Vec<bool>>;

    /// What became of a saga; `None` where it is not known.
    async fn outcome(&self, gid: &str) -> Result<Option<Outcome>>;

    /// How many there are.
    async fn counts(&self) -> Result<SagaCounts>;

    /// Forgets at most `limit` sagas that finished longer ago than `older_than`, and answers how many.
    /// A global id that is forgotten can be added again.
    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64>;
}

/// The right to work on sagas, for a while. Each taking has one of its own, so that a holder that was
/// frozen is told apart from the next one, though both be the same process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SagaLease {
    /// A number that no other lease has.
    pub id: i64,
    /// How long it lasts from when it is written.
    pub duration: Duration,
}

impl SagaLease {
    /// A lease that nobody else has.
    pub fn new(duration: Duration) -> Self {
        Self { id: fastrand::i64(1..), duration }
    }
}

/// A saga that is added.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SagaEntry {
    /// The saga.
    pub saga: Arc<Saga>,
    /// Whose it is from the beginning; `None`: whoever takes it first.
    pub lease: Option<SagaLease>,
}

impl SagaEntry {
    /// A saga for whoever takes it first.
    pub fn new(saga: Arc<Saga>) -> Self {
        Self { saga, lease: None }
    }

    /// A saga that its adder holds.
    pub fn held(saga: Arc<Saga>, lease: SagaLease) -> Self {
        Self { saga, lease: Some(lease) }
    }
}

/// A saga that was taken.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DueSaga {
    /// As it was added.
    pub saga: Saga,
    /// As it was written last.
    pub progress: SagaProgress,
    /// How long ago it was added.
    pub age: Duration,
    /// Whether its last holder did not give it back: more may have been done than is written.
    pub was_abandoned: bool,
}

impl DueSaga {
    /// A saga that was added just now, and of which nothing was done.
    pub fn new(saga: Saga) -> Self {
        Self { saga, progress: SagaProgress::default(), age: Duration::ZERO, was_abandoned: false }
    }
}

/// What is known of a saga's steps, which are counted from 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct SagaProgress {
    /// Whose actions were called.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub begun: BTreeSet<usize>,
    /// Whose actions succeeded.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub succeeded: BTreeSet<usize>,
    /// Whose compensations succeeded.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub compensated: BTreeSet<usize>,
    /// Whose compensations were refused, which was told once.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub refused: BTreeSet<usize>,
    /// Why it is rolled back, once it is: no action is called any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback_reason: Option<String>,
    /// Why it was parked last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parked_reason: Option<String>,
    /// How often calls failed since one succeeded.
    #[serde(skip_serializing_if = "is_zero")]
    pub failure_count: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// What a holder writes of a saga.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SagaWrite {
    /// Which one.
    pub gid: String,
    /// The lease under which it is held.
    pub lease_id: i64,
    /// What.
    pub change: SagaChange,
}

impl SagaWrite {
    /// What the holder of `lease_id` says of a saga.
    pub fn new(gid: impl Into<String>, lease_id: i64, change: SagaChange) -> Self {
        Self { gid: gid.into(), lease_id, change }
    }
}

/// What becomes of a saga.
#[derive(Clone, Debug, PartialEq)]
pub enum SagaChange {
    /// It is held for so long from now.
    Renewed(Duration),
    /// It is held for so long from now, and so much of it is done.
    Recorded(SagaProgress, Duration),
    /// It is nobody's, and due after this pause.
    Waiting(SagaProgress, Duration),
    /// It is nobody's, and not due before somebody releases it: nothing can be done with it as it is.
    Parked(SagaProgress),
    /// Every step took effect: the end.
    Succeeded,
    /// What had taken effect is undone, for this reason: the end.
    RolledBack(String),
    /// Somebody else has it now: it is forgotten.
    Removed,
}

/// How many sagas there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SagaCounts {
    /// Those that are not at an end.
    pub unfinished: u64,
    /// Those of them that are set aside with a reason. More than none calls for a person.
    pub parked: u64,
    /// Those of them that nobody works on though it is time: more than a moment's worth means that no
    /// coordinator runs, or that too few do.
    pub due: u64,
}
