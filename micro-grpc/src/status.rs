//! `Error ↔ Status`, in one place: the kinds are gRPC's codes, the text is the error's one line.

use std::error::Error as StdError;

use micro_core::{Error, ErrorKind};
use tonic::{Code, Status};

use crate::go_micro::{GoMicroError, understood};

/// The longest text of a status, in bytes. Percent-encoded it may be three times as long, and clients of
/// gRPC in Java and C take 8 KiB of headers.
const TEXT_BYTES_MAX: usize = 2 << 10;

/// Stands at the end of a text that was cut.
const CUT: &str = " …";

/// What a caller is told of an error: its code, and `operation: message (context)`.
///
/// Causes stay here: they are for logs. Of `Internal` and `Unknown` errors the context stays here
/// too, and the whole report is logged, for these are faults and not answers. A text of more than 2 KiB
/// is cut, and ends in ` …` then: clients lose an answer with long headers.
///
/// # Examples
///
/// ```
/// use micro_core::{Error, ErrorKind};
///
/// let error = Error::new(ErrorKind::NotFound, "orders.find", "no order has this id").with_context("id", 7);
/// let status = micro_grpc::to_status(error);
/// assert_eq!(status.code(), tonic::Code::NotFound);
/// assert_eq!(status.message(), "orders.find: no order has this id (id=7)");
/// ```
pub fn to_status(error: Error) -> Status {
    let code = Code::from_i32(error.kind().code().into());
    let text = match error.kind() {
        ErrorKind::Internal | ErrorKind::Unknown => {
            tracing::error!(error = %error.report(), kind = %error.kind(), "answering a fault");
            format!("{}: {}", error.operation(), error.message())
        }
        _ => error.to_string(),
    };
    Status::new(code, cut(text))
}

fn cut(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX - CUT.len()));
        text.push_str(CUT);
    }
    text
}

/// What a status means to the caller of `operation`: the same kind, and the server's text as the
/// message. Of the transport's own errors the text is kept as the cause.
///
/// What go-micro v4's servers say is understood in each of its forms: its error as a detail of the
/// status or as JSON in the message, and a status that it flattened to `UNKNOWN` and `rpc error: code =
/// NotFound desc = …`. Its error's detail is the message then; its id is kept as the context `id`, its
/// number as `code` where no kind says it.
///
/// # Examples
///
/// ```
/// use micro_core::ErrorKind;
/// use tonic::Status;
///
/// let error = micro_grpc::from_status("product.deduct", Status::unavailable("draining"));
/// assert_eq!(error.kind(), ErrorKind::Unavailable);
/// assert_eq!(error.to_string(), "product.deduct: draining");
///
/// let of_go_micro = Status::unknown("rpc error: code = Aborted desc = the order is locked");
/// let error = micro_grpc::from_status("order.pay_notify", of_go_micro);
/// assert_eq!(error.kind(), ErrorKind::Aborted);
/// assert_eq!(error.to_string(), "order.pay_notify: the order is locked");
/// ```
pub fn from_status(operation: &'static str, status: Status) -> Error {
    if let Some((code, message, go_micro)) = understood(&status) {
        return of_go_micro(operation, code, message, go_micro);
    }
    let kind = kind(status.code());
    let message = match status.message() {
        "" => status.code().description().to_lowercase(),
        message => message.to_owned(),
    };
    let error = Error::new(kind, operation, message);
    match status.source().map(ToString::to_string) {
        Some(cause) if cause != error.message() => error.with_source(cause),
        _ => error,
    }
}

fn of_go_micro(operation: &'static str, code: Code, message: String, go_micro: Option<GoMicroError>) -> Error {
    let error = Error::new(kind(code), operation, message);
    let Some(go_micro) = go_micro else { return error };
    let error = if go_micro.id.is_empty() { error } else { error.with_context("id", &go_micro.id) };
    if go_micro.grpc_code() == code { error } else { error.with_context("code", go_micro.code) }
}

