//! Requests to DTM, byte by byte as its Go client sent them, and what DTM 1.19 answered: captures in
//! `tests/vectors/dtm`. A server replays each, and refuses a request that is not the captured one.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::FutureExt as _;
use http_body_util::{BodyExt as _, Full};
use micro_core::{
    ErrorKind, Health,
    app::Component as _,
    branch::Mode,
    saga::{Outcome, Saga, SagaCoordinator as _, SagaOptions, Step},
};
use micro_grpc::GrpcServer;
use micro_tx::dtm::{
    BranchRegistration, DtmClient, DtmConfig, GlobalTransaction, TransactionOptions, TransactionStatus, TwoPhaseMessage,
};
use prost::Message as _;
use serde::Deserialize;
use tokio::net::TcpListener;
use tonic::{body::Body, server::NamedService};
use tower_service::Service;

use super::stage::{SECOND, waiting};

macro_rules! capture {
    ($name:literal) => {
        include_str!(concat!("../../vectors/dtm/", $name, ".jsonl"))
    };
}

pub(super) use capture;

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Frame {
    dir: String,
    kind: String,
    stream: u32,
    headers: Vec<(String, String)>,
    grpc_msg_hex: String,
    raw: String,
}

fn frames(capture: &str) -> Vec<Frame> {
    capture.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn header(headers: &[(String, String)], name: &str) -> Option<String> {
    headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone())
}

/// A call of the gRPC API: the request, and the answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Call {
    pub(super) path: String,
    /// What says which branch is called; of a call of DTM none.
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) message: Vec<u8>,
    pub(super) answer: Vec<u8>,
    pub(super) code: i32,
    pub(super) text: String,
}

pub(super) fn grpc_calls(capture: &str) -> VecDeque<Call> {
    let mut calls: BTreeMap<u32, Call> = BTreeMap::new();
    for frame in frames(capture).into_iter().filter(|frame| frame.kind != "note") {
        let call = calls.entry(frame.stream).or_default();
        match (frame.dir.as_str(), frame.kind.as_str()) {
            (">", "headers") => {
                call.path = header(&frame.headers, ":path").unwrap();
                call.metadata = frame.headers.into_iter().filter(|(name, _)| name.starts_with("dtm-")).collect();
            }
            (">", _) => call.message = hex::decode(frame.grpc_msg_hex).unwrap(),
            (_, "headers") => {
                if let Some(code) = header(&frame.headers, "grpc-status") {
                    call.code = code.parse().unwrap();
                    call.text = header(&frame.headers, "grpc-message").unwrap_or_default();
                }
            }
            _ => call.answer = hex::decode(frame.grpc_msg_hex).unwrap(),
        }
    }
    calls.into_values().collect()
}

/// DTM's gRPC API as it was captured.
#[derive(Clone)]
struct Replay {
    calls: Arc<Mutex<VecDeque<Call>>>,
}

impl NamedService for Replay {
    const NAME: &'static str = "dtmgimp.Dtm";
}

impl Service<http::Request<Body>> for Replay {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let calls = self.calls.clone();
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let content_type = request.headers()["content-type"].clone();
            let frame = request.into_body().collect().await.unwrap().to_bytes();
            let expected = calls.lock().unwrap().pop_front().unwrap_or_default();
            let mut response = http::Response::builder().header("content-type", "application/grpc");
            if (path.as_str(), content_type.as_bytes()) != (&*expected.path, b"application/grpc")
                || frame[5..] != expected.message[..]
            {
                let text = format!("{path} {}, not {}", hex::encode(&frame[5..]), hex::encode(&expected.message));
                response = response.header("grpc-status", "3").header("grpc-message", text);
                return Ok(response.body(Body::default()).unwrap());
            }
            if expected.code != 0 {
                response = response.header("grpc-status", expected.code).header("grpc-message", expected.text);
                return Ok(response.body(Body::default()).unwrap());
            }
            let mut body = BytesMut::new();
            body.put_u8(0);
            body.put_u32(u32::try_from(expected.answer.len()).unwrap());
            body.put_slice(&expected.answer);
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            let body = Full::new(body.freeze()).with_trailers(async move { Some(Ok(trailers)) });
            Ok(response.body(Body::new(body)).unwrap())
        })
    }
}

