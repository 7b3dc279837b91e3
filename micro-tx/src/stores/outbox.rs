//! The outbox on a table: rows in the order they were added, cut into shards by the hash of the key.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use micro_core::{
    Error, Result, Tx,
    broker::{Message, header},
    outbox::{CommitSignal, OutboxCounts, OutboxRow, OutboxShard, OutboxStore, ShardSet, hash_shard},
};

use super::{delivery, kept_id, limit, now_millis, owner::Owned, widths::Widths};
use crate::{database::SqlDatabase, value::Value};

const COLUMN_COUNT: usize = 8;

/// How many parked rows are looked up at a time for their release: a statement that took all of them
/// could take longer than it may, and would then release none.
const RELEASE_COUNT: usize = 1_000;

pub(crate) struct SqlOutbox {
    database: SqlDatabase,
    committed: CommitSignal,
    insert: Widths,
    count: String,
}

impl SqlOutbox {
    pub(crate) fn new(database: SqlDatabase, committed: CommitSignal) -> Self {
        let insert = "INSERT INTO micro_outbox \
            (shard, topic, message_key, event_id, event_type, headers, body, created_at) VALUES ";
        let count = "SELECT count(*) - count(parked_at), count(parked_at) FROM micro_outbox";
        Self {
            insert: Widths::new("(?, ?, ?, ?, ?, ?, ?, ?)", |rows| database.prefixed(insert) + rows),
            count: database.prefixed(count),
            database,
            committed,
        }
    }
}

#[async_trait]
impl OutboxStore for SqlOutbox {
    async fn add(&self, tx: &mut Tx, messages: &[Message]) -> Result<()> {
        let sql = self.database.opened(tx, "outbox.add")?;
        let now = now_millis();
        for (statement, part) in self.insert.cut(messages) {
            let mut values = Vec::with_capacity(part.len() * COLUMN_COUNT);
            for message in part {
                values.extend(row_values(message, now)?);
            }
            sql.execute_as("outbox.add", statement, &values).await?;
        }
        if !messages.is_empty() {
            let committed = self.committed.clone();
            let shards = messages.iter().map(|message| self.shard_of(message)).collect();
            tx.after_commit(move || committed.notify(shards));
        }
        Ok(())
    }

    async fn own(&self, shard: u16) -> Result<Option<Box<dyn OutboxShard>>> {
        let owned = self.database.owner().own(&self.database, shard).await?;
        Ok(owned.map(|owned| Box::new(SqlOutboxShard::new(&self.database, owned)) as Box<_>))
    }

    async fn committed(&self) -> ShardSet {
        self.committed.wait().await
    }

    fn shard_of(&self, message: &Message) -> u16 {
        self.database.owner().shard_of(hash_shard(message))
    }

    async fn counts(&self) -> Result<OutboxCounts> {
        let rows = self.database.fetch_all_as("outbox.counts", &self.count, &[]).await?;
        Ok(OutboxCounts { unsent: rows[0].get(0)?, parked: rows[0].get(1)? })
    }
}

/// Releases all parked rows, the oldest first, and answers how many.
pub(crate) async fn release(database: &SqlDatabase) -> Result<u64> {
    let select =
        database.prefixed("SELECT id FROM micro_outbox WHERE parked_at IS NOT NULL AND id > ? ORDER BY id LIMIT ?");
    let update = Widths::new("?", |ids| {
        database.prefixed(&format!(
            "UPDATE micro_outbox SET parked_at = NULL, parked_cause = NULL WHERE parked_at IS NOT NULL AND id IN ({ids})"
        ))
    });
    let (mut last, mut count) = (i64::MIN, 0);
    loop {
        let values = [last.into(), limit(RELEASE_COUNT)];
        let rows = database.fetch_all_as("outbox.release", &select, &values).await?;
        let ids = rows.iter().map(|row| row.get::<i64>(0)).collect::<Result<Vec<_>>>()?;
        for (statement, part) in update.filled(&ids) {
            let values: Vec<_> = part.into_iter().map(|id| Value::Integer(*id)).collect();
            count += database.repeat_as("outbox.release", statement, &values).await?;
        }
        match ids.last() {
            Some(id) if ids.len() == RELEASE_COUNT => last = *id,
            _ => return Ok(count),
        }
    }
}

fn row_values(message: &Message, now: i64) -> Result<[Value; COLUMN_COUNT]> {
    Ok([
        hash_shard(message).into(),
        message.topic.as_ref().into(),
        message.key.as_ref().into(),
        // For who looks at the table; what is sent stands in the headers.
        message.headers.get_str(header::EVENT_ID).map(kept_id).as_deref().into(),
        message.headers.get_str(header::EVENT_TYPE).map(kept_id).as_deref().into(),
        delivery::headers_json(&message.headers)?.into(),
        (&message.body).into(),
        now.into(),
    ])
}

struct SqlOutboxShard {
    owned: Owned,
    database: SqlDatabase,
    /// Of rows of all topics, and of all but so many.
    selects: BTreeMap<usize, Unsent>,
    delete: Widths,
    park: String,
}

impl SqlOutboxShard {
    fn new(database: &SqlDatabase, owned: Owned) -> Self {
        let delete = |ids: &str| {
            database.prefixed(&format!("DELETE FROM micro_outbox WHERE parked_at IS NULL AND id IN ({ids})"))
        };
        let park = "UPDATE micro_outbox SET parked_at = ?, parked_cause = ? WHERE id = ? AND parked_at IS NULL";
        Self {
            database: database.clone(),
            selects: BTreeMap::new(),
            delete: Widths::new("?", delete),
            park: database.prefixed(park),
            owned,
        }
    }

