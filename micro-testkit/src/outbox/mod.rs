//! The suite of the outbox port.

mod broken;

pub use broken::{BrokenOutbox, OutboxFault};

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use micro_core::{
    Error, ErrorKind, TransactionManagerExt as _,
    broker::Message,
    outbox::{OutboxCounts, OutboxRow, OutboxShard, SHARD_COUNT},
};
use tokio::time::timeout;

use crate::{
    eventually,
    transaction::{DatabaseFixture, begin, message},
    unique,
};

/// Makes a test of every promise of [`OutboxStore`](micro_core::outbox::OutboxStore).
#[macro_export]
macro_rules! outbox_conformance {
    ($fixture:ty) => {
        $crate::__conformance!(
            outbox, $fixture,
            a_row_is_unsent_exactly_when_its_transaction_committed
            unsent_rows_come_in_the_order_they_were_added
            rows_of_one_key_share_a_shard
            a_shard_has_one_owner
            known_rows_are_left_out
            topics_can_be_left_out
            sent_rows_are_gone_and_parked_rows_are_kept_with_their_cause
            committed_misses_no_commit
        );
    };
}

/// Not before the commit, not after a rollback, whole after the commit.
pub async fn a_row_is_unsent_exactly_when_its_transaction_committed(fixture: &impl DatabaseFixture) {
    let keyed = message(&unique("topic"), "key", 1);
    let keyless = Message::unkeyed(keyed.topic.clone(), vec![0xff]);
    let outbox = fixture.outbox();

    let mut tx = begin(fixture).await;
    outbox.add(&mut tx, &[keyed.clone(), keyless.clone()]).await.expect("rows are added");
    assert_eq!(unsent_everywhere(fixture).await, [], "rows are unsent before their commit");
    tx.rollback().await.expect("a transaction rolls back");
    assert_eq!(unsent_everywhere(fixture).await, [], "rows that were rolled back are unsent");

    let mut tx = begin(fixture).await;
    outbox.add(&mut tx, &[keyed.clone(), keyless.clone()]).await.expect("rows are added");
    outbox.add(&mut tx, &[]).await.expect("nothing is added");
    tx.commit().await.expect("a transaction commits");
    let unsent = unsent_everywhere(fixture).await;
    assert_eq!(unsent.len(), 2, "two rows are unsent: {unsent:?}");
    assert!(unsent.contains(&keyed) && unsent.contains(&keyless), "rows are unsent as they were added: {unsent:?}");
    assert_eq!(counts(fixture).await, OutboxCounts { unsent: 2, parked: 0 });
}

/// In the order of the slices and of the commits, the oldest first, again until they are sent; one
/// that was added earlier and committed later too, where two transactions can be open.
pub async fn unsent_rows_come_in_the_order_they_were_added(fixture: &impl DatabaseFixture) {
    let topic = unique("topic");
    let messages: Vec<_> = (0..150).map(|number| message(&topic, "key", number)).collect();
    add(fixture, &messages[..100]).await;
    add(fixture, &messages[100..101]).await;
    add(fixture, &messages[101..]).await;

    let mut shard = own(fixture, fixture.outbox().shard_of(&messages[0])).await;
    for limit in [1, 100, 1000] {
        let rows = unsent(&mut *shard, limit).await;
        let expected = &messages[..limit.min(messages.len())];
        assert!(rows.iter().map(|row| &row.message).eq(expected), "the first {limit} rows are out of order: {rows:?}");
    }
    let ids: Vec<_> = unsent(&mut *shard, 1000).await.iter().map(|row| row.id).collect();
    shard.sent(&ids).await.expect("rows are sent");
    later_commits_are_not_skipped(fixture, &mut *shard).await;
}

