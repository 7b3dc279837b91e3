//! The stores of outbox, inbox, parked deliveries and dead letters on SQL tables.

mod dead_letters;
mod delivery;
mod inbox;
mod outbox;
mod owner;
mod parked;
mod widths;

pub(crate) use dead_letters::SqlDeadLetters;
pub(crate) use inbox::SqlInbox;
pub(crate) use outbox::SqlOutbox;
pub(crate) use owner::Owner;
pub(crate) use parked::SqlParked;

/// A limit as the database takes it.
fn limit(limit: usize) -> crate::value::Value {
    i64::try_from(limit).unwrap_or(i64::MAX).into()
}

/// Milliseconds since the epoch, now.
fn now_millis() -> i64 {
    micro_core::event::unix_millis(std::time::SystemTime::now())
}

/// A duration in whole milliseconds, rounded up: nothing is due before its time.
fn millis(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX)
}

/// A text of a column that holds bytes where the database compares texts otherwise than by bytes.
fn text(row: &crate::row::Row, column: &str) -> micro_core::Result<String> {
    match row.get::<bytes::Bytes>(column) {
        Ok(bytes) => String::from_utf8(bytes.into()).map_err(|error| {
            let message = "the column holds no text";
            micro_core::Error::new(micro_core::ErrorKind::DataLoss, "row.get", message)
                .with_context("column", column)
                .with_source(error)
        }),
        Err(_) => row.get(column),
    }
}
