//! The suites of the ports of parked deliveries and dead letters.

mod broken;

pub use broken::{BrokenDeadLetters, BrokenParked, DeadLetterFault, ParkedFault};

use std::time::Duration;

use micro_core::{
    Error, ErrorKind, TransactionManagerExt as _,
    broker::Delivery,
    event::unix_millis,
    parked::{DeadLetter, ParkedRow, Parking},
};
use tokio::time::Instant;

use crate::{
    eventually, in_time,
    transaction::{DatabaseFixture, begin, delivery},
    unique,
};

const HOUR: Duration = Duration::from_secs(3600);

/// Makes a test of every promise of [`ParkedStore`](micro_core::parked::ParkedStore) and of
/// [`DeadLetterStore`](micro_core::parked::DeadLetterStore).
#[macro_export]
macro_rules! parked_conformance {
    ($fixture:ty) => {
        $crate::__conformance!(
            parked, $fixture,
            a_parked_row_exists_exactly_when_its_transaction_committed
            only_the_head_of_a_key_is_due
            is_blocked_names_the_keys_that_have_rows
            remove_answers_true_once
            a_held_key_is_not_due_until_it_is_released
            a_dead_letter_is_unique_by_group_and_event_id
            a_dead_letter_keeps_its_delivery_cause_attempts_and_origin
            a_dead_letter_is_found_by_group_and_event_id
            a_removed_dead_letter_is_gone
        );
    };
}

/// Not before the commit, not after a rollback, as it was received after the commit.
pub async fn a_parked_row_exists_exactly_when_its_transaction_committed(fixture: &impl DatabaseFixture) {
    let [group, topic] = ["group", "topic"].map(unique);
    let delivery = delivery(&topic, "key", 7);
    let parked = fixture.parked();

    let mut tx = begin(fixture).await;
    parked.park(&mut tx, &parking(&group, &delivery, Some(Duration::ZERO))).await.expect("a delivery is parked");
    assert_eq!(count(fixture, &group).await, 0, "a row is there before its commit");
    tx.rollback().await.expect("a transaction rolls back");
    assert_eq!(count(fixture, &group).await, 0, "a row that was rolled back is there");

    park(fixture, &group, &delivery, Some(Duration::ZERO)).await;
    assert_eq!(count(fixture, &group).await, 1, "a committed row is there");
    let due = due(fixture, &group).await;
    assert_eq!(due.len(), 1, "a committed row is due: {due:?}");
    assert_eq!((&due[0].delivery, due[0].attempts), (&delivery, 4), "a row is as it was parked");
}

/// Heads alone, the longest due first, not before their time; a delivery without a key is a head.
pub async fn only_the_head_of_a_key_is_due(fixture: &impl DatabaseFixture) {
    let [other, topic] = ["other", "topic"].map(unique);
    let keyless = |offset| {
        let mut delivery = delivery(&topic, "none", offset);
        delivery.message.key = None;
        delivery
    };
    let [a1, a2, b1, b2, c1, later] =
        [("a", 1), ("a", 2), ("b", 3), ("b", 4), ("c", 5), ("d", 6)].map(|(key, offset)| delivery(&topic, key, offset));
    let [n1, n2] = [7, 8].map(keyless);
    let zero = Some(Duration::ZERO);
    park(fixture, &other, &c1, zero).await;
    let pause = fixture.silence() * 4;

    let looking = in_time(pause, async |_| {
        let group = unique("group");
        for (delivery, delay) in [(&a1, zero), (&a2, zero), (&b1, Some(HOUR)), (&b2, zero), (&n1, zero), (&n2, zero)] {
            park(fixture, &group, delivery, delay).await;
        }
        let later_since = Instant::now();
        park(fixture, &group, &later, Some(pause)).await;
        let heads = due(fixture, &group).await;
        (later_since, (group, heads))
    });
    let (group, heads) = looking.await;
    let without_later: Vec<_> = heads.iter().map(|row| &row.delivery).filter(|delivery| **delivery != later).collect();
    assert_eq!(without_later, [&a1, &n1, &n2], "the heads that are due, the longest due first");
    assert!(!heads.iter().any(|row| row.delivery == later), "a row is due before its time");
    assert_eq!(fixture.parked().due(&group, 2).await.expect("due rows are read").len(), 2, "due has a limit");
    assert_eq!(offsets(&due(fixture, &other).await), [5], "another group has rows of its own");
    eventually(fixture.patience(), "a row is due at its time", || async {
        due(fixture, &group).await.iter().any(|row| row.delivery == later)
    })
    .await;

    let transactions = fixture.transactions();
    let parked = fixture.parked();
    let postponed = transactions.run(async |tx| parked.postpone(tx, heads[0].id, 5, "again", Some(HOUR)).await).await;
    assert!(postponed.expect("a row is postponed"), "a row that is there is postponed");
    assert_eq!(offsets(&due(fixture, &group).await), [7, 8, 6], "a postponed head holds up its key");
    let hastened = transactions.run(async |tx| parked.postpone(tx, heads[0].id, 6, "again", zero).await).await;
    assert!(hastened.expect("a row is hastened"), "a row that is there is hastened");
    let head = due(fixture, &group).await.into_iter().find(|row| row.id == heads[0].id).expect("the head is due again");
    assert_eq!(head.attempts, 6, "a postponed row keeps its attempts");
    assert!(remove(fixture, heads[0].id).await, "the head is removed");
    assert!(offsets(&due(fixture, &group).await).contains(&2), "the next of the key is the head");
    let gone = transactions.run(async |tx| parked.postpone(tx, heads[0].id, 7, "again", zero).await).await;
    assert!(!gone.expect("a row that is gone is no error"), "a row that is gone was postponed");
}

