//! The load generator: payment callbacks, closed loop or at scheduled times.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::{
    Result,
    shop::order_code,
    wire::{PayNotifyRequest, order_client::OrderClient},
};

/// Calls that have no answer after this long end the run.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
const LATENCY_MICROS_MAX: u64 = 60_000_000;

/// Calls an order service over a few HTTP/2 connections.
#[derive(Clone)]
pub struct Generator {
    clients: Vec<OrderClient<Channel>>,
}

/// What calls came to.
pub struct Calls {
    /// When the first one was sent.
    pub began: Instant,
    /// From the first call to the last answer.
    pub elapsed: Duration,
    /// Microseconds from when a call was due to its answer.
    pub latency_micros: Histogram<u64>,
    /// The longest time that a call was sent after it was due; zero in a closed loop.
    pub lag_max: Duration,
}

impl Generator {
    /// Opens the connections.
    pub async fn connect(address: &str, connection_count: usize) -> Result<Self> {
        let connecting = (0..connection_count).map(|_| OrderClient::connect(format!("http://{address}")));
        Ok(Self { clients: try_join_all(connecting).await? })
    }

    /// `caller_count` callers, each with one call at a time, until all orders were called for.
    pub async fn closed_loop(&self, orders: Range<u32>, caller_count: u32) -> Result<Calls> {
        let began = Instant::now();
        let mut callers = JoinSet::new();
        for caller in 0..caller_count {
            let mut client = self.client(caller);
            let share = (orders.start + caller..orders.end).step_by(caller_count as usize);
            callers.spawn(async move {
                let mut latencies = Vec::with_capacity(share.len());
                for order in share {
                    let sent = Instant::now();
                    call(&mut client, order).await?;
                    latencies.push(sent.elapsed());
                }
                Ok(latencies)
            });
        }
        let mut latency_micros = histogram();
        while let Some(done) = callers.join_next().await {
            let latencies: Vec<Duration> = done?.map_err(|failure: crate::Failure| failure)?;
            latencies.into_iter().for_each(|latency| record(&mut latency_micros, latency));
        }
        Ok(Calls { began, elapsed: began.elapsed(), latency_micros, lag_max: Duration::ZERO })
    }

    /// One call every `1 / per_second`, whether or not earlier ones were answered. A latency counts
    /// from when the call was due, so that a stall counts for all who waited.
    pub async fn open_loop(&self, orders: Range<u32>, per_second: f64) -> Result<Calls> {
        let began = Instant::now();
        let mut calls = JoinSet::new();
        let (mut latency_micros, mut lag_max) = (histogram(), Duration::ZERO);
        for (number, order) in orders.enumerate() {
            let due = began + Duration::from_secs_f64(number as f64 / per_second);
            tokio::time::sleep_until(due.into()).await;
            lag_max = lag_max.max(due.elapsed());
            let mut client = self.client(order);
            calls.spawn(async move { call(&mut client, order).await.map(|()| due.elapsed()) });
            while let Some(done) = calls.try_join_next() {
                record(&mut latency_micros, done??);
            }
        }
        while let Some(done) = calls.join_next().await {
            record(&mut latency_micros, done??);
        }
        Ok(Calls { began, elapsed: began.elapsed(), latency_micros, lag_max })
    }

    fn client(&self, number: u32) -> OrderClient<Channel> {
        self.clients[number as usize % self.clients.len()].clone()
    }
}

async fn call(client: &mut OrderClient<Channel>, order: u32) -> Result<()> {
    let mut request = tonic::Request::new(PayNotifyRequest {
        out_trade_no: order_code(order),
        trade_no: format!("T{order}"),
        status_code: "0000".to_owned(),
    });
    // The service gives a call up after seconds where its caller does not say how long it waits.
    request.set_timeout(CALL_TIMEOUT);
    let reply = tokio::time::timeout(CALL_TIMEOUT, client.pay_notify(request))
        .await
        .map_err(|_| format!("order {order}: no answer within {CALL_TIMEOUT:?}"))?
        .map_err(|status| format!("order {order}: {status}"))?
        .into_inner();
    if reply.status_code != "0000" {
        return Err(format!("order {order}: answered {reply:?}").into());
    }
    Ok(())
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, 3).expect("these bounds are valid")
}

fn record(histogram: &mut Histogram<u64>, latency: Duration) {
    histogram.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(LATENCY_MICROS_MAX));
}
