//! The inbox on a table: one statement claims many ids and answers which were new.

use std::{collections::HashSet, time::Duration};

use async_trait::async_trait;
use micro_core::{Result, Tx, inbox::InboxStore};

use super::{limit, millis, now_millis, widths::Widths};
use crate::{database::SqlDatabase, value::Value};

pub(crate) struct SqlInbox {
    database: SqlDatabase,
    claim: Widths,
    purge: String,
}

impl SqlInbox {
    pub(crate) fn new(database: SqlDatabase) -> Self {
        let claim = |rows: &str| {
            database.prefixed("INSERT INTO micro_inbox (consumer_group, event_id, claimed_at) VALUES ")
                + rows
                + " ON CONFLICT DO NOTHING RETURNING event_id"
        };
        let purge = "DELETE FROM micro_inbox WHERE (consumer_group, event_id) IN \
            (SELECT consumer_group, event_id FROM micro_inbox WHERE claimed_at < ? ORDER BY claimed_at LIMIT ?)";
        Self { claim: Widths::new("(?, ?, ?)", claim), purge: database.prefixed(purge), database }
    }
}

#[async_trait]
impl InboxStore for SqlInbox {
    async fn claim(&self, tx: &mut Tx, group: &str, event_ids: &[String]) -> Result<Vec<bool>> {
        let sql = self.database.opened(tx, "inbox.claim")?;
        let now = now_millis();
        let mut new = HashSet::new();
        for (statement, part) in self.claim.filled(event_ids) {
            let values: Vec<Value> = part.iter().flat_map(|id| [group.into(), (*id).into(), now.into()]).collect();
            for row in sql.fetch_all_as("inbox.claim", statement, &values).await? {
                new.insert(row.get::<String>(0)?);
            }
        }
        // Taking it out leaves a second occurrence in the same slice as not new.
        Ok(event_ids.iter().map(|id| new.remove(id)).collect())
    }

    async fn purge(&self, older_than: Duration, count_max: usize) -> Result<u64> {
        let before = now_millis().saturating_sub(millis(older_than));
        self.database.execute_as("inbox.purge", &self.purge, &[before.into(), limit(count_max)]).await
    }
}
