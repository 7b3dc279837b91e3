//! Takes what a saga log has due, holds it while it is worked on, and gives it back.

mod held;

pub(super) use held::{Held, after};

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tracing::Instrument as _;

use super::{DueSaga, Saga, SagaChange, SagaEntry, SagaLease, SagaLog, SagaWrite};
use crate::{
    Error, ErrorKind, Health, Result, Tx,
    batch::{BatchCall, Batcher, BatcherConfig},
    consume::{
        trouble::{FailureWatch, TroubleBoard},
        unwind::unwound,
    },
};

/// How many times the limit of a look a late one is waited for.
const LATE_TAKE_FACTOR: u32 = 4;

/// The wait between two looks at a log in which nothing was due.
const POLL_INTERVAL_MIN: Duration = Duration::from_millis(200);
const POLL_INTERVAL_MAX: Duration = Duration::from_secs(2);

/// How late a pause is looked for at the earliest: the log's clock counts milliseconds.
const DUE_SLACK: Duration = Duration::from_millis(5);

/// How many pauses are remembered, so that they end on time; the others end with the next look.
const DUE_COUNT_MAX: usize = 1_024;

/// The most writes in one transaction.
const WRITE_COUNT_MAX: usize = 256;

/// The wait between two purges, the one where there is more to forget, and how many sagas one statement
/// forgets.
const PURGE_INTERVAL: Duration = Duration::from_secs(60);
const PURGE_PAUSE: Duration = Duration::from_millis(50);
const PURGE_COUNT_MAX: usize = 1_000;

/// What is done with a saga.
#[async_trait]
pub(super) trait Carrier: Send + Sync + 'static {
    /// Works on a saga until it is at an end or has to wait; `None` where the lease was lost.
    async fn carry(&self, held: &Held) -> Option<SagaChange>;

    /// What it said stands in the log.
    fn written(&self, gid: &str, change: &SagaChange);
}

#[derive(Clone, Debug)]
pub(super) struct WorkerConfig {
    pub(super) lease: Duration,
    pub(super) running_count_max: usize,
    pub(super) store_timeout: Duration,
    /// How long finished sagas are kept; `None`: there are none.
    pub(super) retention: Option<Duration>,
}

/// Makes a component of what has a `worker` and says by its `check` which sagas it takes, and an outbox of
/// sagas.
macro_rules! sagas_component {
    ($type:ty, $(#[$drain:meta])*) => {
        #[async_trait]
        impl $crate::saga::SagaOutbox for $type {
            async fn add(&self, tx: &mut $crate::Tx, saga: &$crate::saga::Saga) -> $crate::Result<()> {
                self.check(saga)?;
                self.worker.add(tx, saga).await
            }
        }

        #[async_trait]
        impl $crate::app::Component for $type {
            fn name(&self) -> &str {
                self.worker.name()
            }

            async fn start(&self, health: &$crate::Health) -> $crate::Result<()> {
                self.worker.start(health).await
            }

            fn instances(&self) -> Vec<$crate::registry::Instance> {
                Vec::new()
            }

            $(#[$drain])*
            async fn drain(&self, deadline: std::time::Duration) -> $crate::Result<()> {
                self.worker.drain(deadline).await
            }

            async fn flush(&self, _deadline: std::time::Duration) -> $crate::Result<()> {
                Ok(())
            }

            async fn close(&self) -> $crate::Result<()> {
                self.worker.close().await
            }
        }
    };
}

pub(super) use sagas_component;

/// Works on sagas, many at a time. Clones share it; with the last of them it ends as in a crash, unless
/// it was closed.
pub(super) struct Worker<C> {
    shared: Arc<Shared<C>>,
    guard: Arc<DropGuard>,
}

struct Shared<C> {
    name: String,
    log: Arc<dyn SagaLog>,
    carrier: C,
    config: WorkerConfig,
    writer: Batcher<LogWriter>,
    permits: Arc<Semaphore>,
    held: Mutex<HashMap<u64, Arc<Held>>>,
    next_number: AtomicU64,
    /// When pauses end, the next first.
    due: Mutex<BTreeSet<Instant>>,
    /// Something is due.
    wake: Notify,
    /// A pause was remembered.
    rescheduled: Notify,
    /// Something may be due that there was no room for.
    is_behind: AtomicBool,
    take_watch: Watch,
    /// Take no more, give back what is held.
    stop: CancellationToken,
    /// End at once.
    abandoned: CancellationToken,
    runs: TaskTracker,
    loops: tokio::sync::Mutex<Option<Vec<JoinHandle<()>>>>,
}

impl<C> Clone for Worker<C> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), guard: self.guard.clone() }
    }
}

