//! When and how often to try again.

use std::{collections::HashSet, sync::Arc, time::Duration};

use micro_core::{ErrorKind, flow::Flow};

/// When and how often to try again.
///
/// The wait before retry n (from 0) is drawn from `[0, delay]` ("full jitter"), `delay` being
/// `delay_initial × 2ⁿ`, at most `delay_max`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryConfig {
    /// How often to try again after the first attempt; default 2.
    pub retry_count_max: u32,
    /// The longest wait before the first retry; default 25 ms.
    pub delay_initial: Duration,
    /// The longest wait; default 1 s.
    pub delay_max: Duration,
    /// The largest body of a call that is kept for a retry, in bytes; default 64 KiB. A call with
    /// a larger one is not tried again.
    pub body_bytes_max: usize,
    idempotent: Arc<HashSet<String>>,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            retry_count_max: 2,
            delay_initial: Duration::from_millis(25),
            delay_max: Duration::from_secs(1),
            body_bytes_max: 64 * 1024,
            idempotent: Arc::default(),
        }
    }
}

impl RetryConfig {
    /// The immediate retries of a consumer: 3, the first after at most 50 ms.
    pub fn consume() -> Self {
        Self { retry_count_max: 3, delay_initial: Duration::from_millis(50), ..Self::default() }
    }

    /// Sets how often to try again after the first attempt.
    #[must_use]
    pub fn with_retry_count_max(mut self, count: u32) -> Self {
        self.retry_count_max = count;
        self
    }

    /// Sets the longest waits, before the first retry and before any.
    #[must_use]
    pub fn with_delays(mut self, initial: Duration, max: Duration) -> Self {
        (self.delay_initial, self.delay_max) = (initial, max);
        self
    }

    /// Sets the largest body of a call that is kept for a retry.
    #[must_use]
    pub fn with_body_bytes_max(mut self, bytes: usize) -> Self {
        self.body_bytes_max = bytes;
        self
    }

    /// Declares calls (`/package.Service/Method`) whose effect is the same however often they are
    /// made: they are tried again on every retryable kind.
    #[must_use]
    pub fn with_idempotent<N: Into<String>>(mut self, operations: impl IntoIterator<Item = N>) -> Self {
        self.idempotent = Arc::new(operations.into_iter().map(Into::into).collect());
        self
    }

    pub(super) fn is_idempotent(&self, operation: &str) -> bool {
        self.idempotent.contains(operation)
    }

    pub(super) fn delay(&self, retry: u32) -> Duration {
        let delay = self.delay_initial.saturating_mul(1_u32 << retry.min(20)).min(self.delay_max);
        delay.mul_f64(fastrand::f64())
    }
}

/// Whether a failure of this kind may be tried again.
///
/// A call may have had its effect before it failed: without more knowledge it is tried again only
/// where the failure says that it was not taken up. What is consumed is undone by its transaction.
pub(super) fn may_repeat(flow: Flow, kind: ErrorKind, is_not_taken_up: bool, is_idempotent: bool) -> bool {
    match flow {
        Flow::Rpc if !is_idempotent => is_not_taken_up,
        _ => kind.is_retryable(),
    }
}
