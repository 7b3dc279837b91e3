//! The suite of the inbox port.

mod broken;

pub use broken::{BrokenInbox, InboxFault};

use std::time::Duration;

use micro_core::TransactionManagerExt as _;
use tokio::time::Instant;

use crate::{
    eventually, in_time,
    transaction::{DatabaseFixture, begin},
    unique,
};

/// Makes a test of every promise of [`InboxStore`](micro_core::inbox::InboxStore).
#[macro_export]
macro_rules! inbox_conformance {
    ($fixture:ty) => {
        $crate::__conformance!(
            inbox, $fixture,
            an_id_is_new_once_per_group
            a_rolled_back_claim_is_new_again
            an_id_twice_in_one_claim_is_new_once
            purge_forgets_only_what_is_older
        );
    };
}

/// New once, in slice order, for each group by itself; a second transaction waits for the first.
pub async fn an_id_is_new_once_per_group(fixture: &impl DatabaseFixture) {
    let [group, other] = ["group", "other"].map(unique);
    let ids: Vec<_> = (0..150).map(|number| format!("OrderEvent:{number}")).collect();
    assert_eq!(claim(fixture, &group, &ids[..100]).await, [true; 100], "ids of the first claim are new");
    let mixed = claim(fixture, &group, &ids[50..]).await;
    assert_eq!(mixed, [[false; 50], [true; 50]].concat(), "the answers are in slice order");
    assert_eq!(claim(fixture, &other, &ids[..1]).await, [true], "another group has ids of its own");
    assert!(claim(fixture, &group, &[]).await.is_empty(), "nothing is claimed");

    let contested = [unique("id")];
    let inbox = fixture.inbox();
    let mut first = begin(fixture).await;
    assert_eq!(inbox.claim(&mut first, &group, &contested).await.expect("an id is claimed"), [true]);
    let commit = async {
        // The second transaction asks meanwhile.
        tokio::task::yield_now().await;
        first.commit().await.expect("a claim commits");
    };
    let (second, ()) = tokio::join!(claim(fixture, &group, &contested), commit);
    assert_eq!(second, [false], "an id was new to two transactions at the same time");
}

/// After a rollback the id is as if it had never been claimed.
pub async fn a_rolled_back_claim_is_new_again(fixture: &impl DatabaseFixture) {
    let group = unique("group");
    let ids = ["a".to_owned(), "b".to_owned()];
    let mut tx = begin(fixture).await;
    assert_eq!(fixture.inbox().claim(&mut tx, &group, &ids).await.expect("ids are claimed"), [true, true]);
    tx.rollback().await.expect("a transaction rolls back");
    assert_eq!(claim(fixture, &group, &ids).await, [true, true], "a claim that was rolled back counts");
}

/// The first occurrence is new, the later ones are not; in a second claim of one transaction none.
pub async fn an_id_twice_in_one_claim_is_new_once(fixture: &impl DatabaseFixture) {
    let group = unique("group");
    let ids = ["a", "b", "a", "a"].map(str::to_owned);
    let mut tx = begin(fixture).await;
    let inbox = fixture.inbox();
    let first = inbox.claim(&mut tx, &group, &ids).await.expect("ids are claimed");
    assert_eq!(first, [true, true, false, false], "the first occurrence alone is new");
    let again = inbox.claim(&mut tx, &group, &ids[..2]).await.expect("ids are claimed");
    assert_eq!(again, [false, false], "an id is new twice in one transaction");
    tx.commit().await.expect("a claim commits");
}

/// Older claims are forgotten up to the limit, younger ones stay.
pub async fn purge_forgets_only_what_is_older(fixture: &impl DatabaseFixture) {
    let [old, young] = [["a", "b", "c"].map(str::to_owned).to_vec(), vec!["d".to_owned()]];
    let inbox = fixture.inbox();
    let age = fixture.silence() * 2;
    let purge = async |age, count| inbox.purge(age, count).await.expect("a purge works");

    let looking = in_time(age, async |number| {
        if number > 0 {
            purge(Duration::ZERO, 10).await;
        }
        let group = unique("group");
        claim(fixture, &group, &old).await;
        let started = Instant::now();
        eventually(age * 3, "time passes", || async { started.elapsed() > age }).await;
        let young_since = Instant::now();
        claim(fixture, &group, &young).await;
        (young_since, (group, [purge(age * 100, 10).await, purge(age, 2).await, purge(age, 10).await]))
    });
    let (group, [of_the_oldest, limited, rest]) = looking.await;
    assert_eq!(of_the_oldest, 0, "nothing is so old");
    assert_eq!(limited, 2, "a purge has a limit");
    assert_eq!(rest, 1, "the last old one is forgotten");
    assert_eq!(claim(fixture, &group, &young).await, [false], "a young claim was forgotten");
    assert_eq!(claim(fixture, &group, &old).await, [true; 3], "an old claim was not forgotten");
}

async fn claim(fixture: &impl DatabaseFixture, group: &str, ids: &[String]) -> Vec<bool> {
    let inbox = fixture.inbox();
    fixture.transactions().run(async |tx| inbox.claim(tx, group, ids).await).await.expect("ids are claimed")
}
