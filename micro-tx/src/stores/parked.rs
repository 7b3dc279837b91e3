//! Parked deliveries on a table: the rows of one group, topic and key are a queue by id.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use micro_core::{
    Result, Tx,
    broker::Delivery,
    parked::{ParkedRow, ParkedStore, Parking},
};

use super::{delivery, limit, millis, now_millis, widths::Widths};
use crate::{database::SqlDatabase, row::Row, value::Value};

pub(crate) struct SqlParked {
    database: SqlDatabase,
    insert: String,
    any: String,
    blocked: Widths,
    due: String,
    hold: String,
    remove: String,
    postpone: String,
    release: String,
    count: String,
}

impl SqlParked {
    pub(crate) fn new(database: SqlDatabase) -> Self {
        let insert = format!(
            "INSERT INTO micro_parked (consumer_group, attempts, cause, due_at, {}) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            delivery::COLUMNS
        );
        let blocked = |rows: &str| {
            database.prefixed(&format!(
                "WITH wanted (number, topic, message_key) AS ({rows}) SELECT number FROM wanted WHERE EXISTS \
                 (SELECT 1 FROM micro_parked AS parked WHERE parked.consumer_group = ? \
                 AND parked.topic = wanted.topic AND parked.message_key = wanted.message_key)"
            ))
        };
        // A row without a key equals no other row's, so it is the head of a queue of its own.
        let due = format!(
            "SELECT id, attempts, {} FROM micro_parked AS parked WHERE consumer_group = ? AND due_at <= ? \
             AND NOT EXISTS (SELECT 1 FROM micro_parked AS earlier WHERE earlier.consumer_group = parked.consumer_group \
             AND earlier.topic = parked.topic AND earlier.message_key = parked.message_key AND earlier.id < parked.id) \
             ORDER BY due_at, id LIMIT ?",
            delivery::COLUMNS
        );
        let release = "DELETE FROM micro_parked WHERE consumer_group = ? AND due_at IS NULL \
            AND topic = ? AND record_partition = ? AND record_offset = ?";
        Self {
            insert: database.prefixed(&insert),
            // Ordered as the index is: of many rows of other groups PostgreSQL would read them all, in
            // the hope that one of this group comes soon.
            any: database.prefixed("SELECT 1 FROM micro_parked WHERE consumer_group = ? ORDER BY due_at, id LIMIT 1"),
            blocked: Widths::joined("SELECT ?, ?, ?", " UNION ALL ", blocked),
            due: database.prefixed(&due),
            hold: database.prefixed("UPDATE micro_parked SET due_at = NULL, cause = ? WHERE id = ?"),
            remove: database.prefixed("DELETE FROM micro_parked WHERE id = ? AND due_at IS NOT NULL"),
            postpone: database.prefixed(
                "UPDATE micro_parked SET attempts = ?, cause = ?, due_at = ? WHERE id = ? AND due_at IS NOT NULL",
            ),
            release: database.prefixed(release),
            count: database.prefixed("SELECT count(*) FROM micro_parked WHERE consumer_group = ?"),
            database,
        }
    }
}

#[async_trait]
impl ParkedStore for SqlParked {
    async fn park(&self, tx: &mut Tx, parking: &Parking<'_>) -> Result<()> {
        let sql = self.database.opened(tx, "parked.park")?;
        let mut values =
            vec![parking.group.into(), parking.attempts.into(), parking.cause.into(), due_at(parking.delay)];
        values.extend(delivery::values(parking.delivery)?);
        sql.execute_as("parked.park", &self.insert, &values).await?;
        Ok(())
    }

