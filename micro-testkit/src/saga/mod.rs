//! The suite of the saga log.

mod broken;
pub mod model;

pub use broken::{BrokenSagaLog, SagaLogFault};

use std::{sync::Arc, time::Duration};

use micro_core::{
    ErrorKind, TransactionManagerExt as _,
    saga::{
        DueSaga, Outcome, Saga, SagaChange, SagaCounts, SagaEntry, SagaLease, SagaLog, SagaOptions, SagaProgress,
        SagaWrite, Step,
    },
};
use tokio::time::Instant;

use crate::{
    eventually, in_time,
    transaction::{DatabaseFixture, begin},
    unique,
};

/// What the suite of the saga log runs on.
pub trait SagaLogFixture: DatabaseFixture {
    /// The log.
    fn saga_log(&self) -> Arc<dyn SagaLog>;
}

/// Makes a test of every promise of [`SagaLog`].
#[macro_export]
macro_rules! saga_log_conformance {
    ($fixture:ty) => {
        $crate::__conformance!(
            saga, $fixture,
            a_saga_is_due_exactly_when_its_transaction_committed
            a_gid_is_added_once
            a_saga_has_one_holder_until_its_lease_ends
            a_saga_that_is_added_held_is_not_due_before_its_lease_ends
            a_renewed_lease_lasts_longer
            a_lost_lease_writes_nothing
            a_waiting_saga_is_due_after_its_pause_with_its_progress
            what_was_recorded_is_found_by_the_next_holder
            a_parked_saga_is_not_due_and_is_counted
            a_finished_saga_is_not_due_and_keeps_its_outcome
            those_due_longest_come_first
            purge_forgets_only_what_finished_earlier
        );
    };
}

/// Long enough for what is done under it.
const LONG: Duration = Duration::from_secs(600);

/// Not before the commit, not after a rollback, whole after the commit; in no other manager's transaction.
pub async fn a_saga_is_due_exactly_when_its_transaction_committed(fixture: &impl SagaLogFixture) {
    let log = fixture.saga_log();
    let sagas = [full(&unique("full")), Saga::with_gid(unique("empty"))];
    let entries = sagas.clone().map(|saga| SagaEntry::new(Arc::new(saga)));

    let mut tx = begin(fixture).await;
    log.add(&mut tx, &entries).await.expect("sagas are added");
    assert_eq!(take(fixture, LONG).await, [], "sagas are due before their commit");
    tx.rollback().await.expect("a transaction rolls back");
    assert_eq!(take(fixture, LONG).await, [], "sagas that were rolled back are due");

    let mut tx = begin(fixture).await;
    log.add(&mut tx, &entries).await.expect("sagas are added");
    log.add(&mut tx, &[]).await.expect("nothing is added");
    tx.commit().await.expect("a transaction commits");
    assert_eq!(counts(fixture).await, SagaCounts { unfinished: 2, parked: 0, due: 2 });
    let due = take(fixture, LONG).await;
    assert_eq!(counts(fixture).await, SagaCounts { unfinished: 2, parked: 0, due: 0 });
    assert_eq!(due.len(), 2, "two sagas are due: {due:?}");
    for saga in &sagas {
        let found = due.iter().find(|due| due.saga.gid == saga.gid).expect("each is due");
        assert_eq!(&found.saga, saga, "a saga comes back as it was added");
        assert_eq!((&found.progress, found.was_abandoned), (&SagaProgress::default(), false));
        assert!(found.age < fixture.patience(), "a saga's age is since its addition: {:?}", found.age);
    }
    let other = fixture.other();
    let mut tx = other.begin().await.expect("another manager begins");
    let refusal = log.add(&mut tx, &entries).await.expect_err("another manager's transaction is refused");
    assert_eq!(refusal.kind(), ErrorKind::InvalidArgument);
}

