//! The inbox port: which events a group has handled, claimed in the handler's transaction.

mod memory;

pub use memory::MemoryInbox;
pub(crate) use memory::{InboxChanges, InboxRows};

use std::time::Duration;

use async_trait::async_trait;

use crate::{Result, Tx};

/// Remembers the event ids that a group has handled.
///
/// The inbox service claims [`Delivery::inbox_id`](crate::broker::Delivery::inbox_id), topic and
/// event id: the same event on another topic (a dead letter's copy) is another one.
///
/// # Contract
///
/// - `an_id_is_new_once_per_group`: also when two transactions claim it at the same time, one
///   waits for the other.
/// - `a_rolled_back_claim_is_new_again`.
/// - `an_id_twice_in_one_claim_is_new_once`: the first occurrence.
/// - `purge_forgets_only_what_is_older`.
#[async_trait]
pub trait InboxStore: Send + Sync + 'static {
    /// Claims ids for a group; answers, in slice order, whether each was new.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for another manager's [`Tx`].
    async fn claim(&self, tx: &mut Tx, group: &str, event_ids: &[String]) -> Result<Vec<bool>>;

    /// Forgets at most `limit` ids claimed longer ago than `older_than` and answers how many. Keep
    /// them longer than the broker keeps its messages (default 7 days).
    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64>;
}
