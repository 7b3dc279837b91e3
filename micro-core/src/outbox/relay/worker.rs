//! The relaying task: one loop over all owned shards of a store.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::{
    RelayConfig,
    backlog::{Backlog, Departure, KeyId},
};
use crate::{
    Error, ErrorKind, Result,
    broker::{Message, Receipt},
    consume::{
        trouble::{Trouble, TroubleBoard},
        unwind::unwound,
    },
    flow::PublishBatch,
    outbox::{OutboxShard, OutboxStore, SHARD_COUNT, ShardSet},
};

/// The wait between two looks at an outbox in which nothing was committed by this process.
const POLL_INTERVAL_MIN: Duration = Duration::from_millis(200);
const POLL_INTERVAL_MAX: Duration = Duration::from_secs(2);

/// How often shards that somebody else owns are asked for.
const OWN_INTERVAL: Duration = Duration::from_secs(2);

/// Receipts are gathered so that one statement deletes many rows: at most so many, or so long.
const DELETE_COUNT_MAX: usize = 256;
const DELETE_LINGER: Duration = Duration::from_millis(50);

/// The most rows of one shard that are kept in memory.
const KNOWN_COUNT_MAX: usize = 4_096;

/// A read that brought mostly rows that were known already is not repeated for so many times its
/// own duration: rows that cannot be sent must not keep the database busy.
const WASTED_READ_PAUSE_FACTOR: u32 = 4;

/// How long the store or every send may fail before the relay is not serving.
const TROUBLE_AFTER: Duration = Duration::from_secs(10);

/// A last pass ends when no receipt came for so long.
const LAST_PASS_STALL_MAX: Duration = Duration::from_secs(1);

/// What became of a message.
struct Landing {
    key: KeyId,
    shard: u16,
    id: i64,
    result: Result<Receipt>,
}

pub(super) struct Worker<P> {
    store: Arc<dyn OutboxStore>,
    publish: P,
    config: RelayConfig,
    slots: Vec<Slot>,
    backlog: Backlog,
    on_their_way: FuturesUnordered<BoxFuture<'static, Landing>>,
    poll_interval: Duration,
    poll_at: Instant,
    own_at: Instant,
    /// When gathered receipts are to be written.
    delete_at: Option<Instant>,
    store_watch: FailureWatch,
    publish_watch: FailureWatch,
}

/// A shard as this relay has it.
#[derive(Default)]
struct Slot {
    owned: Option<Box<dyn OutboxShard>>,
    /// There may be rows that were not read.
    is_dirty: bool,
    /// Not to be read before.
    read_at: Option<Instant>,
    /// Rows with a receipt that are still in the store.
    sent: Vec<i64>,
}

