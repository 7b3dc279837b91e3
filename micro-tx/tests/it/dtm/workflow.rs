//! Cases of workflows: DTM's own tests of the names that stand there.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    body::Bytes,
    http::{StatusCode, Uri},
    response::IntoResponse as _,
};
use dev_servers::{Kind, Server as OwnServer};
use micro_core::{
    Error, ErrorKind, Health,
    app::Component as _,
    barrier::{Barrier, BarrierExt as _},
    branch::{Branch, BranchError, HttpAnswer, Mode},
};
use micro_grpc::{GrpcServer, WorkflowService};
use micro_testkit::{Missing, eventually};
use micro_tx::{
    SqlBarrier, SqlDatabase, SqlTxExt as _,
    dtm::{
        BranchRegistration, DtmClient, DtmConfig, StoreLimits,
        TransactionStatus::{Failed, Succeeded},
        Workflow, WorkflowExecution, WorkflowOutcome, Workflows, WorkflowsBuilder,
    },
};
use tokio::net::TcpListener;

use super::{
    branches::{Say, gate},
    stage::{HELD_TIMEOUT, PATIENCE, SECOND, Stage, Wire, blocking, config, on_each_wire, options, there},
};
use crate::on_servers::INSERT;

on_each_wire! {
    case_80_workflow_normal
    case_81_workflow_simple_failure
    case_82_workflow_rollback
    case_83_workflow_tcc
    case_85_workflow_error_and_ongoing
    case_86_workflow_resume_skips_what_is_recorded
    case_88_workflow_resumes_in_its_rollbacks
    case_89_workflow_ret
    case_92_workflow_branch_conflict
    a_branch_that_refused_is_undone_only_where_it_asks_for_it
    everything_that_ends_a_branch_is_run_until_all_of_it_succeeded
    what_one_process_did_is_undone_though_another_ones_refusal_was_recorded
    a_workflow_that_panicked_is_run_again
    a_dropped_call_leaves_the_workflow_running
}

/// Where DTM calls back: a server of gRPC, or of HTTP.
pub(crate) struct Site {
    callback: String,
    workflows: Arc<Mutex<Option<Workflows>>>,
    /// The ids that DTM called back for.
    resumed: Arc<Mutex<Vec<String>>>,
    _server: Option<GrpcServer>,
    _health: Health,
}

