//! Where the tower part of consuming ends: a batch becomes one transaction that claims the event
//! ids, calls the handlers and commits; what fails is isolated, parked or given up.

use std::{
    collections::HashSet,
    ops::Range,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tower_service::Service;

use super::{
    AfterDeadLetter, DeliveryBatch, DeliveryPolicy, Router, UnknownType,
    dead_letters::{DeadLetters, dead_letter_copy, is_refused_copy, one_line},
    policy::Verdict,
    router::{Route, Run, RunFailure},
};
use crate::{
    Error, ErrorKind, Result, TransactionManager, Tx,
    broker::Delivery,
    event::BaseEvent,
    inbox::InboxStore,
    outbox::Outbox,
    parked::{DeadLetter, DeadLetterStore, ParkedStore, Parking},
};

/// The stores of one database that an [`InboxService`] works on.
#[derive(Clone)]
pub struct InboxStores {
    /// Opens the transactions.
    pub transactions: Arc<dyn TransactionManager>,
    /// Which events were handled.
    pub inbox: Arc<dyn InboxStore>,
    /// What waits for another try.
    pub parked: Arc<dyn ParkedStore>,
    /// What was given up.
    pub dead_letters: Arc<dyn DeadLetterStore>,
    /// Where copies of dead letters go out; needed only for
    /// [`DeliveryPolicy::copy_to_dead_letter_topic`].
    pub outbox: Option<Outbox>,
}

/// Settles batches of deliveries of one group: each event has its effect once.
///
/// A batch is one transaction: claim the ids, park what waits behind a parked delivery of its key,
/// hand the new ones to their handlers in delivery order, commit. When a handler fails, all of it
/// is undone and tried in parts until the failing delivery stands alone; that one goes the way of
/// the [`DeliveryPolicy`]. A batch that a [`Consumer`](super::Consumer) joined from several lanes
/// ends at the first failure, `Cancelled`, and the consumer hands in each lane's part: those without
/// a failure do not wait for the retries. `Ok` means that every delivery is settled (handled, parked or given
/// up) and committed, so that its offset can be acked.
///
/// # Errors
///
/// Those of the stores and of the transaction manager, never those of a handler: nothing that was
/// not committed is settled, and the whole batch is to be handed in again.
///
/// # Cancel safety
///
/// Dropping the future rolls the open transaction back; parts that committed stay settled, and
/// handing the batch in again skips them.
#[derive(Clone)]
pub struct InboxService {
    inbox: Arc<Inbox>,
}

impl InboxService {
    /// A service for `group` whose events go to the handlers of `router`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` when the router is empty or copies of dead letters are asked for without
    /// an outbox, `AlreadyExists` when two handlers are registered for one event type.
    pub fn new(
        group: impl Into<Arc<str>>,
        stores: InboxStores,
        router: Router,
        policy: DeliveryPolicy,
    ) -> Result<Self> {
        router.check()?;
        if policy.copy_to_dead_letter_topic && stores.outbox.is_none() {
            let message = "copies of dead letters need an outbox among the stores";
            return Err(Error::new(ErrorKind::InvalidArgument, "inbox_service.new", message));
        }
        let inbox = Inbox { group: group.into(), stores, router, policy, parked: Arc::default() };
        Ok(Self { inbox: Arc::new(inbox) })
    }

    /// The group.
    pub fn group(&self) -> &Arc<str> {
        &self.inbox.group
    }

    /// The topics that have a handler.
    pub fn topics(&self) -> Vec<Arc<str>> {
        self.inbox.router.topics()
    }

    /// The dead letters of the group, to look at and to hand to their handlers again.
    pub fn dead_letters(&self) -> DeadLetters {
        DeadLetters::new(self.inbox.clone())
    }

    /// Tries every parked delivery that is due, each key's in order, until none is; answers how
    /// many tries there were. A [`Consumer`](super::Consumer) does so by itself.
    ///
    /// # Errors
    ///
    /// Those of the stores.
    pub async fn retry_due(&self) -> Result<usize> {
        self.inbox.retry_due().await
    }

    pub(crate) fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }
}

impl Service<DeliveryBatch> for InboxService {
    type Response = ();
    type Error = Error;
    type Future = BoxFuture<'static, Result<()>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, batch: DeliveryBatch) -> Self::Future {
        let inbox = self.inbox.clone();
        Box::pin(async move { inbox.settle(&batch).await })
    }
}