impl<P> Worker<P>
where
    P: Service<PublishBatch, Response = Vec<Result<Receipt>>, Error = Error> + Clone + Send + 'static,
    P::Future: Send,
{
    pub(super) fn new(store: Arc<dyn OutboxStore>, publish: P, config: RelayConfig, board: TroubleBoard) -> Self {
        let now = Instant::now();
        Self {
            store,
            publish,
            config,
            slots: (0..SHARD_COUNT).map(|_| Slot::default()).collect(),
            backlog: Backlog::default(),
            on_their_way: FuturesUnordered::new(),
            poll_interval: POLL_INTERVAL_MIN,
            poll_at: now,
            own_at: now,
            delete_at: None,
            store_watch: FailureWatch::new(board.clone(), "outbox store"),
            publish_watch: FailureWatch::new(board, "publish"),
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            self.pass().await;
            self.wait(&stop).await;
        }
        self.last_pass().await;
    }

    /// Does everything that is due, waits for nothing but the store.
    async fn pass(&mut self) {
        let now = Instant::now();
        if now >= self.own_at {
            self.own().await;
        }
        if now >= self.poll_at {
            self.mark_dirty(ShardSet::ALL);
            self.poll_interval = (self.poll_interval * 2).min(POLL_INTERVAL_MAX);
            self.poll_at = now + self.poll_interval;
        }
        self.land_all().await;
        self.backlog.wake(now);
        self.read().await;
        self.send();
        if self.delete_at.is_some_and(|at| now >= at) {
            self.delete().await;
        }
        self.store_watch.look();
        self.publish_watch.look();
    }

    /// Waits until something is due or happens.
    async fn wait(&mut self, stop: &CancellationToken) {
        let wakes_at = self.wakes_at();
        tokio::select! {
            () = stop.cancelled() => {}
            Some(landing) = self.on_their_way.next(), if !self.on_their_way.is_empty() => self.land(landing).await,
            shards = self.store.committed() => {
                self.mark_dirty(shards);
                self.poll_interval = POLL_INTERVAL_MIN;
            }
            () = tokio::time::sleep_until(wakes_at) => {}
        }
    }

    fn wakes_at(&self) -> Instant {
        let is_full = self.on_their_way.len() >= self.config.in_flight_count_max;
        if self.backlog.has_ready() && !is_full {
            return Instant::now();
        }
        let reads = (0..SHARD_COUNT).filter(|shard| !is_full && self.wants_read(*shard));
        let reads = reads.map(|shard| self.slots[usize::from(shard)].read_at.unwrap_or_else(Instant::now));
        let lasting = [Some(self.poll_at), Some(self.own_at), self.delete_at, self.backlog.wakes_at()];
        let watches = [self.store_watch.looks_at(), self.publish_watch.looks_at()];
        lasting.into_iter().chain(watches).flatten().chain(reads).min().expect("poll_at is always there")
    }

    /// Takes the shards that are free.
    async fn own(&mut self) {
        let now = Instant::now();
        self.own_at = now + OWN_INTERVAL;
        for shard in 0..SHARD_COUNT {
            let slot = &mut self.slots[usize::from(shard)];
            if slot.owned.is_some() {
                continue;
            }
            match self.store.own(shard).await {
                Ok(owned) => {
                    slot.is_dirty = owned.is_some();
                    slot.owned = owned;
                    slot.read_at = None;
                }
                Err(error) => return self.store_watch.failed(&error),
            }
        }
        self.store_watch.succeeded();
    }

    fn mark_dirty(&mut self, shards: ShardSet) {
        shards.iter().for_each(|shard| self.slots[usize::from(shard)].is_dirty = true);
    }

    /// A shard is read when it may have more and nothing that is known of it can be sent.
    fn wants_read(&self, shard: u16) -> bool {
        let slot = &self.slots[usize::from(shard)];
        slot.is_dirty
            && slot.owned.is_some()
            && !self.backlog.has_ready_of(shard)
            && self.backlog.known_count(shard) < KNOWN_COUNT_MAX
    }

    async fn read(&mut self) {
        for shard in 0..SHARD_COUNT {
            if self.on_their_way.len() >= self.config.in_flight_count_max {
                return;
            }
            let is_due = self.slots[usize::from(shard)].read_at.is_none_or(|at| at <= Instant::now());
            if is_due && self.wants_read(shard) {
                self.read_shard(shard).await;
            }
        }
    }

    async fn read_shard(&mut self, shard: u16) {
        let known_count = self.backlog.known_count(shard);
        // The known rows are the oldest and are read again: the new ones stand behind them.
        let limit = known_count + self.config.wave_count_max.max(1);
        let slot = &mut self.slots[usize::from(shard)];
        let Some(owned) = slot.owned.as_mut() else { return };
        let started_at = Instant::now();
        match owned.unsent(limit).await {
            Ok(rows) => {
                let read_count = rows.len();
                let new_count = self.backlog.add(shard, rows);
                slot.is_dirty = read_count >= limit;
                let is_wasted = known_count > new_count;
                slot.read_at =
                    is_wasted.then(|| Instant::now() + started_at.elapsed().saturating_mul(WASTED_READ_PAUSE_FACTOR));
                if new_count > 0 {
                    self.poll_interval = POLL_INTERVAL_MIN;
                }
                self.store_watch.succeeded();
            }
            Err(error) => self.lose(shard, &error),
        }
    }

    /// Hands messages to the broker, at most a wave of them.
    fn send(&mut self) {
        let room = self.config.in_flight_count_max.max(1).saturating_sub(self.on_their_way.len());
        for _ in 0..room.min(self.config.wave_count_max.max(1)) {
            let Some(departure) = self.backlog.depart() else { return };
            let receipt_timeout = self.config.receipt_timeout;
            self.on_their_way.push(travel(self.publish.clone(), departure, receipt_timeout).boxed());
        }
    }

    /// Takes every receipt that is there, without waiting; a message that was just handed over is
    /// enqueued by this.
    async fn land_all(&mut self) {
        while let Some(Some(landing)) = self.on_their_way.next().now_or_never() {
            self.land(landing).await;
        }
    }

    async fn land(&mut self, Landing { key, shard, id, result }: Landing) {
        match result {
            Ok(_) => {
                self.publish_watch.succeeded();
                self.backlog.settled(&key, id);
                self.note_sent(shard, id).await;
            }
            Err(error) if error.is_permanent() => self.park(&key, shard, id, &error).await,
            Err(error) => {
                self.publish_watch.failed(&error);
                self.backlog.failed(&key);
            }
        }
    }

    async fn note_sent(&mut self, shard: u16, id: i64) {
        let slot = &mut self.slots[usize::from(shard)];
        slot.sent.push(id);
        if slot.sent.len() >= DELETE_COUNT_MAX {
            self.delete_of(shard).await;
        }
        self.delete_at.get_or_insert_with(|| Instant::now() + DELETE_LINGER);
    }

    /// Sets a row aside that the broker refuses for good; its key goes on once that is written.
    async fn park(&mut self, key: &KeyId, shard: u16, id: i64, error: &Error) {
        let Some(owned) = self.slots[usize::from(shard)].owned.as_mut() else {
            return self.backlog.settled(key, id);
        };
        match owned.park(id, error).await {
            Ok(()) => {
                tracing::warn!(shard, id, kind = %error.kind(), error = %error.report(), "outbox row parked");
                self.backlog.settled(key, id);
                self.backlog.forget(shard, &[id]);
            }
            Err(error) => {
                self.backlog.failed(key);
                self.lose(shard, &error);
            }
        }
    }

    async fn delete(&mut self) {
        self.delete_at = None;
        for shard in 0..SHARD_COUNT {
            self.delete_of(shard).await;
        }
    }

    async fn delete_of(&mut self, shard: u16) {
        let slot = &mut self.slots[usize::from(shard)];
        let ids = std::mem::take(&mut slot.sent);
        let (Some(owned), false) = (slot.owned.as_mut(), ids.is_empty()) else { return };
        match owned.sent(&ids).await {
            Ok(()) => {
                self.backlog.forget(shard, &ids);
                self.store_watch.succeeded();
            }
            Err(error) => self.lose(shard, &error),
        }
    }

    /// A shard whose store failed may belong to somebody else by now: it is given back and asked
    /// for again.
    fn lose(&mut self, shard: u16, error: &Error) {
        self.store_watch.failed(error);
        self.slots[usize::from(shard)] = Slot::default();
        self.backlog.forget_shard(shard);
        self.own_at = self.own_at.min(Instant::now() + POLL_INTERVAL_MIN);
    }

    /// Sends what is there, once, and takes the receipts as long as they come.
    async fn last_pass(mut self) {
        if Instant::now() >= self.own_at {
            self.own().await;
        }
        self.mark_dirty(ShardSet::ALL);
        loop {
            self.read().await;
            self.send();
            if self.on_their_way.is_empty() {
                break;
            }
            match tokio::time::timeout(LAST_PASS_STALL_MAX, self.on_their_way.next()).await {
                Ok(Some(landing)) => self.land(landing).await,
                Ok(None) | Err(_) => break,
            }
            self.land_all().await;
        }
        self.delete().await;
    }
}

