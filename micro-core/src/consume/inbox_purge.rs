//! Forgets the event ids that no broker can deliver again, so that the inbox does not grow for ever.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{inbox_service::Inbox, unwind::unwound};
use crate::Result;

/// The wait between two purges.
const PURGE_INTERVAL: Duration = Duration::from_secs(60);

/// How many ids one statement forgets, and the wait before the next: handlers write meanwhile.
const PURGE_COUNT_MAX: usize = 1_000;
const PURGE_PAUSE: Duration = Duration::from_millis(50);

impl Inbox {
    /// Purges now and then until `stop`. A failing store is tried again at the next purge.
    pub(crate) async fn purge_until(&self, stop: CancellationToken) {
        let mut failure_count = 0_u32;
        loop {
            let purge = async {
                tokio::time::sleep(PURGE_INTERVAL).await;
                unwound("consumer.purge", self.purge()).await
            };
            match stop.run_until_cancelled(purge).await {
                None => return,
                Some(Ok(())) => failure_count = 0,
                Some(Err(error)) => {
                    failure_count = failure_count.saturating_add(1);
                    if failure_count.is_power_of_two() {
                        tracing::warn!(group = %self.group, failure_count, error = %error.report(), "inbox cannot be purged");
                    }
                }
            }
        }
    }

    async fn purge(&self) -> Result<()> {
        loop {
            let count = self.stores.inbox.purge(self.policy.inbox_retention, PURGE_COUNT_MAX).await?;
            if usize::try_from(count).is_ok_and(|count| count < PURGE_COUNT_MAX) {
                return Ok(());
            }
            tokio::time::sleep(PURGE_PAUSE).await;
        }
    }
}
