//! Workflows with branches of XA, in MariaDB and in PostgreSQL: DTM's own cases, and runs that are
//! interrupted between a branch's work and its record.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use bytes::Bytes;
use micro_core::{
    ErrorKind,
    branch::{BranchError, Mode},
};
use micro_tx::{
    SqlBarrier, SqlTxExt as _,
    dtm::{
        BranchRegistration,
        TransactionStatus::{Failed, Prepared, Succeeded},
        Workflow, WorkflowOutcome, Workflows,
    },
};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySqlConnection, PgConnection};

use super::{
    branches::{Say, gate},
    stage::{HELD_TIMEOUT, SECOND, Stage, Wire, on_each_wire},
    workflow::{Site, Store, execution},
    xa::{Bank, banks},
};
use crate::{on_servers::INSERT, server::Server};

on_each_wire! {
    case_84_workflow_mixed
    case_90_workflow_xa_action
    case_90_workflow_xa_rollback
    case_90_workflow_xa_resume
    an_xa_branch_that_was_interrupted_before_its_record_is_not_run_again
    an_xa_branch_that_was_interrupted_before_it_was_prepared_is_run_again
    a_workflow_that_passes_over_its_xa_branch_does_not_commit
    a_function_that_leaves_out_what_is_prepared_is_told
}

/// Adds a row as the workflow's next branch; it gives `one row`, and counts itself.
async fn add(
    workflow: &mut Workflow,
    barrier: &SqlBarrier,
    run_count: &AtomicUsize,
    refusal: Option<&str>,
) -> Result<Bytes, BranchError> {
    let branch = workflow.branch()?;
    let code = format!("{}-{}", workflow.gid(), branch.id());
    branch
        .run_in_xa(barrier, async |tx| {
            run_count.fetch_add(1, Ordering::SeqCst);
            tx.sql()?.execute(INSERT, &[code.as_str().into(), "worked".into()]).await?;
            refusal.map_or(Ok(Bytes::from_static(b"one row")), |reason| Err(BranchError::failed(reason)))
        })
        .await
}

/// What the functions have in common.
#[derive(Clone)]
struct Setting {
    barriers: [SqlBarrier; 2],
    run_count: Arc<AtomicUsize>,
}

impl Setting {
    fn of(banks: &[Bank; 2]) -> Self {
        Self { barriers: banks.each_ref().map(|bank| bank.barrier.clone()), run_count: Arc::default() }
    }

    fn run_count(&self) -> usize {
        self.run_count.load(Ordering::SeqCst)
    }
}

/// That each bank has so many rows, and so many branches prepared.
async fn assert_banks(banks: &[Bank; 2], gid: &str, row_count: i64, prepared_count: usize) {
    for bank in banks {
        let found = (bank.row_count(gid).await, bank.prepared_count(gid).await);
        assert_eq!(found, (row_count, prepared_count), "{}", bank.method);
        bank.site.until_quiet("nothing is open beside what is prepared").await;
    }
}

async fn case_90_workflow_xa_action(stage: Stage) {
    let Some(banks) = banks(&stage).await else { return };
    let (site, setting) = (Site::serve(stage.wire).await, Setting::of(&banks));
    let (of_run, look) = (setting.clone(), stage.http_url("Look"));
    let workflows = site.workflows(&stage.dtm, move |builder| {
        builder.register("xa", move |mut workflow, _data| {
            let (setting, look) = (of_run.clone(), look.clone());
            async move {
                for barrier in &setting.barriers {
                    assert_eq!(add(&mut workflow, barrier, &setting.run_count, None).await?, "one row");
                }
                workflow.branch()?.call(&look, Bytes::new()).await
            }
        })
    });
    let mut execution = execution("xa");
    execution.options.request_timeout = Some(HELD_TIMEOUT);
    let gate = gate();
    stage.branches.script(&execution.gid, "03/action", [Say::Held(gate.clone())]);
    let running = tokio::spawn({
        let (workflows, execution) = (workflows.clone(), execution.clone());
        async move { workflows.execute(execution).await }
    });
    stage.until_called(&execution.gid, 1).await;
    assert_banks(&banks, &execution.gid, 0, 1).await;
    gate.close();
    let outcome = running.await.unwrap().unwrap();
    assert!(matches!(outcome, WorkflowOutcome::Succeeded(_)), "{outcome:?}");
    assert_eq!(stage.status(&execution.gid).await, Succeeded);
    assert_banks(&banks, &execution.gid, 1, 0).await;
    let details = stage.dtm.query(&execution.gid).await.unwrap().unwrap();
    let rows: Vec<String> =
        details.branches.iter().map(|row| format!("{}/{} {}", row.branch_id, row.op, row.status)).collect();
    let expected = ["01/business", "01/action", "02/business", "02/action", "03/action", "02/commit", "01/commit"];
    assert_eq!(rows, expected.map(|name| format!("{name} succeed")));
}

