//! What go-micro v4 sends for a request whose body cannot be decoded: grpc-go's own refusal, with its
//! code, for it never came to a handler.

use tonic::{Code, Status};

/// What grpc-go says before the reason, and what this crate says of JSON.
const GOS: &str = "grpc: failed to unmarshal the received message: ";
/// What prost says before the reason.
const PROSTS: &str = "failed to decode Protobuf message: ";
/// What tonic says of a call without a message.
const MISSING: &str = "Missing request message.";
/// What tonic and this crate say of frames that are none.
const MALFORMED: [&str; 4] = [
    "protocol error: received message with ",
    "Error decompressing: ",
    "Unexpected EOF decoding stream.",
    "the body ends within a message",
];

/// Go's status for one that tonic, or a body of this crate, refused a request's message with; `None` for
/// any other.
///
/// They are known by their texts: tonic answers with them in the handler's place, and nothing else tells
/// the two apart. The test `what_cannot_be_decoded_is_refused_as_gos_server_refuses_it` sees each of them.
pub(super) fn as_go_refuses(status: &Status) -> Option<Status> {
    let message = status.message();
    match status.code() {
        Code::Internal if message.starts_with(GOS) => Some(Status::internal(message)),
        Code::Internal if message == MISSING => Some(Status::unknown("EOF")),
        Code::Internal if MALFORMED.iter().any(|known| message.starts_with(known)) => Some(Status::internal(message)),
        Code::Internal => message.strip_prefix(PROSTS).map(|reason| Status::internal(format!("{GOS}{reason}"))),
        Code::OutOfRange => too_long(message),
        _ => None,
    }
}

/// `the message has 5 bytes, the limit is 4`, as this crate's bodies say it before tonic looks.
fn too_long(message: &str) -> Option<Status> {
    let (found, limit) = message.strip_prefix("the message has ")?.split_once(" bytes, the limit is ")?;
    Some(Status::resource_exhausted(format!("grpc: received message larger than max ({found} vs. {limit})")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_handler_says_is_left_alone() {
        for status in [
            Status::internal("the database is away"),
            Status::internal("failed to decode"),
            Status::out_of_range("the message has 5 bytes"),
            Status::not_found("Missing request message."),
        ] {
            assert!(as_go_refuses(&status).is_none(), "{status:?}");
        }
    }
}
