//! An inbox that breaks one promise.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use micro_core::{Result, Tx, inbox::InboxStore};

/// The promise that a [`BrokenInbox`] breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InboxFault {
    /// Takes any transaction, and does nothing in it.
    TakesForeignTx,
    /// Calls every id new.
    ForgetsClaims,
    /// Has one group.
    MixesGroups,
    /// Answers in another order.
    Reverses,
    /// Claims whatever becomes of the transaction.
    ClaimsAtOnce,
    /// Calls an id new as often as it is in the slice.
    RepeatsNew,
    /// Forgets whatever its age.
    PurgesYoung,
    /// Forgets nothing and says that it did.
    PurgesNothing,
    /// Forgets without a limit.
    PurgesAll,
}

/// An inbox that breaks one promise of the one inside, or none.
pub struct BrokenInbox {
    inbox: Arc<dyn InboxStore>,
    fault: Option<InboxFault>,
    claimed: Mutex<HashSet<(String, String)>>,
}

impl BrokenInbox {
    /// Breaks `fault`'s promise.
    pub fn new(inbox: Arc<dyn InboxStore>, fault: impl Into<Option<InboxFault>>) -> Self {
        Self { inbox, fault: fault.into(), claimed: Mutex::default() }
    }

    fn claim_at_once(&self, group: &str, event_ids: &[String]) -> Vec<bool> {
        let mut claimed = self.claimed.lock().expect("no holder panics");
        event_ids.iter().map(|id| claimed.insert((group.to_owned(), id.clone()))).collect()
    }
}

#[async_trait]
impl InboxStore for BrokenInbox {
    async fn claim(&self, tx: &mut Tx, group: &str, event_ids: &[String]) -> Result<Vec<bool>> {
        match self.fault {
            Some(InboxFault::TakesForeignTx | InboxFault::ForgetsClaims) => Ok(vec![true; event_ids.len()]),
            Some(InboxFault::ClaimsAtOnce) => Ok(self.claim_at_once(group, event_ids)),
            Some(InboxFault::MixesGroups) => self.inbox.claim(tx, "group", event_ids).await,
            Some(InboxFault::Reverses) => {
                let mut new = self.inbox.claim(tx, group, event_ids).await?;
                new.reverse();
                Ok(new)
            }
            Some(InboxFault::RepeatsNew) => {
                let new = self.inbox.claim(tx, group, event_ids).await?;
                let is_new = |id: &String| event_ids.iter().zip(&new).any(|(known, new)| known == id && *new);
                Ok(event_ids.iter().map(is_new).collect())
            }
            _ => self.inbox.claim(tx, group, event_ids).await,
        }
    }

    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64> {
        match self.fault {
            Some(InboxFault::PurgesYoung) => self.inbox.purge(Duration::ZERO, limit).await,
            Some(InboxFault::PurgesNothing) => Ok(0),
            Some(InboxFault::PurgesAll) => self.inbox.purge(older_than, usize::MAX).await,
            _ => self.inbox.purge(older_than, limit).await,
        }
    }
}
