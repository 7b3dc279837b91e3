//! The one table from what DTM answers, and what does not answer, to [`ErrorKind`].

use micro_core::{
    Error, ErrorKind,
    branch::{JSON_RPC_FAILURE, JSON_RPC_ONGOING, without_accounts},
};

/// How much of DTM's text stands in an error.
const SHOWN_CHARS: usize = 1100;

/// Why a request to DTM came to nothing.
#[derive(Debug)]
pub(crate) enum Failed {
    /// DTM said no.
    Refused(Refusal),
    /// DTM was not reached, or did not answer; the error names its address.
    Unanswered(Error),
}

/// DTM's no, by any of its APIs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) text: String,
    pub(crate) address: String,
}

/// The status of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Grpc(i32),
    Http(u16),
    JsonRpc(i64),
}

impl Code {
    const GRPC_ABORTED: i32 = 10;
    const FAILURE: Self = Self::JsonRpc(JSON_RPC_FAILURE);

    /// Whether DTM calls it a failure, and not only something that went wrong.
    fn is_failure(self) -> bool {
        matches!(self, Self::Grpc(Self::GRPC_ABORTED) | Self::Http(409) | Self::FAILURE)
    }
}

impl Failed {
    pub(crate) fn into_error(self, operation: &'static str) -> Error {
        match self {
            Self::Refused(refusal) => refusal.into_error(operation),
            Self::Unanswered(error) => error,
        }
    }
}

impl Refusal {
    /// Whether it says that the transaction is in a state from which this cannot be done: the state.
    pub(crate) fn current_status(&self) -> Option<&str> {
        let (_, rest) = self.text.split_once("current status '").filter(|_| self.code.is_failure())?;
        rest.split_once('\'').map(|(status, _)| status)
    }

    /// Whether it was waited for and did not come to success: DTM's reason, empty where it has none.
    pub(crate) fn not_succeeded(&self) -> Option<&str> {
        if !self.code.is_failure() || self.current_status().is_some() {
            return None;
        }
        if self.text.starts_with("wait result not return success") {
            return Some("");
        }
        Some(self.text.strip_suffix("FAILURE").map_or(self.text.as_str(), str::trim_end))
    }

    pub(crate) fn into_error(self, operation: &'static str) -> Error {
        let (kind, message) = classify(self.code, &self.text);
        // Go's messages and DTM's reasons name URLs of branches.
        let text = without_accounts(self.text.trim());
        let text = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
        let text: String = text.take(SHOWN_CHARS).collect();
        let error = Error::new(kind, operation, message).with_context("address", self.address);
        let error = match self.code {
            Code::Grpc(code) => error.with_context("code", code),
            Code::Http(status) => error.with_context("status", status),
            Code::JsonRpc(code) => error.with_context("code", code),
        };
        if text.is_empty() { error } else { error.with_context("answer", text) }
    }
}