/// Also after its end; not where its addition was rolled back.
pub async fn a_gid_is_added_once(fixture: &impl SagaLogFixture) {
    let log = fixture.saga_log();
    let [once, twice] = ["once", "twice"].map(|name| SagaEntry::new(Arc::new(full(&unique(name)))));
    let refused = async |entries: &[SagaEntry]| {
        let added = fixture.transactions().run(async |tx| log.add(tx, entries).await).await;
        assert_eq!(added.expect_err("a gid is added twice").kind(), ErrorKind::AlreadyExists);
    };

    let mut tx = begin(fixture).await;
    log.add(&mut tx, std::slice::from_ref(&once)).await.expect("a saga is added");
    tx.rollback().await.expect("a transaction rolls back");
    add(fixture, std::slice::from_ref(&once)).await;
    refused(std::slice::from_ref(&once)).await;
    refused(&[twice.clone(), once.clone()]).await;
    refused(&[twice.clone(), twice.clone()]).await;
    assert_eq!(counts(fixture).await.unfinished, 1, "one of a refused addition was added");

    let lease = SagaLease::new(LONG);
    assert_eq!(log.take(lease, 10).await.expect("sagas are taken").len(), 1);
    assert_eq!(write(fixture, &once.saga.gid, lease, SagaChange::Succeeded).await, [true]);
    refused(&[once]).await;
    add(fixture, &[twice]).await;
}

/// Nobody else gets it, then somebody does, and is told. Of two who ask together, one gets it.
pub async fn a_saga_has_one_holder_until_its_lease_ends(fixture: &impl SagaLogFixture) {
    let log = fixture.saga_log();
    let entries: Vec<_> = (0..40).map(|number| entry(&unique(&format!("saga-{number}")))).collect();
    add(fixture, &entries).await;
    let asking = |_| log.take(SagaLease::new(LONG), 40);
    let answers = futures_util::future::join_all((0..4).map(asking)).await;
    let taken: usize = answers.into_iter().map(|answer| answer.map_or(0, |due| due.len())).sum();
    let rest = take(fixture, LONG).await.len();
    assert_eq!(taken + rest, 40, "each saga has one holder");

    let short = short(fixture);
    let looking = in_time(short, async |number| {
        take_what_is_left(fixture, number).await;
        add(fixture, &[entry(&unique("abandoned"))]).await;
        let leased_since = Instant::now();
        assert_eq!(take(fixture, short).await.len(), 1);
        (leased_since, take(fixture, LONG).await)
    });
    assert_eq!(looking.await, [], "a saga has two holders");
    let again = eventually_taken(fixture, "a lease ends").await;
    assert!(again.was_abandoned, "the next holder is told that the last one did not give it back");
    assert!(again.age >= short, "its age is since its addition: {:?}", again.age);
}

/// As one that was taken: due when the lease ends, and abandoned.
pub async fn a_saga_that_is_added_held_is_not_due_before_its_lease_ends(fixture: &impl SagaLogFixture) {
    let short = short(fixture);
    let looking = in_time(short, async |number| {
        take_what_is_left(fixture, number).await;
        let saga = Arc::new(full(&unique("held")));
        let gid = saga.gid.clone();
        let leased_since = Instant::now();
        add(fixture, &[SagaEntry::held(saga, SagaLease::new(short))]).await;
        (leased_since, (gid, take(fixture, LONG).await))
    });
    let (gid, due) = looking.await;
    assert_eq!(due, [], "a saga that is held is due");
    assert!(eventually_taken(fixture, "the lease of an addition ends").await.was_abandoned);

    let lease = SagaLease::new(LONG);
    add(fixture, &[SagaEntry::held(Arc::new(full(&unique("held"))), lease)]).await;
    assert_eq!(write(fixture, &gid, lease, SagaChange::Succeeded).await, [false], "another saga's lease writes");
}

/// It is not due when the first lease would have ended.
pub async fn a_renewed_lease_lasts_longer(fixture: &impl SagaLogFixture) {
    let log = fixture.saga_log();
    let gids: Vec<_> = (0..3).map(|_| unique("renewed")).collect();
    add(fixture, &gids.iter().map(|gid| entry(gid)).collect::<Vec<_>>()).await;
    let lease = SagaLease::new(short(fixture));
    assert_eq!(log.take(lease, 10).await.expect("sagas are taken").len(), 3);
    let renewals = gids[..2].iter().map(|gid| SagaWrite::new(gid, lease.id, SagaChange::Renewed(LONG)));
    let renewed = log.write(&renewals.collect::<Vec<_>>()).await.expect("leases are renewed");
    assert_eq!(renewed, [true, true]);
    assert_eq!(eventually_taken(fixture, "the lease that was not renewed ends").await.saga.gid, gids[2]);
    assert_eq!(take(fixture, LONG).await, [], "a renewed lease ended early");
}

