//! The one table from Redis's answers and its client's errors to [`ErrorKind`].

use micro_core::{Error, ErrorKind};
use redis::{ErrorKind as Redis, RedisError, ServerErrorKind as Server};

/// What Redis or its client failed with, as an error of ours with the address.
pub(crate) fn from_redis(operation: &'static str, address: &str, error: RedisError) -> Error {
    let (kind, message) = match classify(&error) {
        LATE if operation == CONNECT => LATE_TO_CONNECT,
        told => told,
    };
    told(kind, operation, message, address).with_source(error)
}

/// No answer came in time.
pub(crate) fn late(operation: &'static str, address: &str) -> Error {
    let (kind, message) = if operation == CONNECT { LATE_TO_CONNECT } else { LATE };
    told(kind, operation, message, address)
}

fn told(kind: ErrorKind, operation: &'static str, message: &'static str, address: &str) -> Error {
    Error::new(kind, operation, message).with_context("backend", "redis").with_context("address", address)
}

/// The operation in which nothing was asked yet.
pub(crate) const CONNECT: &str = "redis.connect";

const LATE_TO_CONNECT: (ErrorKind, &str) = (
    ErrorKind::DeadlineExceeded,
    "no Redis answered in time: is it there, and does this port speak what the URL says, TLS for rediss:// alone?",
);
const LATE: (ErrorKind, &str) =
    (ErrorKind::DeadlineExceeded, "Redis did not answer in time: it may have done it, and will know when asked again");
const NO_CONNECTION: (ErrorKind, &str) =
    (ErrorKind::Unavailable, "no Redis answers: start one there, or correct the address");
#[cfg(feature = "tls")]
const NO_TLS: (ErrorKind, &str) = (
    ErrorKind::Unavailable,
    "no TLS with Redis: check ca_file, that the server's certificate is for this host and its port speaks TLS, and the \
     client's own certificate where the server asks for one",
);
const NOT_NOW: (ErrorKind, &str) = (ErrorKind::Unavailable, "Redis cannot do it now");
const WRONG_USER: (ErrorKind, &str) =
    (ErrorKind::Unauthenticated, "Redis wants a user and password that it knows: redis://user:password@…");

fn classify(error: &RedisError) -> (ErrorKind, &'static str) {
    match error.kind() {
        _ if error.is_timeout() => LATE,
        #[cfg(feature = "tls")]
        Redis::Io if is_of_tls(error) => NO_TLS,
        Redis::Io => NO_CONNECTION,
        Redis::AuthenticationFailed => WRONG_USER,
        Redis::InvalidClientConfig => (ErrorKind::InvalidArgument, "the settings make no connection"),
        Redis::Server(server) => by_server(server, error),
        _ => by_code(error),
    }
}

/// Whether both sides were there, and did not come to terms.
#[cfg(feature = "tls")]
fn is_of_tls(error: &RedisError) -> bool {
    use std::{error::Error, io, sync::Arc};

    // As the client wraps it.
    let cause = error.source().and_then(|cause| cause.downcast_ref::<Arc<dyn Error + Send + Sync>>());
    let cause = cause.and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.and_then(io::Error::get_ref).is_some_and(|cause| cause.is::<rustls::Error>())
}

fn by_server(server: Server, error: &RedisError) -> (ErrorKind, &'static str) {
    match server {
        Server::NoPerm => (ErrorKind::PermissionDenied, "the user's rights do not allow this: EVALSHA, EVAL, the keys"),
        Server::CrossSlot => (
            ErrorKind::InvalidArgument,
            "the barrier's keys and the integer are in different slots of the cluster: put one hash tag, {A-17} say, \
             into the global id and into the key",
        ),
        Server::Moved | Server::Ask => (
            ErrorKind::Unavailable,
            "another server of the cluster has this key: one is spoken to, name that one or a proxy",
        ),
        Server::BusyLoading | Server::TryAgain | Server::ClusterDown | Server::MasterDown | Server::ReadOnly => NOT_NOW,
        _ => by_code(error),
    }
}