/// What the service, the retries of parked deliveries and the replay of dead letters share.
pub(crate) struct Inbox {
    pub(crate) group: Arc<str>,
    pub(crate) stores: InboxStores,
    pub(crate) router: Router,
    pub(crate) policy: DeliveryPolicy,
    /// Wakes the retries when something was parked or released.
    pub(crate) parked: Arc<Notify>,
}

/// Why a transaction was rolled back.
pub(crate) enum Failure {
    /// These entries' handler failed (indices of the slice that was tried).
    Handler { failed: Range<usize>, error: Error },
    /// The database failed: says nothing about the deliveries.
    Store(Error),
}

/// Every error that is not explicitly a handler's is the store's.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

/// A delivery whose envelope was opened.
pub(crate) struct Entry<'a> {
    pub(crate) delivery: &'a Delivery,
    pub(crate) target: Result<Target, Refusal>,
}

/// Where an event goes.
pub(crate) struct Target {
    route: Arc<dyn Route>,
    payload: Bytes,
}

/// An event that no handler can be called for.
pub(crate) struct Refusal(Error);

/// Entries that are tried in one transaction.
struct Piece {
    range: Range<usize>,
    /// How often the handler of a single entry failed.
    attempts: u32,
    /// How often the piece lost against another transaction.
    conflicts: u32,
    /// The failure of a single entry that is known already: it is not tried before its verdict.
    failure: Option<Error>,
}

impl Piece {
    fn of(range: Range<usize>) -> Self {
        Self { range, attempts: 0, conflicts: 0, failure: None }
    }
}

impl Inbox {
    async fn settle(&self, batch: &DeliveryBatch) -> Result<()> {
        let entries: Vec<_> = batch.deliveries.iter().filter_map(|delivery| self.open(delivery)).collect();
        if entries.is_empty() {
            return Ok(());
        }
        // The last in is the next in delivery order: what stands before is settled first.
        let mut pieces = vec![Piece::of(0..entries.len())];
        while let Some(piece) = pieces.pop() {
            self.settle_piece(batch, &entries, piece, &mut pieces).await?;
        }
        Ok(())
    }