impl Site {
    pub(crate) async fn serve(wire: Wire) -> Self {
        let (workflows, resumed) = (Arc::new(Mutex::new(None::<Workflows>)), Arc::new(Mutex::new(Vec::new())));
        let (slot, called, health) = (workflows.clone(), resumed.clone(), Health::new());
        let resume = move |branch: Branch, data: Bytes| {
            let workflows = slot.lock().unwrap().clone().expect("DTM calls back for what was begun");
            let called = called.clone();
            async move {
                let done = workflows.resume(&branch, data).await;
                called.lock().unwrap().push(branch.gid);
                done
            }
        };
        if wire == Wire::Grpc {
            let service = WorkflowService::new(resume);
            let server = GrpcServer::builder("workflows").add_service(service).build().unwrap();
            server.start(&health).await.unwrap();
            let callback = server.instances().remove(0).address;
            return Self { callback, workflows, resumed, _server: Some(server), _health: health };
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let callback = format!("http://{}/workflows", listener.local_addr().unwrap());
        let handler = async move |uri: Uri, data: Bytes| {
            let url = reqwest::Url::parse(&format!("http://h{uri}")).unwrap();
            let parts: HashMap<String, String> = url.query_pairs().into_owned().collect();
            let branch = Branch::read(|name| parts.get(name).cloned()).unwrap().unwrap();
            let answer = HttpAnswer::of("workflows", Some(&branch), resume(branch.clone(), data).await);
            (StatusCode::from_u16(answer.status).unwrap(), answer.body).into_response()
        };
        let router = axum::Router::new().fallback(handler);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { callback, workflows, resumed, _server: None, _health: health }
    }

    pub(crate) fn builder(&self, dtm: &DtmClient) -> WorkflowsBuilder {
        Workflows::builder(dtm.clone(), &self.callback)
    }

    /// Serves these.
    pub(crate) fn workflows(
        &self,
        dtm: &DtmClient,
        register: impl FnOnce(WorkflowsBuilder) -> WorkflowsBuilder,
    ) -> Workflows {
        let workflows = register(self.builder(dtm)).build().unwrap();
        *self.workflows.lock().unwrap() = Some(workflows.clone());
        workflows
    }

    /// Waits until DTM has called back for a workflow, and was answered.
    pub(crate) async fn until_resumed(&self, gid: &str) {
        eventually(PATIENCE, "DTM's call", async || {
            let resumed = self.resumed.lock().unwrap();
            resumed.iter().any(|resumed| resumed == gid).then_some(()).ok_or(format!("{resumed:?}"))
        })
        .await;
    }
}

pub(crate) fn execution(name: &str) -> WorkflowExecution {
    let mut options = options();
    options.retry_interval = Some(SECOND);
    WorkflowExecution::new(name, &b"30"[..]).options(options)
}

/// The URLs that a function calls.
#[derive(Clone)]
struct Urls(HashMap<&'static str, String>);

impl Urls {
    fn of(stage: &Stage) -> Self {
        let names = ["TransOut", "TransOutRevert", "TransIn", "TransInRevert", "InTry", "InConfirm", "InCancel"];
        Self(names.into_iter().map(|name| (name, stage.url(name))).collect())
    }

    fn to(&self, name: &str) -> &str {
        &self.0[name]
    }
}

/// Out, then in, each with what undoes it.
async fn transfer(mut workflow: Workflow, urls: Urls, payload: Bytes) -> Result<Bytes, BranchError> {
    let out = workflow.branch()?.request_timeout(HELD_TIMEOUT);
    let out = out.on_rollback_call(urls.to("TransOutRevert"), payload.clone());
    out.call(urls.to("TransOut"), payload.clone()).await?;
    let into = workflow.branch()?.request_timeout(HELD_TIMEOUT);
    let into = into.on_rollback_call(urls.to("TransInRevert"), payload.clone());
    into.call(urls.to("TransIn"), payload).await?;
    Ok(Bytes::from_static(b"moved"))
}

pub(crate) fn transfers(stage: &Stage) -> impl FnOnce(WorkflowsBuilder) -> WorkflowsBuilder + use<> {
    let (urls, payload) = (Urls::of(stage), stage.payload("30"));
    move |builder| {
        builder.register("transfer", move |workflow, _data| transfer(workflow, urls.clone(), payload.clone()))
    }
}

async fn case_80_workflow_normal(stage: Stage) {
    let site = Site::serve(stage.wire).await;
    let workflows = site.workflows(&stage.dtm, transfers(&stage));
    let execution = execution("transfer");
    let outcome = workflows.execute(execution.clone()).await.unwrap();
    assert_eq!(outcome, WorkflowOutcome::Succeeded(Bytes::from_static(b"moved")));
    assert_eq!(stage.status(&execution.gid).await, Succeeded);
    assert_eq!(stage.branches.calls(&execution.gid), ["01/action", "02/action"]);
    assert_eq!(stage.states(&execution.gid).await, ["succeed", "succeed"]);
    let seen = stage.branches.seen(&execution.gid);
    assert_eq!(seen[0].branch.mode, Mode::Workflow);
    assert_eq!(seen[0].branch.coordinator.as_deref(), Some(stage.dtm.address()), "our own call");
}

/// A function that refuses without having done anything, by its own answer or by an error of a permanent
/// kind.
async fn case_81_workflow_simple_failure(stage: Stage) {
    let site = Site::serve(stage.wire).await;
    let workflows = site.workflows(&stage.dtm, |builder| {
        builder
            .register("refuse", async |_workflow, _data| Err(BranchError::failed("not today")))
            .register("invalid", async |_workflow, _data| {
                Err(Error::new(ErrorKind::InvalidArgument, "transfer", "no such account").into())
            })
    });
    for (name, told) in [("refuse", "not today"), ("invalid", "transfer: no such account")] {
        let execution = execution(name);
        let outcome = workflows.execute(execution.clone()).await.unwrap();
        assert_eq!(outcome, WorkflowOutcome::RolledBack { reason: told.to_owned() });
        assert_eq!(stage.status(&execution.gid).await, Failed);
        assert_eq!(stage.reason(&execution.gid).await, told);
        assert_eq!(workflows.execute(execution).await.unwrap(), outcome, "again is the same");
    }
}

async fn case_82_workflow_rollback(stage: Stage) {
    let site = Site::serve(stage.wire).await;
    let workflows = site.workflows(&stage.dtm, transfers(&stage));
    let execution = execution("transfer");
    stage.branches.script(&execution.gid, "02/action", [Say::Failure("Insufficient balance".to_owned())]);
    let WorkflowOutcome::RolledBack { reason } = workflows.execute(execution.clone()).await.unwrap() else {
        panic!("it is rolled back")
    };
    assert!(reason.contains("Insufficient balance"), "{reason}");
    assert_eq!(stage.status(&execution.gid).await, Failed);
    assert_eq!(stage.branches.calls(&execution.gid), ["01/action", "02/action", "01/rollback"]);
}

/// Reservations, confirmed and cancelled by what ends a branch, the last one first.
async fn case_83_workflow_tcc(stage: Stage) {
    let site = Site::serve(stage.wire).await;
    let (urls, payload) = (Urls::of(&stage), stage.payload("30"));
    let workflows = site.workflows(&stage.dtm, move |builder| {
        builder.register("reserve", move |mut workflow, data| {
            let (urls, payload) = (urls.clone(), payload.clone());
            async move {
                for _ in 0..2 {
                    let branch = workflow.branch()?;
                    let branch = branch.on_commit_call(urls.to("InConfirm"), payload.clone());
                    let branch = branch.on_rollback_call(urls.to("InCancel"), payload.clone());
                    branch.call(urls.to("InTry"), payload.clone()).await?;
                }
                if data == "refuse" { Err(BranchError::failed("refused")) } else { Ok(Bytes::new()) }
            }
        })
    });
    for (data, end) in [("take", "commit"), ("refuse", "rollback")] {
        let mut execution = execution("reserve");
        execution.data = data.into();
        workflows.execute(execution.clone()).await.unwrap();
        let calls = ["01/action".to_owned(), "02/action".to_owned(), format!("02/{end}"), format!("01/{end}")];
        assert_eq!(stage.branches.calls(&execution.gid), calls);
    }
}

/// One of two is done when the run ends: the next run must not take both for done.
async fn everything_that_ends_a_branch_is_run_until_all_of_it_succeeded(stage: Stage) {
    let site = Site::serve(stage.wire).await;
    let (urls, payload) = (Urls::of(&stage), stage.payload("30"));
    let workflows = site.workflows(&stage.dtm, move |builder| {
        builder.register("both", move |mut workflow, _data| {
            let (urls, payload) = (urls.clone(), payload.clone());
            async move {
                let branch = workflow.branch()?.on_commit_call(urls.to("InConfirm"), payload.clone());
                let branch = branch.on_commit_call(urls.to("TransIn"), payload.clone());
                branch.call(urls.to("InTry"), payload).await
            }
        })
    });
    let execution = execution("both");
    stage.branches.script(&execution.gid, "01/commit", [Say::Done, Say::Oops]);
    workflows.execute(execution.clone()).await.unwrap_err();
    stage.until(&execution.gid, Succeeded).await;
    let methods = stage.branches.seen(&execution.gid).into_iter().map(|seen| seen.method);
    let methods: Vec<String> = methods.map(|method| method.rsplit('/').next().unwrap().to_owned()).collect();
    assert_eq!(methods, ["InTry", "TransIn", "InConfirm", "TransIn", "InConfirm"]);
}

/// Both processes are called to run it, and goods came between their two calls of the second branch.
async fn what_one_process_did_is_undone_though_another_ones_refusal_was_recorded(stage: Stage) {
    // The other process is still at its rollback, and is done with everything.
    for is_undoing in [true, false] {
        done_here_and_refused_there(&stage, is_undoing).await;
    }
}

async fn done_here_and_refused_there(stage: &Stage, is_undoing: bool) {
    let sites = [Site::serve(stage.wire).await, Site::serve(stage.wire).await];
    let [one, other] = sites.each_ref().map(|site| site.workflows(&stage.dtm, transfers(stage)));
    let mut execution = execution("transfer");
    execution.options.retry_interval = Some(60 * SECOND);
    execution.options.request_timeout = Some(HELD_TIMEOUT);
    let refused = Say::Failure("no stock".to_owned());
    let [taking, undoing] = [gate(), gate()];
    stage.branches.script(&execution.gid, "02/action", [Say::Held(taking.clone()), refused]);
    if is_undoing {
        stage.branches.script(&execution.gid, "01/rollback", [Say::Held(undoing.clone())]);
    }
    let second = async {
        stage.until_called(&execution.gid, 2).await;
        let second = other.execute(execution.clone());
        let meanwhile = async {
            if is_undoing {
                stage.until_seen(&execution.gid, "01/rollback").await;
                taking.close();
                stage.until_seen(&execution.gid, "02/rollback").await;
                undoing.close();
            }
        };
        let (second, ()) = tokio::join!(second, meanwhile);
        taking.close();
        second
    };
    let (first, second) = tokio::join!(one.execute(execution.clone()), second);
    for outcome in [first, second] {
        let WorkflowOutcome::RolledBack { reason } = outcome.unwrap() else { panic!("it was refused") };
        assert_eq!(reason, "no stock");
    }
    let calls = stage.branches.calls(&execution.gid);
    assert_eq!(calls[..3], ["01/action", "02/action", "02/action"]);
    assert_eq!(calls.iter().filter(|call| *call == "02/rollback").count(), 1, "{calls:?}");
}

/// Neither done nor refused: DTM has it run again.
async fn case_85_workflow_error_and_ongoing(stage: Stage) {
    let site = Site::serve(stage.wire).await;
    let workflows = site.workflows(&stage.dtm, transfers(&stage));
    let ongoing = execution("transfer");
    stage.branches.script(&ongoing.gid, "02/action", [Say::Ongoing]);
    assert_eq!(workflows.execute(ongoing.clone()).await.unwrap(), WorkflowOutcome::StillRunning);
    let broken = execution("transfer");
    stage.branches.script(&broken.gid, "02/action", [Say::Oops]);
    let error = workflows.execute(broken.clone()).await.unwrap_err();
    assert!(!error.is_permanent(), "{error}");
    for gid in [&ongoing.gid, &broken.gid] {
        stage.until(gid, Succeeded).await;
        assert_eq!(stage.branches.calls(gid), ["01/action", "02/action", "02/action"], "the first one once");
    }
}

async fn case_86_workflow_resume_skips_what_is_recorded(stage: Stage) {
    resumes_with_what_was_recorded(stage).await;
}

/// A local branch, and one whose answer differs each time: both are run once, and give what they gave.
async fn resumes_with_what_was_recorded(stage: Stage) {
    let site = Site::serve(stage.wire).await;
    let store = Store::open().await;
    let (run_count, texts) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    // DTM's own answer to this is another one each time.
    let other = match stage.wire {
        Wire::Grpc => format!("{}/dtmgimp.Dtm/NewGid", stage.dtm.address()),
        Wire::Http | Wire::JsonRpc => format!("{}/newGid", stage.dtm.address()),
    };
    let (count, seen, local) = (run_count.clone(), texts.clone(), store.clone());
    let workflows = site.workflows(&stage.dtm, move |builder| {
        builder.register("resume", move |mut workflow, _data| {
            let (count, seen, local, other) = (count.clone(), seen.clone(), local.clone(), other.clone());
            async move {
                let number = local.add(&mut workflow).await?;
                let text = workflow.branch()?.call(&other, Bytes::new()).await?;
                seen.lock().unwrap().push((number.clone(), text));
                if count.fetch_add(1, Ordering::SeqCst) == 0 { Err(BranchError::Ongoing) } else { Ok(number) }
            }
        })
    });
    let execution = execution("resume");
    assert_eq!(workflows.execute(execution.clone()).await.unwrap(), WorkflowOutcome::StillRunning);
    stage.until(&execution.gid, Succeeded).await;
    assert_eq!(store.row_count(&execution.gid).await, 1);
    let seen = texts.lock().unwrap().clone();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0], seen[1], "the second run was given what the first one did");
    assert!(!seen[0].0.is_empty() && seen[0].1.len() > 20, "{seen:?}");
}