async fn case_90_workflow_xa_rollback(stage: Stage) {
    let Some(banks) = banks(&stage).await else { return };
    let (site, setting) = (Site::serve(stage.wire).await, Setting::of(&banks));
    let of_run = setting.clone();
    let workflows = site.workflows(&stage.dtm, move |builder| {
        builder.register("xa", move |mut workflow, data| {
            let setting = of_run.clone();
            async move {
                // Either database is the one that has to undo what is prepared.
                let [first, second] = if data == "0" { [0, 1] } else { [1, 0] };
                add(&mut workflow, &setting.barriers[first], &setting.run_count, None).await?;
                add(&mut workflow, &setting.barriers[second], &setting.run_count, Some("the account is closed")).await
            }
        })
    });
    for data in ["0", "1"] {
        let mut execution = execution("xa");
        execution.data = data.into();
        let outcome = workflows.execute(execution.clone()).await.unwrap();
        assert_eq!(outcome, WorkflowOutcome::RolledBack { reason: "the account is closed".to_owned() });
        assert_eq!(stage.status(&execution.gid).await, Failed);
        assert_banks(&banks, &execution.gid, 0, 0).await;
    }
}

/// What is prepared stays so while the workflow is interrupted.
async fn case_90_workflow_xa_resume(stage: Stage) {
    let Some(banks) = banks(&stage).await else { return };
    let (site, setting) = (Site::serve(stage.wire).await, Setting::of(&banks));
    let (of_run, url) = (setting.clone(), stage.url("TransIn"));
    let workflows = site.workflows(&stage.dtm, move |builder| {
        builder.register("xa", move |mut workflow, _data| {
            let (setting, url) = (of_run.clone(), url.clone());
            async move {
                let first = add(&mut workflow, &setting.barriers[0], &setting.run_count, None).await?;
                let second = add(&mut workflow, &setting.barriers[1], &setting.run_count, None).await?;
                workflow.branch()?.call(&url, Bytes::new()).await?;
                Ok([first, second].concat().into())
            }
        })
    });
    for (then, end) in [(None, Succeeded), (Some(Say::Failure("no".to_owned())), Failed)] {
        let mut execution = execution("xa");
        execution.options.retry_interval = Some(2 * SECOND);
        stage.branches.script(&execution.gid, "03/action", vec![Say::Ongoing; 100]);
        let before = setting.run_count();
        assert_eq!(workflows.execute(execution.clone()).await.unwrap(), WorkflowOutcome::StillRunning);
        assert_banks(&banks, &execution.gid, 0, 1).await;
        stage.branches.script(&execution.gid, "03/action", then);
        stage.until(&execution.gid, end.clone()).await;
        assert_banks(&banks, &execution.gid, i64::from(end == Succeeded), 0).await;
        assert_eq!(setting.run_count() - before, 2, "each once");
        if end == Succeeded && stage.wire == Wire::Http {
            let outcome = workflows.execute(execution).await.unwrap();
            assert_eq!(outcome, WorkflowOutcome::Succeeded(Bytes::from_static(b"one rowone row")));
        }
    }
}