/// A saga that is about to be added, and the room for it, where there is some.
pub(super) struct Addition {
    pub(super) entry: SagaEntry,
    room: Option<(OwnedSemaphorePermit, Instant)>,
}

impl<C: Carrier> Worker<C> {
    pub(super) fn new(name: String, log: Arc<dyn SagaLog>, carrier: C, mut config: WorkerConfig) -> Self {
        // With less it would do nothing, silently, or renew all the time.
        config.running_count_max = config.running_count_max.clamp(1, Semaphore::MAX_PERMITS);
        config.lease = config.lease.max(Duration::from_secs(1));
        let writer = LogWriter { log: log.clone(), timeout: config.store_timeout, watch: Watch::default() };
        // One that runs holds a write and a renewal at most.
        let waiting_count_max = config.running_count_max.saturating_mul(2);
        let batches = BatcherConfig { batch_count_max: WRITE_COUNT_MAX, waiting_count_max, ..BatcherConfig::default() };
        let abandoned = CancellationToken::new();
        let guard = Arc::new(abandoned.clone().drop_guard());
        let shared = Shared {
            name,
            log,
            carrier,
            permits: Arc::new(Semaphore::new(config.running_count_max)),
            config,
            writer: Batcher::new(writer, batches),
            held: Mutex::default(),
            next_number: AtomicU64::new(0),
            due: Mutex::default(),
            wake: Notify::new(),
            rescheduled: Notify::new(),
            is_behind: AtomicBool::new(false),
            take_watch: Watch::default(),
            stop: CancellationToken::new(),
            abandoned,
            runs: TaskTracker::new(),
            loops: tokio::sync::Mutex::default(),
        };
        Self { shared: Arc::new(shared), guard }
    }

    pub(super) fn name(&self) -> &str {
        &self.shared.name
    }

    pub(super) fn carrier(&self) -> &C {
        &self.shared.carrier
    }

    pub(super) fn log(&self) -> &dyn SagaLog {
        &*self.shared.log
    }

    /// A saga to add: held from the beginning where there is room, so that the log need not be asked
    /// for it. A quarter of the room is left to those that are due in the log.
    pub(super) fn addition(&self, saga: Arc<Saga>) -> Addition {
        let shared = &self.shared;
        let has_room = shared.permits.available_permits() > shared.config.running_count_max / 4;
        let is_running = !shared.stop.is_cancelled() && shared.take_watch.is_begun();
        let permit = (has_room && is_running).then(|| shared.permits.clone().try_acquire_owned().ok()).flatten();
        match permit {
            Some(permit) => {
                let entry = SagaEntry::held(saga, SagaLease::new(shared.config.lease));
                Addition { entry, room: Some((permit, Instant::now())) }
            }
            None => Addition { entry: SagaEntry::new(saga), room: None },
        }
    }

    /// Adds a saga to the transaction, to be worked on after the commit.
    pub(super) async fn add(&self, tx: &mut Tx, saga: &Saga) -> Result<()> {
        let addition = self.addition(Arc::new(saga.clone()));
        self.log().add(tx, std::slice::from_ref(&addition.entry)).await?;
        let worker = self.clone();
        tx.after_commit(move || worker.added(addition));
        Ok(())
    }