    async fn is_blocked(&self, tx: &mut Tx, group: &str, deliveries: &[&Delivery]) -> Result<Vec<bool>> {
        let sql = self.database.opened(tx, "parked.is_blocked")?;
        // Nothing is parked as a rule: then there are no keys to ask for.
        if sql.fetch_all_as("parked.is_blocked", &self.any, &[group.into()]).await?.is_empty() {
            return Ok(vec![false; deliveries.len()]);
        }
        let keys = numbered_keys(deliveries);
        let numbered: Vec<(i64, Key)> = keys.iter().map(|(key, number)| (*number, *key)).collect();
        let mut blocked = BTreeSet::new();
        for (statement, part) in self.blocked.filled(&numbered) {
            let rows =
                part.iter().flat_map(|(number, (topic, key))| [(*number).into(), (*topic).into(), (*key).into()]);
            let values: Vec<Value> = rows.chain([group.into()]).collect();
            for row in sql.fetch_all_as("parked.is_blocked", statement, &values).await? {
                blocked.insert(row.get::<i64>(0)?);
            }
        }
        let is_blocked = |delivery: &&Delivery| {
            key_of(delivery).and_then(|key| keys.get(&key)).is_some_and(|number| blocked.contains(number))
        };
        Ok(deliveries.iter().map(is_blocked).collect())
    }

    async fn due(&self, group: &str, count_max: usize) -> Result<Vec<ParkedRow>> {
        let values = [group.into(), now_millis().into(), limit(count_max)];
        let rows = self.database.fetch_all_as("parked.due", &self.due, &values).await?;
        let mut parked = Vec::with_capacity(rows.len());
        for row in &rows {
            let id = row.get("id")?;
            match read(id, row) {
                Ok(row) => parked.push(row),
                // Spoiled by somebody else: it holds its key, as order demands, and no other's.
                Err(error) => {
                    tracing::warn!(id, group, error = %error.report(), "parked delivery cannot be read back, holding its key");
                    let values = [error.report().into(), id.into()];
                    self.database.repeat_as("parked.due", &self.hold, &values).await?;
                }
            }
        }
        Ok(parked)
    }

    async fn remove(&self, tx: &mut Tx, id: i64) -> Result<bool> {
        let sql = self.database.opened(tx, "parked.remove")?;
        Ok(sql.execute_as("parked.remove", &self.remove, &[id.into()]).await? > 0)
    }

    async fn postpone(
        &self,
        tx: &mut Tx,
        id: i64,
        attempts: u32,
        cause: &str,
        delay: Option<Duration>,
    ) -> Result<bool> {
        let sql = self.database.opened(tx, "parked.postpone")?;
        let values = [attempts.into(), cause.into(), due_at(delay), id.into()];
        Ok(sql.execute_as("parked.postpone", &self.postpone, &values).await? > 0)
    }

    async fn release(&self, tx: &mut Tx, group: &str, delivery: &Delivery) -> Result<bool> {
        let sql = self.database.opened(tx, "parked.release")?;
        let topic = delivery.message.topic.as_ref();
        let values = [group.into(), topic.into(), delivery.partition.into(), delivery.offset.into()];
        Ok(sql.execute_as("parked.release", &self.release, &values).await? > 0)
    }

    async fn count(&self, group: &str) -> Result<u64> {
        let rows = self.database.fetch_all_as("parked.count", &self.count, &[group.into()]).await?;
        rows[0].get(0)
    }
}

fn read(id: i64, row: &Row) -> Result<ParkedRow> {
    Ok(ParkedRow { id, delivery: delivery::read(row)?, attempts: row.get("attempts")? })
}

type Key<'a> = (&'a str, &'a Bytes);

fn key_of(delivery: &Delivery) -> Option<Key<'_>> {
    delivery.message.key.as_ref().map(|key| (delivery.message.topic.as_ref(), key))
}

/// Each key once, with a number to ask for it by.
fn numbered_keys<'a>(deliveries: &[&'a Delivery]) -> BTreeMap<Key<'a>, i64> {
    deliveries.iter().filter_map(|delivery| key_of(delivery)).zip(0..).collect()
}

fn due_at(delay: Option<Duration>) -> Value {
    delay.map(|delay| now_millis().saturating_add(millis(delay))).into()
}
