//! What differs between databases: placeholders, a few phrases, and where the migrations lie.

use std::time::Duration;

use micro_core::{Error, ErrorKind, Result};

use crate::value::Value;

/// A kind of database. Statements are written once, with `?`; another kind rewrites them here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "a build makes those whose features are on")]
pub(crate) enum Dialect {
    Sqlite,
    MySql,
    Postgres,
}

/// A migration: its version, its name, its script.
pub(crate) type Migration = (i64, &'static str, &'static str);

#[allow(dead_code, reason = "a build calls what its databases need")]
impl Dialect {
    /// Its name, in lower case.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::MySql => "mysql",
            Self::Postgres => "postgres",
        }
    }

    /// The framework's tables, oldest first.
    pub(crate) const fn migrations(self) -> &'static [Migration] {
        match self {
            Self::Sqlite => &[
                (1, "messaging", include_str!("../migrations/sqlite/0001_messaging.sql")),
                (2, "claims", include_str!("../migrations/sqlite/0002_claims.sql")),
                (3, "sagas", include_str!("../migrations/sqlite/0003_sagas.sql")),
            ],
            Self::MySql => &[
                (1, "messaging", include_str!("../migrations/mysql/0001_messaging.sql")),
                (2, "sagas", include_str!("../migrations/mysql/0002_sagas.sql")),
            ],
            Self::Postgres => &[
                (1, "messaging", include_str!("../migrations/postgres/0001_messaging.sql")),
                (2, "parked_keys", include_str!("../migrations/postgres/0002_parked_keys.sql")),
                (3, "sagas", include_str!("../migrations/postgres/0003_sagas.sql")),
            ],
        }
    }

    /// The table that remembers which migrations ran.
    pub(crate) const fn version_table(self) -> &'static str {
        "CREATE TABLE IF NOT EXISTS micro_schema_version \
         (version BIGINT PRIMARY KEY, name VARCHAR(64) NOT NULL, applied_at BIGINT NOT NULL)"
    }

    /// A statement that answers 1 once no other process migrates this database, until its session
    /// ends.
    pub(crate) const fn migration_lock(self) -> &'static str {
        match self {
            Self::Sqlite => "SELECT 1",
            Self::MySql => "SELECT GET_LOCK(CONCAT('micro-migrate:', SHA1(CONCAT(DATABASE(), '/micro_'))), 20)",
            Self::Postgres => {
                "SELECT 1 FROM (SELECT pg_advisory_lock(hashtext('micro-migrate:' || current_schema() || '/micro_'))) \
                 AS locked"
            }
        }
    }

    /// An INSERT that leaves out the rows whose keys are taken; `rows` is what follows INSERT.
    pub(crate) fn insert_new(self, rows: &str) -> String {
        match self {
            Self::MySql => format!("INSERT IGNORE {rows}"),
            Self::Sqlite | Self::Postgres => format!("INSERT {rows} ON CONFLICT DO NOTHING"),
        }
    }

    /// A subquery with the integers of a JSON array that is bound to its `?`; `None` where it would
    /// be read once for every row that is compared with it.
    pub(crate) const fn integer_list(self) -> Option<&'static str> {
        match self {
            Self::Sqlite => Some("SELECT value FROM json_each(?)"),
            Self::MySql => None,
            Self::Postgres => Some("SELECT value::bigint FROM json_array_elements_text(?::json)"),
        }
    }

    /// Rows in parentheses as what stands in `IN (…)`.
    pub(crate) fn row_list(self, rows: &str) -> String {
        match self {
            Self::Sqlite => format!("VALUES {rows}"),
            Self::MySql | Self::Postgres => rows.to_owned(),
        }
    }

    /// The database's own clock: milliseconds since the epoch, the same throughout a statement, so that an
    /// index can be searched by it.
    pub(crate) const fn now_millis(self) -> &'static str {
        match self {
            Self::Sqlite => "CAST(round(unixepoch('subsec') * 1000) AS INTEGER)",
            // UNIX_TIMESTAMP(NOW(3)) would be an hour off where a clock is set back for the winter.
            Self::MySql => "(UNIX_TIMESTAMP() * 1000 + MICROSECOND(NOW(3)) DIV 1000)",
            Self::Postgres => "CAST(round(extract(epoch FROM statement_timestamp()) * 1000) AS BIGINT)",
        }
    }

    /// Deletes at most so many of a table's rows whose `column` is less than what `before` says, the
    /// least first. The `key` is the table's primary key.
    pub(crate) fn delete_oldest(self, table: &str, key: &str, column: &str, before: &str) -> String {
        match self {
            Self::MySql => format!("DELETE FROM {table} WHERE {column} < {before} ORDER BY {column} LIMIT ?"),
            Self::Sqlite | Self::Postgres => format!(
                "DELETE FROM {table} WHERE ({key}) IN \
                 (SELECT {key} FROM {table} WHERE {column} < {before} ORDER BY {column} LIMIT ?)"
            ),
        }
    }

    /// A statement that takes a lock of each bucket for its session; a column each, 1 when it is
    /// taken.
    pub(crate) fn lock(self, table_prefix: &str, buckets: &[u16]) -> String {
        self.each_lock(buckets, |bucket| match self {
            Self::MySql => format!("GET_LOCK({}, 0)", mysql_lock(table_prefix, bucket)),
            Self::Postgres => format!("pg_try_advisory_lock({})", postgres_lock(table_prefix, bucket)),
            Self::Sqlite => "0".to_owned(),
        })
    }

    /// A statement that gives them back.
    pub(crate) fn unlock(self, table_prefix: &str, buckets: &[u16]) -> String {
        self.each_lock(buckets, |bucket| match self {
            Self::MySql => format!("RELEASE_LOCK({})", mysql_lock(table_prefix, bucket)),
            Self::Postgres => format!("pg_advisory_unlock({})", postgres_lock(table_prefix, bucket)),
            Self::Sqlite => "0".to_owned(),
        })
    }

    fn each_lock(self, buckets: &[u16], of: impl Fn(u16) -> String) -> String {
        let locks = buckets.iter().map(|bucket| format!("{} AS bucket_{bucket}", of(*bucket)));
        format!("SELECT {}", locks.collect::<Vec<_>>().join(", "))
    }

    /// Whether a statement that failed so has ended its transaction.
    pub(crate) fn is_ended_by(self, error: &Error) -> bool {
        match self {
            // Every failure: what follows is refused until the rollback.
            Self::Postgres => true,
            // After a broken rule of a column or wrong SQL the transaction is as before the
            // statement; other failures may have undone it whole, and what follows would run
            // outside of it: <https://www.sqlite.org/lang_transaction.html>, and InnoDB's after a
            // deadlock.
            _ => !matches!(
                error.kind(),
                ErrorKind::AlreadyExists
                    | ErrorKind::InvalidArgument
                    | ErrorKind::FailedPrecondition
                    | ErrorKind::PermissionDenied
                    | ErrorKind::Internal
            ),
        }
    }

    /// Whether a commit that was answered so, on a connection that goes on, is undone for certain.
    pub(crate) fn is_undone_after(self, error: &Error) -> bool {
        match self {
            // Only what the server says before it begins to write its logs. Of a commit that it could
            // not write to the end, or that was killed there, the binary log can have the transaction:
            // when the server dies before its undoing is on the disk, it commits what that log has.
            Self::MySql => matches!(
                error.kind(),
                ErrorKind::Aborted
                    | ErrorKind::AlreadyExists
                    | ErrorKind::FailedPrecondition
                    | ErrorKind::InvalidArgument
                    | ErrorKind::PermissionDenied
            ),
            _ => !matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::DeadlineExceeded),
        }
    }

    /// Whether a statement's text must differ where the types of its values do.
    pub(crate) const fn has_typed_statements(self) -> bool {
        matches!(self, Self::Postgres)
    }

    /// What stands before a SELECT where the session has no limit of time. MySQL reads a comment.
    ///
    /// On MariaDB a limit of the session holds for what commits as well. A commit waits there until
    /// there is space for the binary log, and where it is interrupted meanwhile it leaves half an
    /// event in the log: what is committed behind it does not survive a crash (MDEV-27803).
    pub(crate) fn read_limit(self, limit: Duration) -> String {
        match self {
            Self::MySql => {
                let seconds = limit.as_secs_f64().max(0.001);
                format!("/*M!100102 SET STATEMENT max_statement_time = {seconds} FOR */ ")
            }
            Self::Sqlite | Self::Postgres => String::new(),
        }
    }

    /// Whether the server goes on with a write, and commits it, after its caller has given it up: see
    /// [`read_limit`](Self::read_limit).
    pub(crate) const fn has_unlimited_writes(self) -> bool {
        matches!(self, Self::MySql)
    }

    /// Checks that the statement has a `?` for each value: a database that binds NULL to the rest,
    /// as SQLite does, would hide the mistake.
    pub(crate) fn checked(self, operation: &'static str, statement: &str, values: &[Value]) -> Result<Vec<usize>> {
        let Some(placeholders) = self.placeholders(statement) else {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                operation,
                "placeholders are plain ? in the order of the values, not numbered",
            ));
        };
        if placeholders.len() == values.len() {
            return Ok(placeholders);
        }
        Err(Error::new(ErrorKind::InvalidArgument, operation, "the statement needs as many values as it has ?")
            .with_context("expected", placeholders.len())
            .with_context("actual", values.len()))
    }

    /// The statement as this database takes it, with a `?` for each value.
    pub(crate) fn rewritten(self, operation: &'static str, statement: &str, values: &[Value]) -> Result<String> {
        let placeholders = self.checked(operation, statement, values)?;
        if !self.has_typed_statements() {
            return Ok(statement.to_owned());
        }
        let mut text = String::with_capacity(statement.len() + 2 * placeholders.len());
        let mut end = 0;
        for (number, position) in (1..).zip(placeholders) {
            text.push_str(&statement[end..position]);
            text.push_str(&format!("${number}"));
            end = position + 1;
        }
        text.push_str(&statement[end..]);
        // What is prepared is remembered by its text: these types are a statement of their own.
        let types = values.iter().map(|value| &value.type_name()[..1]);
        text.push_str(&format!(" /*{}*/", types.collect::<String>()));
        Ok(text)
    }

    /// Where a `?` stands outside quotes and comments; `None` when one is numbered.
    fn placeholders(self, statement: &str) -> Option<Vec<usize>> {
        let bytes = statement.as_bytes();
        let mut found = Vec::new();
        let mut position = 0;
        while let Some(&first) = bytes.get(position) {
            let rest = &bytes[position + 1..];
            position += 1 + match (first, rest.first()) {
                (b'?', Some(b'0'..=b'9')) => return None,
                (b'?', _) => {
                    found.push(position);
                    0
                }
                (quote @ (b'\'' | b'"'), _) if self.has_backslash_escapes() => past_escaped(rest, quote),
                (quote @ (b'\'' | b'"' | b'`'), _) => past(rest, &[quote]),
                (b'-', Some(b'-')) => past(rest, b"\n"),
                (b'/', Some(b'*')) => 1 + past(&rest[1..], b"*/"),
                _ => 0,
            };
        }
        Some(found)
    }

    const fn has_backslash_escapes(self) -> bool {
        matches!(self, Self::MySql)
    }
}