    /// Makes the statement that reads rows but those of so many topics, if it is not there.
    fn prepare(&mut self, but_topic_count: usize) {
        // One shard has all rows. Of several, each passes over the others' rows by the primary key:
        // an index of the shards would cost each transaction more.
        let buckets: Vec<_> = self.owned.buckets().iter().map(u16::to_string).collect();
        let mine = match buckets.len() {
            16 => String::new(),
            _ => format!("shard IN ({}) AND", buckets.join(", ")),
        };
        let others = match but_topic_count {
            0 => String::new(),
            _ => format!("topic NOT IN ({}) AND", vec!["?"; but_topic_count].join(", ")),
        };
        let database = &self.database;
        let select = |list: &str| {
            database.prefixed(&format!(
                "SELECT id, topic, message_key, headers, body FROM micro_outbox \
                 WHERE {mine} parked_at IS NULL AND {others} id NOT IN ({list}) ORDER BY id LIMIT ?"
            ))
        };
        let unsent = || Unsent::new(database.dialect().integer_list(), select);
        self.selects.entry(but_topic_count).or_insert_with(unsent);
    }
}

/// The statement that reads rows but those that are known.
enum Unsent {
    /// With their ids as one value.
    List(String),
    /// With a value for each: a text for each count of [`KNOWN_COUNTS`].
    Values(Vec<String>),
}

/// The most ids that a statement with a value for each leaves out, from small to large.
const KNOWN_COUNTS: [usize; 6] = [1, 16, 64, 256, 1_024, 8_192];

impl Unsent {
    fn new(integer_list: Option<&str>, statement: impl Fn(&str) -> String) -> Self {
        match integer_list {
            Some(list) => Self::List(statement(list)),
            None => Self::Values(KNOWN_COUNTS.map(|count| statement(&vec!["?"; count].join(", "))).into()),
        }
    }

    /// The statement and its values, but the limit.
    fn but(&self, known: &[i64]) -> (&str, Vec<Value>) {
        match self {
            Self::List(statement) => (statement, vec![serde_json::to_string(known).expect("numbers are JSON").into()]),
            Self::Values(statements) => {
                // What does not fit comes back and is known: it costs, and does no harm.
                let fitting =
                    KNOWN_COUNTS.iter().position(|count| *count >= known.len()).unwrap_or(statements.len() - 1);
                let count = KNOWN_COUNTS[fitting];
                // No row has the id 0.
                let filling = known.last().copied().unwrap_or(0);
                let ids = known.iter().copied().chain(std::iter::repeat(filling)).take(count);
                (&statements[fitting], ids.map(Value::Integer).collect())
            }
        }
    }
}

#[async_trait]
impl OutboxShard for SqlOutboxShard {
    async fn unsent(&mut self, known: &[i64], but_topics: &[Arc<str>], count_max: usize) -> Result<Vec<OutboxRow>> {
        // In few widths, so that few texts are prepared.
        let width = if but_topics.is_empty() { 0 } else { but_topics.len().next_power_of_two() };
        let filling = but_topics.last().map(|last| std::iter::repeat_n(last, width - but_topics.len()));
        let topics = but_topics.iter().chain(filling.into_iter().flatten());
        let mut values: Vec<Value> = topics.map(|topic| topic.as_ref().into()).collect();
        self.prepare(width);
        let (statement, known) = self.selects[&width].but(known);
        values.extend(known);
        values.push(limit(count_max));
        let rows = self.owned.fetch_all("outbox.unsent", statement, &values).await?;
        let mut unsent = Vec::with_capacity(rows.len());
        for row in &rows {
            let id = row.get("id")?;
            match delivery::read_message(row) {
                Ok(message) => unsent.push(OutboxRow { id, message }),
                // One row that somebody else spoiled must not hold up all that follow it.
                Err(error) => {
                    tracing::warn!(id, error = %error.report(), "outbox row cannot be read back, parking it");
                    self.park(id, &error).await?;
                }
            }
        }
        Ok(unsent)
    }

    async fn sent(&mut self, ids: &[i64]) -> Result<()> {
        let bound = |ids: Vec<&i64>| ids.into_iter().map(|id| Value::Integer(*id)).collect();
        let statements: Vec<_> = self.delete.filled(ids).map(|(statement, ids)| (statement, bound(ids))).collect();
        self.owned.execute_all("outbox.sent", &statements).await
    }

    async fn park(&mut self, id: i64, cause: &Error) -> Result<()> {
        let values = vec![now_millis().into(), cause.report().into(), id.into()];
        self.owned.execute_all("outbox.park", &[(&self.park, values)]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_ids_are_left_out_whatever_their_count() {
        let unsent = Unsent::new(None, |list| list.to_owned());
        for (known_count, value_count) in [(0, 1), (1, 1), (2, 16), (64, 64), (65, 256), (8_193, 8_192)] {
            let known: Vec<i64> = (1..=known_count).collect();
            let (statement, values) = unsent.but(&known);
            assert_eq!((statement.matches('?').count(), values.len()), (value_count, value_count));
            let ids: Vec<i64> =
                values.iter().map(|value| if let Value::Integer(id) = value { *id } else { -1 }).collect();
            assert!(known.iter().take(value_count).all(|id| ids.contains(id)));
            assert!(ids.iter().all(|id| *id == 0 || known.contains(id)));
        }
        let (_, values) = Unsent::new(Some("json(?)"), |list| list.to_owned()).but(&[3, 4]);
        assert_eq!(values, [Value::Text("[3,4]".to_owned())]);
    }
}
