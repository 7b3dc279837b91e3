//! The outbox on a table: rows in the order they were added, cut into shards by the hash of the key.

use async_trait::async_trait;
use micro_core::{
    Error, Result, Tx,
    broker::{Message, header},
    outbox::{CommitSignal, OutboxCounts, OutboxRow, OutboxShard, OutboxStore, ShardSet, hash_shard},
};

use super::{delivery, limit, now_millis, owner::Owned, widths::Widths};
use crate::{database::SqlDatabase, value::Value};

const COLUMN_COUNT: usize = 8;

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

fn row_values(message: &Message, now: i64) -> Result<[Value; COLUMN_COUNT]> {
    Ok([
        hash_shard(message).into(),
        message.topic.as_ref().into(),
        message.key.as_ref().into(),
        message.headers.get_str(header::EVENT_ID).into(),
        message.headers.get_str(header::EVENT_TYPE).into(),
        delivery::headers_json(&message.headers)?.into(),
        (&message.body).into(),
        now.into(),
    ])
}

struct SqlOutboxShard {
    owned: Owned,
    select: String,
    delete: Widths,
    park: String,
}

impl SqlOutboxShard {
    fn new(database: &SqlDatabase, owned: Owned) -> Self {
        // One shard has all rows. Of several, each passes over the others' rows by the primary key:
        // an index of the shards would cost each transaction more.
        let buckets: Vec<_> = owned.buckets().iter().map(u16::to_string).collect();
        let mine = match buckets.len() {
            16 => String::new(),
            _ => format!("shard IN ({}) AND", buckets.join(", ")),
        };
        let list = database.dialect().integer_list();
        let select = format!(
            "SELECT id, topic, message_key, headers, body FROM micro_outbox \
             WHERE {mine} parked_at IS NULL AND id NOT IN ({list}) ORDER BY id LIMIT ?"
        );
        let delete = |ids: &str| {
            database.prefixed(&format!("DELETE FROM micro_outbox WHERE parked_at IS NULL AND id IN ({ids})"))
        };
        let park = "UPDATE micro_outbox SET parked_at = ?, parked_cause = ? WHERE id = ? AND parked_at IS NULL";
        Self {
            select: database.prefixed(&select),
            delete: Widths::new("?", delete),
            park: database.prefixed(park),
            owned,
        }
    }
}

#[async_trait]
impl OutboxShard for SqlOutboxShard {
    async fn unsent(&mut self, known: &[i64], count_max: usize) -> Result<Vec<OutboxRow>> {
        let known = serde_json::to_string(known).expect("numbers are JSON");
        let rows = self.owned.fetch_all("outbox.unsent", &self.select, &[known.into(), limit(count_max)]).await?;
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
