//! `kill -9` of every part of the chain while payments flow, twenty times each: nothing is lost,
//! doubled, made up or out of order.

use std::time::{Duration, Instant};

use dev_servers::{Kind, Server};

use crate::stage::Stage;

/// How often a part is killed, unless `MICRO_TEST_KILLS` says otherwise.
const KILL_COUNT: usize = 20;
/// Callbacks acknowledged between two kills at least: the kill hits a chain at work.
pub(crate) const ACKNOWLEDGED_BETWEEN_KILLS: usize = 40;

/// How long a consumer stands still.
const FREEZE: Duration = Duration::from_secs(14);

#[test]
fn a_killed_order_service_loses_nothing() {
    let Some(mut stage) = Stage::start(Kind::Mariadb) else { return };
    kill_often(&mut stage, KILL_COUNT, |stage| stage.order.kill_and_restart());
    stage.judge();
}

#[test]
fn a_killed_product_service_loses_nothing() {
    let Some(mut stage) = Stage::start(Kind::Mariadb) else { return };
    kill_often(&mut stage, KILL_COUNT, kill_product);
    stage.judge();
}

#[test]
fn a_killed_kafka_loses_nothing() {
    let Some(mut stage) = Stage::start(Kind::Mariadb) else { return };
    kill_often(&mut stage, KILL_COUNT, |stage| {
        stage.kafka.kill();
        // Payments are taken without it: their events wait in the outbox.
        stage.await_acknowledged(ACKNOWLEDGED_BETWEEN_KILLS / 2, "without Kafka");
        // It takes seconds to come back, in which the callers would use up the orders.
        stage.rest(true);
        stage.kafka.restart().unwrap();
        stage.rest(false);
    });
    stage.judge();
}

#[test]
fn a_killed_mariadb_loses_nothing() {
    let Some(mut stage) = Stage::start(Kind::Mariadb) else { return };
    kill_often(&mut stage, KILL_COUNT, |stage| kill_and_restart(&mut stage.database));
    stage.judge();
}

#[test]
fn a_killed_postgresql_loses_nothing() {
    let Some(mut stage) = Stage::start(Kind::Postgres) else { return };
    kill_often(&mut stage, KILL_COUNT, |stage| kill_and_restart(&mut stage.database));
    stage.judge();
}

/// A consumer that stands still past its session loses its partitions, and does not know it: what it has in hand
/// when it goes on, a transaction in the middle among it, somebody else has done meanwhile.
#[test]
fn a_consumer_that_was_frozen_past_its_session_doubles_nothing() {
    let Some(stage) = Stage::start(Kind::Mariadb) else { return };
    let twin = stage.product.twin("product-twin");
    stage.await_acknowledged(ACKNOWLEDGED_BETWEEN_KILLS, "with two members");
    for (round, frozen) in [&stage.product, &twin, &stage.product].into_iter().enumerate() {
        frozen.freeze(true);
        // Longer than the session of 10 s and the rebalance after it. A transaction that it stands in keeps its
        // rows locked meanwhile: the other member may have to wait for them.
        let began_at = Instant::now();
        while began_at.elapsed() < FREEZE {
            stage.await_acknowledged(ACKNOWLEDGED_BETWEEN_KILLS, &format!("in freeze {round}"));
        }
        frozen.freeze(false);
        stage.await_acknowledged(ACKNOWLEDGED_BETWEEN_KILLS, &format!("after freeze {round}"));
    }
    stage.judge();
    drop(twin);
}

/// Kills `usually` so many times, or as often as `MICRO_TEST_KILLS` says.
pub(crate) fn kill_often(stage: &mut Stage, usually: usize, kill: impl Fn(&mut Stage)) {
    let count = std::env::var("MICRO_TEST_KILLS").ok();
    let count = count.map_or(usually, |count| count.parse().expect("MICRO_TEST_KILLS is a number"));
    for round in 1..=count {
        stage.await_acknowledged(ACKNOWLEDGED_BETWEEN_KILLS, &format!("before kill {round}"));
        kill(stage);
    }
    stage.await_acknowledged(ACKNOWLEDGED_BETWEEN_KILLS, "after the last kill");
}

/// Kills the product service where callbacks are answered without it.
pub(crate) fn kill_product(stage: &mut Stage) {
    stage.product.kill();
    stage.await_acknowledged(ACKNOWLEDGED_BETWEEN_KILLS / 2, "without the product service");
    // It may take seconds to come back, in which the callers would use up the orders.
    stage.rest(true);
    stage.product.restart();
    stage.rest(false);
}

fn kill_and_restart(server: &mut Server) {
    server.kill();
    server.restart().unwrap();
}
