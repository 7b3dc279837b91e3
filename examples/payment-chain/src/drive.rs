//! Sends the payment callbacks over gRPC, so many at once, and notes what they are answered.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use micro_rs::{grpc::GrpcClient, prelude::*};
use order::proto::{PayNotifyRequest, order_client::OrderClient};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{clock::Clock, operations::OperationLog, seed::order_code};

/// How long a callback may take. Generous: a slow machine is no failed payment.
const CALLBACK_DEADLINE: Duration = Duration::from_secs(30);

/// The callbacks of a run.
pub struct Plan {
    callbacks: Vec<i64>,
}

impl Plan {
    /// A callback for each order, `copies` times at the same time, and `duplicate_percent` of them
    /// once more: half of those at once, half some time later.
    pub fn new(orders: impl IntoIterator<Item = i64>, copies: u32, duplicate_percent: f64) -> Self {
        let mut callbacks = Vec::new();
        let mut later = Vec::new();
        for order_id in orders {
            callbacks.extend((0..copies).map(|_| order_id));
            if fastrand::f64() * 100.0 < duplicate_percent {
                if fastrand::bool() { callbacks.push(order_id) } else { later.push(order_id) }
            }
        }
        callbacks.extend(later);
        Self { callbacks }
    }

    /// How many callbacks it has.
    pub fn callback_count(&self) -> usize {
        self.callbacks.len()
    }
}

/// What the callbacks were answered.
pub struct Answers {
    /// Time from request to answer, in microseconds.
    pub latency: Histogram<u64>,
    /// Callbacks answered OK.
    pub accepted: u64,
    /// Callbacks that failed, and the first reason.
    pub failed: u64,
    /// Why the first one failed.
    pub first_failure: Option<String>,
}

/// Sends the plan's callbacks with `concurrency` at once, until done or `stop`.
pub async fn drive(
    channel: GrpcClient,
    plan: Plan,
    concurrency: u32,
    clock: Arc<Clock>,
    log: Arc<OperationLog>,
    stop: CancellationToken,
) -> Answers {
    let progress = progress_bar(plan.callback_count());
    let shared = Arc::new(Shared {
        plan,
        clock,
        log,
        stop,
        progress: progress.clone(),
        next: AtomicUsize::new(0),
        accepted: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        first_failure: Mutex::new(None),
        latency: Mutex::new(new_histogram()),
    });
    let mut workers = JoinSet::new();
    for _ in 0..concurrency {
        let client = OrderClient::new(channel.clone());
        workers.spawn(worker(client, shared.clone()));
    }
    let ticker = tokio::spawn(show_rate(shared.clone()));
    while let Some(ended) = workers.join_next().await {
        if let Err(error) = ended {
            shared.fail(format!("a driver task ended: {error}"));
        }
    }
    ticker.abort();
    progress.finish_and_clear();
    let latency = shared.latency.lock().expect("no panic while it is held").clone();
    let first_failure = shared.first_failure.lock().expect("no panic while it is held").clone();
    Answers {
        latency,
        accepted: shared.accepted.load(Ordering::Relaxed),
        failed: shared.failed.load(Ordering::Relaxed),
        first_failure,
    }
}

struct Shared {
    plan: Plan,
    clock: Arc<Clock>,
    log: Arc<OperationLog>,
    stop: CancellationToken,
    progress: ProgressBar,
    next: AtomicUsize,
    accepted: AtomicU64,
    failed: AtomicU64,
    first_failure: Mutex<Option<String>>,
    latency: Mutex<Histogram<u64>>,
}

impl Shared {
    fn fail(&self, reason: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.first_failure.lock().expect("no panic while it is held").get_or_insert(reason);
    }

    fn note(&self, order_id: i64, took: Duration, outcome: Result<(), String>) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.latency.lock().expect("no panic while it is held").saturating_record(micros);
        match outcome.and_then(|()| self.log.acknowledged(order_id).map_err(|error| error.report())) {
            Ok(()) => {
                self.accepted.fetch_add(1, Ordering::Relaxed);
            }
            Err(reason) => self.fail(format!("order {order_id}: {reason}")),
        }
        self.progress.inc(1);
    }
}

async fn worker(mut client: OrderClient<GrpcClient>, shared: Arc<Shared>) {
    while !shared.stop.is_cancelled() {
        let index = shared.next.fetch_add(1, Ordering::Relaxed);
        let Some(&order_id) = shared.plan.callbacks.get(index) else { return };
        shared.clock.sent(order_id);
        let began = Instant::now();
        let mut request = tonic::Request::new(PayNotifyRequest {
            out_trade_no: order_code(order_id),
            trade_no: format!("T{order_id}"),
            status_code: "0000".to_owned(),
        });
        request.set_timeout(CALLBACK_DEADLINE);
        let outcome = match client.pay_notify(request).await {
            Ok(reply) if reply.get_ref().status_code == "0000" => Ok(()),
            Ok(reply) => Err(format!("answered {:?}", reply.get_ref())),
            Err(status) => Err(format!("{:?}: {}", status.code(), status.message())),
        };
        shared.note(order_id, began.elapsed(), outcome);
    }
}

async fn show_rate(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(250));
    loop {
        ticks.tick().await;
        let (p50, p95) = {
            let latency = shared.latency.lock().expect("no panic while it is held");
            (latency.value_at_quantile(0.5), latency.value_at_quantile(0.95))
        };
        let settled = shared.clock.settled_count();
        shared.progress.set_message(format!(
            "settled {settled} · p50 {:.1} ms · p95 {:.1} ms",
            p50 as f64 / 1e3,
            p95 as f64 / 1e3
        ));
    }
}

fn progress_bar(callbacks: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:32} {pos}/{len} callbacks · {per_sec} · {msg}")
        .expect("the template is valid");
    ProgressBar::new(callbacks as u64).with_style(style)
}

fn new_histogram() -> Histogram<u64> {
    // 1 µs to 5 min, three digits.
    Histogram::new_with_bounds(1, 300_000_000, 3).expect("the bounds are valid")
}
