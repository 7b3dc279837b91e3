//! Mistakes around workflows: what DTM calls back for is not served, not known, or another function by now.

use bytes::Bytes;
use micro_core::{
    ErrorKind, Health,
    app::Component as _,
    branch::{Branch, BranchError, Mode, Op},
};
use micro_grpc::GrpcServer;
use micro_testkit::Logged;
use micro_tx::dtm::{
    DtmClient, DtmConfig,
    TransactionStatus::{Failed, Prepared, Succeeded},
    Workflow, WorkflowExecution, WorkflowOutcome, Workflows, WorkflowsBuilder,
};

use super::{
    branches::Say,
    stage::{SECOND, Stage, Wire, on_each_wire},
    workflow::{Site, Store, execution, transfers},
};

on_each_wire! {
    a_function_that_changed_is_told_and_decides_nothing
    a_workflow_that_this_process_does_not_know_waits_for_one_that_does
    a_workflow_with_quotes_in_its_id_resumes
    what_refused_is_not_committed_though_the_function_went_on
    what_nobody_knows_of_is_not_committed
    a_run_that_goes_on_calls_with_the_branchs_own_headers_and_limit
}

/// A function of calls of these URLs, one branch each.
async fn calls(mut workflow: Workflow, urls: Vec<String>) -> Result<Bytes, BranchError> {
    for url in &urls {
        workflow.branch()?.call(url, Bytes::new()).await?;
    }
    Ok(Bytes::new())
}

impl Stage {
    /// A process that has such a function, and is not called back.
    fn unserved(&self, name: &str, methods: &[&str]) -> Workflows {
        let callback = match self.wire {
            Wire::Grpc => "127.0.0.1:1",
            Wire::Http | Wire::JsonRpc => "http://127.0.0.1:1/workflows",
        };
        let urls: Vec<String> = methods.iter().map(|method| self.url(method)).collect();
        let builder = Workflows::builder(self.dtm.clone(), callback);
        builder.register(name, move |workflow, _data| calls(workflow, urls.clone())).build().unwrap()
    }
}

/// Of a workflow that is not served: DTM is not to call back for it.
fn unserved_execution() -> WorkflowExecution {
    let mut execution = execution("pay");
    execution.options.retry_interval = Some(600 * SECOND);
    execution
}

async fn a_function_that_changed_is_told_and_decides_nothing(stage: Stage) {
    let execution = unserved_execution();
    stage.branches.script(&execution.gid, "03/action", [Say::Ongoing]);
    let first = stage.unserved("pay", &["Deduct", "Take", "Ship"]);
    assert_eq!(first.execute(execution.clone()).await.unwrap(), WorkflowOutcome::StillRunning);
    let prefix = if stage.wire == Wire::Grpc { "busi.Busi" } else { "/api" };
    // Another call, another order, fewer, and another workflow of the same id.
    for (name, methods, told) in [
        ("pay", &["Deduct", "TakeAll", "Ship"][..], ["branch=02", "call {}/Take,", "made=pay: call {}/TakeAll"]),
        ("pay", &["Take", "Deduct", "Ship"], ["branch=01", "call {}/Deduct,", "made=pay: call {}/Take"]),
        ("pay", &["Deduct"], ["branch=02", "call {}/Take,", "made=its end"]),
        ("repay", &["Deduct", "Take", "Ship"], ["branch=01", "recorded=pay: call", "made=repay: call"]),
    ] {
        let mut changed = execution.clone();
        changed.name = name.to_owned();
        let error = stage.unserved(name, methods).execute(changed).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert!(error.message().contains("other branches than the run that was recorded"), "{error}");
        for told in told.map(|told| told.replace("{}", prefix)) {
            assert!(error.to_string().contains(&told), "{error}: {told}");
        }
        assert_eq!(stage.status(&execution.gid).await, Prepared);
    }
    // The function that was recorded goes on, and so does one that calls the same elsewhere.
    let outcome = first.execute(execution.clone()).await.unwrap();
    assert_eq!(outcome, WorkflowOutcome::Succeeded(Bytes::new()));
    assert_eq!(stage.branches.calls(&execution.gid), ["01/action", "02/action", "03/action", "03/action"]);
}