/// One message's way to its receipt.
async fn travel<P>(publish: P, departure: Departure, receipt_timeout: Duration) -> Landing
where
    P: Service<PublishBatch, Response = Vec<Result<Receipt>>, Error = Error>,
{
    let Departure { key, shard, id, message } = departure;
    let receipt = unwound("relay.publish", receipt_of(publish, message));
    let result = tokio::time::timeout(receipt_timeout, receipt).await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::DeadlineExceeded, "relay.publish", "no receipt in time")
            .with_context("receipt_timeout_ms", receipt_timeout.as_millis()))
    });
    Landing { key, shard, id, result }
}

/// A message is a batch of its own: the receipt of one does not wait for that of another key.
async fn receipt_of<P>(mut publish: P, message: Message) -> Result<Receipt>
where
    P: Service<PublishBatch, Response = Vec<Result<Receipt>>, Error = Error>,
{
    std::future::poll_fn(|context| publish.poll_ready(context)).await?;
    let results = publish.call(PublishBatch(vec![message])).await?;
    results.into_iter().next().unwrap_or_else(|| {
        Err(Error::new(ErrorKind::Internal, "relay.publish", "the publish stack answered without a result"))
    })
}

/// Since when something fails without a success in between; speaks of it now and then.
struct FailureWatch {
    board: TroubleBoard,
    what: &'static str,
    failing: Option<Failing>,
}

struct Failing {
    since: Instant,
    count: u64,
    last: String,
    trouble: Option<Trouble>,
}

impl FailureWatch {
    fn new(board: TroubleBoard, what: &'static str) -> Self {
        Self { board, what, failing: None }
    }

    fn succeeded(&mut self) {
        self.failing = None;
    }

    fn failed(&mut self, error: &Error) {
        let report = error.report();
        let failing = self.failing.get_or_insert_with(|| Failing {
            since: Instant::now(),
            count: 0,
            last: String::new(),
            trouble: None,
        });
        failing.count += 1;
        if failing.count.is_power_of_two() {
            tracing::warn!(what = self.what, count = failing.count, kind = %error.kind(), error = %report, "relay fails, trying again");
        }
        failing.last = report;
    }

    /// Says so on the board once it has lasted too long.
    fn look(&mut self) {
        let Some(failing) = &mut self.failing else { return };
        if failing.trouble.is_none() && failing.since.elapsed() >= TROUBLE_AFTER {
            failing.trouble = Some(self.board.trouble(format!("{}: {}", self.what, failing.last)));
        }
    }

    fn looks_at(&self) -> Option<Instant> {
        self.failing.as_ref().filter(|failing| failing.trouble.is_none()).map(|failing| failing.since + TROUBLE_AFTER)
    }
}
