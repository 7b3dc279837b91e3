//! The suite of the transaction port, and what the suites of the stores run on.

mod broken;

pub use broken::{BrokenTransactionManager, TransactionFault};

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use micro_core::{
    Error, ErrorKind, Result, TransactionManager, TransactionManagerExt, Tx,
    barrier::{BarrierCall, BarrierStore},
    branch::{Branch, Mode, Op},
    broker::{Delivery, Message, header},
    inbox::InboxStore,
    outbox::OutboxStore,
    parked::{DeadLetter, DeadLetterStore, ParkedStore, Parking},
};
use tokio::time::timeout;

use crate::{Fixture, eventually, unique};

/// What the suites of transactions, outbox, inbox, barrier, parked deliveries and dead letters run on: one
/// database with tables of its own.
pub trait DatabaseFixture: Fixture + Sync {
    /// The manager.
    fn transactions(&self) -> Arc<dyn TransactionManager>;

    /// The manager of another database of this kind.
    fn other(&self) -> Arc<dyn TransactionManager>;

    /// The outbox.
    fn outbox(&self) -> Arc<dyn OutboxStore>;

    /// The causes of the outbox's parked rows, oldest first.
    fn outbox_causes(&self) -> impl Future<Output = Result<Vec<String>>> + Send;

    /// The inbox.
    fn inbox(&self) -> Arc<dyn InboxStore>;

    /// The barrier.
    fn barrier(&self) -> Arc<dyn BarrierStore>;

    /// The parked deliveries.
    fn parked(&self) -> Arc<dyn ParkedStore>;

    /// The dead letters.
    fn dead_letters(&self) -> Arc<dyn DeadLetterStore>;

    /// Writes a row of a user's own in the transaction.
    fn write(&self, tx: &mut Tx, key: &str, value: &str) -> impl Future<Output = Result<()>> + Send;

    /// Reads such a row as it is committed, outside every transaction.
    fn read(&self, key: &str) -> impl Future<Output = Result<Option<String>>> + Send;
}

/// Makes a test of every promise of [`TransactionManager`].
#[macro_export]
macro_rules! transaction_conformance {
    ($fixture:ty) => {
        $crate::__conformance!(
            transaction, $fixture,
            a_commit_is_visible_and_a_rollback_is_not
            a_dropped_tx_is_rolled_back
            a_cancelled_begin_leaves_nothing_open
            a_cancelled_commit_still_ends
            stores_refuse_the_tx_of_another_manager
        );
    };
}

/// Nobody sees a row before its commit, everybody after it, nobody after a rollback or an error.
pub async fn a_commit_is_visible_and_a_rollback_is_not(fixture: &impl DatabaseFixture) {
    let [committed, undone, failed, run] = ["committed", "undone", "failed", "run"].map(unique);
    let transactions = fixture.transactions();

    let mut tx = begin(fixture).await;
    fixture.write(&mut tx, &committed, "1").await.expect("a row is written");
    assert_eq!(read(fixture, &committed).await, None, "a row is seen before its commit");
    tx.commit().await.expect("a transaction commits");
    assert_eq!(read(fixture, &committed).await.as_deref(), Some("1"), "a committed row is not seen");

    let mut tx = begin(fixture).await;
    fixture.write(&mut tx, &undone, "1").await.expect("a row is written");
    fixture.write(&mut tx, &committed, "2").await.expect("a row is written again");
    tx.rollback().await.expect("a transaction rolls back");
    assert_eq!(read(fixture, &undone).await, None, "a row that was rolled back is seen");
    assert_eq!(read(fixture, &committed).await.as_deref(), Some("1"), "a change that was rolled back is seen");

    let refusal = transactions
        .run(async |tx| {
            fixture.write(tx, &failed, "1").await?;
            Err::<(), _>(Error::new(ErrorKind::FailedPrecondition, "suite", "refused"))
        })
        .await;
    assert_eq!(refusal.expect_err("the body's error comes back").kind(), ErrorKind::FailedPrecondition);
    assert_eq!(read(fixture, &failed).await, None, "a row of a failed body is seen");

    transactions.run(async |tx| fixture.write(tx, &run, "1").await).await.expect("a body runs");
    assert_eq!(read(fixture, &run).await.as_deref(), Some("1"), "a row of a body that ran is not seen");
}

/// A dropped transaction leaves no trace and no lock: the next one works, and what it writes stays.
pub async fn a_dropped_tx_is_rolled_back(fixture: &impl DatabaseFixture) {
    let key = unique("dropped");
    let mut tx = begin(fixture).await;
    fixture.write(&mut tx, &key, "1").await.expect("a row is written");
    drop(tx);
    nothing_is_open(fixture).await;
    assert_eq!(read(fixture, &key).await, None, "a row of a dropped transaction is seen");
}

/// Dropped after any number of polls, a begin leaves nothing open.
pub async fn a_cancelled_begin_leaves_nothing_open(fixture: &impl DatabaseFixture) {
    let transactions = fixture.transactions();
    for poll_count in 0.. {
        let began = poll_at_most(poll_count, transactions.begin()).await;
        let is_through = began.is_some();
        drop(began);
        nothing_is_open(fixture).await;
        if is_through {
            return;
        }
    }
}