/// DTM 1.19 by its default loses what a branch gave, on its file at once: not with what is sent here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_branch_gave_is_kept_by_a_dtm_with_its_default_settings() {
    let settings = &[("UpdateBranchSync", "0")];
    let own = blocking(|| OwnServer::start_with(Kind::Dtm, settings)).await.map_err(Missing::new);
    let Some(own) = there(own) else { return };
    for wire in [Wire::Grpc, Wire::Http] {
        resumes_with_what_was_recorded(Stage::at(own.url(), wire).await).await;
    }
}

/// Each of the calls, those that undo included, is interrupted once.
async fn case_88_workflow_resumes_in_its_rollbacks(stage: Stage) {
    let site = Site::serve(stage.wire).await;
    let workflows = site.workflows(&stage.dtm, transfers(&stage));
    let execution = execution("transfer");
    stage.branches.script(&execution.gid, "01/action", [Say::Ongoing]);
    stage.branches.script(&execution.gid, "02/action", [Say::Ongoing, Say::Failure("too late".to_owned())]);
    stage.branches.script(&execution.gid, "01/rollback", [Say::Ongoing, Say::Oops]);
    assert_eq!(workflows.execute(execution.clone()).await.unwrap(), WorkflowOutcome::StillRunning);
    stage.until(&execution.gid, Failed).await;
    assert_eq!(stage.reason(&execution.gid).await, "too late");
    let calls = stage.branches.calls(&execution.gid);
    let expected = ["01/action", "01/action", "02/action", "02/action", "01/rollback", "01/rollback", "01/rollback"];
    assert_eq!(calls, expected);
}