    /// It is committed.
    pub(super) fn added(&self, addition: Addition) {
        match (addition.entry.lease, addition.room) {
            (Some(lease), Some((permit, written_at))) => {
                let due = DueSaga::new(addition.entry.saga.as_ref().clone());
                self.shared.begin(due, lease, written_at, permit);
            }
            _ => self.shared.wake.notify_one(),
        }
    }

    pub(super) async fn start(&self, health: &Health) -> Result<()> {
        let shared = &self.shared;
        let mut loops = shared.loops.lock().await;
        if loops.is_some() || shared.stop.is_cancelled() {
            return Err(Error::new(ErrorKind::FailedPrecondition, "saga.start", "it is started once")
                .with_context("component", &shared.name));
        }
        let board = TroubleBoard::new(health, &shared.name);
        shared.writer.inner().watch.begin(board.clone(), "saga log writes");
        shared.take_watch.begin(board, "saga log reads");
        let begun =
            [tokio::spawn(shared.clone().take_until_abandoned()), tokio::spawn(shared.clone().renew_until_abandoned())];
        *loops = Some(begun.into());
        Ok(())
    }

    /// Takes nothing more; what is held is given back as soon as its calls are answered.
    pub(super) async fn drain(&self, deadline: Duration) -> Result<()> {
        self.shared.stop.cancel();
        self.shared.runs.close();
        if tokio::time::timeout(deadline, self.shared.runs.wait()).await.is_err() {
            tracing::warn!(
                component = self.shared.name,
                "sagas were still called at the deadline: their leases run out"
            );
        }
        Ok(())
    }

    pub(super) async fn close(&self) -> Result<()> {
        self.shared.stop.cancel();
        self.shared.abandoned.cancel();
        self.shared.runs.close();
        let ended = async {
            self.shared.runs.wait().await;
            let loops = self.shared.loops.lock().await.replace(Vec::new()).unwrap_or_default();
            for task in loops {
                // One that panicked has ended too.
                drop(task.await);
            }
        };
        drop(tokio::time::timeout(Duration::from_secs(5), ended).await);
        Ok(())
    }
}

impl<C: Carrier> Shared<C> {
    async fn take_until_abandoned(self: Arc<Self>) {
        self.abandoned.run_until_cancelled(self.take_until_stopped()).await;
    }

    async fn take_until_stopped(self: &Arc<Self>) {
        let mut poll_interval = POLL_INTERVAL_MIN;
        let mut purge_at = Instant::now() + PURGE_INTERVAL;
        while !self.stop.is_cancelled() {
            self.look();
            lock(&self.due).retain(|at| *at > Instant::now());
            match self.take_counted().await {
                None => return,
                Some(Ok(Taken { has_more: true, .. })) => continue,
                Some(Ok(Taken { count: 1.., .. })) => poll_interval = POLL_INTERVAL_MIN,
                Some(Ok(_)) => {}
                Some(Err(error)) => self.take_watch.failed(&error),
            }
            if Instant::now() >= purge_at {
                // Piece by piece, for sagas that are due must not wait for it.
                let has_more = self.purge().await;
                purge_at = Instant::now() + if has_more { PURGE_PAUSE } else { PURGE_INTERVAL };
            }
            let is_idle = self.wait(purge_at.min(Instant::now() + poll_interval)).await;
            poll_interval = if is_idle { (poll_interval * 2).min(POLL_INTERVAL_MAX) } else { POLL_INTERVAL_MIN };
        }
    }

    /// Takes, as one of the runs that a drain waits for: a stop must not drop the call, which may have
    /// leased what nobody would work on. `None` once it is stopped.
    async fn take_counted(self: &Arc<Self>) -> Option<Result<Taken>> {
        let _counted = self.runs.token();
        // Looked at only now: a drain that has not seen the token was told of by this.
        if self.stop.is_cancelled() {
            return None;
        }
        Some(unwound("saga.take", self.take()).await)
    }

