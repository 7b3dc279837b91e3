//! Columns whose types differ between databases, read as texts of one form.

use micro_core::Result;
use micro_tx::Row;

/// A decimal as `12.30`; NULL as an empty text or NULL.
pub(super) fn decimal(column: &str) -> String {
    format!("CONCAT({column}, '')")
}

/// A time as `2006-01-02 15:04:05`, without the fractions that some columns have.
pub(super) fn moment(column: &str) -> String {
    format!("SUBSTR(CONCAT({column}, ''), 1, 19)")
}

/// The day of a time, `2006-01-02`.
pub(super) fn day(column: &str) -> String {
    format!("SUBSTR(CONCAT({column}, ''), 1, 10)")
}

/// A text; NULL as an empty one.
pub(super) fn text(row: &Row, column: &'static str) -> Result<String> {
    Ok(row.get::<Option<String>>(column)?.unwrap_or_default())
}