/// Who executes it again gets what it came to; over gRPC alone DTM does not tell.
async fn case_89_workflow_ret(stage: Stage) {
    let site = Site::serve(stage.wire).await;
    let workflows = site.workflows(&stage.dtm, transfers(&stage));
    let execution = execution("transfer");
    let outcome = workflows.execute(execution.clone()).await.unwrap();
    assert_eq!(workflows.execute(execution.clone()).await.unwrap(), outcome);
    assert_eq!(stage.branches.calls(&execution.gid).len(), 2, "not run again");
}

async fn case_92_workflow_branch_conflict(stage: Stage) {
    let site = Site::serve(stage.wire).await;
    let workflows = site.workflows(&stage.dtm, transfers(&stage));
    let mut execution = execution("transfer");
    execution.options.retry_interval = Some(4 * SECOND);
    stage.branches.script(&execution.gid, "02/action", [Say::Ongoing]);
    workflows.execute(execution.clone()).await.unwrap();
    let record = BranchRegistration::new(Mode::Workflow, &execution.gid, "01")
        .data("op", "action")
        .data("status", "succeed")
        .data("sync", "1");
    assert_eq!(stage.dtm.register_branch(&record).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    stage.until(&execution.gid, Succeeded).await;
}

async fn a_branch_that_refused_is_undone_only_where_it_asks_for_it(stage: Stage) {
    let site = Site::serve(stage.wire).await;
    let (urls, payload) = (Urls::of(&stage), stage.payload("30"));
    let workflows = site.workflows(&stage.dtm, move |builder| {
        builder.register("undone", move |mut workflow, _data| {
            let (urls, payload) = (urls.clone(), payload.clone());
            async move {
                let branch = workflow.branch()?.on_rollback_call(urls.to("TransOutRevert"), payload.clone());
                branch.undone_when_refused().call(urls.to("TransOut"), payload).await
            }
        })
    });
    let execution = execution("undone");
    stage.branches.script(&execution.gid, "01/action", [Say::Failure("no".to_owned())]);
    workflows.execute(execution.clone()).await.unwrap();
    assert_eq!(stage.branches.calls(&execution.gid), ["01/action", "01/rollback"]);
}

async fn a_workflow_that_panicked_is_run_again(stage: Stage) {
    let site = Site::serve(stage.wire).await;
    let run_count = Arc::new(AtomicUsize::new(0));
    let count = run_count.clone();
    let workflows = site.workflows(&stage.dtm, move |builder| {
        builder.register("panic", move |_workflow, _data| {
            let count = count.clone();
            async move {
                assert!(count.fetch_add(1, Ordering::SeqCst) > 0, "the first time");
                Ok(Bytes::new())
            }
        })
    });
    let execution = execution("panic");
    let error = workflows.execute(execution.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    stage.until(&execution.gid, Succeeded).await;
    assert_eq!(run_count.load(Ordering::SeqCst), 2);
}

/// It runs in a task of its own; DTM's callback meanwhile does not begin another run.
async fn a_dropped_call_leaves_the_workflow_running(stage: Stage) {
    let site = Site::serve(stage.wire).await;
    let workflows = site.workflows(&stage.dtm, transfers(&stage));
    let mut execution = execution("transfer");
    execution.options.request_timeout = Some(HELD_TIMEOUT);
    stage.branches.script(&execution.gid, "01/action", [Say::Late(2 * SECOND)]);
    tokio::select! {
        _ = workflows.execute(execution.clone()) => unreachable!("it takes two seconds"),
        () = stage.until_called(&execution.gid, 1) => {}
    }
    stage.until(&execution.gid, Succeeded).await;
    assert_eq!(stage.branches.calls(&execution.gid), ["01/action", "02/action"], "one run");
}

/// Of the same id in one process; the second gets what the first came to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_executions_of_one_id_are_one_run() {
    let Some(stage) = Stage::shared(Wire::Grpc).await else { return };
    let site = Site::serve(stage.wire).await;
    let workflows = site.workflows(&stage.dtm, transfers(&stage));
    let execution = execution("transfer");
    let [first, second] = [(); 2].map(|()| workflows.execute(execution.clone()));
    let (first, second) = tokio::join!(first, second);
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(stage.branches.calls(&execution.gid), ["01/action", "02/action"]);
}

/// The process is gone: another one, which knows the function too, is called back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_87_workflow_goes_on_in_a_process_that_only_serves_it() {
    let Some(stage) = Stage::shared(Wire::Grpc).await else { return };
    let address = format!("127.0.0.1:{}", dev_servers::free_port());
    let serving = transfers(&stage)(Workflows::builder(stage.dtm.clone(), &address)).build().unwrap();
    let server = GrpcServer::builder("workflows").address(&address).add_service(serving.grpc_service());
    let server = server.build().unwrap();
    let health = Health::new();
    server.start(&health).await.unwrap();
    // It was begun, and its process ended.
    let execution = execution("transfer");
    let begun = Workflows::builder(stage.dtm.clone(), &address)
        .register("transfer", async |_workflow, _data| Err(BranchError::Ongoing))
        .build()
        .unwrap();
    assert_eq!(begun.execute(execution.clone()).await.unwrap(), WorkflowOutcome::StillRunning);
    drop(begun);
    stage.until(&execution.gid, Succeeded).await;
    assert_eq!(stage.branches.calls(&execution.gid), ["01/action", "02/action"]);
}

