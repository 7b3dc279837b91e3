//! Sends what the outbox holds: in order by key, at most one unacknowledged message of a key.

mod backlog;
mod worker;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use self::worker::Worker;
use super::OutboxStore;
use crate::{
    Error, ErrorKind, Health, Result,
    app::Component,
    broker::{Broker, Receipt},
    consume::{
        trouble::{TroubleBoard, backoff},
        unwind::unwound,
    },
    flow::{BrokerService, PublishBatch},
    registry::Instance,
};

/// The first and the longest wait before a relay that panicked runs again.
const RESTART_DELAY_INITIAL: Duration = Duration::from_millis(500);
const RESTART_DELAY_MAX: Duration = Duration::from_secs(30);

/// How a [`Relay`] works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct RelayConfig {
    /// The largest number of new rows read from a shard at once, and of messages handed to the
    /// broker before receipts are looked at again; default 512.
    pub wave_count_max: usize,
    /// How long, at most, a wave that is not full waits for three quarters of its receipts before the
    /// next one is read and sent; default 50 ms, at most 30 s. The rows that come meanwhile go out together: under load a broker and
    /// a database serve few large requests at a fraction of what many small ones cost. Zero sends
    /// whatever there is at once.
    pub wave_wait_max: Duration,
    /// The largest number of messages without a receipt; default 4,096.
    pub in_flight_count_max: usize,
    /// The most bytes of messages, all shards together, that are kept in memory until they have their
    /// receipt; default 64 MiB. A topic has three quarters of it at most, and one message always; a
    /// read is cut to what there is room for by the size of the rows read before it.
    pub known_bytes_max: usize,
    /// How long a receipt may take before the message is sent again; default 30 s.
    pub receipt_timeout: Duration,
    /// How long a call of the store may take before its shard is given back and asked for again;
    /// default 10 s.
    pub store_timeout: Duration,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            wave_count_max: 512,
            wave_wait_max: Duration::from_millis(50),
            in_flight_count_max: 4_096,
            known_bytes_max: 64 * 1_024 * 1_024,
            receipt_timeout: Duration::from_secs(30),
            store_timeout: Duration::from_secs(10),
        }
    }
}

/// Builds a [`Relay`].
pub struct RelayBuilder<P> {
    name: String,
    store: Arc<dyn OutboxStore>,
    broker: Arc<dyn Broker>,
    publish: P,
    config: RelayConfig,
}

impl<P> RelayBuilder<P> {
    /// Names it in logs, health and errors; default `relay`.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Wraps the publish service in layers. A layer must not await before its inner call, and need
    /// not retry: the relay does, in the order of the key.
    #[must_use]
    pub fn stack<T>(self, wrap: impl FnOnce(P) -> T) -> RelayBuilder<T> {
        RelayBuilder {
            name: self.name,
            store: self.store,
            broker: self.broker,
            publish: wrap(self.publish),
            config: self.config,
        }
    }

    /// Sets how it works.
    #[must_use]
    pub fn config(mut self, config: RelayConfig) -> Self {
        self.config = config;
        self
    }

    /// The relay; it sends nothing before it is started.
    pub fn build(self) -> Relay<P> {
        Relay {
            name: self.name,
            store: self.store,
            broker: self.broker,
            publish: Mutex::new(self.publish),
            config: self.config,
            stop: CancellationToken::new(),
            abandoned: CancellationToken::new(),
            running: tokio::sync::Mutex::default(),
        }
    }
}

