//! go-micro's error: its JSON, its message, and one table between its codes and gRPC's.

use http::StatusCode;
use prost::Message;
use prost_types::Any;
use serde::{Deserialize, Deserializer, Serialize};
use tonic::{Code, Status};

use super::status_text::unflattened;

/// The name of go-micro's error message in an `Any`.
const TYPE_URL: &str = "type.googleapis.com/errors.Error";
const TYPE_NAME: &str = "errors.Error";

/// The longest detail that is sent as a status detail as well. A longer one stands in the message
/// alone, where Go's clients look next: three copies would pass the callee's limit of headers.
const DETAIL_BYTES_MAX: usize = 2 << 10;

/// go-micro's numbers, which are HTTP's, beside gRPC's codes. Source: `microError` of the plugin
/// `server/grpc`; `microStatusFromGrpcCode` of `client/grpc` is its reverse.
const CODES: [(i32, Code); 10] = [
    (400, Code::InvalidArgument),
    (401, Code::Unauthenticated),
    (403, Code::PermissionDenied),
    (404, Code::NotFound),
    (408, Code::DeadlineExceeded),
    (409, Code::AlreadyExists),
    (412, Code::FailedPrecondition),
    (500, Code::Internal),
    (501, Code::Unimplemented),
    (503, Code::Unavailable),
];

/// An error of go-micro v4.
///
/// A handler that must answer with one of its own id or number returns it as a [`Status`]; others
/// return any status, which a server that speaks go-micro's gRPC dresses itself.
///
/// # Examples
///
/// ```
/// let error = micro_grpc::GoMicroError::new("go.micro.service.order", 412, "the order is not paid");
/// let status = tonic::Status::from(error);
/// assert_eq!(status.code(), tonic::Code::FailedPrecondition);
/// assert!(status.message().starts_with(r#"{"id":"go.micro.service.order","code":412,"#));
/// ```
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct GoMicroError {
    /// Who it comes from: by custom the name of a service.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub id: String,
    /// A number of HTTP's kind; 0 is none.
    #[prost(int32, tag = "2")]
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_is_default")]
    pub code: i32,
    /// What went wrong.
    #[prost(string, tag = "3")]
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub detail: String,
    /// HTTP's text for the number.
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub status: String,
}

impl GoMicroError {
    /// An error of this number, with HTTP's text for it.
    pub fn new(id: impl Into<String>, code: i32, detail: impl Into<String>) -> Self {
        let known = u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok());
        let status = known.and_then(|status| status.canonical_reason()).unwrap_or_default();
        Self { id: id.into(), code, detail: detail.into(), status: status.to_owned() }
    }

    /// The error that a gRPC status of `code` is to go-micro.
    pub(super) fn of_code(id: &str, code: Code, detail: &str) -> Self {
        let number = CODES.iter().find(|(_, known)| *known == code).map_or(500, |(number, _)| *number);
        Self::new(id, number, detail)
    }

    /// gRPC's code for the error's number; `UNKNOWN` for one that is not in the table.
    pub fn grpc_code(&self) -> Code {
        CODES.iter().find(|(number, _)| *number == self.code).map_or(Code::Unknown, |(_, code)| *code)
    }

    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("texts and a number are JSON")
    }

    /// The status that says this error with the code `code`, before details of its sender's own.
    pub(super) fn to_status(&self, code: Code, further: Vec<Any>) -> Status {
        let message = self.to_json();
        if self.detail.len() > DETAIL_BYTES_MAX {
            return Status::new(code, message);
        }
        // Go's clients read the first detail alone, and end with a panic where it is another one.
        let first = Any { type_url: TYPE_URL.to_owned(), value: self.encode_to_vec() };
        with_details(code, message, [vec![first], further].concat())
    }
}

impl From<GoMicroError> for Status {
    fn from(error: GoMicroError) -> Self {
        let code = error.grpc_code();
        error.to_status(code, Vec::new())
    }
}