/// Whatever is written under it, alone or in company: nothing changes, and it is told.
pub async fn a_lost_lease_writes_nothing(fixture: &impl SagaLogFixture) {
    let log = fixture.saga_log();
    let lost = unique("lost");
    add(fixture, &[entry(&lost)]).await;
    let first = SagaLease::new(short(fixture));
    assert_eq!(log.take(first, 10).await.expect("a saga is taken").len(), 1);
    let second = SagaLease::new(LONG);
    eventually(fixture.patience(), "a lease ends", || async {
        log.take(second, 10).await.is_ok_and(|due| due.len() == 1)
    })
    .await;
    for change in [
        SagaChange::Renewed(Duration::ZERO),
        SagaChange::Recorded(progress(), Duration::ZERO),
        SagaChange::Waiting(progress(), Duration::ZERO),
        SagaChange::Succeeded,
        SagaChange::RolledBack("too late".to_owned()),
        SagaChange::Removed,
    ] {
        let kept = unique("kept");
        add(fixture, &[SagaEntry::held(Arc::new(full(&kept)), second)]).await;
        let writes =
            [SagaWrite::new(&kept, second.id, change.clone()), SagaWrite::new(&lost, first.id, change.clone())];
        let answers = log.write(&writes).await.expect("writes are answered");
        assert_eq!(answers, [true, false], "the lease of the second is lost: {change:?}");
        assert_eq!(write(fixture, &lost, first, change.clone()).await, [false], "it is lost: {change:?}");
        assert_eq!(outcome(fixture, &lost).await, Some(Outcome::StillRunning), "it wrote: {change:?}");
    }
    let taken = take(fixture, LONG).await;
    assert!(taken.iter().all(|due| due.saga.gid != lost), "a lost lease made the saga due");
    let ended = write(fixture, &lost, second, SagaChange::Succeeded).await;
    assert_eq!(ended, [true], "the holder's own lease still writes");
}

/// Not before, and then with what was written, given back and not abandoned.
pub async fn a_waiting_saga_is_due_after_its_pause_with_its_progress(fixture: &impl SagaLogFixture) {
    let lease = SagaLease::new(LONG);
    let short = short(fixture);
    let looking = in_time(short, async |number| {
        take_what_is_left(fixture, number).await;
        let gid = unique("waiting");
        add(fixture, &[entry(&gid)]).await;
        assert_eq!(fixture.saga_log().take(lease, 10).await.expect("a saga is taken").len(), 1);
        let waiting_since = Instant::now();
        assert_eq!(write(fixture, &gid, lease, SagaChange::Waiting(progress(), short)).await, [true]);
        (waiting_since, (gid, take(fixture, LONG).await))
    });
    let (gid, due) = looking.await;
    assert_eq!(due, [], "a saga that waits is due");
    let due = eventually_taken(fixture, "a pause ends").await;
    let came_back = (due.saga, due.progress, due.was_abandoned);
    assert_eq!(came_back, (full(&gid), progress(), false), "it comes back as it was given back");
    assert_eq!(write(fixture, &gid, lease, SagaChange::Succeeded).await, [false], "it was given back");
}

/// Though the holder that wrote it died.
pub async fn what_was_recorded_is_found_by_the_next_holder(fixture: &impl SagaLogFixture) {
    let gid = unique("recorded");
    add(fixture, &[entry(&gid)]).await;
    let lease = SagaLease::new(LONG);
    assert_eq!(fixture.saga_log().take(lease, 10).await.expect("a saga is taken").len(), 1);
    let recorded = SagaChange::Recorded(progress(), short(fixture));
    assert_eq!(write(fixture, &gid, lease, recorded.clone()).await, [true]);
    assert_eq!(write(fixture, &gid, lease, recorded).await, [true], "writing it again is as writing it once");
    let due = eventually_taken(fixture, "the lease that was recorded ends").await;
    assert_eq!((due.progress, due.was_abandoned), (progress(), true), "what was recorded is found");
}

