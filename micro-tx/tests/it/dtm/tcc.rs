//! Cases of TCC: DTM's own tests of the names that stand there.

use micro_core::{
    Error, ErrorKind,
    branch::{Branch, Mode, Op},
};
use micro_testkit::eventually;
use micro_tx::dtm::{
    DtmClient, DtmConfig, Tcc, TccBranch, TransactionOptions,
    TransactionStatus::{Aborting, Failed, Prepared, Submitted, Succeeded},
};

use super::{
    branches::Say,
    stage::{HELD_TIMEOUT, PATIENCE, SECOND, Stage, on_all_wires, options},
};

on_all_wires! {
    case_42_tcc_normal
    case_43_tcc_rollback
    case_44_tcc_timeout
    case_45_tcc_headers
    case_46_tcc_nested
    nested_branches_have_headers_and_a_time_limit_of_their_own
    a_gid_with_quotes_is_carried
    case_48_tcc_cover_panic
    case_49_tcc_cover_call_branch
    a_dropped_transaction_is_cancelled
    a_refused_try_cancels_what_was_reserved
    a_refusal_that_the_body_swallows_cancels_all_the_same
    a_try_that_the_body_gives_up_cancels_all_the_same
    a_confirm_that_is_not_done_yet_is_no_error
}

impl Stage {
    pub(crate) fn reservation(&self, name: &str) -> TccBranch {
        let url = |op: &str| self.url(&format!("{name}{op}"));
        TccBranch::new(url("Try"), url("Confirm"), url("Cancel")).payload(self.payload(name))
    }
}

fn tcc(change: impl FnOnce(&mut TransactionOptions)) -> Tcc {
    let mut options = options();
    change(&mut options);
    Tcc::new().options(options)
}

fn waiting() -> Tcc {
    tcc(|options| options.is_waited_for = true)
}

async fn case_42_tcc_normal(stage: Stage) {
    let tcc = waiting();
    let done = stage.dtm.tcc(&tcc, async |branches| {
        branches.call(&stage.reservation("Out")).await?;
        branches.call(&stage.reservation("In")).await?;
        assert_eq!(stage.status(&tcc.gid).await, Prepared);
        Ok::<_, Error>(17)
    });
    assert_eq!(done.await.unwrap(), 17);
    assert_eq!(stage.status(&tcc.gid).await, Succeeded);
    assert_eq!(stage.states(&tcc.gid).await, ["prepared", "succeed", "prepared", "succeed"]);
    assert_eq!(stage.branches.calls(&tcc.gid), ["01/try", "02/try", "02/confirm", "01/confirm"]);
    let seen = stage.branches.seen(&tcc.gid);
    assert_eq!(seen[0].branch.coordinator.as_deref(), Some(stage.dtm.address()), "our own call");
    assert_eq!(seen[0].payload, seen[3].payload);
}

async fn case_43_tcc_rollback(stage: Stage) {
    let tcc = tcc(|options| options.retry_interval = Some(4 * SECOND));
    stage.branches.script(&tcc.gid, "02/cancel", [Say::Ongoing]);
    let done = stage.dtm.tcc(&tcc, async |branches| {
        branches.call(&stage.reservation("Out")).await?;
        branches.call(&stage.reservation("In")).await?;
        Err::<(), _>(Error::new(ErrorKind::FailedPrecondition, "transfer", "the account is closed"))
    });
    assert_eq!(done.await.unwrap_err().to_string(), "transfer: the account is closed");
    stage.until(&tcc.gid, Aborting).await;
    stage.until(&tcc.gid, Failed).await;
    assert_eq!(stage.reason(&tcc.gid).await, "transfer: the account is closed");
    assert_eq!(stage.states(&tcc.gid).await, ["succeed", "prepared", "succeed", "prepared"]);
    assert_eq!(stage.branches.calls(&tcc.gid), ["01/try", "02/try", "02/cancel", "02/cancel", "01/cancel"]);
}

async fn case_44_tcc_timeout(stage: Stage) {
    let tcc = tcc(|options| {
        options.timeout_to_fail = Some(SECOND);
        options.retry_interval = Some(4 * SECOND);
    });
    let done = stage.dtm.tcc(&tcc, async |branches| {
        branches.call(&stage.reservation("Out")).await?;
        stage.until(&tcc.gid, Failed).await;
        branches.call(&stage.reservation("In")).await
    });
    assert_eq!(done.await.unwrap_err().kind(), ErrorKind::FailedPrecondition);
    assert_eq!(stage.branches.calls(&tcc.gid), ["01/try", "01/cancel"]);
    assert!(stage.reason(&tcc.gid).await.contains("Timeout after 1 seconds"));
    // Who does not notice hears of it when it is submitted.
    let tcc = self::tcc(|options| {
        options.timeout_to_fail = Some(SECOND);
        options.retry_interval = Some(4 * SECOND);
    });
    let done = stage.dtm.tcc(&tcc, async |_| {
        stage.until(&tcc.gid, Failed).await;
        Ok::<_, Error>(())
    });
    assert_eq!(done.await.unwrap_err().kind(), ErrorKind::FailedPrecondition);
}

