//! What reads the bytes of others, and what must hold whatever they are: a function for each fuzz
//! target. The test `tests/corpus.rs` of the workspace has the same file as a module.

use http::{HeaderMap, HeaderName, HeaderValue};
use micro_rs::{
    broker::kafka::envelope,
    core::{
        Error, ErrorKind, Metadata,
        branch::{BranchError, HttpAnswer, JsonRpcCall},
        broker::Message,
    },
    grpc::{from_status, fuzz},
    middleware::deadline::{add_headers, grpc_timeout},
    registry::{
        consul::{self, reading::Left},
        etcd,
    },
};
use tonic::{Code, Status};

/// Takes any bytes; a panic is a finding.
pub type Target = fn(&[u8]);

/// The targets, by the names of their files and of their corpora.
pub const TARGETS: [(&str, Target); 7] = [
    ("consul_tags", consul_tags),
    ("consul_answer", consul_answer),
    ("etcd_value", etcd_value),
    ("kafka_envelope", kafka_envelope),
    ("grpc_metadata", grpc_metadata),
    ("go_micro_error", go_micro_error),
    ("json_rpc_call", json_rpc_call),
];

/// A registration's tags, one a line.
pub fn consul_tags(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let tags: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut left = Left::default();
    let whole = consul::reading::decode(&tags, true, &mut left);
    assert!(left.bytes <= Left::default().bytes && left.values <= Left::default().values);
    assert!(whole.endpoints.len() <= tags.len() && whole.complaints.len() <= tags.len());
    let without = consul::reading::decode(&tags, false, &mut Left::default());
    assert!(without.endpoints.is_empty());
    // Endpoints take nothing away from them.
    assert_eq!((without.version, without.metadata), (whole.version, whole.metadata));
    // What may hold nothing has something to complain of as well.
    let nothing = consul::reading::decode(&tags, true, &mut Left { bytes: 0, values: 0, metadata_bytes: 0 });
    assert!(!nothing.complaints.is_empty() || whole.complaints.is_empty());
}

/// The body of an answer of `GET /v1/health/service/NAME`.
pub fn consul_answer(data: &[u8]) {
    let Ok(reading) = consul::reading::instances("go.micro.service.greeter", data) else { return };
    let ids = reading.instances.iter().map(|instance| &instance.id);
    assert!(ids.is_sorted());
    for instance in &reading.instances {
        assert!(instance.validate().is_ok(), "{instance:?}");
    }
}

/// The value of a key of etcd.
pub fn etcd_value(data: &[u8]) {
    let name = etcd::reading::service_name(data).unwrap_or_default();
    let read = etcd::reading::Reader::default().decode(&name, data);
    let Ok((instances, _)) = read else { return };
    for instance in instances {
        assert!(instance.validate().is_ok(), "{instance:?}");
    }
}

/// A record's value. What is read of an envelope is read again of the one that is written of it.
pub fn kafka_envelope(data: &[u8]) {
    let Some(Ok(opened)) = envelope::open(data) else { return };
    let message =
        Message { topic: "t".into(), key: opened.key.clone(), headers: opened.headers, body: opened.body.clone() };
    let sealed = envelope::seal(&message, &[]).expect("what JSON held fits into JSON");
    let again = envelope::open(&sealed.body).expect("an envelope").expect("a whole one");
    assert_eq!((again.key, again.body), (opened.key, opened.body));
}

/// The headers of a call, `name: value` a line.
pub fn grpc_metadata(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii())) {
            // More than this a header map does not hold, and no connection hands over.
            let _ = headers.try_append(name, value);
        }
    }
    let mut metadata = Metadata::new();
    add_headers(&mut metadata, &headers);
    for (name, value) in metadata.iter() {
        assert!(!name.starts_with("grpc-") && !name.ends_with("-bin") && name != "authorization", "{name}");
        // What is sent on is a header again.
        assert!(HeaderName::from_bytes(name.as_bytes()).is_ok() && HeaderValue::from_str(value).is_ok());
    }
    let Some(limit) = headers.get("timeout").and_then(|value| fuzz::nanoseconds(value.to_str().ok()?)) else { return };
    let is_malformed = grpc_timeout::read(&headers).is_err();
    grpc_timeout::limit(&mut headers, limit);
    match grpc_timeout::read(&headers) {
        Ok(left) => assert!(!is_malformed && left.is_some_and(|left| left <= limit), "{left:?} of {limit:?}"),
        // It stays, for a layer to refuse.
        Err(_) => assert!(is_malformed),
    }
}

/// A failure: a byte of code, a line of message, and the bytes of `grpc-status-details-bin`.
pub fn go_micro_error(data: &[u8]) {
    let [code, rest @ ..] = data else { return };
    let mut parts = rest.splitn(2, |byte| *byte == b'\n');
    let message = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let details = parts.next().unwrap_or_default();
    let decoded = fuzz::go_micro_error(&message, details);
    let _ = fuzz::unflattened(&message);
    let code = Code::from_i32(i32::from(*code % 17));
    let error = from_status("fuzz", Status::with_details(code, message, details.to_vec().into()));
    if let Some(decoded) = decoded.filter(|_| code == Code::Unknown) {
        // Its text is in what the caller gets, unless that is a status that it wrapped.
        assert!(decoded.detail.is_empty() || decoded.detail.ends_with(error.message()), "{decoded:?} became {error:?}");
    }
    let _ = error.report().to_string();
}

/// A call of a branch in JSON-RPC. Whatever is answered is JSON, and DTM finds in it the words that it looks for
/// where they are meant and nowhere else.
pub fn json_rpc_call(data: &[u8]) {
    let words = |answer: &HttpAnswer| {
        let body: serde_json::Value = serde_json::from_str(&answer.body).expect("an answer is JSON");
        assert!(body["jsonrpc"] == "2.0" && answer.status == 200);
        (answer.body.contains("FAILURE"), answer.body.contains("ONGOING"))
    };
    let call = match JsonRpcCall::read(data) {
        Ok(call) => call,
        Err(answer) => return assert_eq!(words(&answer), (false, false)),
    };
    let error = |kind| Err(BranchError::from(Error::new(kind, "pay", call.method().to_owned())));
    assert_eq!(words(&call.answer(Ok(call.method()))), (false, false));
    assert_eq!(words(&call.answer::<()>(error(ErrorKind::Unavailable))), (false, false));
    assert_eq!(words(&call.answer::<()>(error(ErrorKind::Internal))), (false, false));
    assert_eq!(words(&call.answer::<()>(Err(BranchError::Ongoing))), (false, true));
    assert_eq!(words(&call.answer::<()>(Err(BranchError::failed(call.method())))), (true, false));
    assert!(call.branch().is_none_or(|branch| !branch.gid.is_empty()));
}