/// Beside one that waits; nothing is written for it any more, and its global id is known.
pub async fn a_parked_saga_is_not_due_and_is_counted(fixture: &impl SagaLogFixture) {
    let log = fixture.saga_log();
    let gids: Vec<_> = (0..2).map(|_| unique("parked")).collect();
    add(fixture, &gids.iter().map(|gid| entry(gid)).collect::<Vec<_>>()).await;
    let lease = SagaLease::new(LONG);
    assert_eq!(log.take(lease, 10).await.expect("sagas are taken").len(), 2);
    let mut parked = progress();
    parked.parked_reason = Some("too long: \u{4e09} of \"A-17\"".to_owned());
    let changes = [SagaChange::Parked(parked), SagaChange::Waiting(progress(), short(fixture))];
    let writes: Vec<_> = gids.iter().zip(changes).map(|(gid, change)| SagaWrite::new(gid, lease.id, change)).collect();
    assert_eq!(log.write(&writes).await.expect("writes are answered"), [true, true]);
    let due = eventually_taken(fixture, "a pause ends").await;
    assert_eq!(due.saga.gid, gids[1], "a parked saga is due");
    assert_eq!(take(fixture, LONG).await, [], "a parked saga is due");
    assert_eq!(counts(fixture).await, SagaCounts { unfinished: 2, parked: 1, due: 0 }, "a parked saga is counted");
    assert_eq!(outcome(fixture, &gids[0]).await, Some(Outcome::StillRunning));
    assert_eq!(write(fixture, &gids[0], lease, SagaChange::Succeeded).await, [false], "it was given back");
}

/// Each end, several in one write and the same again; a removed one is as if it had never been.
pub async fn a_finished_saga_is_not_due_and_keeps_its_outcome(fixture: &impl SagaLogFixture) {
    let log = fixture.saga_log();
    let gids: Vec<_> = (0..5).map(|_| unique("finished")).collect();
    add(fixture, &gids.iter().map(|gid| entry(gid)).collect::<Vec<_>>()).await;
    let lease = SagaLease::new(short(fixture));
    assert_eq!(log.take(lease, 10).await.expect("sagas are taken").len(), 5);
    assert_eq!(outcome(fixture, &gids[0]).await, Some(Outcome::StillRunning));
    let reason = "no stock: \u{4e09} of \"A-17\"\0";
    let changes = [
        SagaChange::Succeeded,
        SagaChange::RolledBack(reason.to_owned()),
        SagaChange::Succeeded,
        SagaChange::Removed,
        SagaChange::RolledBack(String::new()),
    ];
    let writes: Vec<_> = gids.iter().zip(changes).map(|(gid, change)| SagaWrite::new(gid, lease.id, change)).collect();
    for _ in 0..2 {
        let answers = log.write(&writes).await.expect("ends are written");
        assert!([0, 1, 2, 4].iter().all(|number| answers[*number]), "ends are written, also again: {answers:?}");
    }
    let rolled_back = |reason: &str| Some(Outcome::RolledBack { reason: reason.to_owned() });
    let expected = [Some(Outcome::Succeeded), rolled_back(reason), Some(Outcome::Succeeded), None, rolled_back("")];
    for (gid, expected) in gids.iter().zip(expected) {
        assert_eq!(outcome(fixture, gid).await, expected, "an end is kept");
    }
    let waiting = SagaChange::Waiting(progress(), Duration::ZERO);
    assert_eq!(write(fixture, &gids[0], lease, waiting).await, [false], "what is finished cannot go on");
    tokio::time::sleep(short(fixture) * 2).await;
    assert_eq!(take(fixture, LONG).await, [], "a finished saga is due");
    assert_eq!(counts(fixture).await, SagaCounts::default());
    assert_eq!(outcome(fixture, &unique("unknown")).await, None);
}