/// What an interrupted run did in a database, another function's call does not stand for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_of_another_kind_does_not_fit() {
    let Some(stage) = Stage::shared(Wire::Grpc).await else { return };
    let (store, execution) = (Store::open().await, unserved_execution());
    let local = store.clone();
    let first = Workflows::builder(stage.dtm.clone(), "127.0.0.1:1")
        .register("pay", move |mut workflow, _data| {
            let local = local.clone();
            async move {
                local.add(&mut workflow).await?;
                Err(BranchError::Ongoing)
            }
        })
        .build()
        .unwrap();
    assert_eq!(first.execute(execution.clone()).await.unwrap(), WorkflowOutcome::StillRunning);
    let error = stage.unserved("pay", &["Deduct"]).execute(execution.clone()).await.unwrap_err();
    assert!(error.to_string().contains("recorded=pay: tx, made=pay: call busi.Busi/Deduct"), "{error}");
    assert_eq!(stage.branches.calls(&execution.gid), [""; 0]);
}

async fn a_workflow_that_this_process_does_not_know_waits_for_one_that_does(stage: Stage) {
    let site = Site::serve(stage.wire).await;
    // The site serves a process that has another function.
    site.workflows(&stage.dtm, |builder| builder.register("other", async |_workflow, data| Ok(data)));
    let begun = site.builder(&stage.dtm).register("transfer", async |_workflow, _data| Err(BranchError::Ongoing));
    let execution = execution("transfer");
    let outcome = begun.build().unwrap().execute(execution.clone()).await.unwrap();
    assert_eq!(outcome, WorkflowOutcome::StillRunning);
    site.until_resumed(&execution.gid).await;
    assert_eq!(stage.status(&execution.gid).await, Prepared, "DTM is told, and goes on to ask");
    site.workflows(&stage.dtm, transfers(&stage));
    stage.until(&execution.gid, Succeeded).await;
    assert_eq!(stage.branches.calls(&execution.gid), ["01/action", "02/action"]);
}

async fn a_workflow_with_quotes_in_its_id_resumes(stage: Stage) {
    let site = Site::serve(stage.wire).await;
    let workflows = site.workflows(&stage.dtm, transfers(&stage));
    let mut execution = execution("transfer");
    execution.gid = format!("o'brien \"x\" `{}", execution.gid);
    stage.branches.script(&execution.gid, "02/action", [Say::Ongoing]);
    assert_eq!(workflows.execute(execution.clone()).await.unwrap(), WorkflowOutcome::StillRunning);
    stage.until(&execution.gid, Succeeded).await;
    assert_eq!(stage.branches.calls(&execution.gid), ["01/action", "02/action", "02/action"]);
}

/// A reservation, and what is reserved instead where that was passed over.
fn reservations(stage: &Stage) -> impl FnOnce(WorkflowsBuilder) -> WorkflowsBuilder + use<> {
    let urls = ["OneTry", "OneConfirm", "OneCancel", "TwoTry", "TwoConfirm"].map(|name| stage.url(name));
    move |builder| {
        builder.register("reserve", move |mut workflow, _data| {
            let [one, confirm_one, cancel_one, two, confirm_two] = urls.clone();
            async move {
                let first = workflow.branch()?.on_commit_call(confirm_one, "").on_rollback_call(cancel_one, "");
                let passed_over = first.call(&one, "").await.is_err();
                if passed_over {
                    workflow.branch()?.on_commit_call(confirm_two, "").call(&two, "").await?;
                }
                Ok(Bytes::new())
            }
        })
    }
}

async fn what_refused_is_not_committed_though_the_function_went_on(stage: Stage) {
    let site = Site::serve(stage.wire).await;
    let workflows = site.workflows(&stage.dtm, reservations(&stage));
    let execution = execution("reserve");
    stage.branches.script(&execution.gid, "01/action", [Say::Failure("none left".to_owned())]);
    let outcome = workflows.execute(execution.clone()).await.unwrap();
    assert_eq!(outcome, WorkflowOutcome::Succeeded(Bytes::new()));
    assert_eq!(stage.branches.calls(&execution.gid), ["01/action", "02/action", "02/commit"]);
}

