//! Cases of barriers: DTM's own tests of the names that stand there, on each database.

use std::sync::atomic::Ordering;

use micro_core::{
    Error,
    branch::{Branch, BranchAnswer, Mode, Op},
    saga::{BranchCaller as _, BranchRequest, Outcome, Saga, Step},
};
use micro_testkit::eventually;
use micro_tx::dtm::{
    BranchRegistration, Tcc, TccBranch,
    TransactionStatus::{Failed, Submitted, Succeeded},
};

use super::{
    stage::{CALL_TIMEOUT, PATIENCE, SECOND, options, waiting},
    tellers::{Counter, on_each_database},
};

on_each_database! {
    case_39_saga_barrier_normal
    case_39_saga_barrier_rollback
    case_40_saga_barrier_2_normal
    case_40_saga_barrier_2_rollback
    case_50_tcc_barrier_normal
    case_50_tcc_barrier_rollback
    case_51_tcc_barrier_disorder
    case_52_tcc_barrier_panic
}

impl Counter {
    pub(crate) fn transfer(&self, name: &str, amount: i64) -> Step {
        let step = Step::new(self.url(name)).compensation(self.url(&format!("{name}Revert")));
        step.payload(self.payload(&amount.to_string()))
    }

    fn reserve(&self, name: &str, amount: i64) -> TccBranch {
        let url = |op: &str| self.url(&format!("{name}{op}"));
        TccBranch::new(url("Try"), url("Confirm"), url("Cancel")).payload(self.payload(&amount.to_string()))
    }

    pub(crate) async fn carried_out(&self, steps: [Step; 2]) -> (Outcome, String) {
        let [first, second] = steps;
        let mut options = waiting();
        options.request_timeout = Some(CALL_TIMEOUT);
        let saga = Saga::new().step(first).step(second).options(options);
        (self.submit(&saga).await, saga.gid)
    }
}

fn tcc() -> Tcc {
    let mut options = options();
    options.retry_interval = Some(SECOND);
    options.is_waited_for = true;
    Tcc::new().options(options)
}

async fn case_39_saga_barrier_normal(counter: Counter) {
    let steps = [counter.transfer("TransOut", 30), counter.transfer("TransIn", 30)];
    let (outcome, gid) = counter.carried_out(steps).await;
    assert_eq!(outcome, Outcome::Succeeded);
    assert_eq!(counter.teller.accounts().await, ["70+0", "130+0"]);
    assert_eq!(counter.teller.bank.rows_of(&gid).await, ["action/01/action", "action/01/action"]);
}

/// The one who refuses is asked to undo what it did not do, and finds that out.
async fn case_39_saga_barrier_rollback(counter: Counter) {
    let steps = [counter.transfer("TransIn", 130), counter.transfer("TransOut", 130)];
    let (outcome, gid) = counter.carried_out(steps).await;
    let Outcome::RolledBack { reason } = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("Insufficient balance"), "{reason}");
    assert_eq!(counter.branches.calls(&gid), ["01/action", "02/action", "02/compensate", "01/compensate"]);
    assert_eq!(counter.teller.accounts().await, ["100+0", "100+0"]);
    let rows = ["action/01/action", "action/01/compensate", "compensate/01/compensate", "compensate/01/compensate"];
    assert_eq!(counter.teller.bank.rows_of(&gid).await, rows);
}

async fn case_40_saga_barrier_2_normal(counter: Counter) {
    let steps = [counter.transfer("TransOutTwice", 30), counter.transfer("TransInTwice", 30)];
    let (outcome, gid) = counter.carried_out(steps).await;
    assert_eq!(outcome, Outcome::Succeeded);
    assert_eq!(counter.teller.accounts().await, ["70+0", "130+0"]);
    let rows = ["action/01/action", "action/02/action"].repeat(2);
    assert_eq!(counter.teller.bank.rows_of(&gid).await, rows);
}

/// Of the one who refuses the first half stands, for it is committed, and is undone; the second is not.
async fn case_40_saga_barrier_2_rollback(counter: Counter) {
    let steps = [counter.transfer("TransInTwice", 130), counter.transfer("TransOutTwice", 130)];
    let (outcome, gid) = counter.carried_out(steps).await;
    assert!(matches!(outcome, Outcome::RolledBack { .. }), "{outcome:?}");
    assert_eq!(counter.teller.accounts().await, ["100+0", "100+0"]);
    let rows = counter.teller.bank.rows_of(&gid).await;
    assert_eq!(rows.iter().filter(|row| *row == "action/01/action").count(), 2, "{rows:?}");
    assert_eq!(rows.iter().filter(|row| *row == "action/02/action").count(), 1, "{rows:?}");
    assert_eq!(rows.iter().filter(|row| *row == "action/02/compensate").count(), 1, "{rows:?}");
}

