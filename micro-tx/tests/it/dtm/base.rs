//! Cases of DTM's base and API tests.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use dev_servers::Kind;
use micro_core::{
    ErrorKind,
    branch::{Branch, Mode},
    saga::{Outcome, Saga, SagaCoordinator as _, SagaOptions, Step},
};
use micro_testkit::eventually;
use micro_tx::dtm::{
    GlobalTransaction, TransactionFilter,
    TransactionStatus::{self, Aborting, Failed, Submitted, Succeeded},
};

use super::{
    branches::Say,
    stage::{PATIENCE, SECOND, Stage, Wire, impatient, on_all_wires, own, waiting},
};

on_all_wires! {
    case_01_api_version
    case_02_must_gen_gid
    case_03_api_query
    case_05_api_force_stopped_normal
    case_06_api_force_stopped_abnormal
    a_saga_that_was_stopped_while_it_was_undone_is_told_as_such
}

const STOPPED: &str = "stopped by force: what had taken effect is not undone";

async fn case_01_api_version(stage: Stage) {
    assert_eq!(stage.dtm.version().await.unwrap(), "v1.19.0");
}

async fn case_02_must_gen_gid(stage: Stage) {
    let [one, two] = [stage.dtm.new_gid().await.unwrap(), stage.dtm.new_gid().await.unwrap()];
    // 22 letters, and of one in fifty a letter less.
    assert!(one.len() <= 22 && two.len() <= 22 && !one.is_empty(), "{one} {two}");
    assert_ne!(one, two);
}

async fn case_03_api_query(stage: Stage) {
    let saga = stage.saga(waiting());
    stage.submit(&saga).await;
    let details = stage.dtm.query(&saga.gid).await.unwrap().unwrap();
    assert_eq!((details.transaction.gid.as_str(), details.transaction.trans_type.as_str()), (&*saga.gid, "saga"));
    assert_eq!(details.branches.len(), 4, "two steps of two calls each");
    assert_eq!(details.branches[1].url, stage.url("TransOut"));
    let error = stage.dtm.query("").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("status=500, answer=no gid specified"), "{error}");
    assert_eq!(stage.dtm.query("1").await.unwrap(), None);
    assert_eq!(stage.dtm.coordinator().outcome("1").await.unwrap(), None);
}

async fn case_05_api_force_stopped_normal(stage: Stage) {
    let saga = stage.saga(SagaOptions::default());
    stage.branches.script(&saga.gid, "01/action", [Say::Ongoing]);
    stage.submit(&saga).await;
    stage.until_called(&saga.gid, 1).await;
    assert_eq!(stage.status(&saga.gid).await, Submitted);
    stop(&stage, &saga).await;
    assert_eq!(stage.branches.calls(&saga.gid), ["01/action"], "nothing is undone");
    let outcome = stage.dtm.coordinator().outcome(&saga.gid).await.unwrap();
    let Some(Outcome::RolledBack { reason }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(reason, STOPPED, "what may have taken effect stays");
    assert_eq!(stage.submit(&saga).await, Outcome::RolledBack { reason });
}

/// On boltdb DTM may write the state that it read before over this one, at the end of a call.
async fn stop(stage: &Stage, saga: &Saga) {
    eventually(PATIENCE, "its end", async || {
        stage.dtm.force_stop(&saga.gid).await.map_err(|error| error.to_string())?;
        tokio::time::sleep(SECOND / 2).await;
        let status = stage.status(&saga.gid).await;
        (status == Failed).then_some(()).ok_or(status.to_string())
    })
    .await;
}

/// Its first step took effect, and its second one's undoing does not come to an end.
async fn a_saga_that_was_stopped_while_it_was_undone_is_told_as_such(stage: Stage) {
    let saga = stage.saga(SagaOptions::default());
    stage.branches.script(&saga.gid, "02/action", [Say::Failure("no stock".to_owned())]);
    stage.branches.script(&saga.gid, "02/compensate", [Say::Ongoing]);
    stage.submit(&saga).await;
    stage.until(&saga.gid, Aborting).await;
    stage.until_called(&saga.gid, 3).await;
    stop(&stage, &saga).await;
    let outcome = stage.dtm.coordinator().outcome(&saga.gid).await.unwrap();
    let Some(Outcome::RolledBack { reason }) = outcome else { panic!("{outcome:?}") };
    assert!(reason.starts_with("stopped by force: DTM knows of no undoing of 01 (url:"), "{reason}");
    assert!(reason.contains("no stock"), "{reason}");
    assert_eq!(stage.submit(&saga).await, Outcome::RolledBack { reason });
    assert_eq!(stage.branches.calls(&saga.gid), ["01/action", "02/action", "02/compensate"]);
}

/// DTM on MariaDB notes what its branches answered only in a moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_undone_is_not_told_as_stopped_on_mariadb() {
    let Some(stage) = Stage::on(Kind::DtmMysql, Wire::Grpc).await else { return };
    for _ in 0..5 {
        let saga = stage.saga(waiting());
        stage.branches.script(&saga.gid, "02/action", [Say::Failure("no stock".to_owned())]);
        stage.submit(&saga).await;
        stage.until(&saga.gid, Failed).await;
        let reason = format!("url:{} return failed: no stock", stage.url("TransIn"));
        assert_eq!(stage.submit(&saga).await, Outcome::RolledBack { reason });
    }
    let saga = stage.saga(SagaOptions::default());
    stage.branches.script(&saga.gid, "02/action", [Say::Failure("no stock".to_owned())]);
    stage.branches.script(&saga.gid, "02/compensate", [Say::Ongoing]);
    stage.submit(&saga).await;
    stage.until_called(&saga.gid, 3).await;
    stop(&stage, &saga).await;
    let outcome = stage.dtm.coordinator().outcome(&saga.gid).await.unwrap();
    let Some(Outcome::RolledBack { reason }) = outcome else { panic!("{outcome:?}") };
    assert!(reason.starts_with("stopped by force: DTM knows of no undoing of 01 (url:"), "{reason}");
}