async fn case_45_tcc_headers(stage: Stage) {
    let tcc = tcc(|options| {
        options.is_waited_for = true;
        options.headers.insert("test_header".to_owned(), "test".to_owned());
    });
    let done = stage.dtm.tcc(&tcc, async |branches| branches.call(&stage.reservation("Out")).await);
    done.await.unwrap();
    let seen = stage.branches.seen(&tcc.gid);
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|seen| seen.headers["test_header"] == "test"));
}

/// The service that is called to try reserves in another one.
async fn case_46_tcc_nested(stage: Stage) {
    let tcc = waiting();
    let done = stage.dtm.tcc(&tcc, async |branches| {
        branches.call(&stage.reservation("Outer")).await?;
        let outer = stage.branches.seen(&tcc.gid).remove(0).branch;
        let mut inner = stage.dtm.nested_tcc(&outer)?;
        inner.call(&stage.reservation("Inner")).await?;
        branches.call(&stage.reservation("In")).await
    });
    done.await.unwrap();
    let details = stage.dtm.query(&tcc.gid).await.unwrap().unwrap();
    let rows: Vec<String> =
        details.branches.iter().map(|row| format!("{}/{} {}", row.branch_id, row.op, row.status)).collect();
    let mut expected =
        ["01", "0101", "02"].map(|id| [format!("{id}/cancel prepared"), format!("{id}/confirm succeed")]).concat();
    let mut sorted = rows.clone();
    sorted.sort();
    expected.sort();
    assert_eq!(sorted, expected);
    let calls = ["01/try", "0101/try", "02/try", "02/confirm", "0101/confirm", "01/confirm"];
    assert_eq!(stage.branches.calls(&tcc.gid), calls);
    let action = Branch::new(Mode::Saga, "g", "01", Op::Action).unwrap();
    assert_eq!(stage.dtm.nested_tcc(&action).unwrap_err().kind(), ErrorKind::InvalidArgument);
}

async fn nested_branches_have_headers_and_a_time_limit_of_their_own(stage: Stage) {
    let tcc = tcc(|options| drop(options.headers.insert("of_all".to_owned(), "tcc".to_owned())));
    for call in ["0102/try", "0103/try", "0104/try"] {
        stage.branches.script(&tcc.gid, call, [Say::Late(30 * SECOND)]);
    }
    let done = stage.dtm.tcc(&tcc, async |branches| {
        branches.call(&stage.reservation("Outer")).await?;
        let outer = stage.branches.seen(&tcc.gid).remove(0).branch;
        let below = stage.dtm.nested_tcc(&outer)?.header("of_these", "once").header("of_these", "nested");
        let mut below = below.request_timeout(30 * SECOND);
        below.call(&stage.reservation("Inner")).await?;
        let mut below = below.request_timeout(SECOND / 10);
        let mut waited = Vec::new();
        // A machine that stands still for seconds is not the limit's doing, and does so not each time.
        loop {
            let begun = std::time::Instant::now();
            let error = below.call(&stage.reservation("Slow")).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
            waited.push(begun.elapsed());
            if waited.iter().any(|waited| *waited < 3 * SECOND) {
                return Err::<(), _>(error);
            }
            assert!(waited.len() < 3, "given up after {waited:?}");
        }
    });
    assert_eq!(done.await.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    stage.until(&tcc.gid, Failed).await;
    let seen = stage.branches.seen(&tcc.gid);
    let header = |call: &str, name: &str| {
        let seen = seen.iter().find(|seen| seen.name() == call).expect(call);
        seen.headers.get(name).cloned()
    };
    assert_eq!(header("0101/try", "of_these").as_deref(), Some("nested"));
    assert_eq!(header("01/try", "of_these"), None);
    // DTM knows the headers of the transaction alone.
    assert_eq!(header("0101/cancel", "of_all").as_deref(), Some("tcc"));
    assert_eq!(header("0101/cancel", "of_these"), None);
}

async fn a_gid_with_quotes_is_carried(stage: Stage) {
    let mut tcc = waiting();
    tcc.gid = format!("o'brien \"x\" `{}", tcc.gid);
    let done = stage.dtm.tcc(&tcc, async |branches| branches.call(&stage.reservation("Out")).await);
    done.await.unwrap();
    assert_eq!(stage.status(&tcc.gid).await, Succeeded);
    assert_eq!(stage.branches.calls(&tcc.gid), ["01/try", "01/confirm"]);
}

#[tokio::test]
async fn case_47_tcc_cover_not_connected() {
    let dtm = DtmClient::new(DtmConfig::from_url("dtm://127.0.0.1:1").unwrap()).unwrap();
    let tcc = Tcc::new();
    let done = dtm.tcc(&tcc, async |_| -> Result<(), Error> { panic!("the body is not run") });
    let error = done.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("address=127.0.0.1:1"), "{error}");
}