pub(super) struct Replayed {
    pub(super) dtm: DtmClient,
    calls: Arc<Mutex<VecDeque<Call>>>,
    _server: GrpcServer,
    _health: Health,
}

impl Drop for Replayed {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.calls.lock().unwrap().len(), 0, "every captured request was sent");
        }
    }
}

pub(super) async fn replay(calls: VecDeque<Call>) -> Replayed {
    let calls = Arc::new(Mutex::new(calls));
    let server = GrpcServer::builder("dtm").add_service(Replay { calls: calls.clone() }).build().unwrap();
    let health = Health::new();
    server.start(&health).await.unwrap();
    let address = server.instances().remove(0).address;
    let dtm = DtmClient::new(DtmConfig::from_url(&format!("dtm://{address}")).unwrap()).unwrap();
    Replayed { dtm, calls, _server: server, _health: health }
}

async fn outcome(calls: VecDeque<Call>, saga: Saga) -> Outcome {
    replay(calls).await.dtm.coordinator().submit(saga).await.unwrap()
}

fn busi(method: &str) -> String {
    format!("127.0.0.1:47000/busi.Busi/{method}")
}

fn step(name: &str, payload: &str) -> Step {
    Step::new(busi(name)).compensation(busi(&format!("{name}Revert"))).payload(text(payload))
}

pub(super) fn text(payload: &str) -> Bytes {
    payload.to_owned().encode_to_vec().into()
}

fn out(gid: &str, options: SagaOptions) -> Saga {
    Saga::with_gid(gid).step(step("TransOut", "out-30")).options(options)
}

fn out_in(gid: &str, options: SagaOptions) -> Saga {
    out(gid, options).step(step("TransIn", "in-30"))
}

fn with(change: impl FnOnce(&mut SagaOptions)) -> SagaOptions {
    let mut options = SagaOptions::default();
    change(&mut options);
    options
}

#[tokio::test]
async fn g01_newgid() {
    let replayed = replay(grpc_calls(capture!("g01-newgid"))).await;
    assert_eq!(replayed.dtm.new_gid().await.unwrap(), "X4ko68MtzaBwqdxVmwrtkg");
}

/// Go's maps have no order of their own; our headers stand in the order of their names.
#[tokio::test]
async fn g02_saga_success_wait_headers() {
    let mut calls = grpc_calls(capture!("g02-saga-success-wait-headers"));
    let [trace, token] =
        ["2a110a0a782d74726163652d69641203742d31", "2a1b0a0d617574686f72697a6174696f6e120a42656172657220616263"];
    let captured = hex::encode(&calls[0].message);
    let sorted = captured.replace(&format!("{trace}{token}"), &format!("{token}{trace}"));
    assert_ne!(captured, sorted);
    calls[0].message = hex::decode(sorted).unwrap();
    let mut options = waiting();
    options.headers.insert("x-trace-id".to_owned(), "t-1".to_owned());
    options.headers.insert("authorization".to_owned(), "Bearer abc".to_owned());
    assert_eq!(outcome(calls, out_in("probe-saga-ok", options)).await, Outcome::Succeeded);
}

#[tokio::test]
async fn g03_saga_failure_rollback() {
    let calls = grpc_calls(capture!("g03-saga-failure-rollback"));
    let reason = "url:127.0.0.1:47000/busi.Busi/TransIn return failed: Insufficient balance".to_owned();
    assert_eq!(outcome(calls, out_in("probe-saga-fail", waiting())).await, Outcome::RolledBack { reason });
}

#[tokio::test]
async fn g04_saga_ongoing_then_ok() {
    let calls = grpc_calls(capture!("g04-saga-ongoing-then-ok"));
    let mut options = waiting();
    options.retry_interval = Some(SECOND);
    assert_eq!(outcome(calls, out("probe-saga-ongoing", options)).await, Outcome::StillRunning);
}