/// A function with one branch in the database of this number, which gives what the branch gave. It is begun
/// by a process that ends before its branch, and goes no further until `is_ready` is set.
async fn begun(stage: &Stage, banks: &[Bank; 2], number: usize, is_ready: &Arc<AtomicBool>) -> (Setting, String, Site) {
    let (site, setting) = (Site::serve(stage.wire).await, Setting::of(banks));
    let (of_run, is_ready) = (setting.clone(), is_ready.clone());
    let workflows = site.workflows(&stage.dtm, move |builder| {
        builder.register("xa", move |mut workflow, _data| {
            let (setting, is_ready) = (of_run.clone(), is_ready.clone());
            async move {
                if !is_ready.load(Ordering::SeqCst) {
                    return Err(BranchError::Ongoing);
                }
                add(&mut workflow, &setting.barriers[number], &setting.run_count, None).await
            }
        })
    });
    let mut execution = execution("xa");
    execution.options.retry_interval = Some(2 * SECOND);
    assert_eq!(workflows.execute(execution.clone()).await.unwrap(), WorkflowOutcome::StillRunning);
    let record = BranchRegistration::new(Mode::Workflow, &execution.gid, "01")
        .data("op", "business")
        .data("status", "succeed")
        .data("sync", "1");
    stage.dtm.register_branch(&record.payload(&b"micro:xa: xa\nof the first run"[..])).await.unwrap();
    (setting, execution.gid, site)
}

/// As a process leaves it that ends right after XA PREPARE.
async fn prepare(bank: &Bank, gid: &str) {
    let name = format!("{gid}-01");
    let work = format!(
        "INSERT INTO barrier (trans_type, gid, branch_id, op, barrier_id, reason) \
         VALUES ('workflow', '{gid}', '01', 'action', '01', 'action'); \
         INSERT INTO orders VALUES ('{name}', 'worked')"
    );
    let url = bank.site.url();
    if bank.site.server == Server::Mariadb {
        let mut connection = MySqlConnection::connect(&url).await.unwrap();
        let script = format!("XA START '{name}'; {work}; XA END '{name}'; XA PREPARE '{name}'");
        connection.execute(sqlx::raw_sql(AssertSqlSafe(script))).await.unwrap();
        connection.close().await.unwrap();
    } else {
        let mut connection = PgConnection::connect(&url).await.unwrap();
        let script = format!("BEGIN; {work}; PREPARE TRANSACTION '{name}'");
        connection.execute(sqlx::raw_sql(AssertSqlSafe(script))).await.unwrap();
        connection.close().await.unwrap();
    }
}

async fn the_result(stage: &Stage, gid: &str) -> Vec<u8> {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let details = stage.dtm.query(gid).await.unwrap().unwrap();
    BASE64_STANDARD.decode(details.transaction.result).unwrap()
}

async fn an_xa_branch_that_was_interrupted_before_its_record_is_not_run_again(stage: Stage) {
    let Some(banks) = banks(&stage).await else { return };
    for (number, bank) in banks.iter().enumerate() {
        let is_ready = Arc::default();
        let (setting, gid, _site) = begun(&stage, &banks, number, &is_ready).await;
        prepare(bank, &gid).await;
        is_ready.store(true, Ordering::SeqCst);
        stage.until(&gid, Succeeded).await;
        assert_eq!(setting.run_count(), 0, "{}", bank.method);
        assert_eq!((bank.row_count(&gid).await, bank.prepared_count(&gid).await), (1, 0), "{}", bank.method);
        assert_eq!(the_result(&stage, &gid).await, b"of the first run", "{}", bank.method);
    }
}

async fn an_xa_branch_that_was_interrupted_before_it_was_prepared_is_run_again(stage: Stage) {
    let Some(banks) = banks(&stage).await else { return };
    for (number, bank) in banks.iter().enumerate() {
        let is_ready = Arc::default();
        let (setting, gid, _site) = begun(&stage, &banks, number, &is_ready).await;
        is_ready.store(true, Ordering::SeqCst);
        stage.until(&gid, Succeeded).await;
        assert_eq!(setting.run_count(), 1, "{}", bank.method);
        assert_eq!((bank.row_count(&gid).await, bank.prepared_count(&gid).await), (1, 0), "{}", bank.method);
        assert_eq!(the_result(&stage, &gid).await, b"one row", "{}", bank.method);
        let details = stage.dtm.query(&gid).await.unwrap().unwrap();
        assert!(details.branches.iter().any(|row| row.op == "business-2"), "{:?}", details.branches);
    }
}

