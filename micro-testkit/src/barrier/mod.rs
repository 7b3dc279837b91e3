//! The suite of the barrier port.

mod broken;

pub use broken::{BarrierFault, BrokenBarrier};

use std::time::Duration;

use micro_core::{
    ErrorKind, Result, TransactionManagerExt as _, Tx,
    barrier::{Barrier, Passage, Prepared},
    branch::{Branch, Mode, Op},
};
use tokio::time::Instant;

use crate::{
    eventually, in_time,
    transaction::{DatabaseFixture, begin},
    unique,
};

/// Makes a test of every promise of [`BarrierStore`](micro_core::barrier::BarrierStore).
#[macro_export]
macro_rules! barrier_conformance {
    ($fixture:ty) => {
        $crate::__conformance!(
            barrier, $fixture,
            a_branch_proceeds_once
            a_rolled_back_passage_is_open_again
            an_undoing_without_its_action_is_empty_and_stops_the_action
            an_undoing_after_its_action_proceeds_once
            barriers_of_one_call_are_counted_apart
            branches_and_transactions_do_not_know_each_other
            a_message_that_was_asked_about_before_its_commit_is_rolled_back_for_good
            purge_forgets_only_what_is_older
        );
    };
}

/// An operation and what undoes it.
const UNDOINGS: [(Mode, Op, Op); 3] = [
    (Mode::Saga, Op::Action, Op::Compensate),
    (Mode::Tcc, Op::Try, Op::Cancel),
    (Mode::Workflow, Op::Action, Op::Rollback),
];

/// Each operation proceeds once; of two transactions that enter at the same time the second one waits.
pub async fn a_branch_proceeds_once(fixture: &impl DatabaseFixture) {
    for op in [Op::Action, Op::Try, Op::Confirm, Op::Commit] {
        let branch = branch(Mode::Saga, &unique("gid"), "01", op);
        assert_eq!(enter(fixture, &branch).await, Passage::Proceed, "the first call proceeds: {branch:?}");
        assert_eq!(enter(fixture, &branch).await, Passage::Duplicate, "a call proceeds twice: {branch:?}");
    }

    let contested = branch(Mode::Saga, &unique("gid"), "01", Op::Action);
    let (tx, passage) = entered(fixture, &contested).await;
    assert_eq!(passage, Passage::Proceed);
    let ended = async { tx.commit().await.expect("a passage commits") };
    let second = meanwhile(fixture, &contested, ended).await;
    assert_eq!(second, Passage::Duplicate, "a call proceeds in two transactions at the same time");
}

/// After a rollback the call is as if it had never come, also for who waited for it.
pub async fn a_rolled_back_passage_is_open_again(fixture: &impl DatabaseFixture) {
    for op in [Op::Action, Op::Compensate] {
        let branch = branch(Mode::Saga, &unique("gid"), "01", op);
        let (tx, first) = entered(fixture, &branch).await;
        tx.rollback().await.expect("a transaction rolls back");
        assert_eq!(enter(fixture, &branch).await, first, "a passage that was rolled back counts: {branch:?}");
    }

    let contested = branch(Mode::Saga, &unique("gid"), "01", Op::Action);
    let (tx, _) = entered(fixture, &contested).await;
    let ended = async { tx.rollback().await.expect("a transaction rolls back") };
    let second = meanwhile(fixture, &contested, ended).await;
    assert_eq!(second, Passage::Proceed, "a passage that was rolled back counts for who waited for it");
}

/// The undoing does nothing, once and again, and what it would have undone does nothing any more.
pub async fn an_undoing_without_its_action_is_empty_and_stops_the_action(fixture: &impl DatabaseFixture) {
    for (mode, forward, undoing) in UNDOINGS {
        let gid = unique("gid");
        let [forward, undoing] = [forward, undoing].map(|op| branch(mode, &gid, "01", op));
        assert_eq!(enter(fixture, &undoing).await, Passage::Empty, "there is nothing to undo: {undoing:?}");
        assert_eq!(enter(fixture, &undoing).await, Passage::Duplicate, "an undoing came before: {undoing:?}");
        assert_eq!(enter(fixture, &forward).await, Passage::Overtaken, "an undoing came first: {forward:?}");
        assert_eq!(enter(fixture, &forward).await, Passage::Overtaken, "an undoing came first: {forward:?}");
    }
}

