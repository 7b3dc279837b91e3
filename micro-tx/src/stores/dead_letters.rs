//! Dead letters on a table, unique by group and event id.

use async_trait::async_trait;
use micro_core::{
    ErrorKind, Result, Tx,
    event::{from_unix_millis, unix_millis},
    parked::{DeadLetter, DeadLetterStore},
};

use super::{delivery, limit, text};
use crate::{database::SqlDatabase, row::Row};

pub(crate) struct SqlDeadLetters {
    database: SqlDatabase,
    insert: String,
    list: String,
    find: String,
    count: String,
    remove: String,
}

impl SqlDeadLetters {
    pub(crate) fn new(database: SqlDatabase) -> Self {
        let columns = format!("consumer_group, event_id, kind, cause, attempts, created_at, {}", delivery::COLUMNS);
        let insert = database
            .dialect()
            .insert_new(&format!("INTO micro_dead_letters ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"));
        let list = format!("SELECT {columns} FROM micro_dead_letters WHERE consumer_group = ? ORDER BY id LIMIT ?");
        let find = format!("SELECT {columns} FROM micro_dead_letters WHERE consumer_group = ? AND event_id = ?");
        let count = "SELECT count(*) FROM micro_dead_letters WHERE consumer_group = ?";
        let remove = "DELETE FROM micro_dead_letters WHERE consumer_group = ? AND event_id = ?";
        Self {
            insert: database.prefixed(&insert),
            list: database.prefixed(&list),
            find: database.prefixed(&find),
            count: database.prefixed(count),
            remove: database.prefixed(remove),
            database,
        }
    }
}

#[async_trait]
impl DeadLetterStore for SqlDeadLetters {
    async fn add(&self, tx: &mut Tx, letter: &DeadLetter) -> Result<bool> {
        let sql = self.database.opened(tx, "dead_letters.add")?;
        let mut values = vec![
            (&letter.group).into(),
            (&letter.event_id).into(),
            letter.kind.as_str().into(),
            (&letter.cause).into(),
            letter.attempts.into(),
            unix_millis(letter.created_at).into(),
        ];
        values.extend(delivery::values(&letter.delivery)?);
        Ok(sql.execute_as("dead_letters.add", &self.insert, &values).await? > 0)
    }

    async fn list(&self, group: &str, count_max: usize) -> Result<Vec<DeadLetter>> {
        let values = [group.into(), limit(count_max)];
        self.database.fetch_all_as("dead_letters.list", &self.list, &values).await?.iter().map(read).collect()
    }

    async fn find(&self, group: &str, event_id: &str) -> Result<Option<DeadLetter>> {
        let rows =
            self.database.fetch_all_as("dead_letters.find", &self.find, &[group.into(), event_id.into()]).await?;
        rows.first().map(read).transpose()
    }

    async fn count(&self, group: &str) -> Result<u64> {
        let rows = self.database.fetch_all_as("dead_letters.count", &self.count, &[group.into()]).await?;
        rows[0].get(0)
    }

    async fn remove(&self, tx: &mut Tx, group: &str, event_id: &str) -> Result<bool> {
        let sql = self.database.opened(tx, "dead_letters.remove")?;
        Ok(sql.execute_as("dead_letters.remove", &self.remove, &[group.into(), event_id.into()]).await? > 0)
    }
}

fn read(row: &Row) -> Result<DeadLetter> {
    let kind = row.get::<String>("kind")?;
    Ok(DeadLetter {
        group: text(row, "consumer_group")?,
        event_id: text(row, "event_id")?,
        delivery: delivery::read(row)?,
        // A kind that a newer version wrote is still a dead letter.
        kind: ErrorKind::ALL.into_iter().find(|known| known.as_str() == kind).unwrap_or(ErrorKind::Unknown),
        cause: row.get("cause")?,
        attempts: row.get("attempts")?,
        created_at: from_unix_millis(row.get("created_at")?),
    })
}
