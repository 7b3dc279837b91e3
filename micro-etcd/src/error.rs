//! The one table from etcd's answers and its client's errors to [`ErrorKind`].

use etcd_client::Error as EtcdError;
use micro_core::{Error, ErrorKind};

/// What etcd's client failed with, as an error of ours.
pub(crate) fn from_etcd(operation: &'static str, error: EtcdError) -> Error {
    let (kind, message) = match &error {
        EtcdError::GRpcStatus(status) => classify(status.code() as u32, status.message()),
        EtcdError::InvalidArgs(_) | EtcdError::InvalidUri(_) | EtcdError::InvalidMetadataValue(_) => {
            (ErrorKind::InvalidArgument, "the settings make no request")
        }
        EtcdError::IoError(_) | EtcdError::TransportError(_) | EtcdError::EndpointError(_) => NO_CONNECTION,
        EtcdError::LeaseKeepAliveError(_) => (ErrorKind::NotFound, "etcd knows nothing of this lease"),
        EtcdError::WatchError(_) | EtcdError::Internal(_) => (ErrorKind::Unavailable, "the stream to etcd broke"),
        _ => (ErrorKind::Unknown, "etcd's client failed"),
    };
    Error::new(kind, operation, message).with_source(error)
}

/// What etcd answers whom it knew, or let in without a name, before its users or roles changed or
/// authentication was switched on or off. Source: etcd's `rpctypes`, and `auth` for those that 3.4 hands
/// out as they are.
const OF_OTHER_USERS: [&str; 5] =
    ["user name is empty", "invalid auth token", OLD_REVISION, OLD_HEADER, "authentication is not enabled"];
const OLD_REVISION: &str = "revision of auth store is old";
const OLD_HEADER: &str = "revision in header is old";

/// Whether a user of etcd's may be let in who authenticates anew.
pub(crate) fn is_of_other_users(error: &EtcdError) -> bool {
    matches!(error, EtcdError::GRpcStatus(status)
        if OF_OTHER_USERS.iter().any(|text| status.message().contains(text)))
}

const NO_CONNECTION: (ErrorKind, &str) =
    (ErrorKind::Unavailable, "no etcd server answers: start one there, or correct the address");
const WRONG_USER: (ErrorKind, &str) =
    (ErrorKind::Unauthenticated, "etcd does not know this user with this password: correct them");
const NO_USER: (ErrorKind, &str) = (
    ErrorKind::Unauthenticated,
    "etcd asks for a user: name one as etcd://user:password@… or in ETCD_USERNAME and ETCD_PASSWORD",
);

/// By the codes of gRPC; the texts are those of etcd's `rpctypes`, which gives several of its errors one
/// code.
fn classify(code: u32, text: &str) -> (ErrorKind, &'static str) {
    match code {
        _ if text.contains("user name is empty") => NO_USER,
        _ if text.contains("authentication failed") || text.contains("invalid auth token") => WRONG_USER,
        _ if text.contains(OLD_REVISION) || text.contains(OLD_HEADER) => {
            (ErrorKind::Aborted, "etcd's users or roles changed meanwhile")
        }
        _ if text.contains("requested lease not found") => (ErrorKind::NotFound, "etcd knows nothing of this lease"),
        _ if text.contains("required revision has been compacted") => {
            (ErrorKind::OutOfRange, "etcd has forgotten the revision")
        }
        // So a connection is told that ends before an answer; nobody cancels a request here.
        1 => NO_CONNECTION,
        3 => (ErrorKind::InvalidArgument, "etcd refused the request"),
        4 => (ErrorKind::DeadlineExceeded, "etcd did not answer in time"),
        5 => (ErrorKind::NotFound, "etcd knows nothing of this name"),
        7 => (ErrorKind::PermissionDenied, "the user's roles do not allow this: grant them the keys' prefix"),
        8 => (ErrorKind::ResourceExhausted, "a limit of etcd is reached: its space, or the size of a request"),
        9 => (ErrorKind::FailedPrecondition, "etcd cannot do this as it is set up"),
        11 => (ErrorKind::OutOfRange, "the answer is too large, or of a revision that is not there"),
        12 => (ErrorKind::Unimplemented, "the server speaks gRPC and is no etcd, or too old: 3.4 is needed"),
        // etcd has no leader, or is overloaded, or the connection broke.
        14 => (ErrorKind::Unavailable, "etcd could not do it now, or is not there"),
        16 => WRONG_USER,
        // So a connection is told that ends during a request.
        2 | 13 if text.contains("transport error") || text.contains("h2 protocol error") => NO_CONNECTION,
        _ => (ErrorKind::Unknown, "not an answer of etcd's: is there another server at this address?"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_and_text_has_its_kind() {
        for (code, text, kind) in [
            (1, "operation was canceled", ErrorKind::Unavailable),
            (2, "", ErrorKind::Unknown),
            (2, "transport error", ErrorKind::Unavailable),
            (3, "etcdserver: key is not provided", ErrorKind::InvalidArgument),
            (3, "etcdserver: user name is empty", ErrorKind::Unauthenticated),
            (3, "etcdserver: authentication failed, invalid user ID or password", ErrorKind::Unauthenticated),
            (3, "etcdserver: revision of auth store is old", ErrorKind::Aborted),
            (2, "auth: revision in header is old", ErrorKind::Aborted),
            (4, "etcdserver: request timed out", ErrorKind::DeadlineExceeded),
            (5, "etcdserver: requested lease not found", ErrorKind::NotFound),
            (5, "", ErrorKind::NotFound),
            (7, "etcdserver: permission denied", ErrorKind::PermissionDenied),
            (8, "etcdserver: mvcc: database space exceeded", ErrorKind::ResourceExhausted),
            (9, "etcdserver: authentication is not enabled", ErrorKind::FailedPrecondition),
            (11, "etcdserver: mvcc: required revision has been compacted", ErrorKind::OutOfRange),
            (11, "", ErrorKind::OutOfRange),
            (12, "", ErrorKind::Unimplemented),
            (13, "h2 protocol error: error reading a body from connection", ErrorKind::Unavailable),
            (13, "", ErrorKind::Unknown),
            (14, "etcdserver: no leader", ErrorKind::Unavailable),
            (16, "etcdserver: invalid auth token", ErrorKind::Unauthenticated),
            (10, "", ErrorKind::Unknown),
        ] {
            assert_eq!(classify(code, text).0, kind, "{code} {text}");
        }
    }

    #[test]
    fn every_error_of_the_client_has_its_kind() {
        for (error, kind) in [
            (EtcdError::InvalidArgs("a".into()), ErrorKind::InvalidArgument),
            (EtcdError::IoError(std::io::ErrorKind::ConnectionReset.into()), ErrorKind::Unavailable),
            (EtcdError::EndpointError("a".into()), ErrorKind::Unavailable),
            (EtcdError::LeaseKeepAliveError("lease not found".into()), ErrorKind::NotFound),
            (EtcdError::WatchError("a".into()), ErrorKind::Unavailable),
            (EtcdError::Internal("a".into()), ErrorKind::Unavailable),
            (EtcdError::ElectError("a".into()), ErrorKind::Unknown),
        ] {
            let error = from_etcd("registry.watch", error);
            assert_eq!(error.kind(), kind, "{error:?}");
        }
    }
}
