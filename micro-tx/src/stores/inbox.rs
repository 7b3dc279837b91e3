//! The inbox on a table: one statement claims many ids, a second one asks for those that were taken.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use async_trait::async_trait;
use micro_core::{Result, Tx, inbox::InboxStore};

use super::{kept_id, limit, millis, now_millis, text, widths::Widths};
use crate::{database::SqlDatabase, value::Value};

pub(crate) struct SqlInbox {
    database: SqlDatabase,
    claim: Widths,
    taken: Widths,
    purge: String,
}

impl SqlInbox {
    pub(crate) fn new(database: SqlDatabase) -> Self {
        let claim = |rows: &str| {
            let rows = format!("INTO micro_inbox (consumer_group, event_id, claimed_at, claim_id) VALUES {rows}");
            database.prefixed(&database.dialect().insert_new(&rows))
        };
        let taken = |ids: &str| {
            database.prefixed(&format!(
                "SELECT event_id FROM micro_inbox WHERE consumer_group = ? AND claim_id <> ? AND event_id IN ({ids})"
            ))
        };
        let purge = database.dialect().delete_oldest("micro_inbox", "consumer_group, event_id", "claimed_at");
        Self {
            claim: Widths::new("(?, ?, ?, ?)", claim),
            taken: Widths::new("?", taken),
            purge: database.prefixed(&purge),
            database,
        }
    }
}

#[async_trait]
impl InboxStore for SqlInbox {
    /// Inserts first: a row that another transaction inserted and has not committed is waited for,
    /// and its outcome decides. Which rows are ours the claim's own number tells; nobody can see
    /// that before the insert.
    async fn claim(&self, tx: &mut Tx, group: &str, event_ids: &[String]) -> Result<Vec<bool>> {
        let sql = self.database.opened(tx, "inbox.claim")?;
        let event_ids: Vec<Cow<'_, str>> = event_ids.iter().map(|id| kept_id(id)).collect();
        // In one order for all: two claims of the same ids wait for each other instead of deadlocking.
        let ids: Vec<&str> = event_ids.iter().map(|id| &**id).collect::<BTreeSet<_>>().into_iter().collect();
        let (now, claim_id) = (now_millis(), fastrand::i64(..));
        let mut claimed_count = 0;
        for (statement, part) in self.claim.cut(&ids) {
            let rows = part.iter().flat_map(|id| [group.into(), (*id).into(), now.into(), claim_id.into()]);
            claimed_count += sql.execute_as("inbox.claim", statement, &rows.collect::<Vec<Value>>()).await?;
        }
        let mut taken = HashSet::new();
        if claimed_count < ids.len() as u64 {
            for (statement, part) in self.taken.filled(&ids) {
                let values = [group.into(), claim_id.into()].into_iter().chain(part.iter().map(|id| (**id).into()));
                let rows = sql.fetch_all_as("inbox.claim", statement, &values.collect::<Vec<Value>>()).await?;
                for row in &rows {
                    taken.insert(text(row, "event_id")?);
                }
            }
        }
        // An id that is in the slice twice is new once, at its first place.
        let mut seen = HashSet::new();
        Ok(event_ids.iter().map(|id| !taken.contains(&**id) && seen.insert(id)).collect())
    }

    async fn purge(&self, older_than: Duration, count_max: usize) -> Result<u64> {
        let before = now_millis().saturating_sub(millis(older_than));
        self.database.repeat_as("inbox.purge", &self.purge, &[before.into(), limit(count_max)]).await
    }
}