#[tokio::test]
async fn g05_saga_unknown_error_backoff() {
    let calls = grpc_calls(capture!("g05-saga-unknown-error-backoff"));
    let options = with(|options| options.retry_interval = Some(SECOND));
    assert_eq!(outcome(calls, out("probe-saga-backoff", options)).await, Outcome::StillRunning);
}

#[tokio::test]
async fn g06_saga_concurrent_order() {
    let calls = grpc_calls(capture!("g06-saga-concurrent-order"));
    let mut options = waiting();
    options.is_concurrent = true;
    options.orders.insert(2, vec![0, 1]);
    let saga = Saga::with_gid("probe-saga-conc").step(step("A", "a")).step(step("B", "b")).step(step("C", "c"));
    assert_eq!(outcome(calls, saga.options(options)).await, Outcome::Succeeded);
}

#[tokio::test]
async fn g07_saga_retrylimit_exhausted() {
    let mut options = waiting();
    options.retry_count_max = Some(3);
    let reason = "RetryCount is greater than RetryLimit, RetryLimit: 3".to_owned();
    let calls = grpc_calls(capture!("g07-saga-retrylimit-exhausted"));
    let saga = out_in("probe-saga-retrylimit", options.clone());
    assert_eq!(outcome(calls, saga).await, Outcome::RolledBack { reason: reason.clone() });
    let calls = grpc_calls(capture!("g07b-saga-retrylimit-ongoing-counts"));
    let saga = Saga::with_gid("probe-saga-retrylimit-ongoing").step(step("TransIn", "in-30")).options(options);
    assert_eq!(outcome(calls, saga).await, Outcome::RolledBack { reason });
}

#[tokio::test]
async fn g08_saga_timeout_to_fail() {
    let calls = grpc_calls(capture!("g08-saga-timeout-to-fail"));
    let options = with(|options| {
        options.retry_interval = Some(SECOND);
        options.timeout_to_fail = Some(3 * SECOND);
    });
    assert_eq!(outcome(calls, out("probe-saga-timeout", options)).await, Outcome::StillRunning);
    let calls = grpc_calls(capture!("g08b-saga-request-timeout"));
    let mut options = waiting();
    options.request_timeout = Some(Duration::from_millis(900));
    options.retry_count_max = Some(1);
    let reason = "RetryCount is greater than RetryLimit, RetryLimit: 1".to_owned();
    assert_eq!(outcome(calls, out("probe-saga-reqtimeout", options)).await, Outcome::RolledBack { reason });
    let calls = grpc_calls(capture!("g08c-saga-empty-urls-nil-payload"));
    let saga = Saga::with_gid("probe-saga-empty").step(Step::new(busi("TransOut")));
    let saga = saga.step(Step::new("").payload(text("x"))).options(waiting());
    assert_eq!(outcome(calls, saga).await, Outcome::Succeeded);
}

fn message(gid: &str) -> TwoPhaseMessage {
    TwoPhaseMessage::with_gid(gid).call(busi("TransIn"), text("in-30")).query_prepared(busi("QueryPrepared"))
}

fn message_options(change: impl FnOnce(&mut TransactionOptions)) -> TransactionOptions {
    let mut options = TransactionOptions::default();
    change(&mut options);
    options
}

#[tokio::test]
async fn g11_msg_prepare_submit() {
    let replayed = replay(grpc_calls(capture!("g11-msg-prepare-submit"))).await;
    let message = TwoPhaseMessage::with_gid("probe-msg-ok")
        .call(busi("TransOut"), text("out-30"))
        .call(busi("TransIn"), text("in-30"))
        .query_prepared(busi("QueryPrepared"))
        .options(message_options(|options| options.is_waited_for = true));
    replayed.dtm.prepare_message(&message).await.unwrap();
    assert_eq!(replayed.dtm.submit_message(&message).await.unwrap(), Outcome::Succeeded);
}

#[tokio::test]
async fn g12_g13_msg_timeout_queryprepared() {
    let options = message_options(|options| {
        options.timeout_to_fail = Some(2 * SECOND);
        options.retry_interval = Some(SECOND);
    });
    for (capture, gid) in [
        (capture!("g12-msg-timeout-queryprepared-ok"), "probe-msg-qp-ok"),
        (capture!("g13-msg-timeout-queryprepared-failure"), "probe-msg-qp-fail"),
    ] {
        let replayed = replay(grpc_calls(capture)).await;
        replayed.dtm.prepare_message(&message(gid).options(options.clone())).await.unwrap();
    }
}