/// DTM's codes say little, so that its texts count first. Both are those of 1.19.
fn classify(code: Code, text: &str) -> (ErrorKind, &'static str) {
    use ErrorKind::{AlreadyExists, FailedPrecondition, Internal, InvalidArgument, NotFound, Unknown};
    let has = |part: &str| text.contains(part);
    if has("Data too long") || has("value too long for type") {
        return (InvalidArgument, "too long for a column of DTM's store");
    }
    if has("UniqueKeyConflict") || has("Duplicate entry") || has("duplicate key value") {
        return (AlreadyExists, "this branch is registered already");
    }
    if has("this url exists") {
        return (AlreadyExists, "this URL is subscribed to the topic already");
    }
    if has("no TransGlobal with gid") {
        return (NotFound, "DTM knows no transaction of this id");
    }
    if has("status: prepared found") {
        return (FailedPrecondition, "DTM knows no transaction of this id that is still prepared");
    }
    let topics = ["topic not found", "no such a topic", "this topic is empty", "no such an url"];
    if topics.into_iter().any(has) || has("storage: NotFound") {
        return (NotFound, "DTM knows no such topic, subscriber or transaction");
    }
    if has("empty topic") || has("empty url") || has("key required") || has("no gid specified") {
        return (InvalidArgument, "a name is empty");
    }
    if has("unknow trans type") || has("runtime error:") || has("invalid character") {
        return (InvalidArgument, "DTM makes nothing of this request");
    }
    if code == Code::Grpc(8) && has("message larger than max") {
        return (InvalidArgument, "more than a request to DTM may be");
    }
    match code {
        code if code.is_failure() => (FailedPrecondition, "DTM refuses this in the state in which the transaction is"),
        Code::Http(425) | Code::JsonRpc(JSON_RPC_ONGOING) => (ErrorKind::Unavailable, "DTM is not done yet: ask again"),
        Code::Grpc(2 | 13) | Code::Http(500) | Code::JsonRpc(-32603) => (Internal, "something went wrong in DTM"),
        Code::JsonRpc(-32601) => (ErrorKind::Unimplemented, "this server has no such method: is it DTM 1.19?"),
        Code::JsonRpc(-32700 | -32600 | -32602) => (InvalidArgument, "DTM makes nothing of this request"),
        Code::Grpc(code) => {
            let kind = ErrorKind::from_code(u32::try_from(code).unwrap_or(2)).unwrap_or(Unknown);
            // It is no verdict on the transaction.
            let kind = if matches!(kind, InvalidArgument | ErrorKind::OutOfRange) { Unknown } else { kind };
            (kind, "not an answer of DTM's: is there another server, or a proxy, at this address?")
        }
        Code::Http(502..=504) => (ErrorKind::Unavailable, "a proxy answers, and not DTM"),
        Code::Http(_) | Code::JsonRpc(_) => {
            (Unknown, "not an answer of DTM's: is there another server at this address?")
        }
    }
}

/// An HTTP request without an answer.
pub(crate) fn from_reqwest(operation: &'static str, address: &str, error: reqwest::Error) -> Error {
    let (kind, message) = if error.is_builder() {
        (ErrorKind::InvalidArgument, "the settings make no request")
    } else if error.is_connect() {
        (ErrorKind::Unavailable, "DTM cannot be reached: start it there, or correct the address")
    } else if error.is_timeout() {
        (ErrorKind::DeadlineExceeded, "DTM did not answer in time")
    } else {
        (ErrorKind::Unavailable, "the connection to DTM broke")
    };
    Error::new(kind, operation, message).with_context("address", address).with_source(error.without_url())
}

/// A gRPC request without an answer, which the error says the cause of.
pub(crate) fn unanswered(operation: &'static str, address: &str, cause: Error) -> Error {
    let message = match cause.kind() {
        ErrorKind::DeadlineExceeded => "DTM did not answer in time",
        ErrorKind::InvalidArgument => "the settings make no request",
        _ => "DTM cannot be reached: start it there, or correct the address",
    };
    Error::new(cause.kind(), operation, message).with_context("address", address).with_source(cause)
}

