//! A branch as it is called in JSON-RPC: what is sent, and what its answer means.

use bytes::Bytes;
use micro_core::{
    Error, ErrorKind, Result,
    branch::{Branch, BranchAnswer, JSON_RPC_FAILURE, JSON_RPC_ONGOING, shown_url},
    saga::BranchRequest,
};
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};
use uuid::Uuid;

use super::json_rpc::method;

/// The body of the request.
///
/// # Errors
///
/// `InvalidArgument` for a URL without a method, and for a payload that is no JSON object.
pub(super) fn body(request: &BranchRequest<'_>) -> Result<Vec<u8>> {
    let refused = |message: &'static str| {
        Error::new(ErrorKind::InvalidArgument, "branch.call", message).with_context("url", shown_url(request.url))
    };
    let method =
        method(request.url).ok_or_else(|| refused("a call in JSON-RPC has its method in the URL: ?method=NAME"))?;
    let mut params: Map<String, Value> = serde_json::from_slice(&request.payload)
        .map_err(|cause| refused("a call in JSON-RPC has a JSON object for a payload").with_source(cause))?;
    let Branch { mode, gid, id, op, coordinator, phase2_url, .. } = request.branch;
    let parts = [("gid", &**gid), ("trans_type", mode.as_str()), ("branch_id", id), ("op", op.as_str())];
    let ours = [("dtm", coordinator), ("phase2_url", phase2_url)];
    let ours = ours.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
    params.extend(parts.into_iter().chain(ours).map(|(name, value)| (name.to_owned(), value.into())));
    let call = json!({ "jsonrpc": "2.0", "id": Uuid::now_v7().to_string(), "method": method, "params": params });
    Ok(call.to_string().into_bytes())
}

/// What is read of an answer.
#[derive(Deserialize)]
struct Answered<'a> {
    #[serde(default)]
    error: Option<Fault>,
    #[serde(default, borrow)]
    result: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Fault {
    code: i64,
    #[serde(default)]
    message: String,
}

/// What an answer means, and what the branch gave: by its code where that is one of DTM's, else by DTM's rules
/// for HTTP, `by_rules`. DTM 1.19 goes by those alone, though it means to look at the code.
///
/// # Errors
///
/// Those of `by_rules`; `Unknown` for another error of JSON-RPC, `DataLoss` for what is no answer in it.
pub(super) fn answer(url: &str, body: &Bytes, by_rules: Result<BranchAnswer>) -> Result<(BranchAnswer, Bytes)> {
    let undecided =
        |kind, message: &'static str| Error::new(kind, "branch.call", message).with_context("url", shown_url(url));
    match (serde_json::from_slice::<Answered<'_>>(body), by_rules) {
        (Ok(Answered { error: Some(Fault { code: JSON_RPC_FAILURE, message }), .. }), _) => {
            Ok((BranchAnswer::Failed(message), body.clone()))
        }
        (Ok(Answered { error: Some(Fault { code: JSON_RPC_ONGOING, .. }), .. }), _) => {
            Ok((BranchAnswer::Ongoing, body.clone()))
        }
        (Ok(Answered { error: Some(fault), .. }), Ok(BranchAnswer::Succeeded)) => {
            let shown: String = fault.message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
            let error = undecided(ErrorKind::Unknown, "neither done, nor refused, nor ongoing");
            Err(error.with_context("code", fault.code).with_context("answer", shown))
        }
        (Ok(Answered { result, .. }), Ok(BranchAnswer::Succeeded)) => {
            let result = result.map(RawValue::get).unwrap_or_default();
            Ok((BranchAnswer::Succeeded, Bytes::copy_from_slice(result.as_bytes())))
        }
        (Err(cause), Ok(BranchAnswer::Succeeded)) => {
            let message = "not an answer in JSON-RPC: is another service at this URL?";
            Err(undecided(ErrorKind::DataLoss, message).with_source(cause))
        }
        (_, by_rules) => by_rules.map(|answer| (answer, body.clone())),
    }
}

#[cfg(test)]
mod tests {
    use micro_core::branch::{Mode, Op};

    use super::*;

    const URL: &str = "http://me:secret@h:1/rpc?method=Pay";

    #[test]
    fn a_call_in_json_rpc_has_the_branch_among_its_parameters() {
        let mut branch = Branch::new(Mode::Tcc, "g", "01", Op::Try).unwrap();
        branch.coordinator = Some("http://dtm/api/dtmsvr".to_owned());
        let request = BranchRequest::new(URL, &branch).payload(Bytes::from_static(br#"{"amount":30,"gid":"x"}"#));
        let call: Value = serde_json::from_slice(&super::body(&request).unwrap()).unwrap();
        assert_eq!((&call["jsonrpc"], &call["method"]), (&json!("2.0"), &json!("Pay")));
        let params = json!({
            "amount": 30, "gid": "g", "trans_type": "tcc", "branch_id": "01", "op": "try", "dtm": "http://dtm/api/dtmsvr"
        });
        assert_eq!(call["params"], params);
        for (url, payload, told) in
            [(URL, "[]", "a JSON object for a payload"), ("http://h/?method=", "{}", "?method=NAME")]
        {
            let request = BranchRequest::new(url, &branch).payload(payload.into());
            let error = super::body(&request).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(told) && !error.report().contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_code_of_dtms_decides_and_then_its_rules() {
        use BranchAnswer::{Failed, Ongoing, Succeeded};
        let ok = |answer| Ok(answer);
        for (body, by_rules, expected) in [
            (r#"{"jsonrpc":"2.0","id":"1","result":{"left":3}}"#, Succeeded, ok((Succeeded, r#"{"left":3}"#))),
            (r#"{"jsonrpc":"2.0","id":"1","error":null}"#, Succeeded, ok((Succeeded, ""))),
            (r#"{"error":{"code":-32901,"message":"no"}}"#, Succeeded, ok((Failed("no".to_owned()), ""))),
            (r#"{"error":{"code":-32902}}"#, Succeeded, ok((Ongoing, ""))),
            (r#"{"error":{"code":-1,"message":"a\nb"}}"#, Succeeded, Err(ErrorKind::Unknown)),
            (r#"{"result":"FAILURE"}"#, Failed("no".to_owned()), ok((Failed("no".to_owned()), ""))),
            ("<html>", Succeeded, Err(ErrorKind::DataLoss)),
            ("<html>", Ongoing, ok((Ongoing, ""))),
        ] {
            let answered = answer(URL, &Bytes::from(body), Ok(by_rules));
            match (answered, expected) {
                (Ok((answer, given)), Ok((expected, result))) => {
                    assert_eq!(answer, expected, "{body}");
                    assert!(answer != Succeeded || given == result, "{given:?}");
                }
                (Err(error), Err(kind)) => {
                    assert_eq!(error.kind(), kind, "{body}");
                    assert!(!error.report().contains("secret"), "{error}");
                }
                (answered, expected) => panic!("{body}: {answered:?}, not {expected:?}"),
            }
        }
    }
}
