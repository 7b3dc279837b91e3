//! XA and workflows as DTM's Go client ran them, request by request: what it told DTM and how it called
//! branches, in captures of DTM 1.19 in `tests/vectors/dtm`. Who runs them here sends the same bytes.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use micro_core::{
    Error, ErrorKind, Health,
    app::Component as _,
    branch::{Branch, BranchAnswer, BranchError, Mode, Op},
    saga::{BranchCaller as _, BranchRequest},
    transaction::MemoryDatabase,
};
use micro_grpc::{GrpcBranchCaller, GrpcServer};
use micro_tx::dtm::{
    BranchRegistration, DtmClient, TransactionOptions, WorkflowExecution, WorkflowOutcome, Workflows, WorkflowsBuilder,
    Xa,
};
use prost::Message as _;

use super::{
    branches::{Branches, Business, Say, Seen},
    vectors::{Call, Replayed, capture, grpc_calls, replay, text},
};

/// Where the captured branches were, and DTM.
const BRANCHES: &str = "127.0.0.1:47000";
const DTM: &str = "127.0.0.1:46800";

/// `DtmRequest`; of a map the entries are written in the order of their names, as ours are, and not in Go's,
/// which is by chance.
#[derive(Clone, PartialEq, prost::Message)]
struct Transaction {
    #[prost(string, tag = "1")]
    gid: String,
    #[prost(string, tag = "2")]
    trans_type: String,
    #[prost(bytes = "vec", optional, tag = "3")]
    options: Option<Vec<u8>>,
    #[prost(string, tag = "4")]
    custom_data: String,
    #[prost(string, tag = "6")]
    query_prepared: String,
    #[prost(string, tag = "7")]
    steps: String,
    #[prost(btree_map = "string, string", tag = "8")]
    extra: BTreeMap<String, String>,
    #[prost(string, tag = "9")]
    rollback_reason: String,
}

/// `DtmBranchRequest`, likewise.
#[derive(Clone, PartialEq, prost::Message)]
struct Registration {
    #[prost(string, tag = "1")]
    gid: String,
    #[prost(string, tag = "2")]
    trans_type: String,
    #[prost(string, tag = "3")]
    branch_id: String,
    #[prost(btree_map = "string, string", tag = "5")]
    data: BTreeMap<String, String>,
    #[prost(bytes = "vec", tag = "6")]
    payload: Vec<u8>,
}

/// A run that is captured: DTM answers as it did, branches stand where a test says.
struct Run {
    replayed: Replayed,
    branches: Branches,
    /// The calls of branches that the Go client made.
    captured: Vec<Call>,
}

impl Run {
    /// With what we say otherwise than Go's client, on purpose; of a transaction by the method that tells it.
    async fn of(
        dtm: &str,
        branches: &str,
        transaction: impl Fn(&str, &mut Transaction, &str),
        registration: impl Fn(&mut Registration),
    ) -> Self {
        let stand = Branches::serve().await;
        let mut calls: VecDeque<Call> = grpc_calls(dtm);
        for call in &mut calls {
            call.message = replaced(&call.message, &stand.grpc);
            call.message = if call.path.ends_with("/RegisterBranch") {
                let mut message = Registration::decode(&*call.message).unwrap();
                registration(&mut message);
                message.encode_to_vec()
            } else {
                let mut message = Transaction::decode(&*call.message).unwrap();
                transaction(&call.path, &mut message, &stand.grpc);
                message.encode_to_vec()
            };
        }
        let replayed = replay(calls).await;
        let captured = grpc_calls(branches).into_iter().map(|mut call| {
            for value in call.metadata.values_mut() {
                *value = value.replace(BRANCHES, &stand.grpc).replace(DTM, replayed.dtm.address());
            }
            call
        });
        Self { captured: captured.collect(), branches: stand, replayed }
    }

    fn url(&self, method: &str) -> String {
        format!("{}/busi.Busi/{method}", self.branches.grpc)
    }

    /// Each branch was called as Go's client called it: method, metadata, message.
    fn assert_called_as_captured(&self, gids: &[&str]) {
        let seen: Vec<Seen> = gids.iter().flat_map(|gid| self.branches.seen(gid)).collect();
        assert_eq!(seen.len(), self.captured.len());
        for (seen, captured) in seen.into_iter().zip(&self.captured) {
            let metadata: BTreeMap<String, String> =
                seen.headers.into_iter().filter(|(name, _)| name.starts_with("dtm-")).collect();
            assert_eq!((&seen.method, &metadata), (&captured.path, &captured.metadata));
            assert_eq!(text(&seen.payload), captured.message);
        }
    }
}

