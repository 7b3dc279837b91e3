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
        trouble::{FailureWatch, TroubleBoard, backoff},
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

/// Receipts are gathered so that one statement deletes many rows: so many, or for so long at least.
const DELETE_COUNT_MIN: usize = 128;
const DELETE_LINGER: Duration = Duration::from_millis(50);

/// A deletion waits its turn among the writers, and its shard cannot be read meanwhile: the next
/// one of few rows comes after so many times its duration at the earliest.
const DELETE_PAUSE_FACTOR: u32 = 5;

/// How long a topic is full before the shard is read without it: one that moves is so for a moment,
/// and to look behind its rows for others costs the store more than to wait.
const LEAVE_OUT_AFTER: Duration = Duration::from_millis(200);

/// No setting makes a wave wait for longer than what a receipt may take by default.
const WAVE_WAIT_LIMIT: Duration = Duration::from_secs(30);

/// A last pass ends when no receipt came for so long.
const LAST_PASS_STALL_MAX: Duration = Duration::from_secs(1);

/// What became of a message.
struct Landing {
    wave: u64,
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
    wave: Wave,
    on_their_way: FuturesUnordered<BoxFuture<'static, Landing>>,
    deletions: FuturesUnordered<BoxFuture<'static, Deletion>>,
    poll_interval: Duration,
    poll_at: Instant,
    own_at: Instant,
    own_watch: FailureWatch,
    read_watch: FailureWatch,
    delete_watch: FailureWatch,
    publish_watch: FailureWatch,
}

/// The messages that were handed to the broker last.
#[derive(Default)]
struct Wave {
    number: u64,
    sent_count: usize,
    in_flight_count: usize,
    /// The next one does not wait for longer; `None` where it does not wait at all.
    ends_at: Option<Instant>,
}

impl Wave {
    /// Begins the next one.
    fn begin(&mut self, sent_count: usize, ends_at: Option<Instant>) {
        *self = Self { number: self.number + 1, sent_count, in_flight_count: sent_count, ends_at };
    }

    fn landed(&mut self, number: u64) {
        if number == self.number {
            self.in_flight_count -= 1;
        }
    }

    /// Until when the next one waits, if it does: not for the last quarter, which may be on its way
    /// to a partition that is slower than the others.
    fn holds_until(&self, now: Instant) -> Option<Instant> {
        self.ends_at.filter(|ends_at| self.in_flight_count * 4 > self.sent_count && now < *ends_at)
    }
}

/// A shard as this relay has it.
#[derive(Default)]
struct Slot {
    owned: Option<Box<dyn OutboxShard>>,
    /// The handle is with a deletion.
    is_away: bool,
    /// There may be rows that were not read.
    is_dirty: bool,
    /// Since when some topic is full.
    full_since: Option<Instant>,
    /// Topics that were left out when it was read last.
    left_out: Vec<Arc<str>>,
    /// Not to read before: a read that leaves topics out may pass over many rows.
    read_at: Option<Instant>,
    /// Rows with a receipt that are still in the store.
    sent: Vec<i64>,
    /// Not to delete before.
    delete_at: Option<Instant>,
    /// Rows refused for good that wait for the handle to be parked; their keys wait too.
    refused: Vec<(KeyId, i64, Error)>,
}

/// A deletion that has ended, and the shard's handle back.
struct Deletion {
    shard: u16,
    owned: Box<dyn OutboxShard>,
    ids: Vec<i64>,
    result: Result<()>,
    duration: Duration,
}