    fn look(&self) {
        self.take_watch.look();
        self.writer.inner().watch.look();
    }

    /// Waits until something may be due; `true` where nothing says so.
    async fn wait(&self, poll_at: Instant) -> bool {
        loop {
            let due_at = lock(&self.due).first().copied();
            tokio::select! {
                () = self.stop.cancelled() => return true,
                () = self.wake.notified() => return false,
                () = self.rescheduled.notified() => {}
                () = tokio::time::sleep_until(due_at.map_or(poll_at, |at| at.min(poll_at))) => {
                    return due_at.is_none_or(|at| at > poll_at);
                }
            }
        }
    }

    /// Takes what is due, as much as half of the room is for: the other half is left to what is added
    /// while the log is asked.
    async fn take(self: &Arc<Self>) -> Result<Taken> {
        self.is_behind.store(true, Ordering::SeqCst);
        let room = self.permits.available_permits().div_ceil(2).min(WRITE_COUNT_MAX);
        let count_max = u32::try_from(room).expect("it is small");
        let permits = (room > 0).then(|| self.permits.clone().try_acquire_many_owned(count_max).ok()).flatten();
        // Whoever ends first wakes the loop.
        let Some(mut permits) = permits else { return Ok(Taken { count: 0, has_more: false }) };
        self.is_behind.store(false, Ordering::SeqCst);
        let (lease, asked_at) = (SagaLease::new(self.config.lease), Instant::now());
        let due = self.ask(lease, room, asked_at).await?;
        self.take_watch.succeeded();
        let count = due.len();
        for due in due {
            let permit = permits.split(1).expect("no more were taken than there is room for");
            self.begin(due, lease, asked_at, permit);
        }
        Ok(Taken { count, has_more: count == room })
    }

    /// Asks the log. What comes late is told as a failure, and waited for all the same for a while, at most as
    /// long as its leases last: they may be in the log already.
    async fn ask(&self, lease: SagaLease, room: usize, asked_at: Instant) -> Result<Vec<DueSaga>> {
        let mut asking = std::pin::pin!(self.log.take(lease, room));
        let wait = self.config.store_timeout.max(POLL_INTERVAL_MIN);
        loop {
            if let Ok(answer) = tokio::time::timeout(wait, &mut asking).await {
                return answer;
            }
            let error = late("saga.take", self.config.store_timeout);
            if asked_at.elapsed() >= lease.duration.min(LATE_TAKE_FACTOR * wait) {
                return Err(error);
            }
            self.take_watch.failed(&error);
            self.look();
        }
    }

