//! Cases that DTM's own tests do not have: what was seen on the wire and surprises.

use std::time::Duration;

use dev_servers::Kind;
use micro_core::{
    ErrorKind,
    branch::BranchError,
    saga::{Outcome, Saga, SagaCoordinator as _},
};
use micro_tx::dtm::TransactionStatus::{Failed, Submitted, Succeeded};

use super::{
    branches::Say,
    stage::{SECOND, Stage, Wire, impatient, on_each_wire, shared_url, unhurried, waiting},
};

/// The longest URL beside which a whole failure is kept: 1,024 characters less 600 of it and the 28 that DTM
/// writes around the two.
const URL_CHARS_MAX: usize = 396;

on_each_wire! {
    submit_repeated_runs_branches_again
    retry_limit_counts_ongoing
    an_outcome_is_read_from_the_text_where_dtm_cannot_be_asked
}

async fn submit_repeated_runs_branches_again(stage: Stage) {
    let saga = stage.saga(impatient());
    stage.branches.script(&saga.gid, "02/action", vec![Say::Ongoing; 100]);
    stage.submit(&saga).await;
    stage.until_called(&saga.gid, 2).await;
    assert_eq!(stage.submit(&saga).await, Outcome::StillRunning);
    stage.branches.script(&saga.gid, "02/action", []);
    stage.until(&saga.gid, Succeeded).await;
    let calls = stage.branches.calls(&saga.gid);
    assert_eq!(calls.iter().filter(|call| *call == "01/action").count(), 2, "{calls:?}");
}

/// DTM gives up waiting after its own 5 to 8 s and says FAILURE of what succeeds a moment later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wait_result_on_a_slow_saga_is_still_running() {
    let slow = |wire| async move {
        let Some(stage) = Stage::on(Kind::DtmMysql, wire).await else { return };
        let mut options = waiting();
        options.request_timeout = Some(Duration::from_secs(10));
        let saga = Saga::new().step(stage.step("TransOut")).options(options);
        stage.branches.script(&saga.gid, "01/action", [Say::Late(Duration::from_secs(7))]);
        assert_eq!(stage.submit(&saga).await, Outcome::StillRunning);
        assert_eq!(stage.status(&saga.gid).await, Submitted);
        stage.dtm.retry_now(&saga.gid).await.unwrap();
        stage.until(&saga.gid, Succeeded).await;
    };
    tokio::join!(slow(Wire::Grpc), slow(Wire::Http));
}

async fn retry_limit_counts_ongoing(stage: Stage) {
    let mut options = waiting();
    options.retry_count_max = Some(3);
    let saga = Saga::new().step(stage.step("TransIn")).options(options);
    stage.branches.script(&saga.gid, "01/action", vec![Say::Ongoing; 10]);
    let reason = "RetryCount is greater than RetryLimit, RetryLimit: 3".to_owned();
    assert_eq!(stage.submit(&saga).await, Outcome::RolledBack { reason });
    let calls = ["01/action", "01/action", "01/action", "01/action", "01/compensate"];
    assert_eq!(stage.branches.calls(&saga.gid), calls);
}

async fn an_outcome_is_read_from_the_text_where_dtm_cannot_be_asked(stage: Stage) {
    if stage.wire == Wire::Http {
        return;
    }
    let Some(url) = shared_url(Kind::Dtm).await else { return };
    let coordinator = stage.without_queries(&url).coordinator();
    let done = stage.saga(waiting());
    assert_eq!(coordinator.submit(done.clone()).await.unwrap(), Outcome::Succeeded);
    assert_eq!(coordinator.submit(done.clone()).await.unwrap(), Outcome::Succeeded);
    let refused = stage.saga(waiting());
    stage.branches.script(&refused.gid, "02/action", [Say::Failure("no stock".to_owned())]);
    let reason = format!("url:{} return failed: no stock", stage.url("TransIn"));
    assert_eq!(coordinator.submit(refused).await.unwrap(), Outcome::RolledBack { reason });
    let ongoing = stage.saga(waiting());
    stage.branches.script(&ongoing.gid, "02/action", [Say::Ongoing]);
    assert_eq!(coordinator.submit(ongoing).await.unwrap(), Outcome::StillRunning);
    let error = coordinator.outcome(&done.gid).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.to_string().contains("?http=HOST:PORT"), "{error}");
}

/// A participant that answers 200 and says FAILURE somewhere has refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_word_search() {
    let Some(stage) = Stage::shared(Wire::Http).await else { return };
    let saga = stage.saga(waiting());
    stage.branches.script(&saga.gid, "02/action", [Say::Text("no FAILURE at all".to_owned())]);
    let reason = format!("url:{} return failed: no FAILURE at all", stage.url("TransIn"));
    assert_eq!(stage.submit(&saga).await, Outcome::RolledBack { reason });
    assert_eq!(stage.status(&saga.gid).await, Failed);
}

