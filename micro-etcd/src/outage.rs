//! A run of failures: its beginning and end are logged, what is between them only in detail; and
//! how long to wait before the next attempt.

use std::time::Duration;

use micro_core::{Error, transaction::RetryPolicy};
use tokio::time::Instant;

pub(crate) struct Outage {
    /// What fails, for the log.
    work: &'static str,
    /// The service or instance it fails for.
    subject: String,
    again: RetryPolicy,
    began: Option<Instant>,
    failure_count: u32,
}

impl Outage {
    /// No failure yet; attempts will be `pause_max` apart at most.
    pub(crate) fn new(work: &'static str, subject: &str, pause_max: Duration) -> Self {
        let again =
            RetryPolicy { retry_count_max: u32::MAX, delay_initial: Duration::from_millis(200), delay_max: pause_max };
        Self { work, subject: subject.to_owned(), again, began: None, failure_count: 0 }
    }

    /// Notes a failure; returns how long to wait.
    pub(crate) fn failed(&mut self, error: &Error) -> Duration {
        let (work, subject) = (self.work, &self.subject);
        match self.began {
            None => tracing::warn!(work, subject, error = %error.report(), "etcd fails, trying again"),
            Some(_) => tracing::debug!(work, subject, error = %error.report(), "etcd fails still"),
        }
        self.began.get_or_insert_with(Instant::now);
        let pause = self.again.delay(self.failure_count);
        self.failure_count = self.failure_count.saturating_add(1);
        pause
    }

    /// Notes a success, which ends a run of failures if there is one.
    pub(crate) fn ended(&mut self) {
        self.failure_count = 0;
        if let Some(began) = self.began.take() {
            tracing::info!(work = self.work, subject = self.subject, after = ?began.elapsed(), "etcd answers again");
        }
    }
}

#[cfg(test)]
mod tests {
    use micro_core::ErrorKind;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_their_limit_and_begin_anew_after_a_success() {
        let limit = Duration::from_secs(10);
        let mut outage = Outage::new("watch", "greeter", limit);
        let error = Error::new(ErrorKind::Unavailable, "registry.watch", "no server answers");
        let pauses: Vec<_> = (0..40).map(|_| outage.failed(&error)).collect();
        assert!(pauses[0] <= Duration::from_millis(200));
        assert!(pauses[39] >= limit / 2 && pauses.iter().all(|pause| *pause <= limit));
        outage.ended();
        assert!(outage.failed(&error) <= Duration::from_millis(200));
    }
}
