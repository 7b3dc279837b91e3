//! Reads a topic in batches, each in one transaction with the ids of its events.

use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use bench::{Result, wire::BaseEvent};
use futures_util::FutureExt as _;
use prost::Message as _;
use rdkafka::{
    ClientConfig, Message as _,
    consumer::{Consumer as _, StreamConsumer},
    message::{BorrowedMessage, Headers as _},
};
use sqlx::{MySql, MySqlConnection, MySqlPool, QueryBuilder};

use crate::now_millis;

const RETRY_DELAY: Duration = Duration::from_millis(100);

/// An event as it came.
pub(crate) struct Received {
    pub(crate) event_id: String,
    pub(crate) event_type: String,
    pub(crate) payload: Vec<u8>,
}

/// Handles the new events of a batch inside its transaction.
pub(crate) trait Handler {
    async fn handle(&self, tx: &mut MySqlConnection, events: &[&Received]) -> Result<()>;
    /// The transaction is committed.
    fn committed(&self) {}
}

pub(crate) fn consumer(kafka: &str, group: &str, topic: &str) -> Result<StreamConsumer> {
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .set("group.id", group)
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.offset.store", "false")
        .set("auto.commit.interval.ms", "1000")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("fetch.queue.backoff.ms", "5")
        .create()?;
    consumer.subscribe(&[topic])?;
    Ok(consumer)
}

/// Consumes until the process ends. Offsets are stored after the commit, in order.
pub(crate) async fn consume(
    consumer: StreamConsumer,
    database: MySqlPool,
    group: &str,
    batch_count_max: usize,
    handler: impl Handler,
) -> Result<()> {
    loop {
        let mut records = vec![consumer.recv().await?];
        while records.len() < batch_count_max
            && let Some(record) = consumer.recv().now_or_never()
        {
            records.push(record?);
        }
        let events: Vec<Received> = records.iter().filter_map(read).collect();
        while let Err(error) = handle_batch(&database, group, &events, &handler).await {
            eprintln!("{group}: {error}");
            tokio::time::sleep(RETRY_DELAY).await;
        }
        handler.committed();
        for record in &records {
            consumer.store_offset_from_message(record)?;
        }
    }
}

fn read(record: &BorrowedMessage<'_>) -> Option<Received> {
    let header = record.headers()?.iter().find(|header| header.key == "Event_id")?;
    let event_id = std::str::from_utf8(header.value?).ok()?.to_owned();
    let BaseEvent { event_type, payload, .. } = BaseEvent::decode(record.payload()?).ok()?;
    Some(Received { event_id, event_type, payload })
}

async fn handle_batch(database: &MySqlPool, group: &str, events: &[Received], handler: &impl Handler) -> Result<()> {
    let mut tx = database.begin().await?;
    let mut known = claim(&mut tx, group, events).await?;
    let fresh: Vec<&Received> = events.iter().filter(|event| known.insert(event.event_id.clone())).collect();
    handler.handle(&mut tx, &fresh).await?;
    tx.commit().await?;
    Ok(())
}

/// Notes the ids and answers those that somebody noted before: few or none, so it asks for them
/// only where fewer rows were inserted than there are ids.
async fn claim(tx: &mut MySqlConnection, group: &str, events: &[Received]) -> sqlx::Result<HashSet<String>> {
    let ids: BTreeSet<&str> = events.iter().map(|event| event.event_id.as_str()).collect();
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    let (now, claim_id) = (now_millis(), uuid::Uuid::now_v7().as_u64_pair().1 as i64);
    let mut insert =
        QueryBuilder::<MySql>::new("INSERT IGNORE INTO inbox (consumer_group, event_id, claimed_at, claim_id) ");
    insert.push_values(&ids, |mut row, id| {
        row.push_bind(group).push_bind(*id).push_bind(now).push_bind(claim_id);
    });
    if insert.build().execute(&mut *tx).await?.rows_affected() == ids.len() as u64 {
        return Ok(HashSet::new());
    }
    let mut select = QueryBuilder::<MySql>::new("SELECT CAST(event_id AS CHAR) FROM inbox WHERE consumer_group = ");
    select.push_bind(group).push(" AND claim_id <> ").push_bind(claim_id).push(" AND event_id IN (");
    let mut list = select.separated(", ");
    ids.iter().for_each(|id| {
        list.push_bind(*id);
    });
    let known: Vec<(String,)> = select.push(")").build_query_as().fetch_all(tx).await?;
    Ok(known.into_iter().map(|(id,)| id).collect())
}