#[tokio::test]
async fn g14_msg_doandsubmit_ok() {
    let replayed = replay(grpc_calls(capture!("g14-msg-doandsubmit-ok"))).await;
    let message = message("probe-msg-do-ok");
    let done = replayed.dtm.do_and_submit(&message, async |_| Ok::<_, micro_core::Error>(Some(())));
    assert_eq!(done.await.unwrap(), Some(()));
}

/// What the local part came to decides between submitting and aborting; whom it asks is tested beside
/// the real server.
#[tokio::test]
async fn g14bcd_msg_doandsubmit_that_did_not_go_well() {
    for (capture, gid, is_submitted) in [
        (capture!("g14b-msg-doandsubmit-busi-error-queries-back"), "probe-msg-do-err", false),
        (capture!("g14c-msg-doandsubmit-busi-error-but-committed"), "probe-msg-do-err2", true),
        (capture!("g14d-msg-doandsubmit-errfailure-aborts"), "probe-msg-do-failure", false),
    ] {
        let replayed = replay(grpc_calls(capture)).await;
        let message = message(gid);
        replayed.dtm.prepare_message(&message).await.unwrap();
        if is_submitted {
            replayed.dtm.submit_message(&message).await.unwrap();
        } else {
            replayed.dtm.abort_message(&message).await.unwrap();
        }
    }
}

#[tokio::test]
async fn g15_msg_delay_and_topic() {
    let replayed = replay(grpc_calls(capture!("g15-msg-delay-and-topic"))).await;
    let dtm = &replayed.dtm;
    dtm.subscribe("t1", &busi("Sub1"), "r").await.unwrap();
    dtm.subscribe("t1", &busi("Sub2"), "r").await.unwrap();
    let error = dtm.subscribe("t1", &busi("Sub2"), "r").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let options = message_options(|options| options.retry_interval = Some(SECOND));
    let message = TwoPhaseMessage::with_gid("probe-msg-topic").topic("t1", text("hello")).options(options);
    assert_eq!(dtm.submit_message(&message.delay(2 * SECOND)).await.unwrap(), Outcome::StillRunning);
    let message = TwoPhaseMessage::with_gid("probe-msg-topic-none").topic("nope", text("hello"));
    assert_eq!(dtm.submit_message(&message).await.unwrap_err().kind(), ErrorKind::NotFound);
}

/// Every error of the gRPC API that was captured, by the kind that it becomes. The requests were made by
/// hand; what counts here is the answer.
#[tokio::test]
async fn e03_api_error_table() {
    use ErrorKind::{AlreadyExists, FailedPrecondition, InvalidArgument, NotFound};
    let expected = [
        ("runtime error: invalid memory address or nil pointer dereference", InvalidArgument),
        ("runtime error: index out of range [0] with length 0", InvalidArgument),
        ("invalid character 'x' looking for beginning of value", InvalidArgument),
        ("key required", InvalidArgument),
        ("current status 'succeed', cannot sumbmit. FAILURE", FailedPrecondition),
        ("current status 'succeed', cannot prepare. FAILURE", FailedPrecondition),
        ("trans type: 'saga' current status 'succeed', cannot abort. FAILURE", FailedPrecondition),
        ("no TransGlobal with gid: probe-none found", NotFound),
        ("storage: UniqueKeyConflict", AlreadyExists),
        ("no trans with gid: probe-none status: prepared found FAILURE", FailedPrecondition),
        ("unknow trans type: zz", InvalidArgument),
        ("current status 'failed', cannot sumbmit. FAILURE", FailedPrecondition),
        ("no trans with gid: probe-x6 status: prepared found FAILURE", FailedPrecondition),
        ("empty topic", InvalidArgument),
        ("storage: NotFound", NotFound),
        ("storage: UniqueKeyConflict", AlreadyExists),
        ("storage: NotFound", NotFound),
    ];
    let mut request = GlobalTransaction::new(Mode::Saga, "g");
    request.steps.push(Step::new("a:1/b"));
    let refused = grpc_calls(capture!("e03-api-error-table-grpc")).into_iter().filter(|call| call.code != 0);
    let refused: Vec<Call> = refused.collect();
    assert_eq!(refused.iter().map(|call| call.text.as_str()).collect::<Vec<_>>(), expected.map(|(text, _)| text));
    for (call, (answer, kind)) in refused.into_iter().zip(expected) {
        let asked = Call { path: "/dtmgimp.Dtm/Abort".to_owned(), message: abort_bytes(), ..call };
        let error = replay(VecDeque::from([asked])).await.dtm.abort(&request).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(answer) && error.to_string().contains("address=127.0.0.1:"), "{error}");
    }
}

