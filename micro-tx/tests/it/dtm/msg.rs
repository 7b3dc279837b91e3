//! Cases of two-phase messages: DTM's own tests of the names that stand there.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use dev_servers::{Kind, Server};

use micro_core::{Error, ErrorKind, saga::Outcome};
use micro_testkit::{Missing, eventually};
use micro_tx::dtm::{
    TransactionOptions,
    TransactionStatus::{Failed, Prepared, Submitted, Succeeded},
};

use tokio::net::TcpListener;

use super::{
    branches::{Say, gate},
    stage::{HELD_TIMEOUT, PATIENCE, SECOND, Stage, Wire, blocking, on_all_wires, options, there},
};

on_all_wires! {
    case_54_msg_normal
    case_55_msg_timeout_success
    case_56_msg_timeout_failed
    case_57_msg_abnormal
    case_59_msg_options_timeout_custom
    case_59_msg_options_timeout_failed
    case_60_msg_concurrent
    case_61_msg_delay_normal
    case_63_msg_do_and_submit
    case_64_msg_do_and_submit_busi_failed
    case_67_msg_do_and_submit_commit_failed
    case_68_msg_do_and_submit_commit_after_failed
    a_local_part_that_will_never_be_is_given_up_without_asking
    nobody_knows_and_dtm_asks_later
    a_message_needs_query_prepared_for_a_local_part
}

/// Looked at before its timeout, a message would be looked at again after DTM's own ten seconds.
fn impatient() -> TransactionOptions {
    let mut options = options();
    options.retry_interval = Some(2 * SECOND);
    options.timeout_to_fail = Some(SECOND);
    options
}

/// The same, with time for the test to see what the first look left.
fn unhurried() -> TransactionOptions {
    let mut options = impatient();
    options.retry_interval = Some(4 * SECOND);
    options
}

fn aborted() -> Error {
    Error::new(ErrorKind::Aborted, "transfer", "the balance is locked")
}

async fn case_54_msg_normal(stage: Stage) {
    let message = stage.message();
    stage.dtm.prepare_message(&message).await.unwrap();
    assert_eq!(stage.status(&message.gid).await, Prepared);
    assert_eq!(stage.branches.calls(&message.gid), [""; 0]);
    assert_eq!(stage.dtm.submit_message(&message).await.unwrap(), Outcome::StillRunning);
    stage.until(&message.gid, Succeeded).await;
    assert_eq!(stage.branches.calls(&message.gid), ["01/action", "02/action"]);
    assert_eq!(stage.dtm.submit_message(&message).await.unwrap(), Outcome::Succeeded);
}

async fn case_55_msg_timeout_success(stage: Stage) {
    let message = stage.message().options(unhurried());
    stage.branches.script(&message.gid, "00/msg", [Say::Ongoing]);
    stage.branches.script(&message.gid, "01/action", [Say::Ongoing]);
    stage.dtm.prepare_message(&message).await.unwrap();
    stage.until_called(&message.gid, 1).await;
    assert_eq!(stage.status(&message.gid).await, Prepared, "the local part goes on");
    stage.until_called(&message.gid, 3).await;
    assert_eq!(stage.status(&message.gid).await, Submitted);
    stage.until(&message.gid, Succeeded).await;
    assert_eq!(stage.branches.calls(&message.gid), ["00/msg", "00/msg", "01/action", "01/action", "02/action"]);
}

async fn case_56_msg_timeout_failed(stage: Stage) {
    let message = stage.message().options(impatient());
    stage.branches.script(&message.gid, "00/msg", [Say::Failure("rolled back".to_owned())]);
    stage.dtm.prepare_message(&message).await.unwrap();
    stage.until(&message.gid, Failed).await;
    assert_eq!(stage.states(&message.gid).await, ["prepared", "prepared"]);
    assert_eq!(stage.branches.calls(&message.gid), ["00/msg"]);
}

async fn case_57_msg_abnormal(stage: Stage) {
    let message = stage.message();
    stage.dtm.prepare_message(&message).await.unwrap();
    stage.dtm.prepare_message(&message).await.unwrap();
    stage.dtm.submit_message(&message).await.unwrap();
    stage.until(&message.gid, Succeeded).await;
    let error = stage.dtm.prepare_message(&message).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    let error = stage.dtm.abort_message(&message).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
}