fn is_zero(code: &i32) -> bool {
    *code == 0
}

fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// `google.rpc.Status`, which `grpc-status-details-bin` holds.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// A status with details, as gRPC's richer error model has it.
pub(super) fn with_details(code: Code, message: String, details: Vec<Any>) -> Status {
    let status = RpcStatus { code: code as i32, message: message.clone(), details };
    Status::with_details(code, message, status.encode_to_vec().into())
}

/// The details of a status; none where they are not what gRPC says they are.
pub(super) fn details_of(status: &Status) -> Vec<Any> {
    RpcStatus::decode(status.details()).map(|status| status.details).unwrap_or_default()
}

/// go-micro's error in a detail.
pub(super) fn in_detail(detail: &Any) -> Option<GoMicroError> {
    let name = detail.type_url.rsplit('/').next()?;
    (name == TYPE_NAME).then(|| GoMicroError::decode(detail.value.as_slice()).ok())?
}

/// go-micro's error in a text, as its clients look for it.
pub(super) fn in_text(text: &str) -> Option<GoMicroError> {
    // Nearly every text is none: this spares the parser.
    if !text.starts_with('{') {
        return None;
    }
    serde_json::from_str(text).ok().filter(|error: &GoMicroError| error.code > 0)
}

/// The status of a failure that a go-micro server told as a text alone. Go's errors of a context have
/// the codes that they have in gRPC.
pub(crate) fn error_of_text(text: &str) -> Status {
    match text {
        "context deadline exceeded" => Status::deadline_exceeded(text),
        "context canceled" => Status::cancelled(text),
        _ => in_text(text).map_or_else(|| Status::unknown(text), Status::from),
    }
}

/// go-micro's error in a status's message and details, whatever they hold.
#[doc(hidden)]
pub fn decode(message: &str, details: &[u8]) -> Option<GoMicroError> {
    let status = RpcStatus::decode(details).unwrap_or_default();
    status.details.iter().find_map(in_detail).or_else(|| in_text(message))
}