/// Any error of a layer or of a body, as a status: an [`Error`] or a [`Status`] in the chain counts,
/// anything else is `Internal`.
pub(crate) fn status_of(error: Box<dyn StdError + Send + Sync>) -> Status {
    let error = match error.downcast::<Status>() {
        Ok(status) => return *status,
        Err(error) => error,
    };
    let error = match error.downcast::<Error>() {
        Ok(error) => return to_status(*error),
        Err(error) => error,
    };
    Status::try_from_error(error).unwrap_or_else(|error| {
        to_status(Error::new(ErrorKind::Internal, "grpc.layer", "a layer ended the call").with_source(error))
    })
}

fn kind(code: Code) -> ErrorKind {
    // A status that is an error and yet says Ok breaks gRPC's rules.
    ErrorKind::from_code(code as u32).unwrap_or(ErrorKind::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: [(ErrorKind, Code); 16] = [
        (ErrorKind::Cancelled, Code::Cancelled),
        (ErrorKind::Unknown, Code::Unknown),
        (ErrorKind::InvalidArgument, Code::InvalidArgument),
        (ErrorKind::DeadlineExceeded, Code::DeadlineExceeded),
        (ErrorKind::NotFound, Code::NotFound),
        (ErrorKind::AlreadyExists, Code::AlreadyExists),
        (ErrorKind::PermissionDenied, Code::PermissionDenied),
        (ErrorKind::ResourceExhausted, Code::ResourceExhausted),
        (ErrorKind::FailedPrecondition, Code::FailedPrecondition),
        (ErrorKind::Aborted, Code::Aborted),
        (ErrorKind::OutOfRange, Code::OutOfRange),
        (ErrorKind::Unimplemented, Code::Unimplemented),
        (ErrorKind::Internal, Code::Internal),
        (ErrorKind::Unavailable, Code::Unavailable),
        (ErrorKind::DataLoss, Code::DataLoss),
        (ErrorKind::Unauthenticated, Code::Unauthenticated),
    ];

    #[test]
    fn every_kind_has_its_code_and_comes_back() {
        assert_eq!(TABLE.map(|(kind, _)| kind), ErrorKind::ALL);
        for (kind, code) in TABLE {
            let status = to_status(Error::new(kind, "orders.find", "not so"));
            assert_eq!(status.code(), code);
            assert_eq!(from_status("orders.find", status).kind(), kind);
        }
    }

    #[test]
    fn causes_stay_at_home() {
        for kind in ErrorKind::ALL {
            let error = Error::new(kind, "orders.find", "not so").with_source("password=hunter2");
            assert!(!format!("{:?}", to_status(error)).contains("hunter2"), "{kind}");
        }
    }

    #[test]
    fn context_of_a_fault_stays_at_home_and_that_of_an_answer_does_not() {
        let error = |kind| Error::new(kind, "orders.find", "not so").with_context("table", "orders");
        assert_eq!(to_status(error(ErrorKind::Internal)).message(), "orders.find: not so");
        assert_eq!(to_status(error(ErrorKind::Unknown)).message(), "orders.find: not so");
        assert_eq!(to_status(error(ErrorKind::Aborted)).message(), "orders.find: not so (table=orders)");
    }

    #[test]
    fn a_long_text_is_cut_at_a_characters_end() {
        let told = |text: String| {
            to_status(Error::new(ErrorKind::NotFound, "a.b", text)).message().trim_start_matches("a.b: ").to_owned()
        };
        let fits = "x".repeat(TEXT_BYTES_MAX - "a.b: ".len());
        assert_eq!(told(fits.clone()), fits);
        for letter in ["x", "é", "库", "🦀"] {
            let cut = told(letter.repeat(TEXT_BYTES_MAX));
            let kept = cut.strip_suffix(CUT).unwrap();
            let bytes = "a.b: ".len() + cut.len();
            assert!(bytes <= TEXT_BYTES_MAX && bytes + letter.len() > TEXT_BYTES_MAX, "{letter}: {bytes}");
            assert_eq!(kept, letter.repeat(kept.len() / letter.len()));
        }
    }

    #[test]
    fn a_layers_refusal_keeps_its_kind_and_a_strangers_error_is_internal() {
        let refusal = Error::new(ErrorKind::ResourceExhausted, "grpc.limit", "full");
        assert_eq!(status_of(Box::new(refusal)).code(), Code::ResourceExhausted);
        assert_eq!(status_of(Box::new(Status::aborted("again"))).code(), Code::Aborted);
        assert_eq!(status_of("odd".into()).code(), Code::Internal);
    }
}
