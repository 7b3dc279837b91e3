//! Cases of sagas: DTM's own tests of the names that stand there.

use std::collections::BTreeMap;

use micro_core::{
    ErrorKind,
    saga::{Outcome, Saga, SagaCoordinator as _, SagaOptions, Step},
};
use micro_tx::dtm::TransactionStatus::{Aborting, Failed, Submitted, Succeeded};

use serde_json::json;

use super::{
    base::no_tls,
    branches::{Say, gate},
    stage::{HELD_TIMEOUT, SECOND, Stage, Wire, impatient, on_all_wires, unhurried, waiting},
};

on_all_wires! {
    case_16_saga_normal
    case_17_saga_rollback
    case_18_saga_ongoing_succeed
    case_19_saga_failed
    case_20_saga_abnormal
    case_21_saga_empty_url
    case_23_saga_concurrent
    case_24_saga_concurrent_rollback
    case_25_saga_concurrent_rollback_order
    case_26_saga_concurrent_rollback_order_2
    case_27_saga_concurrent_committed_ongoing
    case_28_saga_concurrent_order
    case_29_saga_options_retry_ongoing
    case_30_saga_options_retry_error
    case_31_saga_options_timeout
    case_32_saga_with_request_timeout
    case_33_saga_options_normal_wait
    case_34_saga_options_committed_ongoing_wait
    case_35_saga_options_rollback_wait
    case_36_saga_headers
    case_37_saga_retry_limit_yes
    case_38_saga_retry_limit_no
}