async fn case_48_tcc_cover_panic(stage: Stage) {
    let tcc = tcc(|_| {});
    let (dtm, own, reservation) = (stage.dtm.clone(), tcc.clone(), stage.reservation("Out"));
    let done = std::panic::AssertUnwindSafe(async move {
        dtm.tcc(&own, async |branches| -> Result<(), Error> {
            branches.call(&reservation).await?;
            panic!("in the middle");
        })
        .await
    });
    let panic = futures_util::FutureExt::catch_unwind(done).await.unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"in the middle"), "it goes on");
    stage.until(&tcc.gid, Failed).await;
    assert_eq!(stage.branches.calls(&tcc.gid), ["01/try", "01/cancel"]);
}

async fn case_49_tcc_cover_call_branch(stage: Stage) {
    let tcc = tcc(|_| {});
    let mut nowhere = stage.reservation("Out");
    nowhere.try_url = nowhere.try_url.replace(&stage.branches.grpc, "127.0.0.1:1");
    nowhere.try_url = nowhere.try_url.replace(&stage.branches.http, "127.0.0.1:1");
    let done = stage.dtm.tcc(&tcc, async |branches| branches.call(&nowhere).await);
    assert_eq!(done.await.unwrap_err().kind(), ErrorKind::Unavailable);
    stage.until(&tcc.gid, Failed).await;
    assert_eq!(stage.branches.calls(&tcc.gid), ["01/cancel"], "noted before it was called");
}

async fn a_dropped_transaction_is_cancelled(stage: Stage) {
    let tcc = tcc(|_| {});
    let begun = stage.dtm.tcc(&tcc, async |branches| {
        branches.call(&stage.reservation("Out")).await?;
        std::future::pending::<Result<(), Error>>().await
    });
    tokio::select! {
        _ = begun => unreachable!("it waits for ever"),
        () = stage.until_called(&tcc.gid, 1) => {}
    }
    eventually(PATIENCE, "the cancelling", async || {
        let calls = stage.branches.calls(&tcc.gid);
        (calls == ["01/try", "01/cancel"]).then_some(()).ok_or(format!("{calls:?}"))
    })
    .await;
    stage.until(&tcc.gid, Failed).await;
    assert_eq!(stage.reason(&tcc.gid).await, "the caller panicked or gave up");
}

async fn a_refused_try_cancels_what_was_reserved(stage: Stage) {
    let tcc = tcc(|_| {});
    stage.branches.script(&tcc.gid, "02/try", [Say::Failure("no stock".to_owned())]);
    let done = stage.dtm.tcc(&tcc, async |branches| {
        branches.call(&stage.reservation("Out")).await?;
        branches.call(&stage.reservation("In")).await
    });
    let error = done.await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::FailedPrecondition, "no stock"));
    stage.until(&tcc.gid, Failed).await;
    assert_eq!(stage.branches.calls(&tcc.gid), ["01/try", "02/try", "02/cancel", "01/cancel"]);
}

async fn a_confirm_that_is_not_done_yet_is_no_error(stage: Stage) {
    let tcc = tcc(|options| {
        options.is_waited_for = true;
        options.retry_interval = Some(4 * SECOND);
    });
    stage.branches.script(&tcc.gid, "01/confirm", [Say::Failure("not allowed here".to_owned())]);
    let done = stage.dtm.tcc(&tcc, async |branches| branches.call(&stage.reservation("Out")).await);
    done.await.unwrap();
    assert_eq!(stage.status(&tcc.gid).await, Submitted);
    stage.until(&tcc.gid, Succeeded).await;
    assert_eq!(stage.branches.calls(&tcc.gid), ["01/try", "01/confirm", "01/confirm"]);
}

/// What was not reserved must not be confirmed, whatever the body makes of it.
async fn a_refusal_that_the_body_swallows_cancels_all_the_same(stage: Stage) {
    let tcc = tcc(|_| {});
    stage.branches.script(&tcc.gid, "02/try", [Say::Failure("no stock".to_owned())]);
    let done = stage.dtm.tcc(&tcc, async |branches| {
        branches.call(&stage.reservation("Out")).await?;
        let refused = branches.call(&stage.reservation("In")).await;
        assert!(refused.is_err());
        Ok::<_, Error>(())
    });
    let error = done.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.to_string().contains("the transaction is cancelled"), "{error}");
    stage.until(&tcc.gid, Failed).await;
    assert_eq!(stage.branches.calls(&tcc.gid), ["01/try", "02/try", "02/cancel", "01/cancel"]);
}

async fn a_try_that_the_body_gives_up_cancels_all_the_same(stage: Stage) {
    let tcc = tcc(|options| options.request_timeout = Some(HELD_TIMEOUT));
    stage.branches.script(&tcc.gid, "01/try", [Say::Late(HELD_TIMEOUT)]);
    let done = stage.dtm.tcc(&tcc, async |branches| {
        let out = stage.reservation("Out");
        tokio::select! {
            biased;
            _ = branches.call(&out) => panic!("it has its answer"),
            () = stage.until_called(&tcc.gid, 1) => {}
        }
        branches.call(&stage.reservation("In")).await
    });
    let error = done.await.unwrap_err();
    assert!(error.to_string().contains("given up before it had its answer"), "{error}");
    stage.until(&tcc.gid, Failed).await;
    assert_eq!(stage.branches.calls(&tcc.gid), ["01/try", "02/try", "02/cancel", "01/cancel"]);
}