/// DTM's default of 35 s, which nothing makes shorter, beside one of a second and one of two minutes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_59_msg_options_timeout() {
    let Some(stage) = Stage::shared(Wire::Grpc).await else { return };
    let options = |timeout: Option<Duration>| {
        let mut options = TransactionOptions::default();
        options.timeout_to_fail = timeout;
        options
    };
    let by_default = stage.message().options(options(None));
    let patient = stage.message().options(options(Some(120 * SECOND)));
    let begun = Instant::now();
    stage.dtm.prepare_message(&by_default).await.unwrap();
    stage.dtm.prepare_message(&patient).await.unwrap();
    stage.until(&by_default.gid, Succeeded).await;
    let seen = stage.branches.seen(&by_default.gid);
    assert_eq!(seen[0].name(), "00/msg");
    // DTM counts from when it stored it.
    assert!(seen[0].at - begun >= 34 * SECOND, "nobody is asked before");
    assert_eq!(stage.status(&patient.gid).await, Prepared);
    assert_eq!(stage.branches.calls(&patient.gid), [""; 0]);
    stage.dtm.abort_message(&patient).await.unwrap();
}

/// Before its own timeout nobody is asked, and after it the answer decides.
async fn case_59_msg_options_timeout_failed(stage: Stage) {
    let mut options = unhurried();
    options.timeout_to_fail = Some(3 * SECOND);
    let message = stage.message().options(options);
    stage.branches.script(&message.gid, "00/msg", [Say::Failure("rolled back".to_owned())]);
    let begun = Instant::now();
    stage.dtm.prepare_message(&message).await.unwrap();
    stage.until(&message.gid, Failed).await;
    assert!(stage.branches.seen(&message.gid)[0].at - begun >= 2 * SECOND, "nobody is asked before");
    assert_eq!(stage.branches.calls(&message.gid), ["00/msg"], "nothing is sent");
}

async fn case_59_msg_options_timeout_custom(stage: Stage) {
    let message = stage.message().options(impatient());
    stage.dtm.prepare_message(&message).await.unwrap();
    stage.until(&message.gid, Succeeded).await;
    assert_eq!(stage.branches.calls(&message.gid), ["00/msg", "01/action", "02/action"]);
    let asked = &stage.branches.seen(&message.gid)[0];
    let payload = (asked.method.as_str(), asked.payload.as_str());
    match stage.wire {
        Wire::Grpc => assert_eq!(payload, ("/busi.Busi/QueryPrepared", "")),
        Wire::Http | Wire::JsonRpc => assert_eq!(payload, ("GET /api/QueryPrepared", "")),
    }
}

async fn case_60_msg_concurrent(stage: Stage) {
    let mut options = TransactionOptions::default();
    options.is_concurrent = true;
    options.request_timeout = Some(HELD_TIMEOUT);
    let message = stage.message().options(options);
    let gate = gate();
    stage.branches.script(&message.gid, "01/action", [Say::Held(gate.clone())]);
    let outcome = stage.dtm.submit_message(&message).await;
    if stage.wire == Wire::Grpc {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::InvalidArgument);
        return;
    }
    // The second call is made before the first one ends.
    stage.until_called(&message.gid, 2).await;
    gate.close();
    stage.until(&message.gid, Succeeded).await;
    let mut calls = stage.branches.calls(&message.gid);
    calls.sort();
    assert_eq!(calls, ["01/action", "02/action"]);
}

async fn case_61_msg_delay_normal(stage: Stage) {
    let message = stage.message().delay(4 * SECOND);
    let begun = std::time::Instant::now();
    stage.dtm.submit_message(&message).await.unwrap();
    assert_eq!(stage.status(&message.gid).await, Submitted);
    stage.until(&message.gid, Succeeded).await;
    // DTM rounds to whole seconds.
    assert!(stage.branches.seen(&message.gid)[0].at - begun > 3 * SECOND, "nothing before the delay");
}

async fn case_63_msg_do_and_submit(stage: Stage) {
    let message = stage.message();
    let done = stage.dtm.do_and_submit(&message, async |barrier| {
        let branch = barrier.branch().unwrap();
        assert_eq!((branch.id.as_str(), branch.op.as_str()), ("00", "msg"));
        assert_eq!(branch.coordinator.as_deref(), Some(stage.dtm.address()));
        assert_eq!(stage.status(&message.gid).await, Prepared);
        Ok::<_, Error>(Some(17))
    });
    assert_eq!(done.await.unwrap(), Some(17));
    stage.until(&message.gid, Succeeded).await;
    assert_eq!(stage.branches.calls(&message.gid), ["01/action", "02/action"]);
}

async fn case_64_msg_do_and_submit_busi_failed(stage: Stage) {
    let message = stage.message();
    stage.branches.script(&message.gid, "00/msg", [Say::Failure("never was".to_owned())]);
    let done = stage.dtm.do_and_submit(&message, async |_| Err::<Option<()>, _>(aborted())).await;
    assert_eq!(done.unwrap_err().to_string(), aborted().to_string());
    stage.until(&message.gid, Failed).await;
    assert_eq!(stage.branches.calls(&message.gid), ["00/msg"], "asked by the client, and then given up");
}