    async fn settle_piece(
        &self,
        batch: &DeliveryBatch,
        entries: &[Entry<'_>],
        mut piece: Piece,
        pieces: &mut Vec<Piece>,
    ) -> Result<()> {
        let (failed, error) = match piece.failure.take() {
            Some(error) => (0..1, error),
            None => match self.attempt(&entries[piece.range.clone()], piece.attempts).await {
                Ok(()) => return Ok(()),
                Err(Failure::Store(error)) if self.may_repeat(&error, piece.conflicts) => {
                    return self.repeat(piece, pieces).await;
                }
                Err(Failure::Store(error)) => return Err(error),
                Err(Failure::Handler { failed, error }) => {
                    if piece.range.len() > 1 && self.may_repeat(&error, piece.conflicts) {
                        return self.repeat(piece, pieces).await;
                    }
                    if batch.leave_slot() {
                        return Err(apart(&error));
                    }
                    piece.attempts += u32::from(piece.range.len() == 1);
                    (failed, error)
                }
            },
        };
        if piece.range.len() > 1 {
            split(piece.range, failed, error, pieces);
            return Ok(());
        }
        let entry = &entries[piece.range.start];
        match self.policy.verdict(piece.attempts, &error) {
            Verdict::RetryAfter(delay) => {
                tokio::time::sleep(delay).await;
                pieces.push(piece);
                Ok(())
            }
            verdict => self.set_aside(entry, piece.attempts, &error, verdict).await,
        }
    }

    /// A lost conflict says nothing about the deliveries: the whole piece is tried again.
    fn may_repeat(&self, error: &Error, conflicts: u32) -> bool {
        error.kind() == ErrorKind::Aborted && conflicts < self.policy.immediate.retry_count_max
    }

    async fn repeat(&self, mut piece: Piece, pieces: &mut Vec<Piece>) -> Result<()> {
        tokio::time::sleep(self.policy.immediate.delay(piece.conflicts)).await;
        piece.conflicts += 1;
        pieces.push(piece);
        Ok(())
    }

    /// One transaction over `entries`; rolled back when it fails.
    async fn attempt(&self, entries: &[Entry<'_>], attempts: u32) -> Result<(), Failure> {
        self.handled(entries.len(), async |tx| self.work(tx, entries, attempts).await).await
    }

    /// As [`transaction`](Self::transaction), of work that calls handlers: what they wrote and the
    /// commit refuses (a deferred constraint, a transaction they broke) is their failure, not the
    /// store's, which would be tried again for ever.
    pub(crate) async fn handled<F>(&self, entry_count: usize, work: F) -> Result<(), Failure>
    where
        F: AsyncFnOnce(&mut Tx) -> Result<(), Failure>,
    {
        let mut is_worked = false;
        let outcome = self.transaction(async |tx| {
            work(tx).await?;
            is_worked = true;
            Ok(())
        });
        match outcome.await {
            Err(Failure::Store(error)) if is_worked && is_refused_commit(&error) => {
                Err(Failure::Handler { failed: 0..entry_count, error })
            }
            outcome => outcome,
        }
    }

    async fn work(&self, tx: &mut Tx, entries: &[Entry<'_>], attempts: u32) -> Result<(), Failure> {
        let fresh = self.claim(tx, entries).await?;
        let deliveries: Vec<_> = fresh.iter().map(|index| entries[*index].delivery).collect();
        let blocked = self.blocked(tx, &deliveries).await?;
        let mut held = HashSet::new();
        let mut runs = Runs::new(self.policy.handler_timeout);
        for (index, is_blocked) in fresh.into_iter().zip(blocked) {
            let entry = &entries[index];
            if is_blocked || held.contains(&queue(entry.delivery)) {
                self.park_behind(tx, entry.delivery).await?;
                continue;
            }
            if let Err(error) = runs.push(tx, index, entry, attempts).await? {
                if is_refused_copy(entry.delivery) {
                    tracing::debug!(group = %self.group, event_id = entry.delivery.inbox_id(), "a dead letter already");
                    continue;
                }
                self.give_up(tx, entry.delivery, 0, &error).await?;
                if self.policy.after_dead_letter == AfterDeadLetter::ParkKey && self.hold(tx, entry, &error).await? {
                    held.insert(queue(entry.delivery));
                }
            }
        }
        runs.finish(tx).await
    }

    /// The indices of the entries that this group has not settled before.
    async fn claim(&self, tx: &mut Tx, entries: &[Entry<'_>]) -> Result<Vec<usize>> {
        let ids: Vec<_> = entries.iter().map(|entry| entry.delivery.inbox_id()).collect();
        let claims = self.stores.inbox.claim(tx, &self.group, &ids).await?;
        check_count("inbox.claim", ids.len(), claims.len())?;
        Ok(claims.into_iter().enumerate().filter(|(_, is_new)| *is_new).map(|(index, _)| index).collect())
    }

    async fn blocked(&self, tx: &mut Tx, deliveries: &[&Delivery]) -> Result<Vec<bool>> {
        if deliveries.is_empty() {
            return Ok(Vec::new());
        }
        let blocked = self.stores.parked.is_blocked(tx, &self.group, deliveries).await?;
        check_count("parked.is_blocked", deliveries.len(), blocked.len())?;
        Ok(blocked)
    }

    /// Parks or gives up a delivery that failed alone, in a transaction that also claims it.
    async fn set_aside(&self, entry: &Entry<'_>, attempts: u32, error: &Error, verdict: Verdict) -> Result<()> {
        let delivery = entry.delivery;
        let set_aside = self.transaction(async |tx| -> Result<(), Failure> {
            if self.claim(tx, std::slice::from_ref(entry)).await?.is_empty() {
                return Ok(());
            }
            if self.blocked(tx, &[delivery]).await?[0] {
                return Ok(self.park_behind(tx, delivery).await?);
            }
            match verdict {
                Verdict::Park(delay) => self.park(tx, delivery, attempts, error, Some(delay)).await?,
                Verdict::DeadLetter | Verdict::RetryAfter(_) => {
                    self.give_up(tx, delivery, attempts, error).await?;
                    if self.policy.after_dead_letter == AfterDeadLetter::ParkKey {
                        self.hold(tx, entry, error).await?;
                    }
                }
            }
            Ok(())
        });
        set_aside.await.map_err(|failure| match failure {
            Failure::Store(error) | Failure::Handler { error, .. } => error,
        })
    }

    async fn park_behind(&self, tx: &mut Tx, delivery: &Delivery) -> Result<()> {
        let delay = Some(Duration::ZERO);
        let parking = Parking { group: &self.group, delivery, attempts: 0, cause: "", delay };
        self.stores.parked.park(tx, &parking).await?;
        self.wake_after(tx);
        Ok(())
    }

    async fn park(
        &self,
        tx: &mut Tx,
        delivery: &Delivery,
        attempts: u32,
        error: &Error,
        delay: Option<Duration>,
    ) -> Result<()> {
        let cause = one_line(&error.report());
        let parking = Parking { group: &self.group, delivery, attempts, cause: &cause, delay };
        self.stores.parked.park(tx, &parking).await?;
        if let Some(delay) = delay {
            self.warn_after(tx, delivery, attempts, error, format!("parked, next try in {delay:?}"));
        }
        self.wake_after(tx);
        Ok(())
    }

    /// Holds the key of a dead letter; `false` where there is no key.
    async fn hold(&self, tx: &mut Tx, entry: &Entry<'_>, error: &Error) -> Result<bool> {
        let has_key = entry.delivery.message.key.is_some();
        if has_key {
            self.park(tx, entry.delivery, 0, error, None).await?;
        }
        Ok(has_key)
    }

    /// Writes a dead letter, and its copy where asked; nothing where there is one of this event.
    pub(crate) async fn give_up(&self, tx: &mut Tx, delivery: &Delivery, attempts: u32, error: &Error) -> Result<()> {
        let mut letter = DeadLetter::new(&self.group, delivery, error, attempts);
        letter.cause = one_line(&letter.cause);
        if !self.stores.dead_letters.add(tx, &letter).await? {
            return Ok(());
        }
        if let (true, Some(outbox)) = (self.policy.copy_to_dead_letter_topic, &self.stores.outbox) {
            let copies: Vec<_> = dead_letter_copy(&letter).into_iter().collect();
            if !copies.is_empty() {
                outbox.add_messages(tx, &copies).await?;
            }
        }
        self.warn_after(tx, delivery, attempts, error, "dead letter".to_owned());
        Ok(())
    }

    fn warn_after(&self, tx: &mut Tx, delivery: &Delivery, attempts: u32, error: &Error, outcome: String) {
        let (group, event_id) = (self.group.clone(), delivery.inbox_id());
        let (kind, cause) = (error.kind(), one_line(&error.report()));
        tx.after_commit(move || tracing::warn!(%group, event_id, attempts, %kind, cause, "{outcome}"));
    }

    pub(crate) fn wake_after(&self, tx: &mut Tx) {
        let parked = self.parked.clone();
        tx.after_commit(move || parked.notify_one());
    }

    /// Opens the envelope and finds the handler; `None` for a type that the policy ignores.
    pub(crate) fn open<'a>(&self, delivery: &'a Delivery) -> Option<Entry<'a>> {
        let target = match BaseEvent::open(delivery) {
            Err(error) => Err(Refusal(error)),
            Ok(envelope) => match self.router.find(&delivery.message.topic, &envelope.event_type) {
                Some(route) => Ok(Target { route: route.clone(), payload: envelope.payload }),
                None if self.policy.unknown_type == UnknownType::Ignore => return None,
                None => Err(Refusal(unknown_type(delivery, &envelope.event_type))),
            },
        };
        Some(Entry { delivery, target })
    }

    /// Calls the handler of one entry.
    pub(crate) async fn handle(&self, tx: &mut Tx, entry: &Entry<'_>, attempts: u32) -> Result<(), Failure> {
        let mut runs = Runs::new(self.policy.handler_timeout);
        if let Err(error) = runs.push(tx, 0, entry, attempts).await? {
            return Err(Failure::Handler { failed: 0..1, error });
        }
        runs.finish(tx).await
    }

    /// Runs `body` in a transaction; commits when it answers `Ok`.
    pub(crate) async fn transaction<F>(&self, body: F) -> Result<(), Failure>
    where
        F: AsyncFnOnce(&mut Tx) -> Result<(), Failure>,
    {
        use crate::TransactionManagerExt as _;
        self.stores.transactions.run(body).await
    }
}

/// The open run of events of one type, and where its events stand among the entries.
struct Runs {
    open: Option<OpenRun>,
    handler_timeout: Duration,
}

struct OpenRun {
    route: Arc<dyn Route>,
    run: Box<dyn Run>,
    indices: Vec<usize>,
}

impl Runs {
    fn new(handler_timeout: Duration) -> Self {
        Self { open: None, handler_timeout }
    }

    /// Adds an entry; a run of another type is executed before it. The inner error refuses the
    /// entry alone.
    async fn push(
        &mut self,
        tx: &mut Tx,
        index: usize,
        entry: &Entry<'_>,
        attempts: u32,
    ) -> Result<Result<()>, Failure> {
        let target = match &entry.target {
            Ok(target) => target,
            Err(Refusal(error)) => return Ok(Err(copied(error))),
        };
        if self.open.as_ref().is_some_and(|open| !Arc::ptr_eq(&open.route, &target.route)) {
            self.execute(tx).await?;
        }
        let open = self.open.get_or_insert_with(|| OpenRun {
            route: target.route.clone(),
            run: target.route.run(),
            indices: Vec::new(),
        });
        if let Err(error) = open.run.push(target.payload.clone(), entry.delivery, attempts) {
            return Ok(Err(error));
        }
        open.indices.push(index);
        Ok(Ok(()))
    }

    async fn finish(mut self, tx: &mut Tx) -> Result<(), Failure> {
        self.execute(tx).await
    }

    async fn execute(&mut self, tx: &mut Tx) -> Result<(), Failure> {
        let Some(OpenRun { run, indices, .. }) = self.open.take() else { return Ok(()) };
        run.execute(tx, self.handler_timeout).await.map_err(|RunFailure { first, last, error }| Failure::Handler {
            failed: indices[first]..indices[last] + 1,
            error,
        })
    }
}

/// Cuts a failed piece so that what succeeded before the failure is settled first, then the part
/// that failed (halved when it is the whole piece), then the rest.
fn split(range: Range<usize>, failed: Range<usize>, error: Error, pieces: &mut Vec<Piece>) {
    let failed = range.start + failed.start..range.start + failed.end;
    if failed == range {
        let middle = range.start + range.len() / 2;
        pieces.push(Piece::of(middle..range.end));
        pieces.push(Piece::of(range.start..middle));
        return;
    }
    let mut single = Piece::of(failed.clone());
    // An aborted transaction may be the doing of those before it: tried alone, it is its own.
    if failed.len() == 1 && error.kind() != ErrorKind::Aborted {
        single.attempts = 1;
        single.failure = Some(error);
    }
    let parts = [Piece::of(failed.end..range.end), single, Piece::of(range.start..failed.start)];
    pieces.extend(parts.into_iter().filter(|piece| !piece.range.is_empty()));
}

/// Ends a batch that several lanes share. Its kind is none that a retry layer repeats: the parts
/// come again by themselves.
fn apart(error: &Error) -> Error {
    let message = "a handler failed, so each lane hands in its own part";
    Error::new(ErrorKind::Cancelled, "inbox_service.settle", message).with_context("failure", error.report())
}

/// Whether a commit failed because of what is in the transaction. Other kinds are those of a
/// database that cannot be reached or is full: they say nothing about the deliveries.
fn is_refused_commit(error: &Error) -> bool {
    error.is_permanent() || matches!(error.kind(), ErrorKind::Aborted | ErrorKind::Internal)
}

fn queue(delivery: &Delivery) -> (&str, Option<&Bytes>) {
    (&delivery.message.topic, delivery.message.key.as_ref())
}

fn check_count(operation: &'static str, expected: usize, actual: usize) -> Result<()> {
    if expected == actual {
        return Ok(());
    }
    let message = "the store answered for another number of deliveries than it was asked about";
    Err(Error::new(ErrorKind::Internal, operation, message)
        .with_context("expected", expected)
        .with_context("actual", actual))
}

fn unknown_type(delivery: &Delivery, event_type: &str) -> Error {
    Error::new(ErrorKind::Unimplemented, "router.find", "no handler for this event type on this topic")
        .with_context("event_type", one_line(event_type))
        .with_context("topic", &delivery.message.topic)
}

/// An error is not `Clone` because of its source; its text is what a dead letter keeps.
fn copied(error: &Error) -> Error {
    Error::new(error.kind(), "consume.open", error.report())
}