/// An answer that is not what the API promises.
pub(crate) fn unreadable(
    operation: &'static str,
    address: &str,
    cause: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    let message = "the answer is not DTM's: is there another server at this address?";
    Error::new(ErrorKind::DataLoss, operation, message).with_context("address", address).with_source(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(code: Code, text: &str) -> ErrorKind {
        let refusal = Refusal { code, text: text.to_owned(), address: "127.0.0.1:36790".to_owned() };
        let error = refusal.into_error("dtm.submit");
        assert!(error.to_string().contains("address=127.0.0.1:36790") && error.to_string().contains(text), "{error}");
        error.kind()
    }

    /// The rows of DTM 1.19's answers that no capture shows; those that one does are in
    /// `tests/it/dtm/vectors.rs`.
    #[test]
    fn every_text_has_its_kind() {
        use ErrorKind::{AlreadyExists, FailedPrecondition, Internal, InvalidArgument, NotFound, Unavailable, Unknown};
        for (code, text, expected) in [
            (Code::Grpc(13), "Error 1406 (22001): Data too long for column 'options' at row 1", InvalidArgument),
            (Code::Grpc(13), "ERROR: value too long for type character varying(1024)", InvalidArgument),
            (Code::Grpc(2), "Error 1062 (23000): Duplicate entry 'g-01-confirm' for key 'gid_uniq'", AlreadyExists),
            (Code::Grpc(2), "ERROR: duplicate key value violates unique constraint", AlreadyExists),
            (Code::Grpc(10), "wait result not return success: FAILURE", FailedPrecondition),
            (Code::Grpc(2), "dtm panic: dial tcp 127.0.0.1:3306: connect: connection refused", Internal),
            (Code::Grpc(13), "invalid connection", Internal),
            (Code::Grpc(14), "upstream connect error", Unavailable),
            (Code::Grpc(8), "grpc: received message larger than max (4194340 vs. 4194304)", InvalidArgument),
            (Code::Grpc(8), "upstream: too many calls", ErrorKind::ResourceExhausted),
            // Who answers so is not DTM: a saga is not parked for it.
            (Code::Grpc(3), "upstream: malformed request", Unknown),
            (Code::Grpc(11), "upstream: out of range", Unknown),
            (Code::Grpc(12), "unknown service dtmgimp.Dtm", ErrorKind::Unimplemented),
            (Code::Http(500), "empty url", InvalidArgument),
            (Code::Http(500), "this topic is empty", NotFound),
            (Code::Grpc(2), "no such a topic", NotFound),
            (Code::Grpc(2), "no such an url", NotFound),
            (Code::Http(502), "Bad Gateway", Unavailable),
            (Code::Http(404), "404 page not found", Unknown),
            (Code::Http(425), "{}", Unavailable),
            (Code::JsonRpc(-32700), "Parse json error: EOF", InvalidArgument),
            (Code::JsonRpc(-32600), "Bad json request: {}", InvalidArgument),
            (Code::JsonRpc(-32601), "Method not found: nope", ErrorKind::Unimplemented),
            (Code::JsonRpc(-32603), "unknow trans type: zz", InvalidArgument),
            (Code::JsonRpc(-32603), "invalid connection", Internal),
            (Code::JsonRpc(-32901), "wait result not return success: FAILURE", FailedPrecondition),
            (Code::JsonRpc(-32902), "not yet", Unavailable),
            (Code::JsonRpc(7), "what", Unknown),
        ] {
            assert_eq!(kind(code, text), expected, "{text}");
        }
    }

    #[test]
    fn a_refusal_says_the_state_or_the_reason() {
        let of = |code, text: &str| Refusal { code, text: text.to_owned(), address: String::new() };
        let done = of(Code::Grpc(10), "current status 'succeed', cannot sumbmit. FAILURE");
        assert_eq!((done.current_status(), done.not_succeeded()), (Some("succeed"), None));
        let done = of(Code::Http(409), "current status 'failed', cannot sumbmit. FAILURE");
        assert_eq!(done.current_status(), Some("failed"));
        let done = of(Code::JsonRpc(-32901), "current status 'succeed', cannot sumbmit. FAILURE");
        assert_eq!((done.current_status(), done.not_succeeded()), (Some("succeed"), None));
        let running = of(Code::Grpc(10), "wait result not return success: FAILURE");
        assert_eq!((running.current_status(), running.not_succeeded()), (None, Some("")));
        let refused = of(Code::Grpc(10), "url:h:1/a.B/C return failed: Insufficient balance FAILURE");
        assert_eq!(refused.not_succeeded(), Some("url:h:1/a.B/C return failed: Insufficient balance"));
        let broken = of(Code::Grpc(13), "topic not found");
        assert_eq!((broken.current_status(), broken.not_succeeded()), (None, None));
    }

    #[test]
    fn a_long_text_is_cut_to_one_line() {
        let refusal =
            Refusal { code: Code::Http(500), text: format!("a\nb {}", "x".repeat(9000)), address: String::new() };
        let shown = refusal.into_error("dtm.submit").to_string();
        let refusal = Refusal {
            code: Code::Grpc(10),
            text: "url:http://me:secret@h:1/a return failed: no FAILURE".to_owned(),
            address: String::new(),
        };
        let told = refusal.into_error("dtm.submit").to_string();
        assert!(told.contains("url:http://***@h:1/a return failed: no"), "{told}");
        assert!(shown.contains("answer=a b xxx") && !shown.contains('\n') && shown.len() < 1400, "{shown}");
    }
}