/// What a status of a go-micro server means: code, text, and the error where there was one; `None`
/// for a status that says all there is to say.
pub(crate) fn understood(status: &Status) -> Option<(Code, String, Option<GoMicroError>)> {
    let Some(error) = decode(status.message(), status.details()) else {
        let (code, message) = unflattened(status.message()).filter(|_| status.code() == Code::Unknown)?;
        return Some((code, message.to_owned(), None));
    };
    // A status has sixteen codes and go-micro's number ten: what the status says is more, if anything.
    let code = if status.code() == Code::Unknown { error.grpc_code() } else { status.code() };
    // An error that go-micro's client made of a flattened status and a handler passed on.
    let passed_on = unflattened(&error.detail).filter(|_| matches!(code, Code::Internal | Code::Unknown));
    let (code, detail) = passed_on.unwrap_or((code, &error.detail));
    let text = [detail, &error.status, status.message()].into_iter().find(|text| !text.is_empty()).unwrap_or_default();
    Some((code, text.to_owned(), Some(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_of_others_keeps_its_text_and_an_error_without_detail_has_one() {
        let foreign = r#"{"code":5,"message":"no such order"}"#;
        let (code, text, _) = understood(&Status::not_found(foreign)).unwrap();
        assert_eq!((code, &*text), (Code::NotFound, foreign));
        let bare = r#"{"id":"go.micro.server","code":404,"status":"Not Found"}"#;
        let (code, text, _) = understood(&Status::unknown(bare)).unwrap();
        assert_eq!((code, &*text), (Code::NotFound, "Not Found"));
        let (_, text, _) = understood(&Status::unknown(r#"{"id":"a","code":404}"#)).unwrap();
        assert_eq!(text, r#"{"id":"a","code":404}"#);
    }

    #[test]
    fn the_table_has_a_row_for_each_number_and_an_answer_for_any_other() {
        for (number, code) in CODES {
            let error = GoMicroError::new("s", number, "d");
            assert_eq!(error.grpc_code(), code);
            assert_eq!(Status::from(error.clone()).code(), code);
            assert_eq!(GoMicroError::of_code("s", code, "d"), error);
            assert!(!error.status.is_empty(), "{number}");
        }
        for number in [200, 418, 0, -1, 70_000] {
            assert_eq!(GoMicroError::new("s", number, "d").grpc_code(), Code::Unknown, "{number}");
        }
        for code in
            [Code::Cancelled, Code::Unknown, Code::ResourceExhausted, Code::Aborted, Code::OutOfRange, Code::DataLoss]
        {
            assert_eq!(GoMicroError::of_code("s", code, "d").code, 500, "{code:?}");
        }
    }

    #[test]
    fn the_json_is_gos() {
        let error = GoMicroError::new("go.micro.service.greeter", 404, "no such \"thing\"");
        let text = r#"{"id":"go.micro.service.greeter","code":404,"detail":"no such \"thing\"","status":"Not Found"}"#;
        assert_eq!(error.to_json(), text);
        assert_eq!(in_text(text), Some(error));
        assert_eq!(GoMicroError::default().to_json(), "{}");
        let sparse = in_text(r#"{"code":409,"id":null,"extra":1}"#).unwrap();
        assert_eq!((sparse.code, sparse.id.as_str()), (409, ""));
        for text in ["", "no", "{}", r#"{"code":0}"#, r#"{"code":-3}"#, r#"{"code":"404"}"#, r#"{"code":404"#, "[404]"]
        {
            assert_eq!(in_text(text), None, "{text}");
        }
    }

    #[test]
    fn a_long_detail_stands_in_the_message_alone() {
        let status = Status::from(GoMicroError::new("s", 404, "x".repeat(DETAIL_BYTES_MAX + 1)));
        assert!(status.details().is_empty() && in_text(status.message()).is_some());
        let status = Status::from(GoMicroError::new("s", 404, "x".repeat(DETAIL_BYTES_MAX)));
        assert_eq!(details_of(&status).len(), 1);
    }

    #[test]
    fn each_form_of_a_failure_is_understood() {
        let error = GoMicroError::new("s", 404, "d");
        let as_detail = Status::from(error.clone());
        let as_text = Status::new(Code::NotFound, error.to_json());
        for status in [as_detail, as_text] {
            assert_eq!(understood(&status), Some((Code::NotFound, "d".to_owned(), Some(error.clone()))));
        }
        // A number without a code of its own stays unknown; a code without a number is kept.
        let teapot = GoMicroError::new("s", 418, "d");
        assert_eq!(understood(&Status::from(teapot.clone())), Some((Code::Unknown, "d".to_owned(), Some(teapot))));
        let aborted = GoMicroError::of_code("s", Code::Aborted, "d").to_status(Code::Aborted, Vec::new());
        assert_eq!(understood(&aborted).unwrap().0, Code::Aborted);
        let unsupported = Status::unknown(GoMicroError::new("s", 500, "d").to_json());
        assert_eq!(understood(&unsupported).unwrap().0, Code::Internal);
        let flattened = Status::unknown("rpc error: code = Aborted desc = locked");
        assert_eq!(understood(&flattened), Some((Code::Aborted, "locked".to_owned(), None)));
        let passed_on = GoMicroError::new("go.micro.client", 500, flattened.message());
        let (code, message, kept) = understood(&Status::from(passed_on)).unwrap();
        assert_eq!((code, message.as_str(), kept.unwrap().id.as_str()), (Code::Aborted, "locked", "go.micro.client"));
        for plain in [Status::unknown("no such thing"), Status::internal("rpc error: code = Aborted desc = x")] {
            assert_eq!(understood(&plain), None);
        }
    }
}
