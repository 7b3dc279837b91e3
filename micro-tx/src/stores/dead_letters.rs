//! Dead letters on a table, unique by group and event id.

use async_trait::async_trait;
use micro_core::{
    Error, ErrorKind, Result, Tx,
    broker::{Delivery, Message},
    event::{from_unix_millis, unix_millis},
    parked::{DeadLetter, DeadLetterStore},
};

use super::{delivery, kept_id, limit, text};
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
            kept_id(&letter.event_id).as_ref().into(),
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
        let rows = self.database.fetch_all_as("dead_letters.list", &self.list, &values).await?;
        Ok(rows.iter().map(|row| read(row).unwrap_or_else(|error| unreadable(row, &error))).collect())
    }

    async fn find(&self, group: &str, event_id: &str) -> Result<Option<DeadLetter>> {
        let rows = self
            .database
            .fetch_all_as("dead_letters.find", &self.find, &[group.into(), kept_id(event_id).as_ref().into()])
            .await?;
        rows.first().map(read).transpose()
    }

    async fn count(&self, group: &str) -> Result<u64> {
        let rows = self.database.fetch_all_as("dead_letters.count", &self.count, &[group.into()]).await?;
        rows[0].get(0)
    }

    async fn remove(&self, tx: &mut Tx, group: &str, event_id: &str) -> Result<bool> {
        let sql = self.database.opened(tx, "dead_letters.remove")?;
        Ok(sql
            .execute_as("dead_letters.remove", &self.remove, &[group.into(), kept_id(event_id).as_ref().into()])
            .await?
            > 0)
    }
}

/// What can be seen of a letter that somebody else spoiled. It does not hide the others, and can be
/// removed; `find` refuses it, so that it is not delivered again as something that it was not.
fn unreadable(row: &Row, error: &Error) -> DeadLetter {
    let body: bytes::Bytes = row.get("body").unwrap_or_default();
    let message = Message::unkeyed(text(row, "topic").unwrap_or_default(), body);
    DeadLetter {
        group: text(row, "consumer_group").unwrap_or_default(),
        event_id: text(row, "event_id").unwrap_or_default(),
        delivery: Delivery {
            message: Message { key: row.get("message_key").unwrap_or_default(), ..message },
            partition: row.get("record_partition").unwrap_or_default(),
            offset: row.get("record_offset").unwrap_or_default(),
            timestamp: std::time::UNIX_EPOCH,
        },
        kind: ErrorKind::DataLoss,
        cause: format!("the letter cannot be read back: {}", error.report()),
        attempts: row.get("attempts").unwrap_or_default(),
        created_at: from_unix_millis(row.get("created_at").unwrap_or_default()),
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