/// By group, topic and key, rows of the same transaction included; a delivery without a key never.
pub async fn is_blocked_names_the_keys_that_have_rows(fixture: &impl DatabaseFixture) {
    let [group, topic, other_topic] = ["group", "topic", "other"].map(unique);
    let deliveries: Vec<_> =
        (0..150).map(|number| delivery(&topic, &format!("key-{}", number % 100), number)).collect();
    let mut keyless = delivery(&topic, "none", 1000);
    keyless.message.key = None;
    let elsewhere = delivery(&other_topic, "key-1", 0);
    for parked in [&deliveries[1], &deliveries[70], &keyless] {
        park(fixture, &group, parked, Some(HOUR)).await;
    }

    let asked: Vec<_> = deliveries.iter().chain([&keyless, &elsewhere]).collect();
    let mut tx = begin(fixture).await;
    let parked = fixture.parked();
    parked.park(&mut tx, &parking(&group, &deliveries[5], None)).await.expect("a delivery is parked");
    let blocked = parked.is_blocked(&mut tx, &group, &asked).await.expect("blocked keys are read");
    let blocked: Vec<_> = asked.iter().zip(blocked).filter(|(_, is_blocked)| *is_blocked).collect();
    let blocked: Vec<_> = blocked.iter().map(|(delivery, _)| delivery.offset).collect();
    assert_eq!(blocked, [1, 5, 70, 101, 105], "the deliveries of the keys that have rows");
    assert_eq!(
        parked.is_blocked(&mut tx, &unique("group"), &asked[..2]).await.expect("blocked keys are read"),
        [false, false],
        "another group is not blocked"
    );
    assert!(parked.is_blocked(&mut tx, &group, &[]).await.expect("nothing is asked").is_empty());
    tx.rollback().await.expect("a transaction rolls back");
}

/// In one transaction and in two that run at the same time; a rollback brings the row back.
pub async fn remove_answers_true_once(fixture: &impl DatabaseFixture) {
    let [group, topic] = ["group", "topic"].map(unique);
    for offset in 0..2 {
        park(fixture, &group, &delivery(&topic, &offset.to_string(), offset), Some(Duration::ZERO)).await;
    }
    let rows = due(fixture, &group).await;
    let parked = fixture.parked();

    let mut tx = begin(fixture).await;
    assert!(parked.remove(&mut tx, rows[0].id).await.expect("a row is removed"), "a row that is there is removed");
    assert!(!parked.remove(&mut tx, rows[0].id).await.expect("no error"), "a row was removed twice in a transaction");
    tx.rollback().await.expect("a transaction rolls back");
    assert_eq!(count(fixture, &group).await, 2, "a removal that was rolled back counts");

    let removals = tokio::join!(remove(fixture, rows[1].id), remove(fixture, rows[1].id));
    assert!(removals.0 != removals.1, "of two transactions one removes the row: {removals:?}");
    assert_eq!(count(fixture, &group).await, 1, "a removed row is gone");
}

