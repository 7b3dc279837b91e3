//! PostgreSQL's SQLSTATE codes.

use micro_core::ErrorKind;

use super::READ_ONLY;

/// By <https://www.postgresql.org/docs/current/errcodes-appendix.html>: the code, or its class.
pub(super) fn classify(code: &str) -> (ErrorKind, &'static str) {
    match (code.get(..2).unwrap_or_default(), code) {
        (_, "23505" | "23P01") => (ErrorKind::AlreadyExists, "a row of this key exists already"),
        (_, "23503" | "23001") => {
            (ErrorKind::FailedPrecondition, "a row that is referred to is missing, or still in use")
        }
        ("23", _) => (ErrorKind::InvalidArgument, "a value breaks a rule of its column"),
        ("22", _) => (ErrorKind::InvalidArgument, "a value is too large, or not one of its column"),
        (_, "40P01") => (ErrorKind::Aborted, "another transaction won: a deadlock"),
        (_, "55P03") => (ErrorKind::Aborted, "another transaction held a lock for too long"),
        ("40", _) => (ErrorKind::Aborted, "another transaction changed what this one read"),
        (_, "25P02") => (ErrorKind::Aborted, "a statement of this transaction failed: roll it back"),
        (_, "25P03" | "25P04") => (ErrorKind::Unavailable, "the server ended the transaction: it took too long"),
        (_, "57014") => (ErrorKind::DeadlineExceeded, "the statement took too long, or was cancelled"),
        ("57", _) => (ErrorKind::Unavailable, "the server closed the connection, or is starting or stopping"),
        ("08", _) => (ErrorKind::Unavailable, "the connection broke"),
        (_, "53300" | "53400") => (ErrorKind::ResourceExhausted, "the server has no connection to give"),
        (_, "53100") => (ErrorKind::ResourceExhausted, "the disk is full"),
        ("53" | "54", _) => (ErrorKind::ResourceExhausted, "a limit of the server is reached"),
        (_, "42501") => (ErrorKind::PermissionDenied, "the database refused the access"),
        ("28", _) => (ErrorKind::Unauthenticated, "the server refused user or password"),
        ("3D", _) => (ErrorKind::NotFound, "there is no such database"),
        (_, "25006") => READ_ONLY,
        (_, "55006" | "55000") => (ErrorKind::FailedPrecondition, "what is asked for is in use, or not in the state"),
        (_, "XX001" | "XX002") => (ErrorKind::DataLoss, "a table or an index is damaged"),
        ("58", _) => (ErrorKind::Unavailable, "the server's disk did not read or write"),
        // A missing table or wrong SQL is a fault of the deployment, not of the data: an event that
        // meets it must stay deliverable, so the kind is not a permanent one.
        _ => (ErrorKind::Internal, "the database refused the statement"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_postgres_has_its_kind() {
        for (codes, kind) in [
            (&["23505", "23P01"][..], ErrorKind::AlreadyExists),
            (&["23503", "23001"], ErrorKind::FailedPrecondition),
            (&["23502", "23514", "23000", "22001", "22003", "22P02", "22021"], ErrorKind::InvalidArgument),
            (&["40P01", "40001", "55P03", "25P02"], ErrorKind::Aborted),
            (&["57014"], ErrorKind::DeadlineExceeded),
            (
                &["57P01", "57P02", "57P03", "57P05", "08006", "08003", "58030", "25P03", "25006"],
                ErrorKind::Unavailable,
            ),
            (&["53300", "53100", "53200", "53400", "54000", "54001"], ErrorKind::ResourceExhausted),
            (&["42501"], ErrorKind::PermissionDenied),
            (&["28P01", "28000"], ErrorKind::Unauthenticated),
            (&["3D000"], ErrorKind::NotFound),
            (&["55006", "55000"], ErrorKind::FailedPrecondition),
            (&["XX001", "XX002"], ErrorKind::DataLoss),
            (&["42P01", "42601", "XX000", "0A000", ""], ErrorKind::Internal),
        ] {
            for code in codes {
                assert_eq!(classify(code).0, kind, "code {code}");
            }
        }
    }
}