/// Prepared by an earlier run and forgotten by this one, it would keep its locks for ever.
async fn a_function_that_leaves_out_what_is_prepared_is_told(stage: Stage) {
    let Some(banks) = banks(&stage).await else { return };
    for (number, bank) in banks.iter().enumerate() {
        let is_ready = Arc::default();
        let (setting, gid, _site) = begun(&stage, &banks, number, &is_ready).await;
        prepare(bank, &gid).await;
        let callback = if stage.wire == Wire::Grpc { "127.0.0.1:1" } else { "http://127.0.0.1:1/workflows" };
        let changed = Workflows::builder(stage.dtm.clone(), callback)
            .register("xa", async |_workflow, _data| Ok(Bytes::from_static(b"nothing to do")))
            .build()
            .unwrap();
        let mut execution = execution("xa");
        execution.gid.clone_from(&gid);
        let error = changed.execute(execution).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
        for part in ["other branches than the run that was recorded", "branch=01", "recorded=xa: xa, made=its end"] {
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
        assert_eq!((bank.row_count(&gid).await, bank.prepared_count(&gid).await), (0, 1), "{}", bank.method);
        assert_eq!(stage.status(&gid).await, Prepared);
        // The function that was recorded goes on.
        is_ready.store(true, Ordering::SeqCst);
        stage.until(&gid, Succeeded).await;
        assert_eq!(setting.run_count(), 0, "{}", bank.method);
        assert_eq!((bank.row_count(&gid).await, bank.prepared_count(&gid).await), (1, 0), "{}", bank.method);
    }
}

/// What nobody knows the outcome of must not be left out of what is committed.
async fn a_workflow_that_passes_over_its_xa_branch_does_not_commit(stage: Stage) {
    let Some(banks) = banks(&stage).await else { return };
    let (site, barriers) = (Site::serve(stage.wire).await, Setting::of(&banks).barriers);
    let is_ready = Arc::new(AtomicBool::new(false));
    let of_run = is_ready.clone();
    let workflows = site.workflows(&stage.dtm, move |builder| {
        builder.register("xa", move |mut workflow, _data| {
            let (barriers, is_ready) = (barriers.clone(), of_run.clone());
            async move {
                let is_ready = is_ready.load(Ordering::SeqCst);
                for barrier in &barriers {
                    let (branch, code) = (workflow.branch()?, format!("{}-x", workflow.gid()));
                    let is_last = branch.id() == "02";
                    let passed_over = branch.run_in_xa(barrier, async |tx| {
                        tx.sql()?.execute(INSERT, &[code.as_str().into(), "worked".into()]).await?;
                        if is_last && !is_ready { Err(BranchError::Ongoing) } else { Ok(Bytes::new()) }
                    });
                    let _ = passed_over.await;
                }
                Ok(Bytes::new())
            }
        })
    });
    let mut execution = execution("xa");
    execution.options.retry_interval = Some(3 * SECOND);
    let error = workflows.execute(execution.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(
        error.message().contains("return the branch's error") && error.to_string().contains("branch=02"),
        "{error}"
    );
    assert_eq!(stage.status(&execution.gid).await, Prepared);
    for (bank, prepared_count) in banks.iter().zip([1, 0]) {
        let found = (bank.row_count(&execution.gid).await, bank.prepared_count(&execution.gid).await);
        assert_eq!(found, (0, prepared_count), "{}", bank.method);
    }
    is_ready.store(true, Ordering::SeqCst);
    stage.until(&execution.gid, Succeeded).await;
    assert_banks(&banks, &execution.gid, 1, 0).await;
}

/// A local branch, branches of XA, calls by either wire, the last of which refuses, or does not.
async fn case_84_workflow_mixed(stage: Stage) {
    let Some(banks) = banks(&stage).await else { return };
    let (site, setting, store) = (Site::serve(stage.wire).await, Setting::of(&banks), Store::open().await);
    // Over gRPC a branch may be called by HTTP as well.
    let (of_run, local, out, into) = (setting.clone(), store.clone(), stage.http_url("OutTry"), stage.url("TransIn"));
    let ends = ["OutConfirm", "OutCancel"].map(|name| stage.http_url(name));
    let payload = stage.payload("30");
    let workflows = site.workflows(&stage.dtm, move |builder| {
        builder.register("mixed", move |mut workflow, _data| {
            let (setting, local, out, into) = (of_run.clone(), local.clone(), out.clone(), into.clone());
            let ([confirm, cancel], payload) = (ends.clone(), payload.clone());
            async move {
                local.add(&mut workflow).await?;
                let reserved = workflow.branch()?.on_commit_call(confirm, &b"\"30\""[..]);
                reserved.on_rollback_call(cancel, &b"\"30\""[..]).call(&out, &b"\"30\""[..]).await?;
                for barrier in &setting.barriers {
                    add(&mut workflow, barrier, &setting.run_count, None).await?;
                }
                workflow.branch()?.call(&into, payload).await
            }
        })
    });
    let done = execution("mixed");
    let outcome = workflows.execute(done.clone()).await.unwrap();
    assert!(matches!(outcome, WorkflowOutcome::Succeeded(_)), "{outcome:?}");
    assert_eq!(store.row_count(&done.gid).await, 1);
    assert_banks(&banks, &done.gid, 1, 0).await;
    assert_eq!(stage.branches.calls(&done.gid), ["02/action", "05/action", "02/commit"]);
    let undone = execution("mixed");
    stage.branches.script(&undone.gid, "05/action", [Say::Failure("no".to_owned())]);
    let outcome = workflows.execute(undone.clone()).await.unwrap();
    let WorkflowOutcome::RolledBack { reason } = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("no"), "{reason}");
    assert_eq!(store.row_count(&undone.gid).await, 0);
    assert_banks(&banks, &undone.gid, 0, 0).await;
    assert_eq!(stage.branches.calls(&undone.gid), ["02/action", "05/action", "02/rollback"]);
}

/// The database, or the id, cannot do it: the workflow is rolled back, and the reason says why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_xa_branch_that_cannot_be_rolls_the_workflow_back() {
    let Some(stage) = Stage::shared(Wire::Grpc).await else { return };
    let Some(banks) = banks(&stage).await else { return };
    let store = Store::open().await;
    let names = ["sqlite", "mariadb", "postgres"];
    let [mariadb, postgres] = banks.each_ref().map(|bank| bank.barrier.clone());
    let site = Site::serve(stage.wire).await;
    let workflows = site.workflows(&stage.dtm, |mut builder| {
        for (name, barrier) in names.into_iter().zip([store.barrier.clone(), mariadb, postgres]) {
            builder = builder.register(name, move |mut workflow, _data| {
                let barrier = barrier.clone();
                async move { add(&mut workflow, &barrier, &AtomicUsize::new(0), None).await }
            });
        }
        builder
    });
    for (name, gid, told) in [
        ("sqlite", "", "SQLite has no two-phase commit"),
        ("mariadb", "o'brien", "printable ASCII without spaces, quotes"),
        ("postgres", "\"a\"", "printable ASCII without spaces, quotes"),
        ("mariadb", "a-gid-that-is-longer-than-what-it-keeps", "bytes_max=64"),
    ] {
        let mut execution = execution(name);
        execution.gid = format!("{gid}{}", execution.gid);
        let outcome = workflows.execute(execution.clone()).await.unwrap();
        let WorkflowOutcome::RolledBack { reason } = outcome else { panic!("{name}: {outcome:?}") };
        assert!(reason.contains(told), "{reason}");
        assert_eq!(stage.status(&execution.gid).await, Failed);
    }
}
