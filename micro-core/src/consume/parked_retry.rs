//! Tries parked deliveries again when they are due, each key's in order.

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use super::{
    AfterDeadLetter,
    dead_letters::one_line,
    inbox_service::{Entry, Failure, Inbox},
    policy::Verdict,
    unwind::unwound,
};
use crate::{Error, Result, parked::ParkedRow};

/// The shortest and the longest wait between two looks at what is due.
const POLL_INTERVAL_MIN: Duration = Duration::from_millis(200);
const POLL_INTERVAL_MAX: Duration = Duration::from_secs(2);

/// How many due rows are read at once, and how many of them (of different keys) are tried side by side.
const ROW_COUNT_MAX: usize = 64;
const CONCURRENCY_MAX: usize = 4;

impl Inbox {
    /// Tries what is due until `stop`; between two rounds it waits for the clock or for something
    /// to be parked. A failing store is tried again at the longest interval.
    pub(crate) async fn retry_until(&self, stop: CancellationToken) {
        let mut interval = POLL_INTERVAL_MIN;
        let mut failure_count = 0_u32;
        loop {
            match stop.run_until_cancelled(unwound("consumer.retry", self.retry_due())).await {
                None => return,
                Some(Ok(try_count)) => {
                    failure_count = 0;
                    interval = if try_count > 0 { POLL_INTERVAL_MIN } else { (interval * 2).min(POLL_INTERVAL_MAX) };
                }
                Some(Err(error)) => {
                    failure_count = failure_count.saturating_add(1);
                    if failure_count.is_power_of_two() {
                        tracing::warn!(group = %self.group, failure_count, error = %error.report(), "parked deliveries cannot be tried");
                    }
                    interval = POLL_INTERVAL_MAX;
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.parked.notified(), if failure_count == 0 => interval = POLL_INTERVAL_MIN,
                () = tokio::time::sleep(interval) => {}
            }
        }
    }

    /// Tries what is due until nothing is; answers how many tries there were.
    pub(crate) async fn retry_due(&self) -> Result<usize> {
        let mut try_count = 0;
        loop {
            let rows = self.stores.parked.due(&self.group, ROW_COUNT_MAX).await?;
            if rows.is_empty() {
                return Ok(try_count);
            }
            try_count += rows.len();
            // Heads of different keys: no order among them.
            let tries = stream::iter(rows).map(|row| async move { self.retry(&row).await });
            tries.buffer_unordered(CONCURRENCY_MAX).try_collect::<Vec<()>>().await?;
        }
    }

    async fn retry(&self, row: &ParkedRow) -> Result<()> {
        let entry = self.open(&row.delivery);
        let mut attempts = row.attempts;
        loop {
            let error = match self.try_row(row, entry.as_ref(), attempts).await {
                Ok(()) => return Ok(()),
                Err(Failure::Store(error)) => return Err(error),
                Err(Failure::Handler { error, .. }) => error,
            };
            if entry.as_ref().is_some_and(|entry| entry.target.is_err()) {
                return self.set_row_aside(row, attempts, &error, Verdict::DeadLetter).await;
            }
            attempts = attempts.saturating_add(1);
            match self.policy.verdict(attempts, &error) {
                Verdict::RetryAfter(delay) => tokio::time::sleep(delay).await,
                verdict => return self.set_row_aside(row, attempts, &error, verdict).await,
            }
        }
    }

    /// Removes the row and calls its handler in one transaction. Somebody else may have been
    /// faster; a type that is ignored by now has no entry and is just removed.
    async fn try_row(&self, row: &ParkedRow, entry: Option<&Entry<'_>>, attempts: u32) -> Result<(), Failure> {
        self.handled(1, async |tx| {
            let is_ours = self.stores.parked.remove(tx, row.id).await?;
            match entry {
                Some(entry) if is_ours => self.handle(tx, entry, attempts).await,
                _ => Ok(()),
            }
        })
        .await
    }

    async fn set_row_aside(&self, row: &ParkedRow, attempts: u32, error: &Error, verdict: Verdict) -> Result<()> {
        let parked = &self.stores.parked;
        let holds_key = self.policy.after_dead_letter == AfterDeadLetter::ParkKey && row.delivery.message.key.is_some();
        let cause = one_line(&error.report());
        let set_aside = self.transaction(async |tx| -> Result<(), Failure> {
            // The row may be gone: another process of the group tried it with more luck.
            let is_ours = match verdict {
                Verdict::Park(delay) => {
                    parked.postpone(tx, row.id, attempts, &cause, Some(delay)).await?;
                    return Ok(());
                }
                _ if holds_key => parked.postpone(tx, row.id, attempts, &cause, None).await?,
                _ => parked.remove(tx, row.id).await?,
            };
            if is_ours {
                self.give_up(tx, &row.delivery, attempts, error).await?;
            }
            Ok(())
        });
        set_aside.await.map_err(|failure| match failure {
            Failure::Store(error) | Failure::Handler { error, .. } => error,
        })
    }
}