/// DTM's column for the reason has 1024 characters, and it panics at more; it is rolled back later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_failure_text() {
    let Some(stage) = Stage::on(Kind::DtmMysql, Wire::Grpc).await else { return };
    let mut options = unhurried();
    options.is_waited_for = true;
    let saga = stage.saga(options);
    stage.branches.script(&saga.gid, "02/action", [Say::Failure("x".repeat(2000))]);
    assert_eq!(stage.submit(&saga).await, Outcome::StillRunning);
    stage.until(&saga.gid, Failed).await;
    assert_eq!(stage.reason(&saga.gid).await, "fail message lost");
}

/// As branches here cut it, also where their URLs are as long as the guide says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_that_is_cut_is_kept_beside_a_long_url() {
    let Some(stage) = Stage::on(Kind::DtmMysql, Wire::Grpc).await else { return };
    let BranchError::Failed(cut) = BranchError::failed("x".repeat(2000)).decided("TransIn", None) else {
        panic!("a failure is one")
    };
    for url_chars in [33, 113, URL_CHARS_MAX] {
        let name = "X".repeat(url_chars - stage.url("").len());
        let saga = Saga::new().step(stage.step("TransOut")).step(stage.step(&name)).options(waiting());
        assert_eq!(saga.steps[1].action.len(), url_chars);
        stage.branches.script(&saga.gid, "02/action", [Say::Failure(cut.clone())]);
        let outcome = stage.submit(&saga).await;
        let Outcome::RolledBack { reason } = outcome else { panic!("a URL of {url_chars} characters: {outcome:?}") };
        assert!(reason.ends_with(&cut), "{reason}");
    }
}

/// What the store cannot keep is refused by us; DTM would fail in the middle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_over_a_limit_is_not_sent() {
    let Some(stage) = Stage::on(Kind::DtmMysql, Wire::Grpc).await else { return };
    let Some(url) = shared_url(Kind::DtmMysql).await else { return };
    let headers = |saga: &mut Saga| drop(saga.options.headers.insert("x".to_owned(), "v".repeat(3000)));
    let payload = |saga: &mut Saga| saga.steps[0].payload = vec![b'x'; 70_000].into();
    let gid = |saga: &mut Saga| saga.gid = "g".repeat(129);
    for (change, told) in
        [(&headers as &dyn Fn(&mut Saga), "length_max=1024"), (&payload, "length_max=65535"), (&gid, "length_max=128")]
    {
        let mut saga = stage.saga(waiting());
        change(&mut saga);
        let error = stage.dtm.coordinator().submit(saga.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(told), "{error}");
        assert_eq!(stage.dtm.query(&saga.gid).await.unwrap(), None, "nothing was sent");
        // Where the check is turned off, it is DTM that cannot; but the id, which participants refuse.
        let unchecked = stage.without_queries(&url).coordinator().submit(saga.clone()).await.unwrap_err();
        assert_eq!(unchecked.kind(), ErrorKind::InvalidArgument);
        let told = if told.ends_with("128") { told } else { "Data too long" };
        assert!(unchecked.to_string().contains(told), "{unchecked}");
        assert_eq!(stage.branches.calls(&saga.gid), [""; 0]);
    }
}

/// Statement 36 of what the order and product services expect: `/dtmgimp.Dtm/Submit` with the steps as
/// JSON, the payloads and TimeoutToFail; one step, RetryLimit 3 and TimeoutToFail 30, a UUID for an id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statement_36_as_dtm_client() {
    let Some(stage) = Stage::shared(Wire::Grpc).await else { return };
    let mut options = waiting();
    options.retry_count_max = Some(3);
    options.timeout_to_fail = Some(30 * SECOND);
    let saga = Saga::new().step(stage.step("TransOut")).options(options);
    assert_eq!(saga.gid.len(), 36);
    assert_eq!(stage.submit(&saga).await, Outcome::Succeeded);
    let details = stage.dtm.query(&saga.gid).await.unwrap().unwrap();
    let kept: serde_json::Value = serde_json::from_str(&details.transaction.options).unwrap();
    assert_eq!((&kept["timeout_to_fail"], &kept["retry_limit"]), (&30.into(), &3.into()));
    assert_eq!(details.branches[0].url, stage.url("TransOutRevert"));
    assert_eq!(details.branches[1].url, stage.url("TransOut"));
    assert_eq!(stage.branches.seen(&saga.gid)[0].payload, "TransOut");
}