/// `gid` g, `trans_type` saga, no options, an empty payload, one step.
fn abort_bytes() -> Vec<u8> {
    let steps = r#"[{"action":"a:1/b","compensate":""}]"#;
    let mut bytes = b"\x0a\x01g\x12\x04saga\x1a\x00\x2a\x00\x3a".to_vec();
    bytes.push(u8::try_from(steps.len()).unwrap());
    bytes.extend(steps.as_bytes());
    bytes
}

/// A request of the HTTP API: its first line, its body, and the answer's status and body.
#[derive(Clone, Debug, Default)]
struct Exchange {
    line: String,
    body: String,
    status: u16,
    answer: String,
}

fn http_exchanges(capture: &str) -> VecDeque<Exchange> {
    let mut exchanges: VecDeque<Exchange> = VecDeque::new();
    for frame in frames(capture).into_iter().filter(|frame| frame.kind == "http1") {
        // Some bodies came a moment after their heads.
        let (head, body) = frame.raw.split_once("\r\n\r\n").unwrap_or(("", &frame.raw));
        if frame.dir == ">" {
            if head.is_empty() {
                exchanges.back_mut().unwrap().body += body;
                continue;
            }
            let line = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
            exchanges.push_back(Exchange { line, body: body.to_owned(), ..Exchange::default() });
        } else {
            let exchange = exchanges.iter_mut().find(|exchange| exchange.status == 0).unwrap();
            exchange.status = head.split(' ').nth(1).unwrap().parse().unwrap();
            exchange.answer = unchunked(head, body);
        }
    }
    exchanges
}

fn unchunked(head: &str, body: &str) -> String {
    if !head.contains("Transfer-Encoding: chunked") {
        return body.to_owned();
    }
    body.split("\r\n").skip(1).step_by(2).collect()
}

