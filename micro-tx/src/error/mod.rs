//! The one table from sqlx's errors to [`ErrorKind`].

#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;

use micro_core::{Error, ErrorKind};

/// The operation of the first connection, with which a service starts.
#[cfg(any(feature = "mysql", feature = "postgres"))]
const START: &str = "sql.connect";

/// What a server does not do while it is read-only, as a primary that became a standby is, or a session
/// that began on one. Another connection may lead to the new primary.
#[cfg(any(feature = "mysql", feature = "postgres"))]
const READ_ONLY: (ErrorKind, &str) = (ErrorKind::Unavailable, "the server or the transaction is read-only");

/// A driver's error as the port's. Its text names no URL and no bound value: sqlx puts neither
/// there, but for configuration errors, whose cause is left out.
///
/// A login or an access that is refused is a fault of the deployment, as a missing table is:
/// `Internal`, for the kinds of their own are permanent ones, and what meets it must stay deliverable.
/// Who starts or migrates is told more exactly: [`to_deployer`].
pub(crate) fn from_sqlx(operation: &'static str, error: sqlx::Error) -> Error {
    let (kind, message) = match classify(&error) {
        (ErrorKind::Unauthenticated | ErrorKind::PermissionDenied, message) => (ErrorKind::Internal, message),
        classified => classified,
    };
    let answer = Error::new(kind, operation, message);
    match error {
        sqlx::Error::Configuration(_) => answer,
        error => answer.with_source(error),
    }
}

fn classify(error: &sqlx::Error) -> (ErrorKind, &'static str) {
    match error {
        sqlx::Error::Database(error) => classify_database(&**error),
        sqlx::Error::PoolTimedOut => (ErrorKind::ResourceExhausted, "no connection became free in time"),
        sqlx::Error::PoolClosed => (ErrorKind::Unavailable, "the database is closed"),
        sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed => (ErrorKind::Unavailable, "the connection broke"),
        sqlx::Error::Tls(_) => (ErrorKind::Unavailable, "no encrypted connection could be made"),
        sqlx::Error::Configuration(_) => (ErrorKind::InvalidArgument, "the settings are not ones of this database"),
        sqlx::Error::RowNotFound => (ErrorKind::NotFound, "the statement found no row"),
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
            (ErrorKind::DataLoss, "a column cannot be read back")
        }
        sqlx::Error::Encode(_) => (ErrorKind::InvalidArgument, "a value cannot be bound"),
        _ => (ErrorKind::Internal, "the driver refused the statement"),
    }
}

/// Whether the database refused a login or an access.
#[cfg(all(feature = "dtm", feature = "mysql"))]
pub(crate) fn is_denied(error: &Error) -> bool {
    denied(error).is_some()
}

/// An error as somebody is told it who deploys or migrates: a login or an access that is refused has
/// a kind of its own there, and this message.
pub(crate) fn to_deployer(operation: &'static str, message: &'static str, error: Error) -> Error {
    match denied(&error) {
        Some(kind) => Error::new(kind, operation, message).with_source(error),
        None => error,
    }
}

fn denied(error: &Error) -> Option<ErrorKind> {
    let source = std::error::Error::source(error)?.downcast_ref::<sqlx::Error>()?;
    let (kind, _) = classify(source);
    matches!(kind, ErrorKind::Unauthenticated | ErrorKind::PermissionDenied).then_some(kind)
}

/// As [`from_sqlx`], of an attempt to connect: there the text says what to look at.
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) fn connecting(operation: &'static str, error: sqlx::Error) -> Error {
    let (kind, message) = match &error {
        sqlx::Error::Io(_) => {
            (ErrorKind::Unavailable, "the server cannot be reached: is it running, and is this its address?")
        }
        _ => match classify(&error) {
            (ErrorKind::NotFound, _) => (ErrorKind::NotFound, "the server has no such database: create it first"),
            (ErrorKind::Unauthenticated, _) => {
                (ErrorKind::Unauthenticated, "the server refused user or password: look at the URL")
            }
            classified => classified,
        },
    };
    // In a service that runs it stays no permanent one: see `from_sqlx`.
    let kind = match kind {
        ErrorKind::Unauthenticated | ErrorKind::PermissionDenied if operation != START => ErrorKind::Internal,
        kind => kind,
    };
    match error {
        sqlx::Error::Configuration(_) => Error::new(kind, operation, message),
        error => Error::new(kind, operation, message).with_source(error),
    }
}

/// Whether nothing more can be done on a connection after this error.
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) fn is_broken(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::BeginFailed => true,
        // The server says goodbye, or the statement that it knew under this name is not the same.
        sqlx::Error::Database(error) => {
            let is_goodbye = classify_database(&**error).0 == ErrorKind::Unavailable || ends_session(&**error);
            is_goodbye || is_stale_plan(&**error)
        }
        _ => false,
    }
}

/// Whether the server answered with an error and its session goes on.
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) fn is_refusal(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| !ends_session(error))
}

/// Whether the server refused a write, or a commit of some, before it did anything.
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) fn is_read_only(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| classify_database(error) == READ_ONLY)
}

/// A commit, or a statement that commits by itself, that may be done or not.
pub(crate) fn of_unknown_outcome(operation: &'static str, error: Error) -> Error {
    let message = "the commit was not answered, or failed half-way: it may be done or not";
    Error::new(ErrorKind::Unknown, operation, message).with_source(error)
}

