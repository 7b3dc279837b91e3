//! The parked port: deliveries that wait for another try, in key order, and dead letters.

mod memory;

pub(crate) use memory::{DeadLetterChanges, DeadLetterRows, ParkedChanges, ParkedRows};
pub use memory::{MemoryDeadLetters, MemoryParked};

use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::{Error, ErrorKind, Result, Tx, broker::Delivery};

/// Keeps deliveries whose handler failed until they are due again.
///
/// Rows of one (group, topic, key) form a queue; only its head is ever tried, so order holds. A
/// delivery without a key is a queue of its own.
///
/// # Contract
///
/// - `a_parked_row_exists_exactly_when_its_transaction_committed`.
/// - `only_the_head_of_a_key_is_due`, and not before its `due_at`.
/// - `is_blocked_names_the_keys_that_have_rows`, those of the same transaction included.
/// - `remove_answers_true_once`: of two transactions that remove a row, one gets `true`.
/// - `a_held_key_is_not_due_until_it_is_released`: a row without a delay keeps its key from being
///   tried; `release` removes it and the next of the key is the head. Until then `remove` and
///   `postpone` answer `false` for it: somebody who read it before it was held must not try it.
#[async_trait]
pub trait ParkedStore: Send + Sync + 'static {
    /// Appends a delivery to the queue of its key, to be tried in `delay` from now; without a
    /// delay it holds its key until it is released.
    async fn park(&self, tx: &mut Tx, parking: &Parking<'_>) -> Result<()>;

    /// Which of `deliveries` have rows of their key before them, in slice order.
    async fn is_blocked(&self, tx: &mut Tx, group: &str, deliveries: &[&Delivery]) -> Result<Vec<bool>>;

    /// The heads that are due, at most `limit`, the longest due first.
    async fn due(&self, group: &str, limit: usize) -> Result<Vec<ParkedRow>>;

    /// Removes a row; `false` when it is gone already, or held.
    async fn remove(&self, tx: &mut Tx, id: i64) -> Result<bool>;

    /// Sets a row's attempts, cause and next try; `None` holds the key until it is released.
    /// `false` when the row is gone, or held already.
    async fn postpone(&self, tx: &mut Tx, id: i64, attempts: u32, cause: &str, delay: Option<Duration>)
    -> Result<bool>;

    /// Removes the held row of this very delivery (same group, topic, partition and offset), so
    /// that its key goes on; `false` when there is none.
    async fn release(&self, tx: &mut Tx, group: &str, delivery: &Delivery) -> Result<bool>;

    /// How many rows a group has.
    async fn count(&self, group: &str) -> Result<u64>;
}

/// What [`ParkedStore::park`] writes.
#[derive(Clone, Copy, Debug)]
pub struct Parking<'a> {
    /// The group whose handler failed.
    pub group: &'a str,
    /// The delivery.
    pub delivery: &'a Delivery,
    /// How often its handler failed; 0 when it only waits behind another of its key.
    pub attempts: u32,
    /// The last error in one line; empty when it only waits.
    pub cause: &'a str,
    /// When to try it, from now; zero when it only waits; `None` holds the key until it is
    /// released.
    pub delay: Option<Duration>,
}

/// A parked delivery.
#[derive(Clone, Debug)]
pub struct ParkedRow {
    /// The row's id.
    pub id: i64,
    /// The delivery as it was received.
    pub delivery: Delivery,
    /// How often its handler failed.
    pub attempts: u32,
}

/// Keeps deliveries that will not be tried again.
///
/// # Contract
///
/// - `a_dead_letter_is_unique_by_group_and_event_id`: writing it again changes nothing and answers
///   `false`.
/// - `a_dead_letter_keeps_its_delivery_cause_attempts_and_origin`.
/// - `a_dead_letter_is_found_by_group_and_event_id`.
/// - `a_removed_dead_letter_is_gone`.
#[async_trait]
pub trait DeadLetterStore: Send + Sync + 'static {
    /// Writes a dead letter; `false` when the group has one of this event id.
    async fn add(&self, tx: &mut Tx, letter: &DeadLetter) -> Result<bool>;

    /// The oldest dead letters of a group, at most `limit`.
    async fn list(&self, group: &str, limit: usize) -> Result<Vec<DeadLetter>>;

    /// The dead letter of an event; `None` when there is none.
    async fn find(&self, group: &str, event_id: &str) -> Result<Option<DeadLetter>>;

    /// How many a group has.
    async fn count(&self, group: &str) -> Result<u64>;

    /// Removes one, for instance to hand it to its handler again in the same transaction; `false`
    /// when it is gone.
    async fn remove(&self, tx: &mut Tx, group: &str, event_id: &str) -> Result<bool>;
}

/// A delivery that will not be tried again, and why.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The group that gave it up.
    pub group: String,
    /// What the inbox knows it by: [`Delivery::inbox_id`].
    pub event_id: String,
    /// The delivery as it was received; topic, partition, offset and timestamp are its origin.
    pub delivery: Delivery,
    /// The kind of the last error.
    pub kind: ErrorKind,
    /// The last error and its causes, in one line.
    pub cause: String,
    /// How often its handler was tried; 0 when it could not be decoded or had no handler.
    pub attempts: u32,
    /// When it was given up.
    pub created_at: SystemTime,
}

impl DeadLetter {
    /// A dead letter of now.
    pub fn new(group: &str, delivery: &Delivery, error: &Error, attempts: u32) -> Self {
        Self {
            group: group.to_owned(),
            event_id: delivery.inbox_id(),
            delivery: delivery.clone(),
            kind: error.kind(),
            cause: error.report(),
            attempts,
            created_at: SystemTime::now(),
        }
    }
}