/// DTM's HTTP API as it was captured; a request that is not the captured one is 400.
async fn http_replay(exchanges: VecDeque<Exchange>) -> DtmClient {
    let exchanges = Arc::new(Mutex::new(exchanges));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().fallback(move |request: axum::extract::Request| {
        let exchanges = exchanges.clone();
        async move {
            let line = format!("{} {}", request.method(), request.uri());
            let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
            let body = String::from_utf8(body.to_vec()).unwrap();
            // Who asks what became of it is not in the captures.
            let is_query = line.starts_with("GET /api/dtmsvr/query?gid=probe");
            let expected = exchanges.lock().unwrap().front().cloned().unwrap_or_default();
            if is_query && expected.line != line {
                return (http::StatusCode::INTERNAL_SERVER_ERROR, String::new());
            }
            if (line.as_str(), body.as_str()) != (&*expected.line, &*expected.body) {
                let text = format!("{line} {body}, not {} {}", expected.line, expected.body);
                return (http::StatusCode::BAD_REQUEST, text);
            }
            exchanges.lock().unwrap().pop_front();
            (http::StatusCode::from_u16(expected.status).unwrap(), expected.answer)
        }
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    DtmClient::new(DtmConfig::from_url(&format!("http://{address}")).unwrap()).unwrap()
}

fn api(method: &str) -> String {
    format!("http://127.0.0.1:47001/api/{method}")
}

fn json_step(name: &str, payload: &str) -> Step {
    Step::new(api(name)).compensation(api(&format!("{name}Compensate"))).payload(payload.to_owned())
}

#[tokio::test]
async fn h01_saga_success() {
    let dtm = http_replay(http_exchanges(capture!("h01-saga-success"))).await;
    let mut options = waiting();
    options.timeout_to_fail = Some(10 * SECOND);
    options.request_timeout = Some(4 * SECOND);
    options.retry_interval = Some(5 * SECOND);
    options.retry_count_max = Some(7);
    options.headers.insert("x-trace-id".to_owned(), "t-1".to_owned());
    let saga = Saga::with_gid("probe-h-saga-ok").options(options);
    let saga = saga.step(json_step("TransOut", r#"{"amount":30}"#)).step(json_step("TransIn", r#"{"amount":30}"#));
    assert_eq!(dtm.coordinator().submit(saga).await.unwrap(), Outcome::Succeeded);
}

#[tokio::test]
async fn h02_saga_failure() {
    let dtm = http_replay(http_exchanges(capture!("h02-saga-failure"))).await;
    let mut options = waiting();
    options.is_concurrent = true;
    options.orders.insert(1, vec![0]);
    let saga = Saga::with_gid("probe-h-saga-fail").options(options);
    let saga = saga.step(json_step("TransOut", r#"{"amount":30}"#)).step(json_step("TransIn", "null"));
    let reason = format!(r#"url:{} return failed: {{"error":"no balance"}}"#, api("TransIn"));
    assert_eq!(dtm.coordinator().submit(saga.clone()).await.unwrap(), Outcome::RolledBack { reason });
    let reason = "rolled back, or stopped by force, before".to_owned();
    assert_eq!(dtm.coordinator().submit(saga).await.unwrap(), Outcome::RolledBack { reason });
}

#[tokio::test]
async fn h05_msg_doandsubmit_and_queryprepared() {
    let dtm = http_replay(http_exchanges(capture!("h05-msg-doandsubmit-and-queryprepared"))).await;
    let message = |gid: &str| {
        TwoPhaseMessage::with_gid(gid).call(api("TransIn"), r#"{"amount":30}"#).query_prepared(api("QueryPrepared"))
    };
    let done = message("probe-h-msg");
    let outcome = dtm.do_and_submit(&done, async |_| Ok::<_, micro_core::Error>(Some(()))).await;
    assert_eq!(outcome.unwrap(), Some(()));
    let options = message_options(|options| {
        options.timeout_to_fail = Some(2 * SECOND);
        options.retry_interval = Some(SECOND);
    });
    dtm.prepare_message(&message("probe-h-msg-qp").options(options)).await.unwrap();
    let failed = message("probe-h-msg-doerr");
    dtm.prepare_message(&failed).await.unwrap();
    dtm.abort_message(&failed).await.unwrap();
}

/// The answers of the HTTP API that was captured, by what they become.
#[tokio::test]
async fn h07_admin_api() {
    let mut exchanges = http_exchanges(capture!("h07-admin-api"));
    // Requests that were made by hand, with members in another order or a URL escaped otherwise.
    let mut take = |line: &str| {
        let index = exchanges.iter().position(|exchange| exchange.line.starts_with(line));
        exchanges.remove(index.unwrap_or_else(|| panic!("{line} was captured"))).unwrap()
    };
    let mut rows = VecDeque::new();
    let lines = [
        "GET /api/dtmsvr/version",
        "GET /api/dtmsvr/newGid",
        "GET /api/dtmsvr/query?gid=",
        "GET /api/dtmsvr/query?gid=does-not-exist",
        "GET /api/dtmsvr/query?gid=probe-h-saga-ok",
        "GET /api/dtmsvr/all?limit=2",
        "GET /api/dtmsvr/resetCronTime?timeout=1&limit=10",
        "POST /api/dtmsvr/forceStop",
        "POST /api/dtmsvr/forceStop",
        "POST /api/dtmsvr/resetNextCronTime",
        "DELETE /api/dtmsvr/topic/ht",
        "DELETE /api/dtmsvr/topic/ht",
        "POST /api/dtmsvr/registerBranch",
    ];
    rows.extend(lines.map(&mut take));
    // One of the members that a browser would not escape, and members by name.
    rows[12].body =
        r#"{"branch_id":"01","cancel":"http://b","confirm":"http://a","data":"{}","gid":"nope","trans_type":"tcc"}"#
            .to_owned();
    let dtm = http_replay(rows).await;
    assert_eq!(dtm.version().await.unwrap(), "v1.19.0-probe");
    assert_eq!(dtm.new_gid().await.unwrap(), "oSZPSWvbDNs72zc8CMTPJ4");
    assert_eq!(dtm.query("").await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(dtm.query("does-not-exist").await.unwrap(), None);
    let details = dtm.query("probe-h-saga-ok").await.unwrap().unwrap();
    assert_eq!((details.outcome(), details.branches.len()), (Outcome::Succeeded, 4));
    let mut filter = micro_tx::dtm::TransactionFilter::default();
    filter.limit = 2;
    let page = dtm.transactions(&filter).await.unwrap();
    assert_eq!((page.transactions.len(), page.next_position.as_deref()), (2, Some("probe-h-msg-doerr")));
    assert_eq!(page.transactions[0].status, TransactionStatus::Succeeded);
    let reset = dtm.retry_all_now(SECOND, 10).await.unwrap();
    assert_eq!((reset.count, reset.has_remaining), (0, false));
    assert_eq!(dtm.force_stop("probe-h-saga-ok").await.unwrap_err().kind(), ErrorKind::FailedPrecondition);
    assert_eq!(dtm.force_stop("nope").await.unwrap_err().kind(), ErrorKind::NotFound);
    dtm.retry_now("probe-h-saga-ok").await.unwrap();
    dtm.delete_topic("ht").await.unwrap();
    assert_eq!(dtm.delete_topic("ht").await.unwrap_err().kind(), ErrorKind::NotFound);
    let branch =
        BranchRegistration::new(Mode::Tcc, "nope", "01").data("confirm", "http://a").data("cancel", "http://b");
    let error = dtm.register_branch(&branch.payload("{}")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
}

/// The answers of the JSON-RPC API that was captured, by what they become. Requests that were made by hand, with
/// members in another order, are replaced by ours.
#[tokio::test]
async fn h08_jsonrpc() {
    use ErrorKind::{FailedPrecondition, InvalidArgument, Unimplemented};
    let exchanges = http_exchanges(capture!("h08-jsonrpc"));
    let answered = |index: usize, body: &str| {
        let exchange = Exchange { body: body.to_owned(), ..exchanges[index].clone() };
        http_replay(VecDeque::from([exchange])).then(|dtm| async move {
            let config =
                DtmConfig::from_url(&dtm.address().replace("http://", "jsonrpc://").replace("/api/dtmsvr", ""));
            DtmClient::new(config.unwrap()).unwrap()
        })
    };
    let gid = answered(0, &exchanges[0].body).await.new_gid().await.unwrap();
    assert_eq!(gid, "TWDqkrsiYHzeZ9F5yQAX9L");
    for (index, kind, code) in [(1, InvalidArgument, -32700), (2, InvalidArgument, -32600), (3, Unimplemented, -32601)]
    {
        let error = answered(index, &exchanges[0].body).await.new_gid().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(&format!("code={code}, answer=")), "{error}");
    }
    let request = |wait: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":"1","method":"submit","params":{{"gid":"probe-jr","trans_type":"msg",{wait}"concurrent":false,"steps":[{{"action":"http://127.0.0.1:47001/api/jr?method=TransIn"}}],"payloads":["{{\"amount\":30}}"],"protocol":"json-rpc"}}}}"#
        )
    };
    let mut message = GlobalTransaction::new(Mode::Msg, "probe-jr");
    message.steps.push(Step::new("http://127.0.0.1:47001/api/jr?method=TransIn").payload(r#"{"amount":30}"#));
    message.options.is_waited_for = true;
    answered(5, &request(r#""wait_result":true,"#)).await.submit(&message).await.unwrap();
    message.options.is_waited_for = false;
    let error = answered(6, &request("")).await.submit(&message).await.unwrap_err();
    assert_eq!(error.kind(), FailedPrecondition);
    assert!(error.to_string().contains("code=-32901, answer=current status 'succeed'"), "{error}");
}
