//! The outbox table and the task that sends its rows to Kafka.

use std::{sync::Arc, time::Duration};

use bench::{Result, wire::BaseEvent};
use futures_util::future::join_all;
use prost::Message as _;
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
    util::Timeout,
};
use sqlx::{MySql, MySqlConnection, MySqlPool, QueryBuilder};
use tokio::sync::Notify;

use crate::now_millis;

const WAVE_COUNT_MAX: usize = 256;
const POLL_INTERVAL: Duration = Duration::from_millis(200);
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// An event on its way into the outbox.
pub(crate) struct Event {
    topic: &'static str,
    key: String,
    event_id: String,
    event_type: &'static str,
    headers: String,
    body: Vec<u8>,
}

impl Event {
    pub(crate) fn new(
        topic: &'static str,
        event_type: &'static str,
        order_id: i64,
        payload: &impl prost::Message,
    ) -> Self {
        let timestamp = now_millis();
        let envelope = BaseEvent { timestamp, event_type: event_type.to_owned(), payload: payload.encode_to_vec() };
        let event_id = uuid::Uuid::now_v7().to_string();
        let headers = serde_json::json!({
            "Content-Type": "application/grpc+proto",
            "Micro-Topic": topic,
            "Event-Type": event_type,
            "Event_id": &event_id,
            "Timestamp": timestamp.to_string(),
            "Source": "raw-chain",
            "Schema_version": "1.0.0",
            "Pkey": order_id.to_string(),
        });
        Self {
            topic,
            key: order_id.to_string(),
            event_id,
            event_type,
            headers: headers.to_string(),
            body: envelope.encode_to_vec(),
        }
    }
}

/// Writes events in the caller's transaction.
pub(crate) async fn add(tx: &mut MySqlConnection, events: &[Event]) -> sqlx::Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let now = now_millis();
    let mut insert = QueryBuilder::<MySql>::new(
        "INSERT INTO outbox (shard, topic, message_key, event_id, event_type, headers, body, created_at) ",
    );
    insert.push_values(events, |mut row, event| {
        row.push_bind(0).push_bind(event.topic.as_bytes()).push_bind(event.key.as_bytes());
        row.push_bind(&event.event_id).push_bind(event.event_type);
        row.push_bind(&event.headers).push_bind(event.body.as_slice()).push_bind(now);
    });
    insert.build().execute(tx).await?;
    Ok(())
}

pub(crate) fn producer(kafka: &str, linger_ms: u32) -> Result<FutureProducer> {
    Ok(ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", linger_ms.to_string())
        .set("max.in.flight.requests.per.connection", "2")
        .set("compression.type", "lz4")
        .set("partitioner", "fnv1a_random")
        .create()?)
}

/// Starts the relay; what it answers wakes it.
pub(crate) fn start_relay(database: MySqlPool, producer: FutureProducer) -> Arc<Notify> {
    let wake = Arc::new(Notify::new());
    let woken = wake.clone();
    tokio::spawn(async move {
        loop {
            match send_wave(&database, &producer).await {
                Ok(0) => {
                    let _ = tokio::time::timeout(POLL_INTERVAL, woken.notified()).await;
                }
                Ok(_) => {}
                Err(error) => {
                    eprintln!("relay: {error}");
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            }
        }
    });
    wake
}

/// Id, topic, key, headers as JSON, body.
type OutboxRow = (i64, Vec<u8>, Vec<u8>, String, Vec<u8>);

/// Sends the oldest rows, waits for the receipts, removes what has one. The producer is idempotent,
/// so what is handed in together arrives in that order.
async fn send_wave(database: &MySqlPool, producer: &FutureProducer) -> Result<usize> {
    let select = "SELECT id, topic, message_key, headers, body FROM outbox WHERE parked_at IS NULL ORDER BY id LIMIT ?";
    let rows: Vec<OutboxRow> = sqlx::query_as(select).bind(WAVE_COUNT_MAX as i64).fetch_all(database).await?;
    let sending = rows.iter().map(|(id, topic, key, headers, body)| async move {
        let record =
            FutureRecord::to(std::str::from_utf8(topic)?).key(key).payload(body).headers(record_headers(headers)?);
        producer.send(record, Timeout::Never).await.map_err(|(error, _)| error)?;
        Ok::<_, bench::Failure>(*id)
    });
    let mut sent = Vec::with_capacity(rows.len());
    let mut failure = None;
    for outcome in join_all(sending).await {
        match outcome {
            Ok(id) => sent.push(id),
            Err(error) => failure = Some(error),
        }
    }
    if !sent.is_empty() {
        let mut delete = QueryBuilder::<MySql>::new("DELETE FROM outbox WHERE parked_at IS NULL AND id IN (");
        let mut ids = delete.separated(", ");
        sent.iter().for_each(|id| {
            ids.push_bind(*id);
        });
        delete.push(")").build().execute(database).await?;
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(sent.len()),
    }
}

fn record_headers(text: &str) -> Result<OwnedHeaders> {
    let headers: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text)?;
    let empty = OwnedHeaders::new_with_capacity(headers.len());
    Ok(headers.iter().fold(empty, |all, (key, value)| all.insert(Header { key, value: value.as_str() })))
}
