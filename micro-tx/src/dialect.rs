//! What differs between databases: placeholders, and where the migrations lie.

use micro_core::{Error, ErrorKind, Result};

use crate::value::Value;

/// A kind of database. Statements are written once, with `?`; another kind rewrites them here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    #[cfg(feature = "sqlite")]
    Sqlite,
}

/// A migration: its version, its name, its script.
pub(crate) type Migration = (i64, &'static str, &'static str);

impl Dialect {
    /// The framework's tables, oldest first.
    pub(crate) const fn migrations(self) -> &'static [Migration] {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite => &[(1, "messaging", include_str!("../migrations/sqlite/0001_messaging.sql"))],
        }
    }

    /// The table that remembers which migrations ran.
    pub(crate) const fn version_table(self) -> &'static str {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite => {
                "CREATE TABLE IF NOT EXISTS micro_schema_version \
                 (version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at INTEGER NOT NULL)"
            }
        }
    }

    /// A table of one column, `value`, with the texts of a JSON array that is bound to its `?`.
    pub(crate) const fn text_list(self) -> &'static str {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite => "json_each(?)",
        }
    }

    /// As [`text_list`](Self::text_list), with integers.
    pub(crate) const fn integer_list(self) -> &'static str {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite => "json_each(?)",
        }
    }

    /// Checks that the statement has a `?` for each value: a database that binds NULL to the rest,
    /// as SQLite does, would hide the mistake.
    pub(crate) fn checked(self, operation: &'static str, statement: &str, values: &[Value]) -> Result<()> {
        let Some(count) = placeholder_count(statement) else {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                operation,
                "placeholders are plain ? in the order of the values, not numbered",
            ));
        };
        if count == values.len() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::InvalidArgument, operation, "the statement needs as many values as it has ?")
            .with_context("expected", count)
            .with_context("actual", values.len()))
    }
}

/// How many `?` stand outside quotes and comments; `None` when one is numbered.
fn placeholder_count(statement: &str) -> Option<usize> {
    let mut rest = statement.as_bytes();
    let mut count = 0;
    while let Some((&first, after)) = rest.split_first() {
        rest = match (first, after.first()) {
            (b'?', Some(b'0'..=b'9')) => return None,
            (b'?', _) => {
                count += 1;
                after
            }
            (quote @ (b'\'' | b'"' | b'`'), _) => past(after, &[quote]),
            (b'-', Some(b'-')) => past(after, b"\n"),
            (b'/', Some(b'*')) => past(&after[1..], b"*/"),
            _ => after,
        };
    }
    Some(count)
}

/// What follows the next `end`. A doubled quote ends one text and begins the next: no `?` is lost.
fn past<'a>(bytes: &'a [u8], end: &[u8]) -> &'a [u8] {
    match bytes.windows(end.len()).position(|window| window == end) {
        Some(position) => &bytes[position + end.len()..],
        None => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_in_texts_names_and_comments_do_not_count() {
        for (statement, count) in [
            ("SELECT 1", Some(0)),
            ("UPDATE a SET b = ?, c = ? WHERE d = ?", Some(3)),
            ("SELECT '?', 'it''s ?', \"?\", `?`, ? -- ?\n, ? /* ? */, ?", Some(3)),
            ("SELECT ? -- ?", Some(1)),
            ("SELECT ? /* ?", Some(1)),
            ("SELECT 'open ?", Some(0)),
            ("SELECT ?1", None),
        ] {
            assert_eq!(placeholder_count(statement), count, "{statement}");
        }
    }

    #[cfg(feature = "sqlite")]
    #[test]
    fn a_wrong_number_of_values_says_both_numbers() {
        let error = Dialect::Sqlite.checked("sql.execute", "SELECT ?, ?", &[Value::Null]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("expected=2, actual=1"), "{error}");
    }
}
