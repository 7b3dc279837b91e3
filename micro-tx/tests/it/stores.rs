//! The stores on a server where several write: claims, migrations, owners of the outbox, order.

use std::time::Duration;

use micro_core::{
    Error, ErrorKind, Result, TransactionManager as _, TransactionManagerExt as _,
    broker::{Delivery, Message},
    outbox::{OutboxCounts, OutboxShard},
    parked::Parking,
};
use micro_testkit::eventually;
use micro_tx::{SqlDatabase, SqlTxExt as _};

use crate::{
    on_servers::{
        INSERT, PATIENCE, UPDATE, connected, kill_connections, messages, on_each_server, site, waiting_count,
    },
    proxy::Proxy,
    server::{Server, Site},
};

on_each_server! {
    a_claim_that_waited_for_another_one_knows_its_ids
    overlapping_claims_in_other_orders_do_not_deadlock
    parked_rows_are_released_in_pieces
    two_processes_migrate_at_once
    two_processes_share_an_outbox
    an_owner_whose_connection_dies_owns_no_more
    an_owner_of_whom_nothing_is_heard_owns_no_more
    an_owner_with_nothing_to_do_stays_the_owner
    rows_of_one_key_keep_the_order_of_their_transactions
    rows_that_somebody_spoiled_hide_no_others
}

/// The second one waits until the first commits, and then all it asked for is known but the rest.
async fn a_claim_that_waited_for_another_one_knows_its_ids(site: Site) {
    let database = site.database().await;
    let inbox = database.inbox();
    let ids = ["a", "b", "c"].map(str::to_owned);
    for (is_committed, expected) in [(true, [false, false, true]), (false, [true, true, true])] {
        let group = format!("group-{is_committed}");
        let mut first = database.begin().await.unwrap();
        assert_eq!(inbox.claim(&mut first, &group, &ids[..2]).await.unwrap(), [true, true]);
        let second = tokio::spawn({
            let (database, group, ids) = (database.clone(), group.clone(), ids.clone());
            async move { database.run(async |tx| database.inbox().claim(tx, &group, &ids).await).await }
        });
        eventually(PATIENCE, "the second claim waits for the first", || async {
            waiting_count(&site, &database).await == 1
        })
        .await;
        assert!(!second.is_finished());
        if is_committed {
            first.commit().await.unwrap()
        } else {
            first.rollback().await.unwrap()
        }
        assert_eq!(second.await.unwrap().unwrap(), expected);
    }
}

async fn overlapping_claims_in_other_orders_do_not_deadlock(site: Site) {
    let database = site.database().await;
    let ids: Vec<String> = (0..60).map(|number| format!("OrderEvent:{number:03}")).collect();
    let claims = (0..8).map(|turn| {
        let (database, mut ids) = (database.clone(), ids.clone());
        if turn % 2 == 1 {
            ids.reverse();
        }
        ids.rotate_left(turn * 7);
        tokio::spawn(async move {
            let claimed = database.run(async |tx| database.inbox().claim(tx, "group", &ids).await).await?;
            Ok::<usize, Error>(claimed.into_iter().filter(|is_new| *is_new).count())
        })
    });
    let mut new_count = 0;
    for claim in claims.collect::<Vec<_>>() {
        new_count += claim.await.unwrap().unwrap();
    }
    assert_eq!(new_count, 60, "an id was new twice, or never");
}

/// What a lock holds up is behind the pieces that are done, and left for the next call.
async fn parked_rows_are_released_in_pieces(site: Site) {
    let mut config = site.config();
    config.lock_timeout = Duration::from_secs(1);
    let database = site.database_with(config).await;
    let messages: Vec<_> = (0..2_100_u32).map(|number| Message::keyed("t", "a", number.to_string())).collect();
    database.run(async |tx| database.outbox().add(tx, &messages).await).await.unwrap();
    database.execute("UPDATE micro_outbox SET parked_at = 1, parked_cause = 'refused'", &[]).await.unwrap();

    let mut holding = database.begin().await.unwrap();
    let lock = "SELECT id FROM micro_outbox ORDER BY id DESC LIMIT 1 FOR UPDATE";
    holding.sql().unwrap().fetch_all(lock, &[]).await.unwrap();
    let error = database.release_outbox().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Aborted, "{}", error.report());
    holding.rollback().await.unwrap();
    assert_eq!(database.outbox().counts().await.unwrap(), OutboxCounts { unsent: 2_000, parked: 100 });
    assert_eq!(database.release_outbox().await.unwrap(), 100);
    assert_eq!(database.release_outbox().await.unwrap(), 0);
}