/// What took effect is undone once, and stays undone.
pub async fn an_undoing_after_its_action_proceeds_once(fixture: &impl DatabaseFixture) {
    for (mode, forward, undoing) in UNDOINGS {
        let gid = unique("gid");
        let [forward, undoing] = [forward, undoing].map(|op| branch(mode, &gid, "01", op));
        assert_eq!(enter(fixture, &forward).await, Passage::Proceed);
        assert_eq!(enter(fixture, &undoing).await, Passage::Proceed, "what took effect is undone: {undoing:?}");
        assert_eq!(enter(fixture, &undoing).await, Passage::Duplicate, "it is undone twice: {undoing:?}");
        assert_eq!(enter(fixture, &forward).await, Passage::Duplicate, "it takes effect twice: {forward:?}");
    }
}

/// Two barriers in one call both proceed, and a repeated call finds both; the undoing has two as well.
pub async fn barriers_of_one_call_are_counted_apart(fixture: &impl DatabaseFixture) {
    let gid = unique("gid");
    let twice = async |op| {
        let mut barrier = Barrier::new(branch(Mode::Saga, &gid, "01", op));
        let mut tx = begin(fixture).await;
        let mut passages = Vec::new();
        for _ in 0..2 {
            passages.push(pass(fixture, &mut tx, &mut barrier).await.expect("a barrier is entered"));
        }
        tx.commit().await.expect("a passage commits");
        passages
    };
    assert_eq!(twice(Op::Action).await, [Passage::Proceed; 2], "the second barrier of a call is one of its own");
    assert_eq!(twice(Op::Action).await, [Passage::Duplicate; 2]);
    assert_eq!(twice(Op::Compensate).await, [Passage::Proceed; 2], "each barrier has its undoing");
}

/// Another branch, or another transaction, has barriers of its own, also where its id differs by its
/// case alone.
pub async fn branches_and_transactions_do_not_know_each_other(fixture: &impl DatabaseFixture) {
    let gid = unique("gid");
    for (gid, id) in [(gid.clone(), "01"), (gid.clone(), "02"), (gid.clone(), "0101"), (gid.to_uppercase(), "01")] {
        let action = branch(Mode::Saga, &gid, id, Op::Action);
        assert_eq!(enter(fixture, &action).await, Passage::Proceed, "it is a branch of its own: {action:?}");
    }
    let undoing = branch(Mode::Saga, &gid, "03", Op::Compensate);
    assert_eq!(enter(fixture, &undoing).await, Passage::Empty, "it is a branch of its own: {undoing:?}");
    let other = branch(Mode::Saga, &unique("gid"), "01", Op::Action);
    assert_eq!(enter(fixture, &other).await, Passage::Proceed, "it is a transaction of its own: {other:?}");
}

/// Who asks makes it so: what has not committed by then never will. What is open is waited for.
pub async fn a_message_that_was_asked_about_before_its_commit_is_rolled_back_for_good(fixture: &impl DatabaseFixture) {
    let message = |gid: &str| branch(Mode::Msg, gid, "00", Op::Msg);

    let gid = unique("committed");
    enter(fixture, &message(&gid)).await;
    for _ in 0..2 {
        assert_eq!(prepared(fixture, &gid).await, Prepared::Committed, "the local transaction committed");
    }

    let gid = unique("asked");
    for _ in 0..2 {
        assert_eq!(prepared(fixture, &gid).await, Prepared::RolledBack, "there was no local transaction");
    }
    refused(fixture, &message(&gid), "it took place although it was said that it does not").await;
    assert_eq!(prepared(fixture, &gid).await, Prepared::RolledBack, "it was forbidden");

    let gid = unique("twice");
    enter(fixture, &message(&gid)).await;
    refused(fixture, &message(&gid), "the local transaction of a message took place twice").await;

    for (name, expected) in [("open", Prepared::Committed), ("undone", Prepared::RolledBack)] {
        let gid = unique(name);
        let (tx, _) = entered(fixture, &message(&gid)).await;
        let asked = prepared(fixture, &gid);
        let ended = async {
            // It is asked about meanwhile.
            tokio::time::sleep(fixture.silence() / 5).await;
            match expected {
                Prepared::Committed => tx.commit().await.expect("a transaction commits"),
                Prepared::RolledBack => tx.rollback().await.expect("a transaction rolls back"),
            }
        };
        let (answer, ()) = tokio::join!(asked, ended);
        assert_eq!(answer, expected, "the answer did not wait for the open transaction");
    }
}