    /// Works on a saga in a task of its own.
    fn begin(self: &Arc<Self>, due: DueSaga, lease: SagaLease, leased_at: Instant, permit: OwnedSemaphorePermit) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            // Nowhere to work: it is due again when its lease ends.
            return;
        };
        let held = Arc::new(Held::new(due, lease, leased_at, self.writer.clone(), self.stop.clone()));
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        lock(&self.held).insert(number, held.clone());
        let span = tracing::info_span!("saga", gid = %held.saga().gid);
        let shared = self.clone();
        let run = async move {
            shared.abandoned.run_until_cancelled(shared.run(&held)).await;
            lock(&shared.held).remove(&number);
            drop(permit);
            if shared.is_behind.swap(false, Ordering::SeqCst) {
                shared.wake.notify_one();
            }
        };
        self.runs.spawn_on(run.instrument(span), &runtime);
    }

    async fn run(&self, held: &Held) {
        let carried = unwound("saga.carry", async { Ok(self.carrier.carry(held).await) }).await;
        let change = match carried {
            Ok(Some(change)) => change,
            Ok(None) => return tracing::debug!("the saga is somebody else's now"),
            // What it had done is not known: it is left as by one that died.
            Err(error) => return tracing::error!(error = %error.report(), "saga left until its lease ends"),
        };
        if !held.write(&change).await {
            return tracing::debug!("the saga is somebody else's now");
        }
        if let SagaChange::Waiting(_, pause) = &change {
            self.remember(*pause);
        }
        self.carrier.written(&held.saga().gid, &change);
    }

    fn remember(&self, pause: Duration) {
        let mut due = lock(&self.due);
        due.insert(after(Instant::now(), pause.saturating_add(DUE_SLACK)));
        if due.len() > DUE_COUNT_MAX {
            due.pop_last();
        }
        self.rescheduled.notify_one();
    }

    /// Renews the leases of what takes long.
    async fn renew_until_abandoned(self: Arc<Self>) {
        let interval = self.config.lease / 3;
        loop {
            let pause = self.abandoned.run_until_cancelled(tokio::time::sleep(interval)).await;
            let is_drained = self.stop.is_cancelled() && lock(&self.held).is_empty();
            if pause.is_none() || is_drained {
                return;
            }
            let until = Instant::now() + interval * 2;
            let ending: Vec<_> = lock(&self.held).values().filter(|held| held.ends_before(until)).cloned().collect();
            let renewal = SagaChange::Renewed(self.config.lease);
            let renewals = ending.iter().map(|held| held.write(&renewal));
            self.abandoned.run_until_cancelled(futures_util::future::join_all(renewals)).await;
        }
    }

    /// Forgets some finished sagas; `true` where there are more.
    async fn purge(&self) -> bool {
        let Some(retention) = self.config.retention else { return false };
        let purge = unwound("saga.purge", self.log.purge(retention, PURGE_COUNT_MAX));
        match in_time(self.config.store_timeout, "saga.purge", purge).await {
            Ok(count) => usize::try_from(count).is_ok_and(|count| count >= PURGE_COUNT_MAX),
            Err(error) => {
                let error = error.report();
                tracing::warn!(component = self.name, error, "finished sagas cannot be purged");
                false
            }
        }
    }
}

struct Taken {
    count: usize,
    has_more: bool,
}

/// Writes for many holders at once.
pub(super) struct LogWriter {
    log: Arc<dyn SagaLog>,
    timeout: Duration,
    watch: Watch,
}

#[async_trait]
impl BatchCall for LogWriter {
    type Request = SagaWrite;
    type Response = bool;

    async fn call(&self, writes: &[SagaWrite]) -> Result<Vec<Result<bool>>> {
        let written = in_time(self.timeout, "saga.write", self.log.write(writes)).await;
        match written {
            Ok(answers) => {
                self.watch.succeeded();
                Ok(answers.into_iter().map(Ok).collect())
            }
            Err(error) => {
                self.watch.failed(&error);
                Err(error)
            }
        }
    }
}

async fn in_time<T>(limit: Duration, operation: &'static str, call: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| Err(late(operation, limit)))
}

fn late(operation: &'static str, limit: Duration) -> Error {
    Error::new(ErrorKind::DeadlineExceeded, operation, "the saga log gave no answer in time")
        .with_context("store_timeout_ms", limit.as_millis())
}

/// A [`FailureWatch`] that several tasks share, from the start on.
#[derive(Default)]
struct Watch(OnceLock<Mutex<FailureWatch>>);

impl Watch {
    fn begin(&self, board: TroubleBoard, what: &'static str) {
        self.0.get_or_init(|| Mutex::new(FailureWatch::new(board, "sagas", what, TroubleBoard::trouble)));
    }

    fn is_begun(&self) -> bool {
        self.0.get().is_some()
    }

    fn succeeded(&self) {
        self.with(FailureWatch::succeeded);
    }

    fn failed(&self, error: &Error) {
        self.with(|watch| watch.failed(error));
    }

    fn look(&self) {
        self.with(FailureWatch::look);
    }

    fn with(&self, call: impl FnOnce(&mut FailureWatch)) {
        if let Some(watch) = self.0.get() {
            call(&mut lock(watch));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
