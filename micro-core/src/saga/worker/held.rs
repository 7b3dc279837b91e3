//! A saga that is held: what is known of it, and for how long it is ours.

use std::{sync::Mutex, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{LogWriter, lock};
use crate::{
    batch::Batcher,
    consume::trouble::backoff,
    saga::{DueSaga, Saga, SagaChange, SagaLease, SagaProgress, SagaWrite},
};

/// The first and the longest wait before a write that failed is tried again.
const WRITE_DELAY_INITIAL: Duration = Duration::from_millis(50);
const WRITE_DELAY_MAX: Duration = Duration::from_secs(1);

/// That much later, or so late that nobody waits for it.
pub(in crate::saga) fn after(instant: Instant, duration: Duration) -> Instant {
    // Thirty years, as tokio has it where a time is too far away.
    const FAR: Duration = Duration::from_secs(86_400 * 365 * 30);
    instant + duration.min(FAR)
}

pub(in crate::saga) struct Held {
    due: DueSaga,
    began_at: Option<Instant>,
    taken_at: Instant,
    lease: SagaLease,
    /// By this process's clock, from before the lease was asked for: never later than the log's.
    ends_at: Mutex<Instant>,
    lost: CancellationToken,
    stop: CancellationToken,
    writer: Batcher<LogWriter>,
}

impl Held {
    pub(super) fn new(
        mut due: DueSaga,
        lease: SagaLease,
        leased_at: Instant,
        writer: Batcher<LogWriter>,
        stop: CancellationToken,
    ) -> Self {
        if due.was_abandoned && due.progress.rollback_reason.is_none() {
            // Any action may have been called, and it is not written. From here on it is, with whatever is
            // written next: who gives the saga back gives the doubt on.
            due.progress.begun.extend(0..due.saga.steps.len());
        }
        Self {
            began_at: leased_at.checked_sub(due.age),
            taken_at: leased_at,
            ends_at: Mutex::new(after(leased_at, lease.duration)),
            due,
            lease,
            lost: CancellationToken::new(),
            stop,
            writer,
        }
    }

    pub(in crate::saga) fn saga(&self) -> &Saga {
        &self.due.saga
    }

    /// As it was written last, when it was taken; of an abandoned one every action counts as begun.
    pub(in crate::saga) fn progress(&self) -> &SagaProgress {
        &self.due.progress
    }

    /// How long ago it was added.
    pub(in crate::saga) fn age(&self) -> Duration {
        match self.began_at {
            Some(began_at) => began_at.elapsed(),
            // Before the clock began.
            None => self.due.age.saturating_add(self.taken_at.elapsed()),
        }
    }

    /// Whether no further call should begin.
    pub(in crate::saga) fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Works as long as it is ours; `None` once it is not.
    pub(in crate::saga) async fn while_mine<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        loop {
            let ends_at = *lock(&self.ends_at);
            if ends_at <= Instant::now() {
                return None;
            }
            tokio::select! {
                biased;
                () = self.lost.cancelled() => return None,
                done = &mut work => return Some(done),
                // It may have been renewed meanwhile.
                () = tokio::time::sleep_until(ends_at) => {}
            }
        }
    }

    /// Makes the progress durable; `false` where it is not ours any more.
    pub(in crate::saga) async fn record(&self, progress: &SagaProgress) -> bool {
        self.write(&SagaChange::Recorded(progress.clone(), self.lease.duration)).await
    }

    /// Writes until it is written, or it is not ours any more: `false`.
    pub(super) async fn write(&self, change: &SagaChange) -> bool {
        let is_written = self.while_mine(self.write_again(change)).await.unwrap_or(false);
        if !is_written {
            self.lost.cancel();
        }
        is_written
    }

    async fn write_again(&self, change: &SagaChange) -> bool {
        let mut failure_count = 0;
        loop {
            let asked_at = Instant::now();
            let write = SagaWrite::new(&self.due.saga.gid, self.lease.id, change.clone());
            match self.writer.call(write).await {
                Ok(is_mine) => {
                    if let SagaChange::Renewed(duration) | SagaChange::Recorded(_, duration) = change
                        && is_mine
                    {
                        let mut ends_at = lock(&self.ends_at);
                        *ends_at = (*ends_at).max(after(asked_at, *duration));
                    }
                    return is_mine;
                }
                // The writer has spoken of it.
                Err(_) => failure_count += 1,
            }
            tokio::time::sleep(backoff(failure_count, WRITE_DELAY_INITIAL, WRITE_DELAY_MAX)).await;
        }
    }

    pub(super) fn ends_before(&self, at: Instant) -> bool {
        !self.lost.is_cancelled() && *lock(&self.ends_at) < at
    }
}