#[tokio::test]
async fn case_93_abnormal() {
    let dtm = DtmClient::new(DtmConfig::from_url("dtm://127.0.0.1:1").unwrap()).unwrap();
    let builder = || Workflows::builder(dtm.clone(), "127.0.0.1:2").register("a", async |_, data| Ok(data));
    let error = builder().register("a", async |_, data| Ok(data)).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().contains("name=a"), "{error}");
    let workflows = builder().build().unwrap();
    let error = workflows.execute(WorkflowExecution::new("b", Bytes::new())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("name=b"), "{error}");
    let error = workflows.execute(WorkflowExecution::new("a", Bytes::new())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("address=127.0.0.1:1"), "{error}");
    for callback in ["http://127.0.0.1:2/workflows", ""] {
        let error = Workflows::builder(dtm.clone(), callback).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{callback}");
    }
}

/// Refused before anything is sent: nobody listens there.
#[tokio::test]
async fn data_over_the_limit_are_refused_with_the_limit() {
    let dtm = DtmClient::new(DtmConfig::from_url("dtm://127.0.0.1:1").unwrap()).unwrap();
    let workflows = Workflows::builder(dtm, "127.0.0.1:2").register("a", async |_, data| Ok(data)).build().unwrap();
    let error = workflows.execute(WorkflowExecution::new("a", vec![0; 800])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("length_max=1024"), "{error}");
}

