//! The inbox in memory: not durable, for tests, examples and a first service.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use super::InboxStore;
use crate::{
    Result, Tx,
    transaction::memory::{MemoryTransaction, Shared},
};

/// An [`InboxStore`] on a [`MemoryDatabase`](crate::transaction::MemoryDatabase).
#[derive(Clone)]
pub struct MemoryInbox {
    database: Arc<Shared>,
}

impl MemoryInbox {
    pub(crate) fn new(database: Arc<Shared>) -> Self {
        Self { database }
    }
}

#[async_trait]
impl InboxStore for MemoryInbox {
    async fn claim(&self, tx: &mut Tx, group: &str, event_ids: &[String]) -> Result<Vec<bool>> {
        let transaction = tx.downcast::<MemoryTransaction>(self.database.id, "inbox.claim")?;
        let state = self.database.state();
        let claimed = &mut transaction.changes.inbox.claimed;
        let claims = event_ids.iter().map(|event_id| {
            let claim = (group.to_owned(), event_id.clone());
            !state.inbox.claimed_at.contains_key(&claim) && claimed.insert(claim)
        });
        Ok(claims.collect())
    }

    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64> {
        let claimed_at = &mut self.database.state().inbox.claimed_at;
        let is_old = |at: &Instant| at.elapsed() > older_than;
        let old: BTreeSet<_> =
            claimed_at.iter().filter(|(_, at)| is_old(at)).map(|(id, _)| id.clone()).take(limit).collect();
        claimed_at.retain(|claim, _| !old.contains(claim));
        Ok(old.len() as u64)
    }
}

type Claim = (String, String);

/// The committed claims, by group and event id.
#[derive(Default)]
pub(crate) struct InboxRows {
    claimed_at: BTreeMap<Claim, Instant>,
}

/// What an open transaction claims.
#[derive(Default)]
pub(crate) struct InboxChanges {
    claimed: BTreeSet<Claim>,
}

impl InboxRows {
    pub(crate) fn apply(&mut self, changes: InboxChanges) {
        let now = Instant::now();
        self.claimed_at.extend(changes.claimed.into_iter().map(|claim| (claim, now)));
    }
}