/// The address of the branches, which is as long as the captured one.
fn replaced(message: &[u8], address: &str) -> Vec<u8> {
    assert_eq!(address.len(), BRANCHES.len(), "a port of five digits");
    let mut message = message.to_vec();
    for start in 0..message.len().saturating_sub(BRANCHES.len() - 1) {
        let part = &mut message[start..start + BRANCHES.len()];
        if part == BRANCHES.as_bytes() {
            part.copy_from_slice(address.as_bytes());
        }
    }
    message
}

/// A participant of XA as DTM sees it: registers its branch while it works.
struct Participant(DtmClient);

#[async_trait]
impl Business for Participant {
    async fn call(&self, seen: &Seen) -> Result<(), BranchError> {
        if seen.payload == "in-fail" {
            return Err(BranchError::failed("no"));
        }
        let branch = &seen.branch;
        let registration = BranchRegistration::new(Mode::Xa, &branch.gid, &branch.id);
        let url = branch.phase2_url.as_deref().unwrap();
        Ok(self.0.register_branch(&registration.data("url", url)).await?)
    }
}

/// We tell DTM why it is rolled back, which Go's client does not for XA.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d02_xa() {
    let reason = |path: &str, transaction: &mut Transaction, branches: &str| {
        if path.ends_with("/Abort") {
            transaction.rollback_reason = format!("xa.call: no (url={branches}/busi.Busi/XaIn)");
        }
    };
    let run = Run::of(capture!("d02-xa-mysql-grpc"), capture!("d02-xa-mysql-grpc.branches"), reason, |_| {}).await;
    let dtm = &run.replayed.dtm;
    run.branches.work("", Arc::new(Participant(dtm.clone())));
    let mut options = TransactionOptions::default();
    options.is_waited_for = true;
    let (committed, refused) = (Xa::with_gid("probe-xa-ok").options(options), Xa::with_gid("probe-xa-fail"));
    let done = dtm.xa(&committed, async |branches| {
        branches.call(&run.url("XaOut"), text("out-30")).await?;
        branches.call(&run.url("XaIn"), text("in-30")).await
    });
    done.await.unwrap();
    let done = dtm.xa(&refused, async |branches| {
        branches.call(&run.url("XaOut"), text("out-30")).await?;
        branches.call(&run.url("XaIn"), text("in-fail")).await
    });
    let error: Error = done.await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::FailedPrecondition, "no"));
    run.assert_called_as_captured(&["probe-xa-ok", "probe-xa-fail"]);
}

/// What each action is, which ours records with what it gave.
const LABELS: [(&str, &str, &str); 6] = [
    ("probe-wf-ok", "01", "wf-ok: call busi.Busi/TransOut"),
    ("probe-wf-ok", "02", "wf-ok: tx"),
    ("probe-wf-fail", "01", "wf-fail: call busi.Busi/TransOut"),
    ("probe-wf-fail", "02", "wf-fail: call busi.Busi/TransIn"),
    ("probe-wf-resume", "01", "wf-resume: tx"),
    ("probe-wf-resume", "02", "wf-resume: call busi.Busi/TransOut"),
];

/// Ours asks DTM to keep what a branch gave before it answers, or DTM 1.19 may lose it.
fn in_sync(registration: &mut Registration) {
    registration.data.insert("sync".to_owned(), "1".to_owned());
    // Of a refusal we keep the branch's own words, and not those of Go's gRPC around them.
    if registration.payload == b"rpc error: code = Aborted desc = no money" {
        registration.payload = b"no money".to_vec();
    }
    let is_its = |(gid, branch_id, _): &&(&str, &str, &str)| {
        (*gid, *branch_id) == (&*registration.gid, &*registration.branch_id)
    };
    if registration.data["op"] == "action"
        && let Some((_, _, label)) = LABELS.iter().find(is_its)
    {
        registration.payload.splice(0..0, format!("micro:{label}\n").into_bytes());
    }
}

/// The word that Go's client adds to a reason is not ours.
fn own_words(_: &str, transaction: &mut Transaction, _: &str) {
    if let Some(reason) = transaction.extra.get_mut("rollback_reason") {
        *reason = reason.strip_suffix(" FAILURE").unwrap_or(reason).to_owned();
    }
}

fn workflows(run: &Run, register: impl FnOnce(WorkflowsBuilder) -> WorkflowsBuilder) -> Workflows {
    register(Workflows::builder(run.replayed.dtm.clone(), &run.branches.grpc)).build().unwrap()
}

fn execution(name: &str, gid: &str) -> WorkflowExecution {
    WorkflowExecution::new(name, "wf-data").gid(gid)
}