/// By when they became due, as many as are asked for.
pub async fn those_due_longest_come_first(fixture: &impl SagaLogFixture) {
    let log = fixture.saga_log();
    let gids: Vec<_> = (0..6).map(|_| unique("due")).collect();
    // Neither in the order of their ids nor of their additions.
    for number in [3, 0, 5, 1, 4, 2] {
        add(fixture, &[entry(&gids[number])]).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut taken = Vec::new();
    for count in [1, 3, 2, 0] {
        let due = log.take(SagaLease::new(LONG), count.max(1)).await.expect("sagas are taken");
        assert_eq!(due.len(), count, "at most as many as are asked for");
        taken.extend(due.into_iter().map(|due| gids.iter().position(|gid| *gid == due.saga.gid).unwrap_or(9)));
    }
    assert_eq!(taken, [3, 0, 5, 1, 4, 2], "those due longest come first");
}

/// Only finished ones, only older ones, at most as many as are said.
pub async fn purge_forgets_only_what_finished_earlier(fixture: &impl SagaLogFixture) {
    let log = fixture.saga_log();
    let purge = async |age, count| log.purge(age, count).await.expect("a purge works");
    let age = short(fixture);
    let looking = in_time(age, async |number| {
        if number > 0 {
            purge(Duration::ZERO, 10).await;
        }
        let gids: Vec<_> = (0..5).map(|_| unique("old")).collect();
        add(fixture, &gids.iter().map(|gid| entry(gid)).collect::<Vec<_>>()).await;
        let lease = SagaLease::new(LONG);
        assert_eq!(log.take(lease, 10).await.expect("sagas are taken").len(), 5);
        for gid in &gids[..3] {
            assert_eq!(write(fixture, gid, lease, SagaChange::Succeeded).await, [true]);
        }
        tokio::time::sleep(age + Duration::from_millis(5)).await;
        let young_since = Instant::now();
        assert_eq!(write(fixture, &gids[3], lease, SagaChange::RolledBack("no".to_owned())).await, [true]);
        (young_since, (gids, [purge(age * 100, 10).await, purge(age, 2).await, purge(age, 10).await]))
    });
    let (gids, [of_the_oldest, limited, rest]) = looking.await;
    assert_eq!(of_the_oldest, 0, "nothing is so old");
    assert_eq!(limited, 2, "a purge has a limit");
    assert_eq!(rest, 1, "the last old one is forgotten");
    for gid in &gids[..3] {
        assert_eq!(outcome(fixture, gid).await, None, "an old one was not forgotten");
    }
    assert!(outcome(fixture, &gids[3]).await.is_some(), "a young one was forgotten");
    assert_eq!(outcome(fixture, &gids[4]).await, Some(Outcome::StillRunning), "one that runs was forgotten");
}

/// A lease or pause that ends while the suite waits, but not while it looks.
fn short(fixture: &impl SagaLogFixture) -> Duration {
    fixture.silence() * 4
}

fn entry(gid: &str) -> SagaEntry {
    SagaEntry::new(Arc::new(full(gid)))
}

/// A saga with everything in it.
fn full(gid: &str) -> Saga {
    let mut options = SagaOptions::default();
    options.timeout_to_fail = Some(Duration::from_millis(1_500));
    options.retry_count_max = Some(3);
    options.headers.insert("x-region".to_owned(), "\u{fc}".to_owned());
    options.is_concurrent = true;
    options.orders.insert(1, vec![0]);
    let step = Step::new("a:1/s.S/Do").compensation("a:1/s.S/Undo").payload(vec![0, 0xff, b'\'']);
    Saga::with_gid(gid).step(step).step(Step::new("")).options(options)
}

fn progress() -> SagaProgress {
    let mut progress = SagaProgress::default();
    progress.begun.extend([0, 1]);
    progress.succeeded.insert(0);
    progress.rollback_reason = Some("no \"stock\"\0".to_owned());
    progress.failure_count = 3;
    progress
}

async fn add(fixture: &impl SagaLogFixture, entries: &[SagaEntry]) {
    let log = fixture.saga_log();
    fixture.transactions().run(async |tx| log.add(tx, entries).await).await.expect("sagas are added");
}

async fn take(fixture: &impl SagaLogFixture, duration: Duration) -> Vec<DueSaga> {
    fixture.saga_log().take(SagaLease::new(duration), 1000).await.expect("sagas are taken")
}

/// Takes what a look that came too late left behind, so that the next one does not find it.
async fn take_what_is_left(fixture: &impl SagaLogFixture, number: u32) {
    if number > 0 {
        tokio::time::sleep(short(fixture)).await;
        take(fixture, LONG).await;
    }
}

/// The one saga that becomes due.
async fn eventually_taken(fixture: &impl SagaLogFixture, what: &str) -> DueSaga {
    let taken = std::sync::Mutex::new(Vec::new());
    eventually(fixture.patience(), what, || async {
        let due = take(fixture, LONG).await;
        let mut taken = taken.lock().expect("nobody panics meanwhile");
        taken.extend(due);
        !taken.is_empty()
    })
    .await;
    let mut taken = taken.into_inner().expect("nobody panicked");
    assert_eq!(taken.len(), 1, "one saga is due: {taken:?}");
    taken.remove(0)
}

async fn write(fixture: &impl SagaLogFixture, gid: &str, lease: SagaLease, change: SagaChange) -> Vec<bool> {
    fixture.saga_log().write(&[SagaWrite::new(gid, lease.id, change)]).await.expect("a write is answered")
}

async fn outcome(fixture: &impl SagaLogFixture, gid: &str) -> Option<Outcome> {
    fixture.saga_log().outcome(gid).await.expect("an outcome is read")
}

async fn counts(fixture: &impl SagaLogFixture) -> SagaCounts {
    fixture.saga_log().counts().await.expect("sagas are counted")
}