impl<P> Worker<P>
where
    P: Service<PublishBatch, Response = Vec<Result<Receipt>>, Error = Error> + Clone + Send + 'static,
    P::Future: Send,
{
    pub(super) fn new(store: Arc<dyn OutboxStore>, publish: P, mut config: RelayConfig, board: TroubleBoard) -> Self {
        // With none it would read and send nothing, silently.
        config.in_flight_count_max = config.in_flight_count_max.max(1);
        let now = Instant::now();
        Self {
            store,
            publish,
            slots: (0..SHARD_COUNT).map(|_| Slot::default()).collect(),
            backlog: Backlog::new(config.in_flight_count_max, config.known_bytes_max),
            config,
            wave: Wave::default(),
            on_their_way: FuturesUnordered::new(),
            deletions: FuturesUnordered::new(),
            poll_interval: POLL_INTERVAL_MIN,
            poll_at: now,
            own_at: now,
            // A watch each: a shard that is owned says nothing about whether it can be read, nor a
            // read about whether a deletion works.
            own_watch: FailureWatch::new(board.clone(), "relay", "outbox shards", TroubleBoard::trouble),
            read_watch: FailureWatch::new(board.clone(), "relay", "outbox reads", TroubleBoard::trouble),
            delete_watch: FailureWatch::new(board.clone(), "relay", "outbox deletions", TroubleBoard::trouble),
            // Callers are served while the broker is away: their events wait in the outbox.
            publish_watch: FailureWatch::new(board, "relay", "publish", TroubleBoard::degraded),
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
        // Before the read, which would bring the rows again that are about to go.
        self.delete(now);
        self.look_at_topics(now);
        self.read_and_send().await;
        self.watches_mut().into_iter().for_each(FailureWatch::look);
    }

    /// Waits until something is due or happens.
    async fn wait(&mut self, stop: &CancellationToken) {
        let wakes_at = self.wakes_at();
        tokio::select! {
            () = stop.cancelled() => {}
            Some(landing) = self.on_their_way.next(), if !self.on_their_way.is_empty() => self.land(landing).await,
            Some(deletion) = self.deletions.next(), if !self.deletions.is_empty() => self.deleted(deletion).await,
            shards = self.store.committed() => {
                self.mark_dirty(shards);
                self.poll_interval = POLL_INTERVAL_MIN;
            }
            () = tokio::time::sleep_until(wakes_at) => {}
        }
    }

    fn wakes_at(&self) -> Instant {
        let holds_until = self.wave.holds_until(Instant::now());
        let is_full = self.on_their_way.len() >= self.config.in_flight_count_max || holds_until.is_some();
        if self.backlog.has_ready() && !is_full {
            return Instant::now();
        }
        if !is_full && (0..SHARD_COUNT).any(|shard| self.wants_read(shard)) {
            return Instant::now();
        }
        let lasting = [Some(self.poll_at), Some(self.own_at), self.backlog.wakes_at(), holds_until];
        let watches = [&self.own_watch, &self.read_watch, &self.delete_watch, &self.publish_watch];
        let watches = watches.map(FailureWatch::looks_at);
        let deletes = self.slots.iter().filter(|slot| slot.may_delete()).filter_map(|slot| slot.delete_at);
        let reads = (0..SHARD_COUNT).filter(|shard| !is_full && self.may_read(*shard));
        let reads = reads.filter_map(|shard| self.slots[usize::from(shard)].reads_at());
        lasting.into_iter().chain(watches).flatten().chain(deletes).chain(reads).min().expect("poll_at is always there")
    }

    fn watches_mut(&mut self) -> [&mut FailureWatch; 4] {
        [&mut self.own_watch, &mut self.read_watch, &mut self.delete_watch, &mut self.publish_watch]
    }

    /// Takes the shards that are free.
    async fn own(&mut self) {
        let now = Instant::now();
        self.own_at = now + OWN_INTERVAL;
        for shard in 0..SHARD_COUNT {
            let slot = &mut self.slots[usize::from(shard)];
            if slot.owned.is_some() || slot.is_away {
                continue;
            }
            match in_time(self.config.store_timeout, "outbox.own", self.store.own(shard)).await {
                Ok(owned) => {
                    slot.is_dirty = owned.is_some();
                    slot.owned = owned;
                }
                Err(error) => return self.own_watch.failed(&error),
            }
        }
        self.own_watch.succeeded();
    }

    fn mark_dirty(&mut self, shards: ShardSet) {
        shards.iter().for_each(|shard| self.slots[usize::from(shard)].is_dirty = true);
    }

    /// Which shards have topics that are full, and which topics that were left out are so no more.
    fn look_at_topics(&mut self, now: Instant) {
        for (shard, slot) in (0..SHARD_COUNT).zip(&mut self.slots) {
            let full = self.backlog.full_topics(shard);
            if slot.left_out.iter().any(|topic| !full.contains(topic)) {
                slot.left_out.clear();
                slot.is_dirty = true;
            }
            slot.full_since = if full.is_empty() { None } else { slot.full_since.or(Some(now)) };
        }
    }

    /// A shard is read when it may have more and nothing that is known of it can be sent.
    fn wants_read(&self, shard: u16) -> bool {
        self.may_read(shard) && self.slots[usize::from(shard)].reads_at().is_none_or(|at| at <= Instant::now())
    }

    fn may_read(&self, shard: u16) -> bool {
        let slot = &self.slots[usize::from(shard)];
        slot.is_dirty && slot.owned.is_some() && !self.backlog.has_ready_of(shard) && !self.backlog.is_shard_full(shard)
    }

    /// The next wave, unless the last one still holds it.
    async fn read_and_send(&mut self) {
        if self.wave.holds_until(Instant::now()).is_none() {
            self.read().await;
            self.send();
        }
    }

    async fn read(&mut self) {
        for shard in 0..SHARD_COUNT {
            if self.on_their_way.len() >= self.config.in_flight_count_max {
                return;
            }
            // After a failure the receipts come first: a store that is silent takes its time to fail.
            if self.wants_read(shard) && !self.read_shard(shard).await {
                return;
            }
        }
    }

    /// Reads a shard's new rows; `false` when the store failed.
    async fn read_shard(&mut self, shard: u16) -> bool {
        let limit = self.config.wave_count_max.max(1).min(self.backlog.room_count());
        let (known, full) = (self.backlog.known(shard), self.backlog.full_topics(shard));
        let slot = &mut self.slots[usize::from(shard)];
        let Some(owned) = slot.owned.as_mut() else { return true };
        let began_at = Instant::now();
        match in_time(self.config.store_timeout, "outbox.unsent", owned.unsent(&known, &full, limit)).await {
            Ok(rows) => {
                let read_count = rows.len();
                let new_count = self.backlog.add(shard, rows);
                slot.is_dirty = read_count >= limit;
                slot.read_at = (!full.is_empty()).then(|| Instant::now() + began_at.elapsed());
                slot.left_out = self.backlog.full_topics(shard);
                if new_count > 0 {
                    self.poll_interval = POLL_INTERVAL_MIN;
                }
                self.read_watch.succeeded();
                true
            }
            Err(error) => {
                self.read_watch.failed(&error);
                self.lose(shard);
                false
            }
        }
    }

    /// Hands messages to the broker, at most a wave of them.
    fn send(&mut self) {
        let room = self.config.in_flight_count_max.saturating_sub(self.on_their_way.len());
        let count_max = room.min(self.config.wave_count_max.max(1));
        let departures: Vec<_> = std::iter::from_fn(|| self.backlog.depart()).take(count_max).collect();
        if departures.is_empty() {
            return;
        }
        // A full one has more behind it, which need not be gathered.
        let is_partial = departures.len() < count_max;
        let ends_at = is_partial.then(|| Instant::now() + self.config.wave_wait_max.min(WAVE_WAIT_LIMIT));
        self.wave.begin(departures.len(), ends_at);
        for departure in departures {
            let (wave, receipt_timeout) = (self.wave.number, self.config.receipt_timeout);
            self.on_their_way.push(travel(self.publish.clone(), departure, wave, receipt_timeout).boxed());
        }
    }

    /// Takes every receipt that is there, without waiting; a message that was just handed over is
    /// enqueued by this.
    async fn land_all(&mut self) {
        while let Some(Some(landing)) = self.on_their_way.next().now_or_never() {
            self.land(landing).await;
        }
    }

    async fn land(&mut self, Landing { wave, key, shard, id, result }: Landing) {
        self.wave.landed(wave);
        match result {
            Ok(_) => {
                self.publish_watch.succeeded();
                self.backlog.settled(&key, id);
                // Its shard may have been lost and taken again meanwhile, and the row not read yet.
                self.backlog.remember(shard, &[id]);
                self.slots[usize::from(shard)].note_sent(id);
            }
            Err(error) if is_refusal(&error) => {
                self.slots[usize::from(shard)].refused.push((key, id, error));
                self.park_refused(shard).await;
            }
            Err(error) => {
                self.publish_watch.failed(&error);
                self.backlog.failed(&key);
            }
        }
    }

    /// Sets rows aside that the broker refuses for good; a key goes on once that is written.
    async fn park_refused(&mut self, shard: u16) {
        loop {
            let slot = &mut self.slots[usize::from(shard)];
            if slot.is_away {
                return;
            }
            let Some((key, id, error)) = slot.refused.pop() else { return };
            // A shard that was given back: its next owner sends the row again and is told the same.
            let Some(owned) = slot.owned.as_mut() else {
                self.backlog.settled(&key, id);
                continue;
            };
            let parking = in_time(self.config.store_timeout, "outbox.park", owned.park(id, &error));
            if let Err(failure) = parking.await {
                self.delete_watch.failed(&failure);
                self.backlog.failed(&key);
                return self.lose(shard);
            }
            tracing::warn!(shard, id, kind = %error.kind(), error = %error.report(), "outbox row parked");
            self.backlog.settled(&key, id);
            self.backlog.forget(shard, &[id]);
        }
    }

    /// Starts the deletions that are due. They run beside the loop, for they wait among the
    /// writers of the database.
    fn delete(&mut self, now: Instant) {
        for (shard, slot) in (0..SHARD_COUNT).zip(&mut self.slots) {
            let is_early = slot.delete_at.is_some_and(|at| at > now) && slot.sent.len() < DELETE_COUNT_MIN;
            if !slot.may_delete() || is_early {
                continue;
            }
            let Some(mut owned) = slot.owned.take() else { continue };
            slot.is_away = true;
            let ids = std::mem::take(&mut slot.sent);
            let limit = self.config.store_timeout;
            let deletion = async move {
                let started_at = Instant::now();
                let result = in_time(limit, "outbox.sent", owned.sent(&ids)).await;
                Deletion { shard, owned, ids, result, duration: started_at.elapsed() }
            };
            self.deletions.push(deletion.boxed());
        }
    }

    async fn deleted(&mut self, Deletion { shard, owned, ids, result, duration }: Deletion) {
        let slot = &mut self.slots[usize::from(shard)];
        slot.is_away = false;
        slot.owned = Some(owned);
        slot.delete_at = Some(Instant::now() + DELETE_LINGER.max(duration.saturating_mul(DELETE_PAUSE_FACTOR)));
        match result {
            Ok(()) => {
                self.backlog.forget(shard, &ids);
                self.delete_watch.succeeded();
            }
            Err(error) => {
                self.delete_watch.failed(&error);
                // They have their receipts: what cannot be deleted now must not be sent again.
                slot.sent.extend(ids);
                self.lose(shard);
            }
        }
        self.park_refused(shard).await;
    }

    /// A shard whose store failed may belong to somebody else by now: it is given back and asked
    /// for again. Which of its rows have a receipt is remembered: they are deleted, not sent, when
    /// it is owned again.
    fn lose(&mut self, shard: u16) {
        let slot = &mut self.slots[usize::from(shard)];
        let Slot { sent, delete_at, refused, .. } = std::mem::take(slot);
        refused.iter().for_each(|(key, _, _)| self.backlog.failed(key));
        self.backlog.forget_shard(shard);
        self.backlog.remember(shard, &sent);
        (slot.sent, slot.delete_at) = (sent, delete_at);
        let failure_count = self.read_watch.count().max(self.delete_watch.count());
        let delay = backoff(failure_count, POLL_INTERVAL_MIN, OWN_INTERVAL);
        self.own_at = self.own_at.min(Instant::now() + delay);
    }

    /// Sends what is there, once, and takes the receipts as long as they come.
    async fn last_pass(mut self) {
        if Instant::now() >= self.own_at {
            self.own().await;
        }
        // First, so that every shard's handle is here and can read.
        self.delete_all().await;
        self.mark_dirty(ShardSet::ALL);
        loop {
            // Nothing is gathered any more.
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
        self.delete_all().await;
    }

    async fn delete_all(&mut self) {
        loop {
            self.slots.iter_mut().for_each(|slot| slot.delete_at = None);
            self.delete(Instant::now());
            let Some(deletion) = self.deletions.next().await else { return };
            self.deleted(deletion).await;
        }
    }
}

impl Slot {
    fn note_sent(&mut self, id: i64) {
        if self.sent.is_empty() {
            // One that is set already keeps the pause after the last deletion.
            self.delete_at = self.delete_at.max(Some(Instant::now() + DELETE_LINGER));
        }
        self.sent.push(id);
    }

    /// When it may be read at the earliest; `None` where nothing is in the way.
    fn reads_at(&self) -> Option<Instant> {
        self.full_since.map(|since| since + LEAVE_OUT_AFTER).max(self.read_at)
    }

    fn may_delete(&self) -> bool {
        !self.sent.is_empty() && self.owned.is_some()
    }
}

/// Whether the broker refuses this very message, whoever sends it and whenever. Other permanent
/// kinds (credentials, rights, a setting) are faults of the deployment that every message meets:
/// parking them would set the whole outbox aside for good.
fn is_refusal(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::OutOfRange | ErrorKind::DataLoss)
}

/// A call of the store, which must not hold up the other shards for ever. Dropped half-way it may
/// have been done or not: the shard is given back, and read anew when it is owned again.
async fn in_time<T>(limit: Duration, operation: &'static str, call: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::DeadlineExceeded, operation, "the outbox's store gave no answer in time")
            .with_context("store_timeout_ms", limit.as_millis()))
    })
}

/// One message's way to its receipt.
async fn travel<P>(publish: P, departure: Departure, wave: u64, receipt_timeout: Duration) -> Landing
where
    P: Service<PublishBatch, Response = Vec<Result<Receipt>>, Error = Error>,
{
    let Departure { key, shard, id, message } = departure;
    let receipt = unwound("relay.publish", receipt_of(publish, message));
    let result = tokio::time::timeout(receipt_timeout, receipt).await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::DeadlineExceeded, "relay.publish", "no receipt in time")
            .with_context("receipt_timeout_ms", receipt_timeout.as_millis()))
    });
    Landing { wave, key, shard, id, result }
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