/// The first branch's error was to be returned: nothing at all is committed.
async fn what_nobody_knows_of_is_not_committed(stage: Stage) {
    let site = Site::serve(stage.wire).await;
    let workflows = site.workflows(&stage.dtm, reservations(&stage));
    let execution = execution("reserve");
    stage.branches.script(&execution.gid, "01/action", [Say::Oops, Say::Failure("none left".to_owned())]);
    let error = workflows.execute(execution.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(
        error.message().contains("return the branch's error") && error.to_string().contains("branch=01"),
        "{error}"
    );
    stage.until(&execution.gid, Succeeded).await;
    assert_eq!(stage.branches.calls(&execution.gid), ["01/action", "02/action", "01/action", "02/commit"]);
}

/// Those of the execution are known to its own run alone.
async fn a_run_that_goes_on_calls_with_the_branchs_own_headers_and_limit(stage: Stage) {
    let site = Site::serve(stage.wire).await;
    let urls = ["One", "OneRevert"].map(|name| stage.url(name));
    let workflows = site.workflows(&stage.dtm, move |builder| {
        builder.register("pay", move |mut workflow, _data| {
            let [one, revert] = urls.clone();
            async move {
                let branch = workflow.branch()?.header("of_branch", "own").request_timeout(3 * SECOND);
                branch.on_rollback_call(revert, "").call(&one, "").await?;
                Err(BranchError::failed("enough"))
            }
        })
    });
    let mut execution = execution("pay");
    execution.options.headers.insert("of_execution".to_owned(), "first".to_owned());
    stage.branches.script(&execution.gid, "01/action", [Say::Late(10 * SECOND), Say::Ongoing]);
    let error = workflows.execute(execution.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{}", error.report());
    stage.until(&execution.gid, Failed).await;
    let seen = stage.branches.seen(&execution.gid);
    let calls: Vec<String> = seen.iter().map(|seen| seen.name()).collect();
    assert_eq!(calls, ["01/action", "01/action", "01/action", "01/rollback"]);
    assert!(seen.iter().all(|seen| seen.headers["of_branch"] == "own"));
    let of_execution: Vec<bool> = seen.iter().map(|seen| seen.headers.contains_key("of_execution")).collect();
    assert_eq!(of_execution, [true, false, false, false]);
}

#[tokio::test]
async fn resuming_an_unknown_workflow_says_its_name() {
    let dtm = DtmClient::new(DtmConfig::from_url("dtm://127.0.0.1:1").unwrap()).unwrap();
    let workflows = Workflows::builder(dtm, "127.0.0.1:2").register("a", async |_, data| Ok(data)).build().unwrap();
    let called = |mode, op: &str| Branch::new(mode, "g", "00", Op::Other(op.to_owned())).unwrap();
    let error = workflows.resume(&called(Mode::Workflow, "b"), Bytes::new()).await.unwrap_err();
    let BranchError::Other(error) = error else { panic!("{error}: DTM would not ask again") };
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("name=b"), "{error}");
    let error = workflows.resume(&called(Mode::Saga, "a"), Bytes::new()).await.unwrap_err();
    assert!(error.to_string().contains("trans_type=saga"), "{error}");
}

/// Executed before the server is there: it goes on when it is, and who forgot it is told.
#[tokio::test]
async fn a_workflow_that_is_executed_before_its_callback_is_served_goes_on_later() {
    let Some(stage) = Stage::shared(Wire::Grpc).await else { return };
    let logged = Logged::default();
    let _here = logged.here(tracing::Level::WARN);
    let address = format!("127.0.0.1:{}", dev_servers::free_port());
    let workflows = transfers(&stage)(Workflows::builder(stage.dtm.clone(), &address)).build().unwrap();
    let mut execution = execution("transfer");
    execution.options.retry_interval = Some(SECOND);
    stage.branches.script(&execution.gid, "02/action", [Say::Ongoing, Say::Ongoing]);
    for _ in 0..2 {
        assert_eq!(workflows.execute(execution.clone()).await.unwrap(), WorkflowOutcome::StillRunning);
    }
    let told = logged.text();
    assert_eq!(told.matches("which this process does not serve").count(), 1, "{told}");
    assert!(told.contains(&address), "{told}");
    let server = GrpcServer::builder("late").address(&address).add_service(workflows.grpc_service()).build().unwrap();
    let health = Health::new();
    server.start(&health).await.unwrap();
    stage.until(&execution.gid, Succeeded).await;
    assert_eq!(stage.branches.calls(&execution.gid).len(), 4, "the first branch once");
}