/// The name of a bucket's lock: those of a MySQL server are shared by all its databases.
fn mysql_lock(table_prefix: &str, bucket: u16) -> String {
    format!("CONCAT('micro-outbox:', SHA1(CONCAT(DATABASE(), '/{table_prefix}')), ':{bucket}')")
}

/// The two numbers of a bucket's lock: those of PostgreSQL belong to a database.
fn postgres_lock(table_prefix: &str, bucket: u16) -> String {
    format!("hashtext('micro-outbox:' || current_schema() || '/{table_prefix}'), {bucket}")
}

/// How many bytes there are to behind the next `end`. A doubled quote ends one text and begins the
/// next: no `?` is lost.
fn past(bytes: &[u8], end: &[u8]) -> usize {
    bytes.windows(end.len()).position(|window| window == end).map_or(bytes.len(), |position| position + end.len())
}

/// As [`past`], where a backslash takes the meaning of the byte behind it.
fn past_escaped(bytes: &[u8], quote: u8) -> usize {
    let mut position = 0;
    while let Some(byte) = bytes.get(position) {
        position += match *byte {
            b'\\' => 2,
            byte if byte == quote => return position + 1,
            _ => 1,
        };
    }
    bytes.len()
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
            ("SELECT 'a\\', ?", Some(1)),
            ("SELECT ?1", None),
        ] {
            assert_eq!(Dialect::Sqlite.placeholders(statement).map(|found| found.len()), count, "{statement}");
        }
    }
    #[test]
    fn a_backslash_escapes_a_quote_on_mysql() {
        for (statement, count) in [("SELECT 'it\\'s ?', ?", 1), ("SELECT '\\\\', ?", 1), ("SELECT 'open \\", 0)] {
            assert_eq!(Dialect::MySql.placeholders(statement).map(|found| found.len()), Some(count), "{statement}");
        }
    }
    #[test]
    fn placeholders_are_numbered_for_postgres_and_the_types_named() {
        let values = [Value::Integer(1), Value::Null, "a".into()];
        let text = Dialect::Postgres.rewritten("sql.execute", "SELECT ?, '?', ?, ?::jsonb", &values);
        assert_eq!(text.unwrap(), "SELECT $1, '?', $2, $3::jsonb /*int*/");
    }
    #[test]
    fn a_commit_that_failed_half_way_is_not_undone_for_certain() {
        for (kind, on_mysql, elsewhere) in [
            (ErrorKind::Aborted, true, true),
            (ErrorKind::AlreadyExists, true, true),
            (ErrorKind::FailedPrecondition, true, true),
            (ErrorKind::InvalidArgument, true, true),
            (ErrorKind::PermissionDenied, true, true),
            (ErrorKind::ResourceExhausted, false, true),
            (ErrorKind::Internal, false, true),
            (ErrorKind::Cancelled, false, true),
            (ErrorKind::DataLoss, false, true),
            (ErrorKind::NotFound, false, true),
            (ErrorKind::DeadlineExceeded, false, false),
            (ErrorKind::Unavailable, false, false),
        ] {
            let error = Error::new(kind, "tx.commit", "refused");
            assert_eq!(Dialect::MySql.is_undone_after(&error), on_mysql, "{kind}");
            assert_eq!(Dialect::Postgres.is_undone_after(&error), elsewhere, "{kind}");
        }
    }
    #[test]
    fn a_wrong_number_of_values_says_both_numbers() {
        let error = Dialect::Sqlite.checked("sql.execute", "SELECT ?, ?", &[Value::Null]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("expected=2, actual=1"), "{error}");
    }
}