async fn two_processes_migrate_at_once(site: Site) {
    let databases = [connected(site.config()).await, connected(site.config()).await, connected(site.config()).await];
    let migrated = futures_util::future::join_all(databases.iter().map(SqlDatabase::migrate)).await;
    migrated.into_iter().collect::<Result<Vec<()>>>().unwrap();
    let mut config = site.config();
    config.table_prefix = "shop_".to_owned();
    let shop = connected(config).await;
    shop.migrate().await.unwrap();
    shop.execute("INSERT INTO shop_schema_version VALUES (99, 'later', 0)", &[]).await.unwrap();
    assert_eq!(shop.migrate().await.unwrap_err().kind(), ErrorKind::FailedPrecondition);
    databases[0].migrate().await.unwrap();
}

/// Its first index of parked rows has no room for a long key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_of_the_first_version_parks_long_keys_once_it_is_migrated() {
    let Some(site) = site(Server::Postgres).await else { return };
    let database = connected(site.config()).await;
    let first = include_str!("../../migrations/postgres/0001_messaging.sql");
    let version = "CREATE TABLE micro_schema_version \
                   (version BIGINT PRIMARY KEY, name VARCHAR(64) NOT NULL, applied_at BIGINT NOT NULL); \
                   INSERT INTO micro_schema_version VALUES (1, 'messaging', 0)";
    database.execute_script(&format!("{first}; {version}")).await.unwrap();
    // At random, or the database would keep them compressed.
    let [short, long] = [100, 20_000].map(|length| Delivery {
        message: Message::keyed("t", (0..length).map(|_| fastrand::u8(..)).collect::<Vec<_>>(), "body"),
        partition: 0,
        offset: length,
        timestamp: std::time::UNIX_EPOCH,
    });
    let park = async |delivery| {
        let parking = Parking { group: "stock", delivery, attempts: 1, cause: "", delay: None };
        database.run(async |tx| database.parked().park(tx, &parking).await).await
    };
    let refused: Error = park(&long).await.unwrap_err();
    assert!(refused.report().contains("index row"), "{}", refused.report());
    park(&short).await.unwrap();
    for _ in 0..2 {
        database.migrate().await.unwrap();
    }
    park(&long).await.unwrap();
    let are_blocked = database.run(async |tx| database.parked().is_blocked(tx, "stock", &[&short, &long]).await).await;
    assert_eq!(are_blocked.unwrap(), [true, true]);
}

/// However many shards each of them thinks there are, no row has two owners.
async fn two_processes_share_an_outbox(site: Site) {
    let sharded = async |count: u16| {
        let mut config = site.config();
        config.outbox_shard_count = count;
        site.database_with(config).await
    };
    let (one, two, other) = (sharded(1).await, sharded(2).await, sharded(2).await);
    two.run(async |tx| two.outbox().add(tx, &messages(64)).await).await.unwrap();

    let mut first = two.outbox().own(0).await.unwrap().expect("it is free");
    assert!(other.outbox().own(0).await.unwrap().is_none(), "a shard has two owners");
    assert!(one.outbox().own(0).await.unwrap().is_none(), "the only shard has another's rows");
    let mut second = other.outbox().own(1).await.unwrap().expect("it is free");
    let count = first.unsent(&[], &[], 100).await.unwrap().len();
    assert!((1..64).contains(&count), "{count} of 64 rows in one of two shards");
    assert_eq!(second.unsent(&[], &[], 100).await.unwrap().len(), 64 - count);
    let third = one.outbox().own(1).await.unwrap().expect("a shard that there is not is free");
    drop((first, second, third));
    eventually(PATIENCE, "the only shard can be owned", || async { one.outbox().own(0).await.unwrap().is_some() })
        .await;
}

/// A machine without power or network says no farewell.
async fn an_owner_of_whom_nothing_is_heard_owns_no_more(site: Site) {
    let proxy = Proxy::before(site.address().to_owned()).await;
    let mut config = site.config();
    config.outbox_owner_timeout = Duration::from_secs(10);
    config.url = config.url.replace(site.address(), &proxy.address());
    let (database, other) = (site.database_with(config).await, site.database().await);
    for _ in 0..2 {
        let owned = taken(&database).await;
        assert!(other.outbox().own(0).await.unwrap().is_none(), "a shard has two owners");
        proxy.silence();
        drop(taken(&other).await);
        // Nor does it lock itself out.
        drop(owned);
        drop(taken(&database).await);
    }
}

