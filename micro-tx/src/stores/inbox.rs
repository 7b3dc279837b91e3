//! The inbox on a table: one statement claims many ids, a second one asks for those that were taken.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use async_trait::async_trait;
use micro_core::{Error, ErrorKind, Result, Tx, inbox::InboxStore};

use super::{kept_id, limit, millis, text, widths::Widths};
use crate::{database::SqlDatabase, dialect::Dialect, value::Value};

/// The width of MySQL's column, in bytes.
const GROUP_BYTES_MAX: usize = 255;

/// Fifty years: MySQL refuses to count back to before the epoch.
const AGE_MILLIS_MAX: i64 = 50 * 365 * 24 * 60 * 60 * 1_000;

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
        // By the database's clock: a process whose own is ahead would purge what others claimed.
        let now = database.dialect().now_millis();
        let before = format!("{now} - ?");
        let purge = database.dialect().delete_oldest("micro_inbox", "consumer_group, event_id", "claimed_at", &before);
        Self {
            claim: Widths::new(&format!("(?, ?, {now}, ?)"), claim),
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
        self.check(group)?;
        let event_ids: Vec<Cow<'_, str>> = event_ids.iter().map(|id| kept_id(id)).collect();
        // In one order for all: two claims of the same ids wait for each other instead of deadlocking.
        let ids: Vec<&str> = event_ids.iter().map(|id| &**id).collect::<BTreeSet<_>>().into_iter().collect();
        let claim_id = fastrand::i64(..);
        let mut claimed_count = 0;
        for (statement, part) in self.claim.cut(&ids) {
            let rows = part.iter().flat_map(|id| [group.into(), (*id).into(), claim_id.into()]);
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
        let age = millis(older_than).min(AGE_MILLIS_MAX);
        self.database.repeat_as("inbox.purge", &self.purge, &[age.into(), limit(count_max)]).await
    }
}

impl SqlInbox {
    /// Refuses what MySQL would cut: INSERT IGNORE makes a warning of that error, and the claims of a
    /// name that is cut are found by nobody.
    fn check(&self, group: &str) -> Result<()> {
        if self.database.dialect() != Dialect::MySql || group.len() <= GROUP_BYTES_MAX {
            return Ok(());
        }
        let message = "the consumer group's name is too long for the inbox's table: give it a shorter one";
        Err(Error::new(ErrorKind::InvalidArgument, "inbox.claim", message)
            .with_context("bytes", group.len())
            .with_context("bytes_max", GROUP_BYTES_MAX))
    }
}
