//! Branches behind an account that stands in their URLs: they are called with it, and nobody is told of it.

use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use micro_core::{
    Error, Health,
    app::Component as _,
    saga::{EmbeddedCoordinator, Outcome, Saga, SagaCoordinator, Step},
    transaction::MemoryDatabase,
};
use micro_testkit::{Logged, eventually};
use micro_tx::dtm::{HttpBranchCaller, Tcc, TccBranch, TransactionStatus::Failed};
use tokio::net::TcpListener;
use tracing::Level;

use super::stage::{PATIENCE, Stage, Wire, impatient, waiting};

const ACCOUNT: &str = "me:s3cret";

/// Of what was logged by us; the libraries beneath have their own filters.
fn ours(logged: &Logged) -> Vec<String> {
    logged.lines().into_iter().filter(|line| line.contains(" micro_")).collect()
}

/// A participant that wants its account, and then does what its path says.
async fn guarded() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().fallback(async move |headers: HeaderMap, uri: axum::http::Uri| {
        let expected = format!("Basic {}", BASE64_STANDARD.encode(ACCOUNT));
        let is_known = headers.get("authorization").is_some_and(|value| value.as_bytes() == expected.as_bytes());
        match uri.path() {
            _ if !is_known => (StatusCode::UNAUTHORIZED, "who are you?"),
            "/refuse" => (StatusCode::CONFLICT, "no stock"),
            "/oops" => (StatusCode::INTERNAL_SERVER_ERROR, "oops"),
            _ => (StatusCode::OK, "{}"),
        }
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{ACCOUNT}@{address}")
}

fn reason(outcome: Outcome) -> String {
    let Outcome::RolledBack { reason } = outcome else { panic!("{outcome:?}") };
    reason
}

#[track_caller]
fn assert_hidden(text: &str) {
    assert!(!text.contains("s3cret") && text.contains("http://***@"), "{text}");
}

/// By DTM, which names the URL in its reason: over each of its APIs, asked and not.
#[tokio::test]
async fn dtms_reason_names_a_branch_without_its_account() {
    for wire in [Wire::Grpc, Wire::Http, Wire::JsonRpc] {
        let Some(stage) = Stage::shared(wire).await else { return };
        let logged = Logged::default();
        let _listening = logged.here(Level::TRACE);
        let base = guarded().await;
        let done = Saga::new().step(Step::new(format!("{base}/do")).payload("{}")).options(waiting());
        assert_eq!(stage.submit(&done).await, Outcome::Succeeded, "it is called with its account");
        let refused = Saga::new().step(Step::new(format!("{base}/refuse")).payload("{}")).options(waiting());
        assert_hidden(&reason(stage.submit(&refused).await));
        assert_hidden(&reason(stage.dtm.coordinator().outcome(&refused.gid).await.unwrap().unwrap()));
        assert_hidden(&stage.reason(&refused.gid).await);
        let again: micro_core::Result<()> = stage.dtm.submit(&refused.clone().try_into().unwrap()).await;
        assert!(!again.unwrap_err().report().contains("s3cret"));
        let url = dev_servers::shared(dev_servers::Kind::Dtm).unwrap();
        let unasked = Saga::new().step(Step::new(format!("{base}/refuse")).payload("{}")).options(waiting());
        let outcome = stage.without_queries(&url).coordinator().submit(unasked.clone()).await;
        assert_hidden(&reason(outcome.unwrap()));
        let mut raw = unasked;
        raw.gid += "-2";
        let error = stage.dtm.submit(&raw.try_into().unwrap()).await;
        assert_hidden(&error.unwrap_err().report());
        assert!(ours(&logged).iter().all(|line| !line.contains("s3cret")), "{:#?}", ours(&logged));
    }
}

/// By us: a reservation that is refused, not done, or not there. What DTM keeps of it has no account either.
#[tokio::test]
async fn a_try_that_comes_to_nothing_is_told_without_its_account() {
    let Some(stage) = Stage::shared(Wire::Http).await else { return };
    let logged = Logged::default();
    let _listening = logged.here(Level::TRACE);
    let base = guarded().await;
    let nowhere = format!("http://{ACCOUNT}@127.0.0.1:1");
    for url in
        [format!("{base}/refuse"), format!("{base}/oops"), format!("{nowhere}/do"), format!("ftp://{ACCOUNT}@h/")]
    {
        let tcc = Tcc::new();
        let branch = TccBranch::new(&url, format!("{base}/do"), format!("{base}/do")).payload("{}");
        let done = stage.dtm.tcc(&tcc, async |branches| branches.call(&branch).await);
        let error: Error = done.await.unwrap_err();
        assert!(!error.report().contains("s3cret") && error.to_string().contains("://***@"), "{}", error.report());
        stage.until(&tcc.gid, Failed).await;
        assert!(!stage.reason(&tcc.gid).await.contains("s3cret"));
    }
    assert!(ours(&logged).iter().all(|line| !line.contains("s3cret")), "{:#?}", ours(&logged));
}

/// By the embedded coordinator: in the reason that it keeps, and in what it logs of calls to be made again.
#[tokio::test]
async fn a_saga_without_a_server_names_a_branch_without_its_account() {
    let logged = Logged::default();
    let _listening = logged.here(Level::TRACE);
    let base = guarded().await;
    let database = MemoryDatabase::new();
    let caller = Arc::new(HttpBranchCaller::new().unwrap());
    let coordinator = EmbeddedCoordinator::builder(database.transactions(), database.saga_log(), caller).build();
    coordinator.start(&Health::new()).await.unwrap();
    let url = |path: &str| format!("{base}/{path}");
    // An undoing that refuses is told in a warning.
    let refused = Saga::new().step(Step::new(url("do")).compensation(url("refuse"))).step(Step::new(url("refuse")));
    let mut limited = impatient();
    limited.retry_count_max = Some(1);
    limited.is_waited_for = true;
    let given_up = Saga::new().step(Step::new(url("oops"))).options(limited);
    coordinator.submit(refused.clone()).await.unwrap();
    let told = reason(coordinator.submit(given_up).await.unwrap());
    assert!(told.contains("/oops after 1 retries"), "{told}");
    assert_hidden(&told);
    eventually(PATIENCE, "the warning", async || {
        let lines = ours(&logged);
        let warned =
            lines.iter().any(|line| line.contains("a compensation was refused") && line.contains("http://***@"));
        let again = lines.iter().any(|line| line.contains("an action is to be called again"));
        if warned && again { Ok(()) } else { Err(format!("{lines:#?}")) }
    })
    .await;
    assert!(ours(&logged).iter().all(|line| !line.contains("s3cret")), "{:#?}", ours(&logged));
}