async fn case_06_api_force_stopped_abnormal(stage: Stage) {
    let saga = stage.saga(waiting());
    stage.submit(&saga).await;
    let error = stage.dtm.force_stop(&saga.gid).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.to_string().contains("status=409"), "{error}");
    assert_eq!(stage.status(&saga.gid).await, Succeeded);
    assert_eq!(stage.dtm.force_stop("nobody").await.unwrap_err().kind(), ErrorKind::NotFound);
}

/// What looks at all transactions, or changes them, has a DTM of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_04_api_all_case_07_reset_cron_time_case_08_reset_next_cron_time() {
    let Some(server) = own().await else { return };
    let stage = Stage::at(server.url(), Wire::Grpc).await;
    let begun = SystemTime::now() - Duration::from_secs(5);
    lists_by_pages_and_filters(&stage, begun).await;

    let stuck: Vec<Saga> = futures_util::future::join_all((0..3).map(|_| stuck(&stage))).await;
    // Ongoing, they would be looked at again after a minute.
    let before = stage.branches.seen(&stuck[0].gid)[0].at;
    eventually(PATIENCE, "the second call", async || {
        // At the end of a call DTM may write its own time over this one.
        stage.dtm.retry_now(&stuck[0].gid).await.unwrap();
        let calls = stage.branches.calls(&stuck[0].gid);
        (calls.len() >= 2).then_some(()).ok_or(format!("{calls:?}"))
    })
    .await;
    assert!(stage.branches.seen(&stuck[0].gid)[1].at - before < 50 * SECOND, "it was not waited for");
    assert_eq!(stage.dtm.retry_now("nobody").await.unwrap_err().kind(), ErrorKind::NotFound);

    let none = stage.dtm.retry_all_now(Duration::from_secs(1000), 10).await.unwrap();
    assert_eq!((none.count, none.has_remaining), (0, false));
    let some = stage.dtm.retry_all_now(SECOND, 1).await.unwrap();
    assert_eq!((some.count, some.has_remaining), (1, true));
    let rest = stage.dtm.retry_all_now(SECOND, 10).await.unwrap();
    assert!((1..=3).contains(&rest.count) && !rest.has_remaining, "{rest:?}");
}

async fn stuck(stage: &Stage) -> Saga {
    let mut options = SagaOptions::default();
    options.retry_interval = Some(60 * SECOND);
    let saga = stage.saga(options);
    stage.branches.script(&saga.gid, "01/action", vec![Say::Ongoing; 100]);
    stage.submit(&saga).await;
    stage.until_called(&saga.gid, 1).await;
    saga
}