/// Older rows are forgotten up to the limit, younger ones stay.
pub async fn purge_forgets_only_what_is_older(fixture: &impl DatabaseFixture) {
    // A table of DTM's keeps whole seconds.
    const AGE: Duration = Duration::from_secs(2);
    const RESOLUTION: Duration = Duration::from_secs(1);
    let action = |name: &str| branch(Mode::Saga, &unique(name), "01", Op::Action);
    let store = fixture.barrier();
    let purge = async |age, count| store.purge(age, count).await.expect("a purge works");

    let looking = in_time(AGE - RESOLUTION, async |number| {
        if number > 0 {
            tokio::time::sleep(RESOLUTION * 2).await;
            purge(Duration::ZERO, 10).await;
        }
        let (old, young) = ([action("a"), action("b"), action("c")], action("d"));
        for branch in &old {
            enter(fixture, branch).await;
        }
        let started = Instant::now();
        eventually(AGE * 3, "time passes", || async { started.elapsed() > AGE + RESOLUTION }).await;
        let young_since = Instant::now();
        enter(fixture, &young).await;
        (young_since, (old, young, [purge(AGE * 100, 10).await, purge(AGE, 2).await, purge(AGE, 10).await]))
    });
    let (old, young, [of_the_oldest, limited, rest]) = looking.await;
    assert_eq!(of_the_oldest, 0, "nothing is so old");
    assert_eq!(limited, 2, "a purge has a limit");
    assert_eq!(rest, 1, "the last old one is forgotten");
    assert_eq!(enter(fixture, &young).await, Passage::Duplicate, "a young one was forgotten");
    for branch in &old {
        assert_eq!(enter(fixture, branch).await, Passage::Proceed, "an old one was not forgotten");
    }
}

fn branch(mode: Mode, gid: &str, id: &str, op: Op) -> Branch {
    Branch::new(mode, gid, id, op).expect("a branch has all its parts")
}

async fn pass(fixture: &impl DatabaseFixture, tx: &mut Tx, barrier: &mut Barrier) -> Result<Passage> {
    barrier.enter(&*fixture.barrier(), tx).await
}

/// The call's first barrier, in a transaction that commits.
async fn enter(fixture: &impl DatabaseFixture, branch: &Branch) -> Passage {
    let mut barrier = Barrier::new(branch.clone());
    let entered = fixture.transactions().run(async |tx| pass(fixture, tx, &mut barrier).await).await;
    entered.expect("a barrier is entered")
}

/// The call's first barrier, in a transaction that is open.
async fn entered(fixture: &impl DatabaseFixture, branch: &Branch) -> (Tx, Passage) {
    let mut tx = begin(fixture).await;
    let passage = pass(fixture, &mut tx, &mut Barrier::new(branch.clone())).await.expect("a barrier is entered");
    (tx, passage)
}

/// The call's first barrier in a second transaction, while the first one ends.
async fn meanwhile(fixture: &impl DatabaseFixture, branch: &Branch, ended: impl Future<Output = ()>) -> Passage {
    let ended = async {
        // The second transaction waits by then.
        tokio::time::sleep(fixture.silence() / 5).await;
        ended.await;
    };
    let (passage, ()) = tokio::join!(enter(fixture, branch), ended);
    passage
}

/// The local transaction of a message that must not take place.
async fn refused(fixture: &impl DatabaseFixture, branch: &Branch, otherwise: &str) {
    let mut tx = begin(fixture).await;
    match pass(fixture, &mut tx, &mut Barrier::new(branch.clone())).await {
        Ok(passage) => panic!("{otherwise}: {passage:?}"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}"),
    }
    tx.rollback().await.expect("a transaction rolls back");
}

async fn prepared(fixture: &impl DatabaseFixture, gid: &str) -> Prepared {
    fixture.barrier().prepared(gid).await.expect("a message is asked about")
}
