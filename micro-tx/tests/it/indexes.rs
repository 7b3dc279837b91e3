//! What the parked store reads of a large table on PostgreSQL: few rows, by its indexes.

use std::time::{Duration, UNIX_EPOCH};

use micro_core::{
    TransactionManagerExt as _,
    broker::{Delivery, Message},
    parked::Parking,
};
use micro_testkit::eventually;
use micro_tx::SqlDatabase;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::{on_servers, server::Server, server::Site};

const ROW_COUNT: i64 = 100_000;

/// How often each statement runs: from the sixth time on PostgreSQL may plan it for any values.
const ROUND_COUNT: i64 = 10;

/// Ten rows of each of 9,000 keys, half of them due; another group; rows without a key. One key has
/// a thousand rows, and they are the oldest.
async fn fill(database: &SqlDatabase) {
    let columns = "consumer_group, topic, message_key, headers, body, record_partition, record_offset, \
                   record_time_ns, attempts, cause, due_at";
    let rows = format!(
        "INSERT INTO micro_parked ({columns}) \
         SELECT CASE WHEN n % 10 = 3 THEN 'other' ELSE 'stock' END, 't', \
                CASE WHEN n < 1000 THEN 'long'::bytea WHEN n % 100 = 7 THEN NULL ELSE ('k' || n % 9000)::bytea END, \
                '[]', repeat('x', 200)::bytea, 0, n, 0, 1, 'refused', \
                CASE WHEN n % 2 = 0 THEN n ELSE 4000000000000 END \
         FROM generate_series(0, {}) AS n",
        ROW_COUNT - 1
    );
    database.execute_script(&rows).await.unwrap();
}

fn delivery(key: &str, offset: i64) -> Delivery {
    Delivery { message: Message::keyed("t", key.to_owned(), "body"), partition: 1, offset, timestamp: UNIX_EPOCH }
}

/// How many rows of the table were read, by scans of it and by its indexes. A connection tells what
/// it read when it ends.
pub(crate) async fn read_count(site: &Site, table: &str) -> i64 {
    let mut connection = PgConnection::connect(&site.url()).await.unwrap();
    let alone = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                 AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
    eventually(Duration::from_secs(20), "the others have ended", || async {
        let mut connection = PgConnection::connect(&site.url()).await.unwrap();
        let others: i64 = sqlx::query_scalar(alone).fetch_one(&mut connection).await.unwrap();
        // The one that asks below.
        others <= 1
    })
    .await;
    let read = "SELECT (seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_user_tables";
    let read = format!("{read} WHERE relname = '{table}'");
    sqlx::query_scalar(AssertSqlSafe(read)).fetch_one(&mut connection).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_parked_store_reads_few_of_a_hundred_thousand_rows_on_postgres() {
    let Some(site) = on_servers::site(Server::Postgres).await else { return };
    let database = site.database().await;
    fill(&database).await;
    // As the server does by itself within a minute.
    database.execute_script("ANALYZE micro_parked").await.unwrap();
    database.close().await;
    // Of the long key every row is looked at, for it is the oldest of those that are due.
    for (what, count_max) in [("blocked", 256), ("nothing", 1), ("due", 5_000), ("one", 10)] {
        let before = read_count(&site, "micro_parked").await;
        let database = site.database().await;
        for round in 0..ROUND_COUNT {
            run(&database, what, round).await;
        }
        database.close().await;
        let count = (read_count(&site, "micro_parked").await - before) / ROUND_COUNT;
        assert!(count <= count_max, "{what}: {count} rows were read for one call");
    }
}

async fn run(database: &SqlDatabase, what: &str, round: i64) {
    let parked = database.parked();
    match what {
        "due" => assert_eq!(parked.due("stock", 100).await.unwrap().len(), 100),
        _ => {
            let work = database.run(async |tx| match what {
                "blocked" => {
                    let deliveries: Vec<Delivery> =
                        (0..256).map(|number| delivery(&format!("k{}", 8_900 + number), number)).collect();
                    let blocked = parked.is_blocked(tx, "stock", &deliveries.iter().collect::<Vec<_>>()).await?;
                    assert_eq!(blocked.iter().filter(|is_blocked| **is_blocked).count(), 89);
                    Ok::<_, micro_core::Error>(())
                }
                "nothing" => parked.is_blocked(tx, "none", &[&delivery("k1", 0)]).await.map(drop),
                _ => {
                    let delivery = delivery("mine", round);
                    let parking = Parking { group: "stock", delivery: &delivery, attempts: 1, cause: "", delay: None };
                    parked.park(tx, &parking).await?;
                    assert!(parked.release(tx, "stock", &delivery).await?);
                    assert!(parked.postpone(tx, 5_000 + 2 * round, 2, "", Some(Duration::ZERO)).await?);
                    assert!(parked.remove(tx, 6_000 + 2 * round).await?);
                    Ok(())
                }
            });
            work.await.unwrap();
        }
    }
}
