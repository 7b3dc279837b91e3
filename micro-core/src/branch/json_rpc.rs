//! A branch that is called in JSON-RPC 2.0: reads the call, and answers what DTM reads as it is meant.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    Branch, BranchError, FAILURE_CHARS_MAX, HttpAnswer,
    answer::{told, without_words},
};
use crate::{Error, ErrorKind, Result};

/// DTM's code for "refused for good".
pub const JSON_RPC_FAILURE: i64 = -32901;
/// DTM's code for "not done yet".
pub const JSON_RPC_ONGOING: i64 = -32902;

const PARSE_ERROR: i64 = -32700;
const INVALID_REQUEST: i64 = -32600;
const METHOD_NOT_FOUND: i64 = -32601;
const INVALID_PARAMS: i64 = -32602;
const INTERNAL_ERROR: i64 = -32603;

/// A call in JSON-RPC 2.0, by a coordinator or by anybody.
///
/// DTM calls so the branches of a transaction that it was told of in JSON-RPC, where their URLs have the
/// word `method`: `POST http://HOST:PORT/PATH?method=NAME`. The parts of the branch are members of `params`
/// (`gid`, `trans_type`, `branch_id`, `op`), beside those of the payload.
///
/// | outcome | `error.code` |
/// | --- | --- |
/// | success | none: `result` is the value; `{"dtm_result":"SUCCESS"}` for `()` |
/// | [`BranchError::Failed`] | [`JSON_RPC_FAILURE`] |
/// | [`BranchError::Ongoing`] | [`JSON_RPC_ONGOING`] |
/// | [`BranchError::Other`] | -32602 for `InvalidArgument`, -32601 for `Unimplemented`, else -32603 |
///
/// DTM 1.19 itself does not see these codes: it compares them in a way that is never true, and asks again
/// for ever. It sees the words `FAILURE` and `ONGOING`, which stand in `error.data.dtm_result`, and in no
/// other answer made here.
///
/// Source: DTM 1.19, `getJSONRPCResult` and `RespAsErrorByJSONRPC`.
///
/// # Examples
///
/// ```
/// use micro_core::branch::{BranchError, JsonRpcCall};
///
/// let body = br#"{"jsonrpc":"2.0","id":"7","method":"Deduct","params":{"amount":30,
///     "gid":"order-1","trans_type":"saga","branch_id":"01","op":"action"}}"#;
/// let call = match JsonRpcCall::read(body) {
///     Ok(call) => call,
///     Err(answer) => panic!("it is to be sent as it is: {answer:?}"),
/// };
/// assert_eq!((call.method(), call.branch().unwrap().gid.as_str()), ("Deduct", "order-1"));
/// let answer = call.answer(Err::<(), _>(BranchError::failed("too few")));
/// assert_eq!(answer.status, 200);
/// assert!(answer.body.contains(r#""code":-32901"#));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct JsonRpcCall {
    id: Value,
    method: String,
    params: Value,
    branch: Option<Branch>,
}