/// The outbox's only shard, once it is free.
async fn taken(database: &SqlDatabase) -> Box<dyn OutboxShard> {
    let taking = async {
        loop {
            if let Ok(Some(owned)) = database.outbox().own(0).await {
                return owned;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), taking).await.expect("it becomes free")
}

async fn an_owner_with_nothing_to_do_stays_the_owner(site: Site) {
    let mut config = site.config();
    // It says something each 3 s, and a machine that stands still for a while does not end it.
    config.outbox_owner_timeout = Duration::from_secs(18);
    let (database, other) = (site.database_with(config).await, site.database().await);
    let mut owned = database.outbox().own(0).await.unwrap().expect("it is free");
    let began_at = std::time::Instant::now();
    while began_at.elapsed() < Duration::from_secs(22) {
        assert!(other.outbox().own(0).await.unwrap().is_none(), "it lost its locks");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(owned.unsent(&[], &[], 10).await.unwrap().is_empty());
}

async fn an_owner_whose_connection_dies_owns_no_more(site: Site) {
    let (database, other) = (site.database().await, site.database().await);
    database.run(async |tx| database.outbox().add(tx, &messages(3)).await).await.unwrap();
    let mut owned = database.outbox().own(0).await.unwrap().unwrap();
    let rows = owned.unsent(&[], &[], 10).await.unwrap();
    assert!(other.outbox().own(0).await.unwrap().is_none());

    kill_connections(&site, site.name()).await;
    let taken_over = tokio::sync::Mutex::new(None);
    eventually(PATIENCE, "the other one owns it", || async {
        let mut taken_over = taken_over.lock().await;
        *taken_over = other.outbox().own(0).await.unwrap_or_default();
        taken_over.is_some()
    })
    .await;
    let mut taken_over = taken_over.into_inner();
    for _ in 0..2 {
        let error = owned.sent(&[rows[0].id]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());
        assert_eq!(owned.unsent(&[], &[], 10).await.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    assert_eq!(taken_over.as_mut().unwrap().unsent(&[], &[], 10).await.unwrap().len(), 3, "a lost owner deleted a row");
    assert!(database.outbox().own(0).await.unwrap().is_none(), "the handle that lost it still stands for it");
    drop(owned);
    assert!(database.outbox().own(0).await.unwrap().is_none(), "a shard has two owners");
    drop(taken_over);
    eventually(PATIENCE, "it is free again", || async { database.outbox().own(0).await.unwrap().is_some() }).await;
}

/// Ids of rows are given before the commit, and interleaved between transactions; whoever locks the
/// row of the aggregate first has the order of the commits all the same.
async fn rows_of_one_key_keep_the_order_of_their_transactions(site: Site) {
    let database = site.database().await;
    database.execute(INSERT, &["A".into(), "0".into()]).await.unwrap();
    let writers = (0..4_u8).map(|_| {
        let database = database.clone();
        tokio::spawn(async move {
            for _ in 0..15 {
                database
                    .run(async |tx| {
                        let sql = tx.sql()?;
                        let lock = "SELECT status FROM orders WHERE code = ? FOR UPDATE";
                        let number: u32 = sql.fetch_one(lock, &["A".into()]).await?.get::<String>(0)?.parse().unwrap();
                        sql.execute(UPDATE, &[(number + 1).to_string().into(), "A".into()]).await?;
                        let events = [2 * number, 2 * number + 1].map(|seq| Message::keyed("t", "A", seq.to_string()));
                        database.outbox().add(tx, &events).await
                    })
                    .await
                    .unwrap();
            }
        })
    });
    futures_util::future::try_join_all(writers.collect::<Vec<_>>()).await.unwrap();
    let mut shard = database.outbox().own(0).await.unwrap().unwrap();
    let rows = shard.unsent(&[], &[], 1_000).await.unwrap();
    let seqs: Vec<u32> =
        rows.iter().map(|row| std::str::from_utf8(&row.message.body).unwrap().parse().unwrap()).collect();
    assert_eq!(seqs, (0..120).collect::<Vec<_>>());
}

async fn rows_that_somebody_spoiled_hide_no_others(site: Site) {
    crate::spoiled::rows_that_somebody_spoiled_hide_no_others(&site.database().await).await;
}
