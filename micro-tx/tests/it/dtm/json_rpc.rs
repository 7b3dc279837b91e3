//! Cases of DTM's JSON-RPC API, and of branches that are called in JSON-RPC.

use micro_core::{
    Error, ErrorKind,
    branch::{JSON_RPC_FAILURE, JSON_RPC_ONGOING, Mode},
    saga::{Outcome, Saga, Step},
};
use micro_tx::dtm::{
    BranchRegistration, DtmClient, DtmConfig, Tcc, TccBranch, TransactionOptions,
    TransactionStatus::{Failed, Submitted, Succeeded},
    TwoPhaseMessage, WorkflowExecution, WorkflowOutcome, Workflows,
};
use tokio::net::TcpListener;

use super::{
    branches::Say,
    stage::{SECOND, Stage, Wire, options, unhurried, waiting},
};

/// What a branch says by a code, and by nothing else.
fn bare(code: i64) -> Say {
    Say::Text(
        serde_json::json!({ "jsonrpc": "2.0", "id": "1", "error": { "code": code, "message": "no stock" } })
            .to_string(),
    )
}

/// A first branch over HTTP, a second one in JSON-RPC.
fn mixed(stage: &Stage) -> TwoPhaseMessage {
    TwoPhaseMessage::new()
        .call(stage.http_url("TransOut"), r#"{"amount":30}"#)
        .call(stage.url("TransIn"), stage.payload("TransIn"))
        .query_prepared(stage.query_url())
        .options(options())
}

/// The reservations are HTTP resources, as in DTM's own test, and methods of JSON-RPC, where we call `try`
/// in JSON-RPC too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_53_tcc_jrpc_normal() {
    let Some(stage) = Stage::shared(Wire::JsonRpc).await else { return };
    let mut options = TransactionOptions::default();
    options.is_waited_for = true;
    let tcc = Tcc::new().options(options);
    let out = TccBranch::new(stage.http_url("OutTry"), stage.http_url("OutConfirm"), stage.http_url("OutCancel"));
    let into = TccBranch::new(stage.url("InTry"), stage.url("InConfirm"), stage.url("InCancel"));
    let done = stage.dtm.tcc(&tcc, async |branches| {
        branches.call(&out.payload(r#"{"amount":30}"#)).await?;
        branches.call(&into.payload(stage.payload("In"))).await
    });
    done.await.unwrap();
    assert_eq!(stage.status(&tcc.gid).await, Succeeded);
    assert_eq!(stage.states(&tcc.gid).await, ["prepared", "succeed", "prepared", "succeed"]);
    let seen = stage.branches.seen(&tcc.gid);
    let calls: Vec<_> = seen.iter().map(|seen| (seen.name(), seen.method.as_str())).collect();
    let expected = [
        ("01/try", "POST /api/OutTry"),
        ("02/try", "InTry"),
        ("02/confirm", "InConfirm"),
        ("01/confirm", "POST /api/OutConfirm"),
    ];
    assert_eq!(calls, expected.map(|(name, method)| (name.to_owned(), method)));
    // Where a participant registers branches of its own, whatever its language.
    assert_eq!(seen[1].branch.coordinator.as_deref(), Some(stage.dtm.address()));
    assert!(stage.dtm.address().ends_with("/api/dtmsvr"), "{}", stage.dtm.address());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_70_msg_jrpc_normal() {
    let Some(stage) = Stage::shared(Wire::JsonRpc).await else { return };
    let message = mixed(&stage);
    stage.dtm.submit_message(&message).await.unwrap();
    stage.until(&message.gid, Succeeded).await;
    assert_eq!(stage.states(&message.gid).await, ["succeed", "succeed"]);
    let seen = stage.branches.seen(&message.gid);
    assert_eq!([&*seen[0].method, &*seen[1].method], ["POST /api/TransOut", "TransIn"]);
}

/// Whatever a branch of a message says that is not a success, it is called again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_70_msg_jrpc_results() {
    let Some(stage) = Stage::shared(Wire::JsonRpc).await else { return };
    let mut message = mixed(&stage);
    message.options.retry_interval = Some(SECOND);
    let mut says = vec![bare(-23977), bare(JSON_RPC_ONGOING)];
    says.extend(vec![bare(JSON_RPC_FAILURE); 100]);
    stage.branches.script(&message.gid, "02/action", says);
    assert_eq!(stage.dtm.submit_message(&message).await.unwrap(), Outcome::StillRunning);
    stage.until_called(&message.gid, 4).await;
    assert_eq!(stage.status(&message.gid).await, Submitted);
    stage.branches.script(&message.gid, "02/action", []);
    stage.until(&message.gid, Succeeded).await;
    let calls = stage.branches.calls(&message.gid);
    assert!(calls[0] == "01/action" && calls[1..].iter().all(|call| call == "02/action"), "{calls:?}");
}

/// DTM 1.19 means to read the codes and does not: what refuses by its code alone is called again for ever.
/// [`JsonRpcCall::answer`](micro_core::branch::JsonRpcCall::answer) says the word too, and is understood.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dtm_reads_words_and_no_codes_in_json_rpc() {
    let Some(stage) = Stage::shared(Wire::JsonRpc).await else { return };
    let refused = stage.saga(waiting());
    stage.branches.script(&refused.gid, "02/action", [Say::Failure("no stock".to_owned())]);
    let Outcome::RolledBack { reason } = stage.submit(&refused).await else { panic!("the word is understood") };
    assert!(reason.contains(r#""code":-32901,"message":"no stock""#), "{reason}");
    assert_eq!(stage.status(&refused.gid).await, Failed);

    let mut options = unhurried();
    options.is_waited_for = true;
    let unread = stage.saga(options.clone());
    stage.branches.script(&unread.gid, "02/action", [bare(JSON_RPC_FAILURE)]);
    assert_eq!(stage.submit(&unread).await, Outcome::StillRunning);
    let interval = async |gid| stage.dtm.query(gid).await.unwrap().unwrap().transaction.next_cron_interval;
    assert_eq!(interval(&unread.gid).await, 8, "doubled, as after an answer that is none");

    let ongoing = stage.saga(options);
    stage.branches.script(&ongoing.gid, "02/action", [Say::Ongoing]);
    assert_eq!(stage.submit(&ongoing).await, Outcome::StillRunning);
    assert_eq!(interval(&ongoing.gid).await, 4, "kept, as after an ongoing one");
    stage.until(&unread.gid, Succeeded).await;
    stage.until(&ongoing.gid, Succeeded).await;
}

/// Our own calls read the codes: a `try` that refuses by its code alone has refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_try_that_refuses_by_its_code_alone_has_refused() {
    let Some(stage) = Stage::shared(Wire::JsonRpc).await else { return };
    let tcc = Tcc::new();
    stage.branches.script(&tcc.gid, "01/try", [bare(JSON_RPC_FAILURE)]);
    let branch = TccBranch::new(stage.url("InTry"), stage.url("InConfirm"), stage.url("InCancel"));
    let done = stage.dtm.tcc(&tcc, async |branches| branches.call(&branch.payload(stage.payload("In"))).await);
    let error = done.await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::FailedPrecondition, "no stock"));
    stage.until(&tcc.gid, Failed).await;
    assert_eq!(stage.branches.calls(&tcc.gid), ["01/try", "01/cancel"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_70_msg_jrpc_repeated() {
    let Some(stage) = Stage::shared(Wire::JsonRpc).await else { return };
    let saga = stage.saga(waiting());
    assert_eq!(stage.submit(&saga).await, Outcome::Succeeded);
    let error = stage.dtm.submit(&saga.clone().try_into().unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    let told = error.to_string();
    assert!(told.contains("code=-32901, answer=current status 'succeed', cannot sumbmit."), "{told}");
    assert!(told.contains("/api/json-rpc, code"), "the address of this API: {told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_70_msg_jrpc_do_and_submit() {
    let Some(stage) = Stage::shared(Wire::JsonRpc).await else { return };
    let (sent, failed) = (mixed(&stage), mixed(&stage));
    let done = stage.dtm.do_and_submit(&sent, async |_| Ok::<_, Error>(Some(17)));
    assert_eq!(done.await.unwrap(), Some(17));
    stage.until(&sent.gid, Succeeded).await;
    assert_eq!(stage.branches.calls(&sent.gid), ["01/action", "02/action"]);
    stage.branches.script(&failed.gid, "00/msg", [Say::Failure("never was".to_owned())]);
    let refused = || Error::new(ErrorKind::Aborted, "transfer", "the balance is locked");
    let done = stage.dtm.do_and_submit(&failed, async |_| Err::<Option<()>, _>(refused())).await;
    assert_eq!(done.unwrap_err().to_string(), refused().to_string());
    stage.until(&failed.gid, Failed).await;
    assert_eq!(stage.branches.calls(&failed.gid), ["00/msg"]);
}

/// What DTM makes nothing of has the kind that it has over the other APIs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_70_msg_jrpc_abnormal() {
    let Some(stage) = Stage::shared(Wire::JsonRpc).await else { return };
    let branch = BranchRegistration::new(Mode::Saga, "g", "01");
    let error = stage.dtm.register_branch(&branch).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("code=-32603, answer=unknow trans type: saga"), "{error}");
    let branch = BranchRegistration::new(Mode::Tcc, "nobody", "01").data("confirm", "").data("cancel", "");
    let error = stage.dtm.register_branch(&branch).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.to_string().contains("code=-32901"), "{error}");
    let error = stage.dtm.abort(&micro_tx::dtm::GlobalTransaction::new(Mode::Tcc, "nobody")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

/// DTM panics on what it cannot call in JSON-RPC, and tries again for ever: it is not sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_dtm_could_not_call_in_json_rpc_is_not_sent() {
    let Some(stage) = Stage::shared(Wire::JsonRpc).await else { return };
    let saga = Saga::new().step(Step::new(stage.url("TransOut")).payload("30")).options(waiting());
    let unasked = stage.message().query_prepared(stage.url("QueryPrepared"));
    let unphased = stage.url("Xa");
    let refused = [
        micro_core::saga::SagaCoordinator::submit(&stage.dtm.coordinator(), saga.clone()).await.unwrap_err(),
        stage.dtm.prepare_message(&unasked).await.unwrap_err(),
        stage
            .dtm
            .register_branch(&BranchRegistration::new(Mode::Xa, "g", "01").data("url", &unphased))
            .await
            .unwrap_err(),
    ];
    for error in refused {
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("JSON-RPC"), "{error}");
    }
    assert_eq!(stage.dtm.query(&saga.gid).await.unwrap(), None);
    assert_eq!(stage.dtm.query(&unasked.gid).await.unwrap(), None);
}

/// What JSON-RPC lacks is done over the HTTP API of the same port: workflows, topics, queries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_json_rpc_lacks_goes_over_http() {
    let Some(stage) = Stage::shared(Wire::JsonRpc).await else { return };
    let topic = micro_testkit::unique("topic");
    stage.dtm.subscribe(&topic, &stage.url("Sub"), "").await.unwrap();
    assert!(stage.dtm.topics().await.unwrap().iter().any(|found| found.name == topic));
    let (url, payload) = (stage.url("TransOut"), stage.payload("30"));
    let workflows = Workflows::builder(stage.dtm.clone(), stage.http_url("Workflows"))
        .register("deduct", move |mut workflow, _data| {
            let (url, payload) = (url.clone(), payload.clone());
            async move { workflow.branch()?.call(&url, payload).await }
        })
        .build()
        .unwrap();
    let execution = WorkflowExecution::new("deduct", "");
    let outcome = workflows.execute(execution.clone()).await.unwrap();
    assert_eq!(outcome, WorkflowOutcome::Succeeded(r#"{"dtm_result":"SUCCESS"}"#.into()), "the branch's result");
    assert_eq!(workflows.execute(execution.clone()).await.unwrap(), outcome, "again is the same");
    assert_eq!(stage.branches.seen(&execution.gid)[0].method, "TransOut");
}

/// A server of HTTP that does not know JSON-RPC, and one that answers something else.
#[tokio::test]
async fn another_server_at_the_address_of_json_rpc_is_told_as_such() {
    for (answer, kind, told) in [
        ((200, "<html>hello</html>"), ErrorKind::DataLoss, "is there another server at this address?"),
        ((404, "404 page not found"), ErrorKind::Unknown, "is there another server at this address?"),
        ((502, "Bad Gateway"), ErrorKind::Unavailable, "a proxy answers, and not DTM"),
        ((200, r#"{"jsonrpc":"2.0","id":"1","result":7}"#), ErrorKind::DataLoss, "the answer is not DTM's"),
        ((200, r#"{"jsonrpc":"2.0","id":"1"}"#), ErrorKind::DataLoss, "the answer is not DTM's"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (status, body) = answer;
        let status = http::StatusCode::from_u16(status).unwrap();
        let router = axum::Router::new().fallback(async move || (status, body));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let mut config = DtmConfig::from_url(&format!("jsonrpc://{address}")).unwrap();
        config.resend_count_max = 0;
        let error = DtmClient::connect(config).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        let named = format!("address=http://{address}/api/json-rpc");
        assert!(error.to_string().contains(told) && error.to_string().contains(&named), "{error}");
    }
}