impl JsonRpcCall {
    /// The call in the body of a request.
    ///
    /// # Errors
    ///
    /// The answer to what is none, or says only a part of which branch it is: it is sent as it is.
    pub fn read(body: &[u8]) -> std::result::Result<Self, HttpAnswer> {
        let request: Value = serde_json::from_slice(body)
            .map_err(|cause| refusal(&Value::Null, PARSE_ERROR, &format!("the body is not JSON: {cause}")))?;
        let id = request.get("id").cloned().unwrap_or(Value::Null);
        let invalid = |message: &str| refusal(&id, INVALID_REQUEST, message);
        if request.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
            return Err(invalid("expected one object with \"jsonrpc\":\"2.0\""));
        }
        let Some(method) = request.get("method").and_then(Value::as_str) else {
            return Err(invalid("expected a text as \"method\""));
        };
        let params = request.get("params").cloned().unwrap_or(Value::Null);
        let branch = Branch::read(|name| params.get(name).and_then(Value::as_str).map(str::to_owned))
            .map_err(|error| refusal(&id, INVALID_PARAMS, &error.to_string()))?;
        Ok(Self { method: method.to_owned(), id, params, branch })
    }

    /// What is called.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Which branch it is called as; `None` where no coordinator calls.
    pub fn branch(&self) -> Option<&Branch> {
        self.branch.as_ref()
    }

    /// What it is called with, the parts of the branch among it.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for what is no `T`.
    pub fn params<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(&self.params).map_err(|cause| {
            Error::new(ErrorKind::InvalidArgument, "branch.read", "the parameters are not those of this method")
                .with_context("method", self.method.escape_debug())
                .with_context("cause", cause)
        })
    }

    /// The answer, decided as [`BranchError::decided`] says. The status is always 200.
    pub fn answer<T: Serialize>(&self, outcome: std::result::Result<T, BranchError>) -> HttpAnswer {
        let error = match outcome.map(serde_json::to_value) {
            Ok(Ok(value)) => return self.success(value),
            Ok(Err(cause)) => {
                let message = "the branch succeeded, and its answer cannot be written as JSON";
                BranchError::Other(Error::new(ErrorKind::Internal, "branch.answer", message).with_source(cause))
            }
            Err(error) => error,
        };
        match error.decided(&self.method, self.branch()) {
            BranchError::Failed(reason) => self.failure(reason),
            BranchError::Ongoing => {
                HttpAnswer::new(200, decision(&self.id, JSON_RPC_ONGOING, "not done yet", "ONGOING"))
            }
            BranchError::Other(error) => {
                let code = match error.kind() {
                    ErrorKind::InvalidArgument => INVALID_PARAMS,
                    ErrorKind::Unimplemented => METHOD_NOT_FOUND,
                    _ => INTERNAL_ERROR,
                };
                refusal(&self.id, code, &told(&error))
            }
        }
    }

    fn success(&self, value: Value) -> HttpAnswer {
        let result = if value.is_null() { json!({ "dtm_result": "SUCCESS" }) } else { value };
        let body = json!({ "jsonrpc": "2.0", "id": self.id, "result": result });
        HttpAnswer::new(200, without_words(&body.to_string()))
    }

    /// The whole body becomes the reason that DTM keeps.
    fn failure(&self, mut reason: String) -> HttpAnswer {
        loop {
            let body = decision(&self.id, JSON_RPC_FAILURE, &reason, "FAILURE");
            let excess = body.chars().count().saturating_sub(FAILURE_CHARS_MAX);
            if excess == 0 || reason.is_empty() {
                return HttpAnswer::new(200, body);
            }
            // A character may be six in JSON: the last round takes one.
            for _ in 0..excess.div_ceil(6) {
                reason.pop();
            }
        }
    }
}

