//! The text in which Go prints a gRPC status: `rpc error: code = NotFound desc = no such order`.
//!
//! go-micro v4 sends it for a status that a handler returned, with the code `UNKNOWN`.

use tonic::Code;

const BEGIN: &str = "rpc error: code = ";
const MIDDLE: &str = " desc = ";

/// A text that went from server to server is wrapped once by each; more than this is nobody's.
const WRAPPINGS_MAX: usize = 8;

/// Go's names. Source: `codes.Code.String` of grpc-go.
const NAMES: [(Code, &str); 17] = [
    (Code::Ok, "OK"),
    (Code::Cancelled, "Canceled"),
    (Code::Unknown, "Unknown"),
    (Code::InvalidArgument, "InvalidArgument"),
    (Code::DeadlineExceeded, "DeadlineExceeded"),
    (Code::NotFound, "NotFound"),
    (Code::AlreadyExists, "AlreadyExists"),
    (Code::PermissionDenied, "PermissionDenied"),
    (Code::ResourceExhausted, "ResourceExhausted"),
    (Code::FailedPrecondition, "FailedPrecondition"),
    (Code::Aborted, "Aborted"),
    (Code::OutOfRange, "OutOfRange"),
    (Code::Unimplemented, "Unimplemented"),
    (Code::Internal, "Internal"),
    (Code::Unavailable, "Unavailable"),
    (Code::DataLoss, "DataLoss"),
    (Code::Unauthenticated, "Unauthenticated"),
];

/// The text of a status.
pub(super) fn flattened(code: Code, message: &str) -> String {
    let name = NAMES[code as usize].1;
    format!("{BEGIN}{name}{MIDDLE}{message}")
}

/// The code and the message in such a text, the innermost where it was wrapped several times;
/// `None` for any other text.
pub fn unflattened(text: &str) -> Option<(Code, &str)> {
    let mut found = None;
    let mut rest = text;
    for _ in 0..WRAPPINGS_MAX {
        let Some((code, message)) = unwrapped(rest) else { break };
        found = Some((code, message));
        if code != Code::Unknown {
            break;
        }
        rest = message;
    }
    found
}

fn unwrapped(text: &str) -> Option<(Code, &str)> {
    let (name, message) = text.strip_prefix(BEGIN)?.split_once(MIDDLE)?;
    let (code, _) = NAMES.iter().find(|(_, known)| *known == name)?;
    // A status that is an error and yet says OK breaks gRPC's rules.
    Some((if *code == Code::Ok { Code::Unknown } else { *code }, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_gos_name_and_is_read_back() {
        for (index, (code, name)) in NAMES.into_iter().enumerate() {
            assert_eq!(code as usize, index);
            let text = flattened(code, "no such order");
            assert_eq!(text, format!("rpc error: code = {name} desc = no such order"));
            let read = if code == Code::Ok { Code::Unknown } else { code };
            assert_eq!(unflattened(&text), Some((read, "no such order")));
        }
    }

    #[test]
    fn a_status_that_passed_several_servers_is_the_first_ones() {
        let text =
            "rpc error: code = Unknown desc = rpc error: code = Unknown desc = rpc error: code = Aborted desc = a";
        assert_eq!(unflattened(text), Some((Code::Aborted, "a")));
        let plain = "rpc error: code = Unknown desc = out of cheese";
        assert_eq!(unflattened(plain), Some((Code::Unknown, "out of cheese")));
        let quoted = "rpc error: code = NotFound desc = rpc error: code = Aborted desc = a";
        assert_eq!(unflattened(quoted), Some((Code::NotFound, "rpc error: code = Aborted desc = a")));
    }

    #[test]
    fn other_texts_are_left_alone() {
        for text in ["", "no such order", "rpc error: code = ", "rpc error: code = Teapot desc = x", "rpc error: x"] {
            assert_eq!(unflattened(text), None, "{text}");
        }
    }
}