/// The commit failed, and was rolled back: the row of the barrier is not there.
async fn case_67_msg_do_and_submit_commit_failed(stage: Stage) {
    case_64_msg_do_and_submit_busi_failed(stage).await;
}

/// The commit took place, and its answer was lost: the message is sent, and the error is returned.
async fn case_68_msg_do_and_submit_commit_after_failed(stage: Stage) {
    let message = stage.message();
    let unknown = Error::new(ErrorKind::Unknown, "tx.commit", "may be done, may be not");
    let done = stage.dtm.do_and_submit(&message, async |_| Err::<Option<()>, _>(unknown)).await;
    assert_eq!(done.unwrap_err().kind(), ErrorKind::Unknown);
    stage.until(&message.gid, Succeeded).await;
    assert_eq!(stage.branches.calls(&message.gid), ["00/msg", "01/action", "02/action"]);
}

async fn a_local_part_that_will_never_be_is_given_up_without_asking(stage: Stage) {
    let message = stage.message();
    let done = stage.dtm.do_and_submit(&message, async |_| Ok::<Option<()>, Error>(None)).await;
    assert_eq!(done.unwrap(), None);
    stage.until(&message.gid, Failed).await;
    assert_eq!(stage.branches.calls(&message.gid), [""; 0]);
}

async fn nobody_knows_and_dtm_asks_later(stage: Stage) {
    let message = stage.message().options(unhurried());
    // It is asked by the client, which is told nothing, and then by DTM.
    stage.branches.script(&message.gid, "00/msg", [Say::Oops]);
    let done = stage.dtm.do_and_submit(&message, async |_| Err::<Option<()>, _>(aborted())).await;
    assert_eq!(done.unwrap_err().kind(), ErrorKind::Aborted);
    assert_eq!(stage.status(&message.gid).await, Prepared);
    stage.until(&message.gid, Succeeded).await;
    let seen = stage.branches.seen(&message.gid);
    assert_eq!(seen.iter().map(super::branches::Seen::name).collect::<Vec<_>>()[..2], ["00/msg", "00/msg"]);
    assert_eq!(seen[0].branch.coordinator.as_deref(), Some(stage.dtm.address()));
    assert_eq!(seen[1].branch.coordinator, None, "DTM itself");
    assert_eq!(seen[0].method, seen[1].method);
}

async fn a_message_needs_query_prepared_for_a_local_part(stage: Stage) {
    let message = stage.message().query_prepared("");
    let was_run = AtomicU32::new(0);
    let done = stage.dtm.do_and_submit(&message, async |_| {
        was_run.fetch_add(1, Ordering::Relaxed);
        Ok::<Option<()>, Error>(None)
    });
    assert_eq!(done.await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(was_run.into_inner(), 0);
}

/// Somebody is told of a branch that is called again and again, where DTM's settings say whom.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_62_msg_webhook() {
    let alerts: Arc<Mutex<Vec<serde_json::Value>>> = Arc::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hook = format!("http://{}/alerts", listener.local_addr().unwrap());
    let told = alerts.clone();
    let router = axum::Router::new().fallback(async move |body: axum::body::Bytes| {
        told.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    let settings = move || Server::start_with(Kind::Dtm, &[("AlertRetryLimit", "3"), ("AlertWebHook", &hook)]);
    let Some(server) = there(blocking(settings).await.map_err(Missing::new)) else { return };
    let stage = Stage::at(server.url(), Wire::Grpc).await;
    let mut options = TransactionOptions::default();
    options.retry_interval = Some(SECOND);
    let message = stage.message().options(options);
    stage.branches.script(&message.gid, "02/action", [Say::Oops, Say::Oops, Say::Oops]);
    stage.dtm.submit_message(&message).await.unwrap();
    stage.until(&message.gid, Succeeded).await;
    let alerts = eventually(PATIENCE, "the alert", async || {
        let alerts = alerts.lock().unwrap().clone();
        if alerts.is_empty() { Err("none") } else { Ok(alerts) }
    });
    let alerts = alerts.await;
    assert_eq!(alerts.len(), 1, "after the third failure, and not before: {alerts:?}");
    let alert = &alerts[0];
    assert_eq!((alert["gid"].as_str(), alert["retry_count"].as_i64()), (Some(&*message.gid), Some(3)));
    assert_eq!((alert["status"].as_str(), alert["branch"].as_str()), (Some("submitted"), Some(&*stage.url("TransIn"))));
    assert!(alert["error"].as_str().unwrap().contains("oops"), "{alert}");
}
