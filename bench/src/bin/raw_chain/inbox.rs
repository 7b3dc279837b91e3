//! Reads a topic in batches, each in one transaction with the ids of its events.

use std::{collections::HashSet, time::Duration};

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
    async fn handle(&self, tx: &mut MySqlConnection, events: &[Received]) -> Result<()>;
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
    let known = claim(&mut tx, group, events).await?;
    if known.is_empty() {
        handler.handle(&mut tx, events).await?;
    } else {
        let mut seen = known;
        let fresh = events.iter().filter(|event| seen.insert(event.event_id.clone()));
        let fresh: Vec<Received> = fresh
            .map(|event| Received {
                event_id: event.event_id.clone(),
                event_type: event.event_type.clone(),
                payload: event.payload.clone(),
            })
            .collect();
        handler.handle(&mut tx, &fresh).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Notes the ids and answers those that were known.
async fn claim(tx: &mut MySqlConnection, group: &str, events: &[Received]) -> sqlx::Result<HashSet<String>> {
    if events.is_empty() {
        return Ok(HashSet::new());
    }
    let mut select = QueryBuilder::<MySql>::new("SELECT event_id FROM inbox WHERE consumer_group = ");
    select.push_bind(group).push(" AND event_id IN (");
    let mut ids = select.separated(", ");
    events.iter().for_each(|event| {
        ids.push_bind(&event.event_id);
    });
    let known: Vec<(String,)> = select.push(")").build_query_as().fetch_all(&mut *tx).await?;
    let known: HashSet<String> = known.into_iter().map(|(id,)| id).collect();
    let mut seen = known.clone();
    let fresh: Vec<&Received> = events.iter().filter(|event| seen.insert(event.event_id.clone())).collect();
    if !fresh.is_empty() {
        let now = now_millis();
        let mut insert = QueryBuilder::<MySql>::new("INSERT INTO inbox (consumer_group, event_id, claimed_at) ");
        insert.push_values(fresh, |mut row, event| {
            row.push_bind(group).push_bind(&event.event_id).push_bind(now);
        });
        insert.build().execute(tx).await?;
    }
    Ok(known)
}