/// PostgreSQL says by the severity whether the session goes on, whatever went wrong: a log without
/// space for it, a full disk to a statement, stops the server.
#[cfg(any(feature = "mysql", feature = "postgres"))]
fn ends_session(error: &dyn sqlx::error::DatabaseError) -> bool {
    #[cfg(feature = "postgres")]
    if let Some(error) = error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>() {
        use sqlx::postgres::PgSeverity;
        return matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic);
    }
    let _ = error;
    false
}

/// PostgreSQL refuses a statement that was prepared before its table was altered, on this
/// connection for ever.
#[cfg(any(feature = "mysql", feature = "postgres"))]
fn is_stale_plan(error: &dyn sqlx::error::DatabaseError) -> bool {
    error.message().starts_with("cached plan must not change")
}

fn classify_database(error: &dyn sqlx::error::DatabaseError) -> (ErrorKind, &'static str) {
    #[cfg(feature = "mysql")]
    if let Some(error) = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        return mysql::classify(error.number(), error.message());
    }
    let code = error.code().unwrap_or_default();
    #[cfg(feature = "postgres")]
    if error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().is_some() {
        if is_stale_plan(error) {
            return (ErrorKind::Aborted, "a table changed under a prepared statement");
        }
        return postgres::classify(&code);
    }
    classify_sqlite(&code)
}

/// SQLite's result codes, extended ones included: <https://www.sqlite.org/rescode.html>.
fn classify_sqlite(code: &str) -> (ErrorKind, &'static str) {
    let code: u32 = code.parse().unwrap_or_default();
    match (code & 0xff, code) {
        (_, 1555 | 2067 | 2579) => (ErrorKind::AlreadyExists, "a row of this key exists already"),
        (_, 787 | 1811) => (ErrorKind::FailedPrecondition, "a row that is referred to is missing, or still in use"),
        (19 | 20, _) => (ErrorKind::InvalidArgument, "a value breaks a rule of its column"),
        (5 | 6 | 17, _) => (ErrorKind::Aborted, "another transaction holds the database"),
        (4, _) => (ErrorKind::Aborted, "the transaction was aborted"),
        (9, _) => (ErrorKind::Cancelled, "the statement was interrupted"),
        (7, _) => (ErrorKind::ResourceExhausted, "the database is out of memory"),
        (13, _) => (ErrorKind::ResourceExhausted, "the disk or the database is full"),
        (10, _) => (ErrorKind::Unavailable, "the disk did not read or write"),
        (14, _) => (ErrorKind::Unavailable, "the database file cannot be opened"),
        (3 | 23, _) => (ErrorKind::PermissionDenied, "the database refused the access"),
        (11 | 26, _) => (ErrorKind::DataLoss, "the file is damaged, or no database"),
        (18 | 25, _) => (ErrorKind::InvalidArgument, "a value is too large, or bound out of range"),
        // A missing table, wrong SQL or a file that may not be written is a fault of the deployment, not
        // of the data: an event that meets it must stay deliverable, so the kind is not a permanent one.
        (8, _) => (ErrorKind::Internal, "the connection or the file is read-only"),
        _ => (ErrorKind::Internal, "the database refused the statement"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_sqlite_has_its_kind() {
        for (codes, kind) in [
            (&["1555", "2067", "2579"][..], ErrorKind::AlreadyExists),
            (&["787", "1811"], ErrorKind::FailedPrecondition),
            (&["19", "275", "1299", "20"], ErrorKind::InvalidArgument),
            (&["5", "261", "517", "6", "262", "17", "4", "516"], ErrorKind::Aborted),
            (&["9"], ErrorKind::Cancelled),
            (&["7", "13"], ErrorKind::ResourceExhausted),
            (&["10", "266", "778", "14", "526"], ErrorKind::Unavailable),
            (&["3", "23"], ErrorKind::PermissionDenied),
            (&["11", "26"], ErrorKind::DataLoss),
            (&["18", "25"], ErrorKind::InvalidArgument),
            (&["1", "2", "8", "264", "21", "", "not a number"], ErrorKind::Internal),
        ] {
            for code in codes {
                assert_eq!(classify_sqlite(code).0, kind, "code {code}");
            }
        }
    }

    #[test]
    fn every_error_of_the_driver_has_its_kind() {
        for (error, kind) in [
            (sqlx::Error::PoolTimedOut, ErrorKind::ResourceExhausted),
            (sqlx::Error::PoolClosed, ErrorKind::Unavailable),
            (sqlx::Error::WorkerCrashed, ErrorKind::Unavailable),
            (sqlx::Error::Io(std::io::Error::other("reset")), ErrorKind::Unavailable),
            (sqlx::Error::Tls("no certificate".into()), ErrorKind::Unavailable),
            (sqlx::Error::Configuration("bad".into()), ErrorKind::InvalidArgument),
            (sqlx::Error::RowNotFound, ErrorKind::NotFound),
            (sqlx::Error::Decode("no text".into()), ErrorKind::DataLoss),
            (sqlx::Error::ColumnDecode { index: "0".into(), source: "no text".into() }, ErrorKind::DataLoss),
            (sqlx::Error::Encode("too long".into()), ErrorKind::InvalidArgument),
            (sqlx::Error::Protocol("odd".into()), ErrorKind::Internal),
        ] {
            let text = error.to_string();
            assert_eq!(from_sqlx("sql.execute", error).kind(), kind, "{text}");
        }
    }

    #[test]
    fn a_configuration_error_does_not_repeat_the_url() {
        let error = from_sqlx("sql.connect", sqlx::Error::Configuration("bad value in postgres://a:canary@db".into()));
        assert!(!format!("{error:?} {}", error.report()).contains("canary"));
    }
}