async fn lists_by_pages_and_filters(stage: &Stage, begun: SystemTime) {
    for _ in 0..3 {
        stage.submit(&stage.saga(waiting())).await;
    }
    let failed = stage.saga(waiting());
    stage.branches.script(&failed.gid, "01/action", [Say::Failure("no".to_owned())]);
    stage.submit(&failed).await;
    let list = async |change: fn(&mut TransactionFilter)| {
        let mut filter = TransactionFilter::default();
        change(&mut filter);
        let (mut gids, mut pages) = (Vec::new(), 0);
        loop {
            let page = stage.dtm.transactions(&filter).await.unwrap();
            gids.extend(page.transactions.into_iter().map(|transaction| transaction.gid));
            pages += 1;
            filter.position = page.next_position;
            if filter.position.is_none() {
                return (gids, pages);
            }
        }
    };
    let (gids, pages) = list(|filter| filter.limit = 3).await;
    assert_eq!((gids.len(), pages), (4, 2));
    assert_eq!(list(|filter| filter.status = Some(Failed)).await.0, std::slice::from_ref(&failed.gid));
    assert_eq!(list(|filter| filter.status = Some(TransactionStatus::Aborting)).await.0.len(), 0);
    assert_eq!(list(|filter| filter.mode = Some(Mode::Saga)).await.0.len(), 4);
    assert_eq!(list(|filter| filter.mode = Some(Mode::Msg)).await.0.len(), 0);
    let mut filter = TransactionFilter::default();
    filter.gid = Some(failed.gid.clone());
    assert_eq!(stage.dtm.transactions(&filter).await.unwrap().transactions[0].gid, failed.gid);
    filter = TransactionFilter::default();
    filter.until = Some(begun);
    assert_eq!(stage.dtm.transactions(&filter).await.unwrap().transactions.len(), 0);
    filter = TransactionFilter::default();
    filter.since = Some(begun);
    assert_eq!(stage.dtm.transactions(&filter).await.unwrap().transactions.len(), 4);
}

#[tokio::test]
async fn case_10_dtm_metrics() {
    let Some(stage) = Stage::shared(Wire::Http).await else { return };
    let url = stage.dtm.address().replace("/api/dtmsvr", "/api/metrics");
    let client = reqwest::Client::builder().no_proxy().tls_backend_preconfigured(no_tls()).build().unwrap();
    let answer = client.get(url).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.text().await.unwrap().contains("dtm_server_info"));
}

pub(super) fn no_tls() -> rustls::ClientConfig {
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}

/// A request that DTM panics at is an error, and the server lives.
#[tokio::test]
async fn case_11_grpc_panic() {
    let Some(stage) = Stage::shared(Wire::Grpc).await else { return };
    // A message to nowhere: DTM 1.19 panics in a topic that it does not know.
    let mut message = GlobalTransaction::new(Mode::Msg, Saga::new().gid);
    message.steps.push(Step::new("topic://no-such-topic"));
    let error = stage.dtm.submit(&message).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("code=13"), "{error}");
    assert_eq!(stage.dtm.version().await.unwrap(), "v1.19.0");
}

/// DTM's unit test of what an incoming call says of itself: nothing is an error, and no panic.
#[test]
fn case_14_query_and_type() {
    assert!(Branch::from_metadata(&micro_core::Metadata::new()).unwrap().is_none());
    let mut partly = micro_core::Metadata::new();
    partly.insert("dtm-gid", "g");
    assert_eq!(Branch::from_metadata(&partly).unwrap_err().kind(), ErrorKind::InvalidArgument);
    let partly = |name: &str| (name == "gid").then(|| "g".to_owned());
    assert_eq!(Branch::read(partly).unwrap_err().kind(), ErrorKind::InvalidArgument);
}

/// Not one of DTM's: what a saga came to is known also where nobody waited.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_is_known_when_it_comes() {
    let Some(stage) = Stage::shared(Wire::Grpc).await else { return };
    let saga = stage.saga(impatient());
    stage.branches.script(&saga.gid, "01/action", [Say::Ongoing]);
    stage.submit(&saga).await;
    let coordinator = stage.dtm.coordinator();
    let outcome = eventually(PATIENCE, "the outcome", async || match coordinator.outcome(&saga.gid).await.unwrap() {
        Some(micro_core::saga::Outcome::StillRunning) => Err("still running"),
        other => Ok(other),
    })
    .await;
    assert_eq!(outcome, Some(micro_core::saga::Outcome::Succeeded));
}
