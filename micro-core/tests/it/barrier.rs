//! The barrier as a handler meets it: with a coordinator and without, and after an attempt that failed.

use std::cell::Cell;

use micro_core::{
    Error, ErrorKind, Result,
    barrier::{Barrier, BarrierExt as _, BarrierStore as _, Prepared},
    branch::{Branch, BranchError, Mode, Op},
    transaction::{MemoryDatabase, MemoryTxExt as _},
};

#[tokio::test]
async fn without_a_coordinator_everything_takes_effect() {
    let database = MemoryDatabase::new();
    let (transactions, store) = (database.transactions(), database.barrier());
    let mut barrier = Barrier::new(None);
    for count in 1..=2_u8 {
        let run = transactions.run_with_barrier(&*store, &mut barrier, async |tx| {
            tx.put("calls", "count", vec![count])?;
            Ok::<_, Error>(count)
        });
        assert_eq!(run.await.unwrap(), Some(count));
    }
    assert_eq!(database.read("calls", "count").as_deref(), Some([2].as_slice()));
}

/// Under the number of another barrier its undoing would not find it.
#[tokio::test]
async fn an_attempt_that_failed_or_was_dropped_is_the_same_barrier_again() {
    let database = MemoryDatabase::new();
    let (transactions, store) = (database.transactions(), database.barrier());
    let branch = |op| Branch::new(Mode::Saga, "g", "01", op).unwrap();
    let mut barrier = Barrier::new(branch(Op::Action));
    let lost = transactions.run_with_barrier(&*store, &mut barrier, async |_| {
        Err::<(), _>(Error::new(ErrorKind::Aborted, "pay", "another transaction won"))
    });
    assert_eq!(lost.await.unwrap_err().kind(), ErrorKind::Aborted);
    {
        let hanging =
            transactions.run_with_barrier(&*store, &mut barrier, async |_| std::future::pending::<Result<()>>().await);
        let mut hanging = std::pin::pin!(hanging);
        assert!(futures_util::poll!(&mut hanging).is_pending());
    }
    let done = transactions.run_with_barrier(&*store, &mut barrier, async |_| Ok::<_, Error>(())).await;
    assert_eq!(done.unwrap(), Some(()));

    let is_undone = Cell::new(false);
    let mut undoing = Barrier::new(branch(Op::Compensate));
    let undone = transactions.run_with_barrier(&*store, &mut undoing, async |_| {
        is_undone.set(true);
        Ok::<_, Error>(())
    });
    assert_eq!(undone.await.unwrap(), Some(()));
    assert!(is_undone.get(), "the undoing did not find what it undoes");
}

#[tokio::test]
async fn who_asks_after_a_message_is_answered_in_a_coordinators_terms() {
    let database = MemoryDatabase::new();
    let (transactions, store) = (database.transactions(), database.barrier());
    let mut barrier = Barrier::new(Branch::new(Mode::Msg, "g", "00", Op::Msg).unwrap());
    let done = transactions.run_with_barrier(&*store, &mut barrier, async |_| Ok::<_, BranchError>(()));
    assert!(matches!(done.await, Ok(Some(()))));
    assert_eq!(store.prepared("g").await.unwrap(), Prepared::Committed);
    assert!(Prepared::Committed.answer().is_ok());
    assert!(matches!(store.prepared("other").await.unwrap().answer(), Err(BranchError::Failed(_))));
    let error = store.prepared(&"g".repeat(129)).await.unwrap_err();
    assert!(error.kind() == ErrorKind::InvalidArgument && error.to_string().contains("gid_bytes_max=128"), "{error}");
}