/// A row without a delay is never due, and neither is what waits behind it, until the release.
pub async fn a_held_key_is_not_due_until_it_is_released(fixture: &impl DatabaseFixture) {
    let [group, topic] = ["group", "topic"].map(unique);
    let [held, waiting, postponed] = [("a", 1), ("a", 2), ("b", 3)].map(|(key, offset)| delivery(&topic, key, offset));
    park(fixture, &group, &postponed, Some(Duration::ZERO)).await;
    let row = due(fixture, &group).await.remove(0);
    park(fixture, &group, &held, None).await;
    park(fixture, &group, &waiting, Some(Duration::ZERO)).await;
    let parked = fixture.parked();
    let transactions = fixture.transactions();
    let holding = transactions.run(async |tx| parked.postpone(tx, row.id, 5, "held", None).await).await;
    assert!(holding.expect("a row is held"), "a row that is there is held");
    assert_eq!(offsets(&due(fixture, &group).await), [0; 0], "a held key is due");
    let again = transactions.run(async |tx| parked.postpone(tx, row.id, 6, "stale", Some(Duration::ZERO)).await).await;
    assert!(!again.expect("a held row is no error"), "a held row was postponed");
    assert!(!remove(fixture, row.id).await, "a held row was removed");

    let release = async |delivery: &Delivery| {
        let released = transactions.run(async |tx| parked.release(tx, &group, delivery).await).await;
        released.expect("releasing is no error")
    };
    assert!(!release(&waiting).await, "a delivery that only waits was released");
    assert!(release(&held).await, "a held delivery is released");
    assert!(!release(&held).await, "a delivery was released twice");
    assert_eq!(offsets(&due(fixture, &group).await), [2], "the next of a released key is the head");
    assert!(release(&postponed).await, "a row that a postponement held is released");
    assert_eq!(count(fixture, &group).await, 1, "released rows are gone");
}

/// Written again it changes nothing and answers `false`; another group has its own.
pub async fn a_dead_letter_is_unique_by_group_and_event_id(fixture: &impl DatabaseFixture) {
    let [group, other, topic] = ["group", "other", "topic"].map(unique);
    let first = letter(&group, &delivery(&topic, "key", 1), 1);
    let mut again = letter(&group, &delivery(&topic, "key", 1), 9);
    again.cause = "another".to_owned();
    let mut elsewhere = first.clone();
    elsewhere.group.clone_from(&other);

    assert!(add(fixture, &first).await, "the first letter of an event is written");
    assert!(!add(fixture, &again).await, "the second letter of an event answers false");
    assert!(add(fixture, &elsewhere).await, "another group has letters of its own");
    let letters = list(fixture, &group).await;
    assert_eq!(letters.len(), 1, "one letter an event: {letters:?}");
    assert_eq!((&letters[0].cause, letters[0].attempts), (&first.cause, 1), "the second one changed the first");
}

/// Everything comes back, the oldest letter first.
pub async fn a_dead_letter_keeps_its_delivery_cause_attempts_and_origin(fixture: &impl DatabaseFixture) {
    let [group, topic] = ["group", "topic"].map(unique);
    let mut keyless = delivery(&topic, "none", 12);
    keyless.message.key = None;
    let letters = [letter(&group, &delivery(&topic, "key", 11), 4), letter(&group, &keyless, 0)];
    for letter in &letters {
        assert!(add(fixture, letter).await, "a letter is written");
    }
    let mut tx = begin(fixture).await;
    let undone = letter(&group, &delivery(&topic, "key", 13), 1);
    assert!(fixture.dead_letters().add(&mut tx, &undone).await.expect("a letter is written"));
    tx.rollback().await.expect("a transaction rolls back");

    let kept = list(fixture, &group).await;
    assert_eq!(kept.len(), 2, "the letters that were committed: {kept:?}");
    for (kept, written) in kept.iter().zip(&letters) {
        assert_eq!(kept.delivery, written.delivery, "a letter keeps its delivery and origin");
        assert_eq!((&kept.group, &kept.event_id), (&written.group, &written.event_id), "a letter keeps its name");
        assert_eq!((kept.kind, &kept.cause), (written.kind, &written.cause), "a letter keeps its kind and cause");
        assert_eq!(kept.attempts, written.attempts, "a letter keeps its attempts");
        assert_eq!(unix_millis(kept.created_at), unix_millis(written.created_at), "a letter keeps its time");
    }
    assert_eq!(fixture.dead_letters().list(&group, 1).await.expect("letters are read").len(), 1, "list has a limit");
}