/// A database that runs one transaction at a time cannot have the case, which is fine.
async fn later_commits_are_not_skipped(fixture: &impl DatabaseFixture, shard: &mut dyn OutboxShard) {
    let topic = unique("topic");
    let (early, late) = (message(&topic, "key", 1), message(&topic, "key", 2));
    let outbox = fixture.outbox();
    let mut first = begin(fixture).await;
    outbox.add(&mut first, std::slice::from_ref(&early)).await.expect("a row is added");
    let transactions = fixture.transactions();
    if let Ok(Ok(mut second)) = timeout(fixture.silence(), transactions.begin()).await {
        outbox.add(&mut second, std::slice::from_ref(&late)).await.expect("a row is added");
        second.commit().await.expect("the later transaction commits first");
        assert_eq!(unsent(shard, 10).await.len(), 1, "what is committed is unsent");
    }
    first.commit().await.expect("the earlier transaction commits");
    let rows = unsent(shard, 10).await;
    assert!(rows.iter().any(|row| row.message == early), "a row that was committed later was skipped: {rows:?}");
}

/// Rows that are known are not read again, and do not count for the limit.
pub async fn known_rows_are_left_out(fixture: &impl DatabaseFixture) {
    let topic = unique("topic");
    let messages: Vec<_> = (0..10).map(|number| message(&topic, "key", number)).collect();
    add(fixture, &messages).await;
    let mut shard = own(fixture, fixture.outbox().shard_of(&messages[0])).await;
    let ids: Vec<_> = unsent(&mut *shard, 1000).await.iter().map(|row| row.id).collect();
    let known: Vec<_> = ids[..4].iter().chain(&ids[6..8]).copied().collect();
    let rows = shard.unsent(&known, &[], 3).await.expect("unsent rows are read");
    let expected = [&messages[4], &messages[5], &messages[8]];
    assert!(rows.iter().map(|row| &row.message).eq(expected), "the oldest unknown rows are read: {rows:?}");
    assert!(shard.unsent(&ids, &[], 1000).await.expect("no row is read").is_empty(), "every row is known");
}

/// However many of them: rows of other topics behind them are read.
pub async fn topics_can_be_left_out(fixture: &impl DatabaseFixture) {
    let topics: Vec<Arc<str>> = (0..20).map(|_| unique("topic").into()).collect();
    let of_topic = |index: usize, number| message(&topics[index], "key", number);
    let messages: Vec<_> = (0..60).map(|number| of_topic(number as usize % 20, number)).collect();
    add(fixture, &messages).await;
    // Keys are of a topic, and shards of a key alone.
    let mut shard = own(fixture, fixture.outbox().shard_of(&messages[0])).await;
    let first = unsent(&mut *shard, 1).await[0].id;
    for but_count in [0, 1, 2, 5, 19, 20] {
        let rows = shard.unsent(&[first], &topics[..but_count], 7).await.expect("unsent rows are read");
        let expected = messages[1..].iter().filter(|message| !topics[..but_count].contains(&message.topic));
        let expected: Vec<_> = expected.take(7).collect();
        let rows: Vec<_> = rows.iter().map(|row| &row.message).collect();
        assert_eq!(rows, expected, "the oldest rows of other topics than {but_count} are read");
    }
}

/// All rows of a key are in the shard of the key, and in no other.
pub async fn rows_of_one_key_share_a_shard(fixture: &impl DatabaseFixture) {
    let topic = unique("topic");
    let messages: Vec<_> = (0..96).map(|number| message(&topic, &format!("key-{}", number % 24), number)).collect();
    add(fixture, &messages).await;
    let mut shards: BTreeMap<_, BTreeSet<u16>> = BTreeMap::new();
    let mut row_count = 0;
    for number in 0..SHARD_COUNT {
        for row in unsent(&mut *own(fixture, number).await, 1000).await {
            row_count += 1;
            shards.entry(row.message.key.clone()).or_default().insert(number);
            assert_eq!(fixture.outbox().shard_of(&row.message), number, "a row is in the shard of another key");
        }
    }
    assert_eq!(row_count, messages.len(), "every row is in one shard");
    assert!(shards.values().all(|of_key| of_key.len() == 1), "a key's rows are in several shards: {shards:?}");
}

