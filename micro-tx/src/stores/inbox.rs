//! The inbox on a table: of many ids one statement finds the known, one claims the new.

use std::{collections::HashSet, time::Duration};

use async_trait::async_trait;
use micro_core::{Error, ErrorKind, Result, Tx, inbox::InboxStore};

use super::{limit, millis, now_millis};
use crate::{database::SqlDatabase, value::Value};

pub(crate) struct SqlInbox {
    database: SqlDatabase,
    known: String,
    claim: String,
    purge: String,
}

impl SqlInbox {
    // A list is one value however long it is, so that each statement is prepared once. What is
    // returned is what is known, hardly ever a row: rows cost more than statements.
    pub(crate) fn new(database: SqlDatabase) -> Self {
        let list = database.dialect().text_list();
        let known = format!(
            "SELECT event_id FROM micro_inbox WHERE consumer_group = ? AND event_id IN (SELECT value FROM {list})"
        );
        let claim = format!(
            "INSERT INTO micro_inbox (consumer_group, event_id, claimed_at) SELECT ?, value, ? FROM {list} \
             WHERE true ON CONFLICT DO NOTHING"
        );
        let purge = "DELETE FROM micro_inbox WHERE (consumer_group, event_id) IN \
            (SELECT consumer_group, event_id FROM micro_inbox WHERE claimed_at < ? ORDER BY claimed_at LIMIT ?)";
        Self {
            known: database.prefixed(&known),
            claim: database.prefixed(&claim),
            purge: database.prefixed(purge),
            database,
        }
    }
}

#[async_trait]
impl InboxStore for SqlInbox {
    async fn claim(&self, tx: &mut Tx, group: &str, event_ids: &[String]) -> Result<Vec<bool>> {
        if event_ids.is_empty() {
            return Ok(Vec::new());
        }
        let sql = self.database.opened(tx, "inbox.claim")?;
        let list = json_list(event_ids.iter());
        let rows = sql.fetch_all_as("inbox.claim", &self.known, &[group.into(), list]).await?;
        let known = rows.iter().map(|row| row.get::<String>(0)).collect::<Result<HashSet<_>>>()?;
        // An id that is in the slice twice is new once, at its first place.
        let mut new = HashSet::new();
        let is_new: Vec<bool> = event_ids.iter().map(|id| !known.contains(id) && new.insert(id)).collect();
        if !new.is_empty() {
            let values = [group.into(), now_millis().into(), json_list(new.iter().copied())];
            let claimed_count = sql.execute_as("inbox.claim", &self.claim, &values).await?;
            if claimed_count != new.len() as u64 {
                let message = "another transaction claimed some of these ids meanwhile";
                return Err(Error::new(ErrorKind::Aborted, "inbox.claim", message).with_context("group", group));
            }
        }
        Ok(is_new)
    }

    async fn purge(&self, older_than: Duration, count_max: usize) -> Result<u64> {
        let before = now_millis().saturating_sub(millis(older_than));
        self.database.execute_as("inbox.purge", &self.purge, &[before.into(), limit(count_max)]).await
    }
}

fn json_list<'a>(ids: impl Iterator<Item = &'a String>) -> Value {
    Value::Text(serde_json::to_string(&ids.collect::<Vec<_>>()).expect("texts are JSON"))
}