/// Dropped after any number of polls, a commit that began comes to its end and leaves nothing open.
pub async fn a_cancelled_commit_still_ends(fixture: &impl DatabaseFixture) {
    for poll_count in 0.. {
        let key = unique("cancelled");
        let mut tx = begin(fixture).await;
        fixture.write(&mut tx, &key, "1").await.expect("a row is written");
        let is_through = poll_at_most(poll_count, tx.commit()).await.is_some();
        nothing_is_open(fixture).await;
        let expected = (poll_count > 0).then(|| "1".to_owned());
        let what = format!("the commit that was polled {poll_count} times and dropped ended");
        eventually(fixture.patience(), &what, || async { read(fixture, &key).await == expected }).await;
        if is_through {
            return;
        }
    }
}

/// Every store answers `InvalidArgument` to a foreign transaction and names both managers.
pub async fn stores_refuse_the_tx_of_another_manager(fixture: &impl DatabaseFixture) {
    let other = fixture.other();
    let tx = &mut other.begin().await.expect("another manager begins");
    let delivery = delivery(&unique("topic"), "key", 0);
    let letter = DeadLetter::new("group", &delivery, &Error::new(ErrorKind::DataLoss, "suite", "not to be read"), 0);
    let parking =
        Parking { group: "group", delivery: &delivery, attempts: 1, cause: "suite", delay: Some(Duration::ZERO) };

    let ids = [fixture.transactions().id().to_string(), other.id().to_string()];
    let refuses = |store: &str, answer: Result<()>| {
        let Err(error) = answer else { panic!("{store} took the transaction of another manager") };
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{store}: {error}");
        let text = error.to_string();
        assert!(ids.iter().all(|id| text.contains(id.as_str())), "{store} does not name {ids:?}: {text}");
    };
    refuses("outbox.add", fixture.outbox().add(tx, std::slice::from_ref(&delivery.message)).await);
    refuses("inbox.claim", fixture.inbox().claim(tx, "group", &["a".to_owned()]).await.map(drop));
    let branch = Branch::new(Mode::Saga, unique("gid"), "01", Op::Compensate).expect("a branch has all its parts");
    refuses("barrier.enter", fixture.barrier().enter(tx, &BarrierCall::new(&branch, 1)).await.map(drop));
    refuses("parked.park", fixture.parked().park(tx, &parking).await);
    refuses("parked.is_blocked", fixture.parked().is_blocked(tx, "group", &[&delivery]).await.map(drop));
    refuses("parked.remove", fixture.parked().remove(tx, 1).await.map(drop));
    refuses("parked.postpone", fixture.parked().postpone(tx, 1, 1, "suite", None).await.map(drop));
    refuses("parked.release", fixture.parked().release(tx, "group", &delivery).await.map(drop));
    refuses("dead_letters.add", fixture.dead_letters().add(tx, &letter).await.map(drop));
    refuses("dead_letters.remove", fixture.dead_letters().remove(tx, "group", "a").await.map(drop));
}

/// The next transaction works at once, and what it writes is seen by others.
async fn nothing_is_open(fixture: &impl DatabaseFixture) {
    let key = unique("next");
    let transactions = fixture.transactions();
    let next = transactions.run(async |tx| fixture.write(tx, &key, "1").await);
    timeout(fixture.patience(), next).await.expect("a transaction stayed open").expect("the next transaction works");
    assert_eq!(read(fixture, &key).await.as_deref(), Some("1"), "the next one's commit is not seen");
}

/// Polls at most so often, waiting for the wake-up between two polls; `None` when that was not
/// enough, the future being dropped.
pub async fn poll_at_most<F: Future>(poll_count: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut polled = 0;
    poll_fn(|context| {
        if polled == poll_count {
            return Poll::Ready(None);
        }
        polled += 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if polled == poll_count => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

pub(crate) async fn begin(fixture: &impl DatabaseFixture) -> Tx {
    let transactions = fixture.transactions();
    let began = timeout(fixture.patience(), transactions.begin()).await.expect("a transaction begins in time");
    began.expect("a transaction begins")
}

async fn read(fixture: &impl DatabaseFixture, key: &str) -> Option<String> {
    fixture.read(key).await.expect("a row is read")
}

/// A keyed message with headers and bytes that are no text.
pub(crate) fn message(topic: &str, key: &str, number: i64) -> Message {
    let body = [number.to_be_bytes().as_slice(), &[0xff, 0x00]].concat();
    Message::keyed(topic, key.to_owned(), body)
        .with_header(header::EVENT_ID, format!("{topic}/{key}/{number}"))
        .with_header("trace-bin", vec![0xfe, 0x00])
}

/// Such a message as it was received.
pub(crate) fn delivery(topic: &str, key: &str, number: i64) -> Delivery {
    let timestamp = std::time::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
    Delivery { message: message(topic, key, number), partition: 3, offset: number, timestamp }
}
