//! The stores of outbox, inbox, barrier, parked deliveries, dead letters and sagas on SQL tables.

mod barrier;
mod dead_letters;
mod delivery;
mod inbox;
mod outbox;
mod owner;
mod parked;
mod sagas;
mod widths;

pub use barrier::SqlBarrier;
pub(crate) use dead_letters::SqlDeadLetters;
pub(crate) use inbox::SqlInbox;
pub(crate) use outbox::{SqlOutbox, release};
pub(crate) use owner::{Owner, OwnerSettings};
pub(crate) use parked::SqlParked;
pub(crate) use sagas::{SqlSagaLog, release as release_sagas};

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

/// The longest id, in bytes, that is kept as it is: a key of an index can be only so long.
const ID_BYTES_MAX: usize = 700;

/// An event id or type as it is kept: of a longer one, or one that a text column does not take, its
/// beginning and a hash of the whole (FNV-1a of 128 bits), for a database would refuse it, or cut it
/// to be another one.
fn kept_id(id: &str) -> std::borrow::Cow<'_, str> {
    // PostgreSQL keeps no U+0000 in a text.
    if id.len() <= ID_BYTES_MAX && !id.contains('\0') {
        return id.into();
    }
    let hash = id.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    });
    let beginning = id[..id.floor_char_boundary(ID_BYTES_MAX - 33)].replace('\0', " ");
    format!("{beginning}~{hash:032x}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_id_is_kept_short_and_unlike_others() {
        assert_eq!(kept_id("a"), "a");
        let [first, second] = ["1", "2"].map(|end| kept_id(&("\u{f6}".repeat(1_000) + end)).into_owned());
        assert!(first != second && first.len() <= ID_BYTES_MAX && second.len() <= ID_BYTES_MAX);
        assert_eq!(kept_id(&first), first, "what was kept is found by itself");
        let [nul, space] = ["a\0b", "a b"].map(|id| kept_id(id).into_owned());
        assert!(nul != space && nul.starts_with("a b~"), "{nul:?}");
    }
}
