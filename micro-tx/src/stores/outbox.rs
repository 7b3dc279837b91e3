//! The outbox on a table: rows in the order they were added, cut into shards by the hash of the key.

use async_trait::async_trait;
use micro_core::{
    Error, Result, TransactionManagerExt as _, Tx,
    broker::{Message, header},
    outbox::{CommitSignal, OutboxCounts, OutboxRow, OutboxShard, OutboxStore, ShardLease, ShardLocks, ShardSet},
};

use super::{delivery, limit, now_millis, widths::Widths};
use crate::{database::SqlDatabase, value::Value};

const COLUMN_COUNT: usize = 8;

pub(crate) struct SqlOutbox {
    database: SqlDatabase,
    committed: CommitSignal,
    shards: ShardLocks,
    insert: Widths,
    count: String,
}

impl SqlOutbox {
    pub(crate) fn new(database: SqlDatabase, committed: CommitSignal, shards: ShardLocks) -> Self {
        let insert = "INSERT INTO micro_outbox \
            (shard, topic, message_key, event_id, event_type, headers, body, created_at) VALUES ";
        let count = "SELECT count(*) FILTER (WHERE parked_at IS NULL), count(parked_at) FROM micro_outbox";
        Self {
            insert: Widths::new("(?, ?, ?, ?, ?, ?, ?, ?)", |rows| database.prefixed(insert) + rows),
            count: database.prefixed(count),
            database,
            committed,
            shards,
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
                values.extend(row_values(self.shard_of(message), message, now)?);
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
        let lease = self.shards.own(shard)?;
        Ok(lease.map(|lease| Box::new(SqlOutboxShard::new(self.database.clone(), lease)) as Box<_>))
    }

    async fn committed(&self) -> ShardSet {
        self.committed.wait().await
    }

    // One process relays a SQLite database on one connection: shards would only cut its
    // transactions into smaller ones, each of which waits for the disk.
    fn shard_of(&self, _message: &Message) -> u16 {
        0
    }

    async fn counts(&self) -> Result<OutboxCounts> {
        let rows = self.database.fetch_all_as("outbox.counts", &self.count, &[]).await?;
        Ok(OutboxCounts { unsent: rows[0].get(0)?, parked: rows[0].get(1)? })
    }
}

fn row_values(shard: u16, message: &Message, now: i64) -> Result<[Value; COLUMN_COUNT]> {
    Ok([
        shard.into(),
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
    database: SqlDatabase,
    lease: ShardLease,
    select: String,
    delete: Widths,
    park: String,
}

impl SqlOutboxShard {
    fn new(database: SqlDatabase, lease: ShardLease) -> Self {
        let list = database.dialect().integer_list();
        let select = format!(
            "SELECT id, topic, message_key, headers, body FROM micro_outbox \
             WHERE shard = ? AND parked_at IS NULL AND id NOT IN (SELECT value FROM {list}) ORDER BY id LIMIT ?"
        );
        let delete = |ids: &str| {
            database.prefixed("DELETE FROM micro_outbox WHERE parked_at IS NULL AND shard = ? AND id IN (") + ids + ")"
        };
        let park = "UPDATE micro_outbox SET parked_at = ?, parked_cause = ? \
            WHERE id = ? AND shard = ? AND parked_at IS NULL";
        Self {
            select: database.prefixed(&select),
            delete: Widths::new("?", delete),
            park: database.prefixed(park),
            lease,
            database,
        }
    }
}

#[async_trait]
impl OutboxShard for SqlOutboxShard {
    async fn unsent(&mut self, known: &[i64], count_max: usize) -> Result<Vec<OutboxRow>> {
        let known = serde_json::to_string(known).expect("numbers are JSON");
        let values = [self.lease.shard().into(), known.into(), limit(count_max)];
        let rows = self.database.fetch_all_as("outbox.unsent", &self.select, &values).await?;
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
        let shard = self.lease.shard();
        let parts: Vec<(&str, Vec<Value>)> =
            self.delete.filled(ids).map(|(statement, ids)| (statement, bound(shard, &ids))).collect();
        if let [(statement, values)] = parts.as_slice() {
            self.database.execute_as("outbox.sent", statement, values).await?;
            return Ok(());
        }
        // One transaction, so that the disk is waited for once.
        self.database
            .run(async |tx| {
                let sql = self.database.opened(tx, "outbox.sent")?;
                for (statement, values) in &parts {
                    sql.execute_as("outbox.sent", statement, values).await?;
                }
                Ok(())
            })
            .await
    }

    async fn park(&mut self, id: i64, cause: &Error) -> Result<()> {
        let values = [now_millis().into(), cause.report().into(), id.into(), self.lease.shard().into()];
        self.database.execute_as("outbox.park", &self.park, &values).await?;
        Ok(())
    }
}

fn bound(shard: u16, ids: &[&i64]) -> Vec<Value> {
    std::iter::once(shard.into()).chain(ids.iter().map(|id| Value::Integer(**id))).collect()
}
