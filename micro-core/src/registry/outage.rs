//! A registry's server that fails again and again: what is logged of it, and when it is asked next.

use std::time::Duration;

use tokio::time::Instant;

use crate::{Error, transaction::RetryPolicy};

/// A run of failures of one work for an adapter's server: its beginning and its end are logged, what is
/// between them only at the level `debug`; and how long to wait before the next attempt.
#[derive(Debug)]
pub struct Outage {
    server: &'static str,
    work: &'static str,
    subject: String,
    again: RetryPolicy,
    began: Option<Instant>,
    failure_count: u32,
}

impl Outage {
    /// No failure yet of `work` (`watch`, `heartbeat`), which `server` (`Consul`) does for `subject`, a
    /// service or an instance. Attempts will be apart 200 ms at first and `pause_max` at most.
    pub fn new(server: &'static str, work: &'static str, subject: &str, pause_max: Duration) -> Self {
        let again =
            RetryPolicy { retry_count_max: u32::MAX, delay_initial: Duration::from_millis(200), delay_max: pause_max };
        Self { server, work, subject: subject.to_owned(), again, began: None, failure_count: 0 }
    }

    /// Notes a failure; returns how long to wait before the next attempt.
    pub fn failed(&mut self, error: &Error) -> Duration {
        let Self { server, work, ref subject, .. } = *self;
        match self.began {
            None => tracing::warn!(work, subject, error = %error.report(), "{server} fails, trying again"),
            Some(_) => tracing::debug!(work, subject, error = %error.report(), "{server} fails still"),
        }
        self.began.get_or_insert_with(Instant::now);
        let pause = self.again.delay(self.failure_count);
        self.failure_count = self.failure_count.saturating_add(1);
        pause
    }

    /// Notes a success, which ends a run of failures if there is one.
    pub fn ended(&mut self) {
        self.failure_count = 0;
        if let Some(began) = self.began.take() {
            let Self { server, work, ref subject, .. } = *self;
            tracing::info!(work, subject, after = ?began.elapsed(), "{server} answers again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_their_limit_and_begin_anew_after_a_success() {
        let limit = Duration::from_secs(10);
        let mut outage = Outage::new("etcd", "watch", "greeter", limit);
        let error = Error::new(ErrorKind::Unavailable, "registry.watch", "no server answers");
        let pauses: Vec<_> = (0..40).map(|_| outage.failed(&error)).collect();
        assert!(pauses[0] <= Duration::from_millis(200));
        assert!(pauses[39] >= limit / 2 && pauses.iter().all(|pause| *pause <= limit));
        outage.ended();
        assert!(outage.failed(&error) <= Duration::from_millis(200));
    }
}