/// DTM could not keep what it came to: it is rolled back, and the reason says why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_over_the_limit_rolls_back() {
    let Some(stage) = Stage::shared(Wire::Grpc).await else { return };
    let url = super::stage::shared_url(Kind::Dtm).await.unwrap();
    for (limits, is_kept) in [(StoreLimits::Sql, false), (StoreLimits::None, true)] {
        let mut config = config(&url, Wire::Grpc);
        config.store_limits = limits;
        let dtm = DtmClient::new(config).unwrap();
        let large = async |_: Workflow, _: Bytes| Ok(Bytes::from(vec![7; 900]));
        let site = Site::serve(Wire::Grpc).await;
        let workflows = site.workflows(&dtm, |builder| builder.register("large", large));
        let execution = execution("large");
        match workflows.execute(execution.clone()).await.unwrap() {
            WorkflowOutcome::Succeeded(result) => assert!(is_kept && result.len() == 900),
            WorkflowOutcome::RolledBack { reason } => {
                assert!(!is_kept && reason.contains("result") && reason.contains("length_max=1024"), "{reason}");
            }
            WorkflowOutcome::StillRunning => panic!("it is decided"),
        }
        assert_eq!(stage.status(&execution.gid).await, if is_kept { Succeeded } else { Failed });
    }
}