/// An error with the word that DTM looks for, which stands nowhere else in it.
fn decision(id: &Value, code: i64, message: &str, word: &str) -> String {
    let (id, message) = (without_words(&id.to_string()), without_words(&json!(message).to_string()));
    let error = format!(r#"{{"code":{code},"message":{message},"data":{{"dtm_result":"{word}"}}}}"#);
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
}

/// An error by which nothing is decided.
fn refusal(id: &Value, code: i64, message: &str) -> HttpAnswer {
    let error = json!({ "code": code, "message": message });
    let body = json!({ "jsonrpc": "2.0", "id": id, "error": error });
    HttpAnswer::new(200, without_words(&body.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::branch::{Mode, Op};

    /// DTM 1.19, as captured (`h08-jsonrpc`).
    const CAPTURED: &str = r#"{"id":"7TXkftEmV4tBpTv2nsoBMj","jsonrpc":"2.0","method":"TransIn","params":{"amount":30,"branch_id":"01","gid":"probe-jr","op":"action","trans_type":"msg"}}"#;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Amount {
        amount: i64,
    }

    fn call(op: &str) -> JsonRpcCall {
        let params = json!({ "gid": "g", "trans_type": "saga", "branch_id": "01", "op": op });
        let body = json!({ "jsonrpc": "2.0", "id": "FAILURE", "method": "pay", "params": params });
        JsonRpcCall::read(body.to_string().as_bytes()).unwrap()
    }

    fn body(answer: &HttpAnswer) -> Value {
        assert_eq!(answer.status, 200);
        serde_json::from_str(&answer.body).unwrap()
    }

    #[test]
    fn a_recorded_call_of_dtm_is_read() {
        let call = JsonRpcCall::read(CAPTURED.as_bytes()).unwrap();
        assert_eq!(call.method(), "TransIn");
        assert_eq!(call.branch(), Some(&Branch::new(Mode::Msg, "probe-jr", "01", Op::Action).unwrap()));
        assert_eq!(call.params::<Amount>().unwrap(), Amount { amount: 30 });
        assert_eq!(
            body(&call.answer(Ok(()))),
            json!({ "jsonrpc": "2.0", "id": "7TXkftEmV4tBpTv2nsoBMj", "result": { "dtm_result": "SUCCESS" } })
        );
    }

    #[test]
    fn what_is_no_call_is_told_what_was_expected() {
        for (request, code, told) in [
            ("hello", -32700, "the body is not JSON"),
            ("[]", -32600, r#"expected one object with "jsonrpc":"2.0""#),
            (r#"{"jsonrpc":"1.0","id":"1","method":"pay"}"#, -32600, "2.0"),
            (r#"{"jsonrpc":"2.0","id":"1","method":7}"#, -32600, r#"expected a text as "method""#),
            (r#"{"jsonrpc":"2.0","id":"1","method":"pay","params":{"gid":"g"}}"#, -32602, "missing=trans_type"),
        ] {
            let answer = JsonRpcCall::read(request.as_bytes()).unwrap_err();
            let error = &body(&answer)["error"];
            assert_eq!(error["code"], code, "{request}");
            assert!(error["message"].as_str().unwrap().contains(told), "{error}");
            assert_eq!(read(&answer), "unknown", "nothing is decided by it");
        }
    }

    #[test]
    fn a_call_of_no_coordinator_is_no_branch() {
        let call = JsonRpcCall::read(br#"{"jsonrpc":"2.0","id":9,"method":"pay","params":["x"]}"#).unwrap();
        assert_eq!(call.branch(), None);
        let error = call.params::<Amount>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        let answer = body(&call.answer(Err::<(), _>(error.into())));
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(9), &json!(-32602)));
    }

    /// As DTM 1.19 reads it: words first, then whether there is an error at all.
    fn read(answer: &HttpAnswer) -> &'static str {
        match &answer.body {
            body if body.contains("ONGOING") => "ongoing",
            body if body.contains("FAILURE") => "failed",
            _ if body(answer).get("error").is_some() => "unknown",
            _ => "succeeded",
        }
    }

    #[test]
    fn an_answer_in_json_rpc_is_read_as_it_is_meant_whatever_its_texts_say() {
        for text in ["no FAILURE at all", "ONGOING", "\\FAILURE\"ONGOING", "plain"] {
            let error = |kind| Err(BranchError::from(Error::new(kind, "pay", text)));
            for (outcome, code, meaning) in [
                (Ok(text), None, "succeeded"),
                (Err(BranchError::failed(text)), Some(-32901), "failed"),
                (Err(BranchError::Ongoing), Some(-32902), "ongoing"),
                (error(ErrorKind::InvalidArgument), Some(-32901), "failed"),
                (error(ErrorKind::Aborted), Some(-32603), "unknown"),
                (error(ErrorKind::Internal), Some(-32603), "unknown"),
            ] {
                let answer = call("action").answer(outcome);
                assert_eq!(read(&answer), meaning, "{answer:?}");
                let body = body(&answer);
                assert_eq!((body["error"]["code"].as_i64(), &body["id"]), (code, &json!("FAILURE")), "{answer:?}");
            }
            let missing = BranchError::from(Error::new(ErrorKind::Unimplemented, "pay", text));
            let undoing = call("compensate").answer(Err::<(), _>(missing));
            assert_eq!((read(&undoing), &body(&undoing)["error"]["code"]), ("unknown", &json!(-32601)));
            let refused = body(&call("action").answer(Err::<(), _>(BranchError::failed(text))));
            assert_eq!(refused["error"]["message"], text);
        }
    }

    #[test]
    fn the_whole_body_of_a_failure_in_json_rpc_fits_into_dtms_column() {
        for reason in ["\u{9322}".repeat(2_000), "\u{1}".repeat(2_000), "ONGOING".repeat(300)] {
            let answer = call("action").answer(Err::<(), _>(BranchError::failed(reason.clone())));
            let count = answer.body.chars().count();
            assert!(count <= FAILURE_CHARS_MAX && count > FAILURE_CHARS_MAX - 20, "{count}");
            assert!(reason.starts_with(body(&answer)["error"]["message"].as_str().unwrap()));
        }
    }
}