/// That one, of that group, once it is committed.
pub async fn a_dead_letter_is_found_by_group_and_event_id(fixture: &impl DatabaseFixture) {
    let [group, other, topic] = ["group", "other", "topic"].map(unique);
    let letters = [1, 2].map(|offset| letter(&group, &delivery(&topic, "key", offset), 1));
    let dead_letters = fixture.dead_letters();
    let find = async |group: &str, letter: &DeadLetter| {
        let found = dead_letters.find(group, &letter.event_id).await.expect("letters are looked for");
        found.map(|letter| letter.delivery)
    };
    assert_eq!(find(&group, &letters[1]).await, None, "a letter is found before it is written");
    for letter in &letters {
        assert!(add(fixture, letter).await, "a letter is written");
    }
    assert_eq!(
        find(&group, &letters[1]).await.as_ref(),
        Some(&letters[1].delivery),
        "the letter of the event is found"
    );
    assert_eq!(find(&other, &letters[1]).await, None, "a letter of another group is found");
}

/// Gone once, by its names; a rollback brings it back.
pub async fn a_removed_dead_letter_is_gone(fixture: &impl DatabaseFixture) {
    let [group, topic] = ["group", "topic"].map(unique);
    let letter = letter(&group, &delivery(&topic, "key", 1), 1);
    add(fixture, &letter).await;
    let dead_letters = fixture.dead_letters();

    let mut tx = begin(fixture).await;
    let undone = dead_letters.remove(&mut tx, &group, &letter.event_id).await;
    assert!(undone.expect("a letter is removed"), "a letter that is there is removed");
    tx.rollback().await.expect("a transaction rolls back");
    assert_eq!(dead_letter_count(fixture, &group).await, 1, "a removal that was rolled back counts");

    for expected in [true, false] {
        let transactions = fixture.transactions();
        let removed = transactions.run(async |tx| dead_letters.remove(tx, &group, &letter.event_id).await).await;
        assert_eq!(removed.expect("a letter is removed"), expected, "a letter is removed once");
    }
    assert_eq!(dead_letter_count(fixture, &group).await, 0, "a removed letter is counted");
    assert!(list(fixture, &group).await.is_empty(), "a removed letter is listed");
    let found = dead_letters.find(&group, &letter.event_id).await.expect("letters are looked for");
    assert!(found.is_none(), "a removed letter is found");
    assert!(add(fixture, &letter).await, "a letter that was removed can be written again");
}

fn parking<'a>(group: &'a str, delivery: &'a Delivery, delay: Option<Duration>) -> Parking<'a> {
    Parking { group, delivery, attempts: 4, cause: "the stock is locked", delay }
}

async fn park(fixture: &impl DatabaseFixture, group: &str, delivery: &Delivery, delay: Option<Duration>) {
    let parked = fixture.parked();
    let transactions = fixture.transactions();
    let done = transactions.run(async |tx| parked.park(tx, &parking(group, delivery, delay)).await).await;
    done.expect("a delivery is parked");
}

async fn remove(fixture: &impl DatabaseFixture, id: i64) -> bool {
    let parked = fixture.parked();
    fixture.transactions().run(async |tx| parked.remove(tx, id).await).await.expect("a row is removed")
}

async fn due(fixture: &impl DatabaseFixture, group: &str) -> Vec<ParkedRow> {
    fixture.parked().due(group, 1000).await.expect("due rows are read")
}

fn offsets(rows: &[ParkedRow]) -> Vec<i64> {
    rows.iter().map(|row| row.delivery.offset).collect()
}

async fn count(fixture: &impl DatabaseFixture, group: &str) -> u64 {
    fixture.parked().count(group).await.expect("rows are counted")
}

fn letter(group: &str, delivery: &Delivery, attempts: u32) -> DeadLetter {
    let error = Error::new(ErrorKind::DataLoss, "event.decode", "the payload is not such a protobuf message");
    DeadLetter::new(group, delivery, &error, attempts)
}

async fn add(fixture: &impl DatabaseFixture, letter: &DeadLetter) -> bool {
    let dead_letters = fixture.dead_letters();
    fixture.transactions().run(async |tx| dead_letters.add(tx, letter).await).await.expect("a letter is written")
}

async fn list(fixture: &impl DatabaseFixture, group: &str) -> Vec<DeadLetter> {
    fixture.dead_letters().list(group, 1000).await.expect("letters are read")
}

async fn dead_letter_count(fixture: &impl DatabaseFixture, group: &str) -> u64 {
    fixture.dead_letters().count(group).await.expect("letters are counted")
}