/// A database of the workflow's own process.
#[derive(Clone)]
pub(crate) struct Store {
    database: SqlDatabase,
    pub(crate) barrier: SqlBarrier,
    _folder: Arc<tempfile::TempDir>,
}

impl Store {
    pub(crate) async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("w.db").display());
        let database = SqlDatabase::connect_url(&url).await.unwrap();
        let barrier = database.barrier();
        barrier.create_table().await.unwrap();
        database.execute_script("CREATE TABLE orders (code TEXT, status TEXT)").await.unwrap();
        Self { database, barrier, _folder: Arc::new(folder) }
    }

    /// Adds a row as the workflow's next branch, and removes it where that is rolled back.
    pub(crate) async fn add(&self, workflow: &mut Workflow) -> Result<Bytes, BranchError> {
        let gid = workflow.gid().to_owned();
        let (undoing, code) = (self.clone(), gid.clone());
        let branch = workflow.branch()?.on_rollback(move |branch| async move {
            let mut barrier = Barrier::new(branch);
            let delete = "DELETE FROM orders WHERE code = ?";
            let undone = undoing.database.run_with_barrier(&undoing.barrier, &mut barrier, async |tx| {
                tx.sql()?.execute(delete, &[code.as_str().into()]).await?;
                Ok::<_, BranchError>(())
            });
            undone.await.map(drop)
        });
        branch
            .run_in_tx(&self.database, &self.barrier, async |tx| {
                tx.sql()?.execute(INSERT, &[gid.as_str().into(), "worked".into()]).await?;
                Ok(Bytes::from_static(b"one row"))
            })
            .await
    }

    pub(crate) async fn row_count(&self, gid: &str) -> i64 {
        let count = "SELECT count(*) FROM orders WHERE code = ?";
        self.database.fetch_optional(count, &[gid.into()]).await.unwrap().unwrap().get(0).unwrap()
    }
}