/// Nobody else gets a shard that is owned; others can be had, and it too once it was dropped.
pub async fn a_shard_has_one_owner(fixture: &impl DatabaseFixture) {
    let outbox = fixture.outbox();
    let owned = own(fixture, 3).await;
    assert!(outbox.own(3).await.expect("asking is no error").is_none(), "a shard has two owners");
    drop(own(fixture, 4).await);
    drop(owned);
    eventually(fixture.patience(), "a dropped shard can be owned", || async {
        outbox.own(3).await.is_ok_and(|shard| shard.is_some())
    })
    .await;
}

/// What was sent is gone, what is parked is kept and not unsent, the rest is unsent.
pub async fn sent_rows_are_gone_and_parked_rows_are_kept_with_their_cause(fixture: &impl DatabaseFixture) {
    let topic = unique("topic");
    let messages: Vec<_> = (0..150).map(|number| message(&topic, "key", number)).collect();
    add(fixture, &messages).await;
    let mut shard = own(fixture, fixture.outbox().shard_of(&messages[0])).await;
    let rows = unsent(&mut *shard, 1000).await;
    let ids: Vec<_> = rows.iter().map(|row| row.id).collect();

    shard.sent(&[]).await.expect("nothing is sent");
    shard.sent(&ids[2..]).await.expect("rows are sent");
    shard.sent(&ids[2..3]).await.expect("a row that is gone is sent");
    let cause = Error::new(ErrorKind::InvalidArgument, "broker.publish", "the message is too large");
    shard.park(ids[1], &cause).await.expect("a row is parked");

    let left = unsent(&mut *shard, 1000).await;
    assert!(left.iter().map(|row| &row.message).eq(&messages[..1]), "one row is unsent: {left:?}");
    assert_eq!(counts(fixture).await, OutboxCounts { unsent: 1, parked: 1 });
    let causes = fixture.outbox_causes().await.expect("the causes are read");
    assert_eq!(causes, [cause.report()], "a parked row keeps its cause");
}

/// A commit wakes who waits, and who asks later; it names the shards that rows were added to.
pub async fn committed_misses_no_commit(fixture: &impl DatabaseFixture) {
    let outbox = fixture.outbox();
    let message = message(&unique("topic"), "key", 1);
    let expect = |what: &str, shards: Result<micro_core::outbox::ShardSet, _>| {
        let shards = shards.unwrap_or_else(|_: tokio::time::error::Elapsed| panic!("{what}: the commit was missed"));
        assert!(shards.contains(outbox.shard_of(&message)), "{what}: the shard is not named");
    };
    for _ in 0..3 {
        add(fixture, std::slice::from_ref(&message)).await;
        expect("asked after the commit", timeout(fixture.patience(), outbox.committed()).await);
    }
    let waiting = timeout(fixture.patience(), outbox.committed());
    let (woken, ()) = tokio::join!(waiting, add(fixture, std::slice::from_ref(&message)));
    expect("asked before the commit", woken);
}

async fn add(fixture: &impl DatabaseFixture, messages: &[Message]) {
    let outbox = fixture.outbox();
    let added = fixture.transactions().run(async |tx| outbox.add(tx, messages).await).await;
    added.expect("rows are added");
}

async fn own(fixture: &impl DatabaseFixture, shard: u16) -> Box<dyn OutboxShard> {
    let owned = fixture.outbox().own(shard).await.expect("asking is no error");
    owned.unwrap_or_else(|| panic!("shard {shard} is free"))
}

async fn unsent(shard: &mut dyn OutboxShard, limit: usize) -> Vec<OutboxRow> {
    shard.unsent(&[], &[], limit).await.expect("unsent rows are read")
}

async fn unsent_everywhere(fixture: &impl DatabaseFixture) -> Vec<Message> {
    let mut messages = Vec::new();
    for number in 0..SHARD_COUNT {
        let rows = unsent(&mut *own(fixture, number).await, 1000).await;
        messages.extend(rows.into_iter().map(|row| row.message));
    }
    messages
}

async fn counts(fixture: &impl DatabaseFixture) -> OutboxCounts {
    fixture.outbox().counts().await.expect("rows are counted")
}
