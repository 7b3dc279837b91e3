//! The columns of a delivery, which parked deliveries and dead letters share.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use micro_core::{
    Error, ErrorKind, Result,
    broker::{Delivery, Headers, Message},
};

use super::text;
use crate::{row::Row, value::Value};

/// The columns, in the order of [`values`].
pub(super) const COLUMNS: &str = "topic, message_key, headers, body, record_partition, record_offset, record_time_ns";

/// The delivery as it is bound.
pub(super) fn values(delivery: &Delivery) -> Result<[Value; 7]> {
    let message = &delivery.message;
    Ok([
        message.topic.as_ref().into(),
        message.key.as_ref().into(),
        headers_json(&message.headers)?.into(),
        (&message.body).into(),
        delivery.partition.into(),
        delivery.offset.into(),
        unix_nanos(delivery.timestamp).into(),
    ])
}

/// The delivery as it was received.
pub(super) fn read(row: &Row) -> Result<Delivery> {
    Ok(Delivery {
        message: read_message(row)?,
        partition: row.get("record_partition")?,
        offset: row.get("record_offset")?,
        timestamp: from_unix_nanos(row.get("record_time_ns")?),
    })
}

/// The message of a row with the columns `topic`, `message_key`, `headers` and `body`.
pub(super) fn read_message(row: &Row) -> Result<Message> {
    let headers = serde_json::from_str(&row.get::<String>("headers")?).map_err(|error| {
        Error::new(ErrorKind::DataLoss, "sql.read_message", "the column headers holds no headers").with_source(error)
    })?;
    Ok(Message {
        topic: text(row, "topic")?.into(),
        key: row.get::<Option<Bytes>>("message_key")?,
        headers,
        body: row.get("body")?,
    })
}

pub(super) fn headers_json(headers: &Headers) -> Result<String> {
    serde_json::to_string(headers).map_err(|error| {
        Error::new(ErrorKind::Internal, "sql.headers", "the headers cannot be written as JSON").with_source(error)
    })
}

/// Nanoseconds since the epoch, negative before it; good from 1677 to 2262.
fn unix_nanos(time: SystemTime) -> i64 {
    let nanos = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    time.duration_since(UNIX_EPOCH).map_or_else(|before| -nanos(before.duration()), nanos)
}

fn from_unix_nanos(nanos: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanos.unsigned_abs());
    if nanos < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_to_the_nanosecond_on_both_sides_of_the_epoch() {
        for time in [UNIX_EPOCH, UNIX_EPOCH + Duration::from_nanos(1), UNIX_EPOCH - Duration::from_nanos(1)] {
            assert_eq!(from_unix_nanos(unix_nanos(time)), time);
        }
    }
}