/// Sends the rows of an outbox to the broker and removes those that have a receipt.
///
/// It owns every shard that nobody else has, and asks for the others from time to time. Of a key
/// (of one topic) one message at most is without a receipt; keys do not wait for one another, but
/// for [`wave_wait_max`](RelayConfig::wave_wait_max) at most. A
/// message the broker refuses for good is parked with the cause and its key goes on; one that
/// fails otherwise, or whose receipt does not come in time, is sent again after a growing wait
/// while its key waits. A crash sends again what had a receipt and was not removed yet: the
/// consumers' inbox knows it.
///
/// Refused for good means that the fault is the message's (`InvalidArgument`, `OutOfRange`,
/// `DataLoss`). Missing rights or credentials are not: such messages are tried again until they
/// are mended.
///
/// A commit of this process wakes it at once; rows that another process committed are found by a
/// look every 200 ms, less often, down to every 2 s, where there are none.
///
/// Its health is not serving while the store's shards, its reads or its deletions have failed for
/// 10 s, and degraded while every send has: events wait, callers are served.
///
/// A topic that cannot be sent (its partition has no leader, say, or rights are missing) holds up no
/// other one: it has at most three quarters of what is kept in memory of a shard, 3,072 of 4,096
/// rows, of [`known_bytes_max`](RelayConfig::known_bytes_max), and of
/// [`in_flight_count_max`](RelayConfig::in_flight_count_max); several have less each.
/// Its further rows, of whatever key, stay in the store until it goes on.
pub struct Relay<P> {
    name: String,
    store: Arc<dyn OutboxStore>,
    broker: Arc<dyn Broker>,
    /// In a lock because a boxed stack is `Send`, not `Sync`.
    publish: Mutex<P>,
    config: RelayConfig,
    /// Send what is there and end.
    stop: CancellationToken,
    /// End at once.
    abandoned: CancellationToken,
    running: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Relay<BrokerService> {
    /// A relay from `store` to `broker`.
    pub fn builder(store: Arc<dyn OutboxStore>, broker: Arc<dyn Broker>) -> RelayBuilder<BrokerService> {
        let publish = BrokerService::new(broker.clone());
        RelayBuilder { name: "relay".to_owned(), store, broker, publish, config: RelayConfig::default() }
    }
}

impl<P> Relay<P> {
    /// Waits for the task's end; `false` when it took longer than `deadline`.
    async fn end(&self, deadline: Duration) -> Result<bool> {
        self.stop.cancel();
        let mut running = self.running.lock().await;
        let Some(task) = running.as_mut() else { return Ok(true) };
        let Ok(ended) = tokio::time::timeout(deadline, task).await else { return Ok(false) };
        *running = None;
        ended.map(|()| true).map_err(|join| {
            Error::new(ErrorKind::Internal, "relay.drain", "the relaying task panicked").with_source(join)
        })
    }
}

#[async_trait]
impl<P> Component for Relay<P>
where
    P: Service<PublishBatch, Response = Vec<Result<Receipt>>, Error = Error> + Clone + Send + 'static,
    P::Future: Send,
{
    fn name(&self) -> &str {
        &self.name
    }

    async fn start(&self, health: &Health) -> Result<()> {
        let mut running = self.running.lock().await;
        if running.is_some() || self.stop.is_cancelled() {
            return Err(Error::new(ErrorKind::FailedPrecondition, "relay.start", "a relay is started once"));
        }
        let publish = self.publish.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let board = TroubleBoard::new(health, &self.name);
        let (store, config, troubled) = (self.store.clone(), self.config.clone(), board.clone());
        let worker = move || Worker::new(store.clone(), publish.clone(), config.clone(), board.clone());
        let (stop, abandoned) = (self.stop.clone(), self.abandoned.clone());
        *running = Some(tokio::spawn(async move {
            abandoned.run_until_cancelled(keep_running(worker, troubled, stop)).await;
        }));
        Ok(())
    }

    fn instances(&self) -> Vec<Instance> {
        Vec::new()
    }

    /// Sends what is there once more and waits for the receipts, as long as they come in; what is
    /// left stays in the outbox. Then frees the shards.
    async fn drain(&self, deadline: Duration) -> Result<()> {
        if self.end(deadline).await? {
            return Ok(());
        }
        self.abandoned.cancel();
        self.end(deadline).await.map(drop)
    }

    /// What has no receipt at the deadline is still in the outbox and is sent after the next start:
    /// no failure of the stop.
    async fn flush(&self, deadline: Duration) -> Result<()> {
        if let Err(error) = self.broker.flush(deadline).await {
            tracing::warn!(error = %error.report(), "not flushed: what has no receipt stays in the outbox");
        }
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.abandoned.cancel();
        self.end(Duration::from_secs(5)).await.map(drop)
    }
}

/// Runs a worker until the stop; one that panics (in the store, say) is followed by another after
/// a wait, during which the relay is not serving. What it had not removed is sent again.
async fn keep_running<P>(mut worker: impl FnMut() -> Worker<P>, board: TroubleBoard, stop: CancellationToken)
where
    P: Service<PublishBatch, Response = Vec<Result<Receipt>>, Error = Error> + Clone + Send + 'static,
    P::Future: Send,
{
    let mut panic_count = 0_u32;
    loop {
        let worker = worker();
        let run = unwound("relay.run", worker.run(stop.clone()).map(Ok));
        let Err(error) = run.await else { return };
        panic_count = panic_count.saturating_add(1);
        tracing::error!(panic_count, error = %error.report(), "relay panicked, starting it again");
        let _trouble = board.trouble(error.report());
        let wait = backoff(panic_count, RESTART_DELAY_INITIAL, RESTART_DELAY_MAX);
        if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return;
        }
    }
}

impl<P> Drop for Relay<P> {
    /// A relay that is dropped without `close` stops as in a crash.
    fn drop(&mut self) {
        self.abandoned.cancel();
    }
}
