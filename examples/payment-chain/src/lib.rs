//! The order and product services in one process: driven with payment callbacks, disturbed on
//! purpose, and judged.

pub mod backlog;
pub mod bootstrap;
pub mod clock;
pub mod drive;
pub mod mischief;
pub mod operations;
pub mod options;
pub mod prefix;
pub mod report;
pub mod seed;
mod settle;
pub mod site;
pub mod verdict;

use std::{
    collections::{BTreeSet, HashSet},
    time::{Duration, Instant},
};

use micro_rs::prelude::*;
use tokio_util::sync::CancellationToken;

use crate::{
    bootstrap::Chain,
    drive::{Answers, Plan},
    mischief::Poison,
    options::{Options, WireName},
    report::{Report, cpu_seconds, peak_rss_mib},
};

/// Runs the chain as `options` say on this wire, until done or until `stop` ends the driving early; what
/// was accepted by then still settles and is judged.
pub async fn run(options: &Options, wire: WireName, stop: CancellationToken) -> Result<Report> {
    let chain = Chain::start(options, wire).await?;
    let outcome = drive_and_judge(&chain, options, wire, stop).await;
    let stopped = chain.stop().await;
    let report = outcome?;
    stopped?;
    Ok(report)
}

async fn drive_and_judge(chain: &Chain, options: &Options, wire: WireName, stop: CancellationToken) -> Result<Report> {
    let resumed = chain.log.resumed().cloned();
    let acknowledged = resumed.clone().unwrap_or_default();
    let open = (1..=i64::from(options.orders)).filter(|order_id| !acknowledged.contains(order_id));
    let plan = Plan::new(open, options.callbacks_per_order, options.duplicate_percent);
    let (began, cpu_before) = (Instant::now(), cpu_seconds());
    let poisoner = tokio::spawn(poison(chain.poisoner(), options.poison_count(wire), options.orders, stop.clone()));
    let answers =
        drive::drive(chain.channel.clone(), plan, options.concurrency, chain.clock.clone(), chain.log.clone(), stop)
            .await;
    let poison = poisoner.await.map_err(|error| {
        Error::new(ErrorKind::Internal, "payment_chain.poison", "the poisoner panicked").with_source(error)
    })??;
    settle::settle(|| chain.unsettled(&poison)).await?;
    // The last records were published again while their orders settled: what these duplicates do
    // must be done before it is judged.
    chain.broker.settle().await;
    let left_over = settle::settle(|| chain.unsettled(&poison)).await?;
    let seconds = began.elapsed().as_secs_f64();

    let cpu = cpu_seconds() - cpu_before;
    let run = chain.name().to_owned();
    let mut report = Report { wire, run, left_over, resumed: resumed.is_some(), seconds, ..Report::default() };
    let accepted: BTreeSet<i64> = chain.log.acknowledged_orders()?;
    verdict::judge(&chain.orders, &chain.products, chain.log.seed(), &accepted, &mut report).await?;
    verdict::judge_dead_letters(&chain.dead_letter_ids().await?, &poison, &mut report);
    add_times(chain, &answers, &mut report);
    report.cpu_ms_per_order = cpu * 1e3 / (chain.clock.settled_count().max(1) as f64);
    report.clean = report.broken().is_empty();
    if let Some(failure) = answers.first_failure {
        tracing::error!(failure, "the first failed callback");
    }
    Ok(report)
}

/// Injects poison records one after the other while the callbacks flow.
async fn poison(
    mut poisoner: Poison,
    count: u32,
    order_count: u32,
    stop: CancellationToken,
) -> Result<HashSet<String>> {
    for number in 0..count {
        if stop.is_cancelled() {
            break;
        }
        poisoner.inject(number, i64::from(fastrand::u32(1..=order_count))).await?;
    }
    Ok(poisoner.into_event_ids())
}

fn add_times(chain: &Chain, answers: &Answers, report: &mut Report) {
    let milliseconds = |quantile: f64| answers.latency.value_at_quantile(quantile) as f64 / 1e3;
    report.callback_p50_ms = milliseconds(0.50);
    report.callback_p95_ms = milliseconds(0.95);
    report.callback_p99_ms = milliseconds(0.99);
    report.callbacks = answers.accepted + answers.failed;
    report.failed_callbacks = answers.failed;
    report.duplicate_records = chain.broker.duplicate_count();
    report.orders_per_second = chain.clock.settled_count() as f64 / report.seconds.max(f64::MIN_POSITIVE);
    let mut settle_times: Vec<Duration> = chain.clock.settle_times().collect();
    settle_times.sort_unstable();
    if let Some(p95) = settle_times.get((settle_times.len() * 95).div_ceil(100).saturating_sub(1)) {
        report.settled_p95_ms = p95.as_secs_f64() * 1e3;
    }
    report.rss_mib = peak_rss_mib();
}
