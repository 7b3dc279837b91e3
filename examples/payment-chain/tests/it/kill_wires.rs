//! `kill -9` where the goods are deducted by sagas or by calls: a saga loses and doubles nothing, whoever
//! carries it out; what a call leaves behind is told, and mended by the next callback.

use dev_servers::Kind;

use crate::{
    kill::{ACKNOWLEDGED_BETWEEN_KILLS, kill_often, kill_product},
    stage::{Stage, Wire},
};

/// How often a part is killed, unless `MICRO_TEST_KILLS` says otherwise: a saga that its coordinator held
/// as it died stands still for the rest of its lease, and the test with it.
const KILL_COUNT: usize = 10;

/// Nothing is lost or doubled; some sagas came to their end, and some were carried back.
fn judge_both_ways(stage: Stage) {
    stage.await_short_stock();
    let report = stage.judge();
    assert!(report.paid > 0 && report.refused > 0, "{report}");
}

#[test]
fn a_killed_order_service_loses_no_saga_of_its_own() {
    let Some(mut stage) = Stage::start_on(Wire::Saga, Kind::Mariadb) else { return };
    kill_often(&mut stage, KILL_COUNT, |stage| stage.order.kill_and_restart());
    judge_both_ways(stage);
}

#[test]
fn a_killed_product_service_loses_no_saga() {
    let Some(mut stage) = Stage::start_on(Wire::Saga, Kind::Mariadb) else { return };
    kill_often(&mut stage, KILL_COUNT, kill_product);
    judge_both_ways(stage);
}

#[cfg(feature = "tx-dtm")]
mod on_dtm {
    use super::*;

    #[test]
    fn a_killed_order_service_loses_no_saga_of_dtm() {
        let Some(mut stage) = Stage::start_on(Wire::Dtm, Kind::Mariadb) else { return };
        kill_often(&mut stage, KILL_COUNT, |stage| stage.order.kill_and_restart());
        judge_both_ways(stage);
    }

    #[test]
    fn a_killed_product_service_loses_no_saga_of_dtm() {
        let Some(mut stage) = Stage::start_on(Wire::Dtm, Kind::Mariadb) else { return };
        kill_often(&mut stage, KILL_COUNT, kill_product);
        judge_both_ways(stage);
    }

    #[test]
    fn a_killed_dtm_loses_no_saga() {
        let Some(mut stage) = Stage::start_on(Wire::Dtm, Kind::Mariadb) else { return };
        kill_often(&mut stage, KILL_COUNT, |stage| {
            stage.dtm().kill();
            // Payments are taken without it: their sagas wait in the order service's database.
            stage.await_acknowledged(ACKNOWLEDGED_BETWEEN_KILLS / 2, "without DTM");
            // It may take seconds to come back, in which the callers would use up the orders.
            stage.rest(true);
            stage.dtm().restart().unwrap();
            stage.rest(false);
        });
        judge_both_ways(stage);
    }
}

/// A payment provider sends a callback again until it is acknowledged, and the deduction is idempotent.
#[test]
fn killed_services_lose_nothing_of_a_call_where_callbacks_are_repeated() {
    let Some(mut stage) = Stage::start_on(Wire::Grpc, Kind::Mariadb) else { return };
    kill_often(&mut stage, KILL_COUNT, |stage| {
        stage.order.kill_and_restart();
        stage.await_acknowledged(ACKNOWLEDGED_BETWEEN_KILLS, "before the other kill");
        stage.product.kill_and_restart();
    });
    stage.judge();
}

/// Where callbacks are not repeated, goods stay deducted for orders that nobody paid.
#[test]
fn what_a_call_left_deducted_is_told_and_mended_by_the_next_callback() {
    const KILL_COUNT_MAX: usize = 100;
    let Some(mut stage) = Stage::start_on(Wire::Grpc, Kind::Mariadb) else { return };
    stage.give_up_at_once();
    // A kill has to hit between the commit of the product service and that of the order service.
    let has_hit = (1..=KILL_COUNT_MAX).any(|round| {
        stage.await_acknowledged(ACKNOWLEDGED_BETWEEN_KILLS, &format!("before kill {round}"));
        stage.order.kill();
        stage.rest(true);
        let has_hit = !stage.deducted_but_unpaid().is_empty();
        stage.order.restart();
        stage.rest(false);
        has_hit
    });
    assert!(has_hit, "none of {KILL_COUNT_MAX} kills hit between the two commits");

    let report = stage.report();
    let ghosts = stage.deducted_but_unpaid().len();
    assert!(ghosts > 0, "{report}");
    let told = format!("I4 no phantom: deductions of orders that nobody paid: {ghosts}");
    assert_eq!(report.broken(), [told], "each is counted, and nothing else is wrong\n{report}");

    stage.pay_what_was_given_up();
    assert!(stage.deducted_but_unpaid().is_empty());
    stage.judge();
}