/// The data as a branch's message.
fn message(data: &Bytes) -> Bytes {
    text(std::str::from_utf8(data).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g17_workflow_success() {
    let captured = (capture!("g17-workflow-success"), capture!("g17-workflow-success.branches"));
    let run = Run::of(captured.0, captured.1, own_words, in_sync).await;
    let (out, confirm) = (run.url("TransOut"), run.url("TransInConfirm"));
    let workflows = workflows(&run, move |builder| {
        builder.register("wf-ok", move |mut workflow, data| {
            let (out, confirm) = (out.clone(), confirm.clone());
            async move {
                workflow.branch()?.call(&out, message(&data)).await?;
                let database = MemoryDatabase::new();
                let local = workflow.branch()?.on_commit_call(confirm, message(&data));
                let work = async |_: &mut micro_core::Tx| Ok(Bytes::from_static(b"do-result"));
                let result = local.run_in_tx(&*database.transactions(), &*database.barrier(), work).await?;
                Ok([b"result:", &*result].concat().into())
            }
        })
    });
    let outcome = workflows.execute(execution("wf-ok", "probe-wf-ok")).await.unwrap();
    assert_eq!(outcome, WorkflowOutcome::Succeeded("result:do-result".into()));
    // DTM 1.19 does not tell the result over gRPC.
    let again = workflows.execute(execution("wf-ok", "probe-wf-ok")).await.unwrap();
    assert_eq!(again, WorkflowOutcome::Succeeded(Bytes::new()));
    run.assert_called_as_captured(&["probe-wf-ok"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g18_workflow_rollback() {
    let captured = (capture!("g18-workflow-rollback"), capture!("g18-workflow-rollback.branches"));
    let run = Run::of(captured.0, captured.1, own_words, in_sync).await;
    run.branches.script("probe-wf-fail", "02/action", [Say::Failure("no money".to_owned())]);
    let urls = ["TransOut", "TransOutRevert", "TransIn", "TransInRevert"].map(|name| run.url(name));
    let workflows = workflows(&run, move |builder| {
        builder.register("wf-fail", move |mut workflow, data| {
            let [out, out_revert, into, into_revert] = urls.clone();
            async move {
                let branch = workflow.branch()?.on_rollback_call(out_revert, message(&data));
                branch.call(&out, message(&data)).await?;
                let branch = workflow.branch()?.on_rollback_call(into_revert, message(&data));
                branch.call(&into, message(&data)).await
            }
        })
    });
    let refused = WorkflowOutcome::RolledBack { reason: "no money".to_owned() };
    assert_eq!(workflows.execute(execution("wf-fail", "probe-wf-fail")).await.unwrap(), refused);
    assert_eq!(workflows.execute(execution("wf-fail", "probe-wf-fail")).await.unwrap(), refused);
    run.assert_called_as_captured(&["probe-wf-fail"]);
}

/// That DTM had lost what the first run recorded is its own fault; the function runs again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g19_workflow_resume_by_dtm() {
    let captured = (capture!("g19-workflow-resume-by-dtm"), capture!("g19-workflow-resume-by-dtm.branches"));
    let run = Run::of(captured.0, captured.1, own_words, in_sync).await;
    run.branches.script("probe-wf-resume", "02/action", [Say::Ongoing]);
    let out = run.url("TransOut");
    let workflows = workflows(&run, move |builder| {
        builder.register("wf-resume", move |mut workflow, data| {
            let out = out.clone();
            async move {
                let database = MemoryDatabase::new();
                let work = async |_: &mut micro_core::Tx| Ok(Bytes::from_static(b"kept"));
                let local = workflow.branch()?;
                local.run_in_tx(&*database.transactions(), &*database.barrier(), work).await?;
                workflow.branch()?.call(&out, message(&data)).await
            }
        })
    });
    let outcome = workflows.execute(execution("wf-resume", "probe-wf-resume")).await.unwrap();
    assert_eq!(outcome, WorkflowOutcome::StillRunning);
    // As DTM calls back, with its bytes.
    let health = Health::new();
    let server = GrpcServer::builder("workflows").add_service(workflows.grpc_service()).build().unwrap();
    server.start(&health).await.unwrap();
    let url = format!("{}/workflow.Workflow/Execute", server.instances().remove(0).address);
    let callback = Branch::new(Mode::Workflow, "probe-wf-resume", "00", Op::Other("wf-resume".to_owned())).unwrap();
    let request = BranchRequest::new(&url, &callback).payload(text("wf-data"));
    assert_eq!(GrpcBranchCaller::default().call(request).await.unwrap(), BranchAnswer::Succeeded);
    run.assert_called_as_captured(&["probe-wf-resume"]);
}