async fn case_50_tcc_barrier_normal(counter: Counter) {
    let tcc = tcc();
    let done = counter.dtm.tcc(&tcc, async |branches| {
        branches.call(&counter.reserve("TransOut", 30)).await?;
        branches.call(&counter.reserve("TransIn", 30)).await?;
        assert_eq!(counter.teller.accounts().await, ["100-30", "100+30"], "reserved");
        Ok::<_, Error>(())
    });
    done.await.unwrap();
    assert_eq!(counter.status(&tcc.gid).await, Succeeded);
    assert_eq!(counter.teller.accounts().await, ["70+0", "130+0"]);
}

async fn case_50_tcc_barrier_rollback(counter: Counter) {
    // Nothing is to be asked for twice.
    let mut tcc = tcc();
    tcc.options.retry_interval = None;
    let done = counter.dtm.tcc(&tcc, async |branches| {
        branches.call(&counter.reserve("TransIn", 130)).await?;
        branches.call(&counter.reserve("TransOut", 130)).await
    });
    let error = done.await.unwrap_err();
    assert!(error.to_string().contains("Insufficient balance"), "{error}");
    counter.until(&tcc.gid, Failed).await;
    assert_eq!(counter.branches.calls(&tcc.gid), ["01/try", "02/try", "02/cancel", "01/cancel"]);
    assert_eq!(counter.teller.accounts().await, ["100+0", "100+0"]);
}

/// The cancelling comes three times at once, from DTM and twice from here, and the reservation after it.
async fn case_51_tcc_barrier_disorder(counter: Counter) {
    let (tcc, out) = (tcc(), counter.reserve("TransOut", 30));
    let called = |op: Op| Branch::new(Mode::Tcc, &tcc.gid, "01", op).unwrap();
    let (cancel, late) = (called(Op::Cancel), called(Op::Try));
    // On MariaDB two that wait for each other's rows may meet in a deadlock: DTM asks again, as we do.
    let call = async |url: &str, branch: &Branch| {
        let request = || BranchRequest::new(url, branch).payload(out.payload.clone());
        let answer = async || match counter.dtm.caller().call(request()).await {
            Ok(answer) => (answer == BranchAnswer::Succeeded).then_some(()).ok_or(format!("{answer:?}")),
            Err(error) => Err(error.report()),
        };
        eventually(PATIENCE, "the call is done", answer).await;
    };
    let given_up = counter.dtm.tcc(&tcc, async |_| {
        let registration = BranchRegistration::new(Mode::Tcc, &tcc.gid, "01")
            .data("confirm", &out.confirm)
            .data("cancel", &out.cancel)
            .payload(out.payload.clone());
        counter.dtm.register_branch(&registration).await?;
        Err::<(), _>(Error::new(micro_core::ErrorKind::Unavailable, "transfer", "the try did not come back"))
    });
    let (given_up, (), ()) = tokio::join!(given_up, call(&out.cancel, &cancel), call(&out.cancel, &cancel));
    given_up.unwrap_err();
    counter.until(&tcc.gid, Failed).await;
    // A success, so that nobody asks for it again.
    call(&out.try_url, &late).await;
    assert_eq!(counter.teller.accounts().await, ["100+0", "100+0"]);
    assert_eq!(counter.states(&tcc.gid).await, ["succeed", "prepared"]);
    assert_eq!(counter.teller.bank.rows_of(&tcc.gid).await, ["try/01/cancel", "cancel/01/cancel"]);
}

async fn case_52_tcc_barrier_panic(counter: Counter) {
    let tcc = tcc();
    let mut out = counter.reserve("TransOut", 30);
    out.confirm = counter.url("TransOutPanic");
    let done = counter.dtm.tcc(&tcc, async |branches| branches.call(&out).await);
    done.await.unwrap();
    let accounts = counter.teller.accounts().await;
    if counter.status(&tcc.gid).await == Submitted {
        assert_eq!(accounts, ["100-30", "100+0"], "nothing is left of what panicked");
    }
    counter.until(&tcc.gid, Succeeded).await;
    assert_eq!(counter.branches.calls(&tcc.gid), ["01/try", "01/confirm", "01/confirm"]);
    assert_eq!(counter.teller.panic_count.load(Ordering::Relaxed), 2);
    assert_eq!(counter.teller.accounts().await, ["70+0", "100+0"], "moved once");
}