/// What the client does not tell apart: by Redis's own words.
fn by_code(error: &RedisError) -> (ErrorKind, &'static str) {
    let detail = error.detail().unwrap_or_default();
    match error.code().unwrap_or_default() {
        "NOAUTH" | "WRONGPASS" => WRONG_USER,
        "OOM" => (ErrorKind::ResourceExhausted, "Redis has no memory left for a key: raise maxmemory"),
        "MISCONF" | "NOREPLICAS" | "BUSY" => NOT_NOW,
        "WRONGTYPE" => NO_INTEGER,
        _ if detail.contains("not an integer") || detail.contains("would overflow") => NO_INTEGER,
        _ if detail.contains("WRONGTYPE") => NO_INTEGER,
        _ => (ErrorKind::Unknown, "not an answer that is known of Redis: is there another server at this address?"),
    }
}

const NO_INTEGER: (ErrorKind, &str) =
    (ErrorKind::FailedPrecondition, "the key has no integer of 64 bits, or would have none any more");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_its_kind() {
        for (code, detail, kind) in [
            ("NOAUTH", "Authentication required.", ErrorKind::Unauthenticated),
            ("WRONGPASS", "invalid username-password pair", ErrorKind::Unauthenticated),
            ("OOM", "command not allowed when used memory > 'maxmemory'.", ErrorKind::ResourceExhausted),
            ("MISCONF", "Errors writing to the AOF file", ErrorKind::Unavailable),
            ("NOREPLICAS", "Not enough good replicas to write.", ErrorKind::Unavailable),
            ("BUSY", "Redis is busy running a script.", ErrorKind::Unavailable),
            ("WRONGTYPE", "Operation against a key holding the wrong kind of value", ErrorKind::FailedPrecondition),
            ("HTTP/1.1", "400 Bad Request", ErrorKind::Unknown),
        ] {
            let error = redis::make_extension_error(code.to_owned(), Some(detail.to_owned()));
            let error = from_redis("barrier.adjust", "h:1", error);
            assert_eq!(error.kind(), kind, "{code}");
            assert!(error.to_string().contains("backend=redis, address=h:1"), "{error}");
        }
    }

    #[test]
    fn every_error_of_the_client_has_its_kind() {
        for (given, kind) in [
            (Redis::Io, ErrorKind::Unavailable),
            (Redis::AuthenticationFailed, ErrorKind::Unauthenticated),
            (Redis::InvalidClientConfig, ErrorKind::InvalidArgument),
            (Redis::Parse, ErrorKind::Unknown),
            (Redis::Server(Server::NoPerm), ErrorKind::PermissionDenied),
            (Redis::Server(Server::CrossSlot), ErrorKind::InvalidArgument),
            (Redis::Server(Server::Moved), ErrorKind::Unavailable),
            (Redis::Server(Server::Ask), ErrorKind::Unavailable),
            (Redis::Server(Server::BusyLoading), ErrorKind::Unavailable),
            (Redis::Server(Server::TryAgain), ErrorKind::Unavailable),
            (Redis::Server(Server::ClusterDown), ErrorKind::Unavailable),
            (Redis::Server(Server::MasterDown), ErrorKind::Unavailable),
            (Redis::Server(Server::ReadOnly), ErrorKind::Unavailable),
            (Redis::Server(Server::ResponseError), ErrorKind::Unknown),
        ] {
            let error = from_redis("barrier.adjust", "h:1", (given, "told").into());
            assert_eq!(error.kind(), kind, "{given:?}");
        }
        let late = from_redis("barrier.adjust", "h:1", std::io::Error::from(std::io::ErrorKind::TimedOut).into());
        assert_eq!(late.kind(), ErrorKind::DeadlineExceeded);
    }
}