fn assert_rolled_back(stage: &Stage, outcome: Outcome, method: &str, text: &str) {
    let Outcome::RolledBack { reason } = outcome else { panic!("{outcome:?}") };
    let said = reason.strip_prefix(&format!("url:{} return failed: ", stage.url(method)));
    match said.unwrap_or_else(|| panic!("{reason}")) {
        // DTM keeps the answer as a whole.
        said if stage.wire == Wire::JsonRpc => assert!(said.contains(&format!(r#""message":"{text}""#)), "{reason}"),
        said => assert_eq!(said, text),
    }
}

fn says(text: &str) -> Say {
    Say::Failure(text.to_owned())
}

async fn case_16_saga_normal(stage: Stage) {
    let saga = stage.saga(SagaOptions::default());
    assert_eq!(stage.submit(&saga).await, Outcome::StillRunning);
    stage.until(&saga.gid, Succeeded).await;
    assert_eq!(stage.states(&saga.gid).await, ["prepared", "succeed", "prepared", "succeed"]);
    assert_eq!(stage.reason(&saga.gid).await, "");
    assert_eq!(stage.branches.calls(&saga.gid), ["01/action", "02/action"]);
    let payload = |name: &str| if stage.wire == Wire::Http { format!("{name:?}") } else { name.to_owned() };
    let seen = stage.branches.seen(&saga.gid);
    assert_eq!(seen[0].payload, payload("TransOut"));
    assert_eq!(seen[1].payload, payload("TransIn"));
    if stage.wire == Wire::Grpc {
        assert_eq!(seen[0].headers["content-type"], "application/grpc+dtm_raw");
    }
    assert_eq!(stage.dtm.coordinator().outcome(&saga.gid).await.unwrap(), Some(Outcome::Succeeded));
}

async fn case_17_saga_rollback(stage: Stage) {
    let saga = stage.saga(unhurried());
    stage.branches.script(&saga.gid, "02/action", [says("Insufficient balance")]);
    stage.branches.script(&saga.gid, "02/compensate", [Say::Ongoing]);
    stage.submit(&saga).await;
    stage.until(&saga.gid, Aborting).await;
    assert_eq!(stage.dtm.coordinator().outcome(&saga.gid).await.unwrap(), Some(Outcome::StillRunning));
    stage.until(&saga.gid, Failed).await;
    assert_eq!(stage.states(&saga.gid).await, ["succeed", "succeed", "succeed", "failed"]);
    assert!(stage.reason(&saga.gid).await.contains("Insufficient balance"));
    let calls = ["01/action", "02/action", "02/compensate", "02/compensate", "01/compensate"];
    assert_eq!(stage.branches.calls(&saga.gid), calls);
}

async fn case_18_saga_ongoing_succeed(stage: Stage) {
    let saga = stage.saga(unhurried());
    stage.branches.script(&saga.gid, "01/action", [Say::Ongoing]);
    stage.submit(&saga).await;
    stage.until_called(&saga.gid, 1).await;
    assert_eq!(stage.status(&saga.gid).await, Submitted);
    stage.until(&saga.gid, Succeeded).await;
    assert_eq!(stage.branches.calls(&saga.gid), ["01/action", "01/action", "02/action"]);
}

async fn case_19_saga_failed(stage: Stage) {
    let saga = stage.saga(unhurried());
    stage.branches.script(&saga.gid, "02/action", [says("no")]);
    stage.branches.script(&saga.gid, "01/compensate", [Say::Oops]);
    stage.submit(&saga).await;
    stage.until(&saga.gid, Aborting).await;
    stage.until(&saga.gid, Failed).await;
    assert_eq!(stage.states(&saga.gid).await, ["succeed", "succeed", "succeed", "failed"]);
}

/// DTM refuses to submit what is over; our outcome is that of the one saga.
async fn case_20_saga_abnormal(stage: Stage) {
    let saga = stage.saga(unhurried());
    stage.branches.script(&saga.gid, "01/action", [Say::Ongoing, Say::Ongoing]);
    stage.submit(&saga).await;
    assert_eq!(stage.submit(&saga).await, Outcome::StillRunning);
    stage.until(&saga.gid, Succeeded).await;
    assert_eq!(stage.submit(&saga).await, Outcome::Succeeded);
    let error = stage.dtm.submit(&saga.clone().try_into().unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.to_string().contains("current status 'succeed'"), "{error}");
}

async fn case_21_saga_empty_url(stage: Stage) {
    let saga = Saga::new().step(stage.step("TransOut")).step(Step::new("")).options(waiting());
    assert_eq!(stage.submit(&saga).await, Outcome::Succeeded);
    assert_eq!(stage.branches.calls(&saga.gid), ["01/action"]);
}

fn concurrent(orders: &[(usize, &[usize])]) -> SagaOptions {
    let mut options = SagaOptions::default();
    options.is_concurrent = true;
    options.orders = orders.iter().map(|(step, before)| (*step, before.to_vec())).collect();
    options
}

async fn case_23_saga_concurrent(stage: Stage) {
    let mut options = concurrent(&[]);
    options.request_timeout = Some(HELD_TIMEOUT);
    let saga = stage.saga(options);
    let gate = gate();
    stage.branches.script(&saga.gid, "01/action", [Say::Held(gate.clone())]);
    stage.submit(&saga).await;
    // The second step begins before the first one ends.
    stage.until_called(&saga.gid, 2).await;
    gate.close();
    stage.until(&saga.gid, Succeeded).await;
    let mut calls = stage.branches.calls(&saga.gid);
    calls.sort();
    assert_eq!(calls, ["01/action", "02/action"]);
}

async fn case_24_saga_concurrent_rollback(stage: Stage) {
    let mut options = unhurried();
    options.is_concurrent = true;
    let saga = stage.saga(options);
    stage.branches.script(&saga.gid, "02/action", [says("no")]);
    stage.branches.script(&saga.gid, "02/compensate", [Say::Ongoing]);
    stage.submit(&saga).await;
    stage.until(&saga.gid, Aborting).await;
    stage.until(&saga.gid, Failed).await;
    let calls = stage.branches.calls(&saga.gid);
    assert_eq!(calls.iter().filter(|call| *call == "02/compensate").count(), 2, "{calls:?}");
}

async fn case_25_saga_concurrent_rollback_order(stage: Stage) {
    let saga = stage.saga(concurrent(&[(1, &[0])]));
    stage.branches.script(&saga.gid, "01/action", [says("no")]);
    stage.submit(&saga).await;
    stage.until(&saga.gid, Failed).await;
    assert_eq!(stage.branches.calls(&saga.gid), ["01/action", "01/compensate"], "the second never ran");
}

async fn case_26_saga_concurrent_rollback_order_2(stage: Stage) {
    let saga = stage.saga(concurrent(&[(1, &[0])]));
    stage.branches.script(&saga.gid, "02/action", [says("no")]);
    stage.submit(&saga).await;
    stage.until(&saga.gid, Failed).await;
    assert_eq!(stage.branches.calls(&saga.gid), ["01/action", "02/action", "02/compensate", "01/compensate"]);
}

async fn case_27_saga_concurrent_committed_ongoing(stage: Stage) {
    let mut options = unhurried();
    options.is_concurrent = true;
    let saga = stage.saga(options);
    stage.branches.script(&saga.gid, "01/action", [Say::Ongoing]);
    stage.submit(&saga).await;
    stage.until_called(&saga.gid, 2).await;
    assert_eq!(stage.status(&saga.gid).await, Submitted);
    stage.until(&saga.gid, Succeeded).await;
    let mut calls = stage.branches.calls(&saga.gid);
    calls.sort();
    assert_eq!(calls, ["01/action", "01/action", "02/action"]);
}

async fn case_28_saga_concurrent_order(stage: Stage) {
    let saga = stage.saga(concurrent(&[(2, &[0, 1])])).step(stage.step("Third"));
    stage.branches.script(&saga.gid, "01/action", [Say::Late(SECOND / 2)]);
    stage.submit(&saga).await;
    stage.until(&saga.gid, Succeeded).await;
    let seen = stage.branches.seen(&saga.gid);
    assert_eq!(seen[2].name(), "03/action");
    assert!(seen[2].at - seen[0].at >= SECOND / 2, "it waited for the slower of the two");
}

async fn case_29_saga_options_retry_ongoing(stage: Stage) {
    let saga = stage.saga(impatient());
    stage.branches.script(&saga.gid, "01/action", [Say::Ongoing]);
    stage.submit(&saga).await;
    stage.until_called(&saga.gid, 1).await;
    let interval = async || stage.dtm.query(&saga.gid).await.unwrap().unwrap().transaction.next_cron_interval;
    assert_eq!(interval().await, 1, "ongoing keeps the interval");
    stage.until(&saga.gid, Succeeded).await;
}

async fn case_30_saga_options_retry_error(stage: Stage) {
    let saga = stage.saga(unhurried());
    stage.branches.script(&saga.gid, "01/action", [Say::Oops]);
    stage.submit(&saga).await;
    stage.until_called(&saga.gid, 2).await;
    let seen = stage.branches.seen(&saga.gid);
    assert!(seen[1].at - seen[0].at >= 6 * SECOND, "the interval of four seconds was doubled");
    stage.until(&saga.gid, Succeeded).await;
}

async fn case_31_saga_options_timeout(stage: Stage) {
    let mut options = impatient();
    options.timeout_to_fail = Some(2 * SECOND);
    let saga = stage.saga(options);
    stage.branches.script(&saga.gid, "01/action", vec![Say::Ongoing; 100]);
    stage.submit(&saga).await;
    stage.until(&saga.gid, Failed).await;
    assert_eq!(stage.reason(&saga.gid).await, "Timeout after 2 seconds");
    let reason = "Timeout after 2 seconds".to_owned();
    assert_eq!(stage.dtm.coordinator().outcome(&saga.gid).await.unwrap(), Some(Outcome::RolledBack { reason }));
    let calls = stage.branches.calls(&saga.gid);
    assert_eq!(calls.last().unwrap(), "01/compensate", "what may have run is undone: {calls:?}");
}

/// DTM gives up a call after 3 s unless it is told otherwise.
async fn case_32_saga_with_request_timeout(stage: Stage) {
    let mut options = waiting();
    options.request_timeout = Some(20 * SECOND);
    options.retry_interval = Some(60 * SECOND);
    let saga = Saga::new().step(stage.step("TransOut")).options(options);
    stage.branches.script(&saga.gid, "01/action", [Say::Late(SECOND * 18 / 5)]);
    // DTM waits for it no longer than 5 to 8 s.
    stage.submit(&saga).await;
    stage.until(&saga.gid, Succeeded).await;
    assert_eq!(stage.branches.calls(&saga.gid), ["01/action"]);
}

async fn case_33_saga_options_normal_wait(stage: Stage) {
    let saga = stage.saga(waiting());
    assert_eq!(stage.submit(&saga).await, Outcome::Succeeded);
    assert_eq!(stage.status(&saga.gid).await, Succeeded);
}

async fn case_34_saga_options_committed_ongoing_wait(stage: Stage) {
    let mut options = unhurried();
    options.is_waited_for = true;
    let saga = stage.saga(options);
    stage.branches.script(&saga.gid, "01/action", [Say::Ongoing]);
    assert_eq!(stage.submit(&saga).await, Outcome::StillRunning, "DTM says FAILURE");
    stage.until(&saga.gid, Succeeded).await;
}

async fn case_35_saga_options_rollback_wait(stage: Stage) {
    let saga = stage.saga(waiting());
    stage.branches.script(&saga.gid, "02/action", [says("Insufficient balance")]);
    assert_rolled_back(&stage, stage.submit(&saga).await, "TransIn", "Insufficient balance");
    assert_eq!(stage.status(&saga.gid).await, Failed);
}

async fn case_36_saga_headers(stage: Stage) {
    let mut options = impatient();
    options.headers = BTreeMap::from([("test_header".to_owned(), "test".to_owned())]);
    let saga = stage.saga(options);
    stage.branches.script(&saga.gid, "01/action", [Say::Ongoing]);
    stage.submit(&saga).await;
    stage.until(&saga.gid, Succeeded).await;
    let seen = stage.branches.seen(&saga.gid);
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|seen| seen.headers["test_header"] == "test"), "at first and when it was looked at again");
}

async fn case_37_saga_retry_limit_yes(stage: Stage) {
    let mut options = waiting();
    options.retry_count_max = Some(3);
    let saga = stage.saga(options);
    stage.branches.script(&saga.gid, "02/action", [Say::Oops, Say::Oops]);
    assert_eq!(stage.submit(&saga).await, Outcome::Succeeded);
    assert_eq!(stage.branches.calls(&saga.gid), ["01/action", "02/action", "02/action", "02/action"]);
}

async fn case_38_saga_retry_limit_no(stage: Stage) {
    let mut options = waiting();
    options.retry_count_max = Some(1);
    let saga = stage.saga(options);
    stage.branches.script(&saga.gid, "02/action", [Say::Oops, Say::Oops]);
    let reason = "RetryCount is greater than RetryLimit, RetryLimit: 1".to_owned();
    assert_eq!(stage.submit(&saga).await, Outcome::RolledBack { reason });
    assert_eq!(stage.states(&saga.gid).await, ["succeed", "succeed", "succeed", "prepared"]);
}

/// The form of old clients, with the payload beside its step: DTM takes both, what we send is the other one,
/// and a saga in the old form is told as any.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_22_saga_compatible_normal() {
    let Some(stage) = Stage::shared(Wire::Http).await else { return };
    let step = |name: &str| {
        let (action, compensate) = (stage.url(name), stage.url(&format!("{name}Revert")));
        json!({ "action": action, "compensate": compensate, "data": r#"{"amount":30}"# })
    };
    let gid = Saga::new().gid;
    let old = json!({ "gid": gid, "trans_type": "saga", "steps": [step("TransOut"), step("TransIn")] });
    let client = reqwest::Client::builder().no_proxy().tls_backend_preconfigured(no_tls()).build().unwrap();
    let answer = client.post(format!("{}/submit", stage.dtm.address())).json(&old).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    stage.until(&gid, Succeeded).await;
    assert_eq!(stage.states(&gid).await, ["prepared", "succeed", "prepared", "succeed"]);
    let seen = stage.branches.seen(&gid);
    assert!(seen.iter().all(|seen| seen.payload == r#"{"amount":30}"#), "{seen:?}");
    assert_eq!(stage.dtm.coordinator().outcome(&gid).await.unwrap(), Some(Outcome::Succeeded));
    // The same saga in our form is the same transaction.
    let ours = Saga::with_gid(&gid).step(stage.step("TransOut")).step(stage.step("TransIn"));
    assert_eq!(stage.submit(&ours).await, Outcome::Succeeded);
    assert_eq!(stage.branches.seen(&gid).len(), 2, "nothing is called twice");
}

/// A saga over gRPC calls participants of both kinds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saga_over_grpc_has_steps_over_http_too() {
    let Some(stage) = Stage::shared(Wire::Grpc).await else { return };
    let step = Step::new(stage.http_url("TransIn")).payload(&br#"{"amount":30}"#[..]);
    let saga = Saga::new().step(stage.step("TransOut")).step(step).options(waiting());
    assert_eq!(stage.submit(&saga).await, Outcome::Succeeded);
    let seen = stage.branches.seen(&saga.gid);
    assert_eq!((seen[1].method.as_str(), seen[1].payload.as_str()), ("POST /api/TransIn", r#"{"amount":30}"#));
}
