//! Repeats whole transaction attempts that lost against another transaction.

use std::{future::Future, time::Duration};

use crate::{ErrorKind, Result};

/// How often and how soon to try again.
///
/// The wait before retry n (from 0) is drawn from `[delay/2, delay]`, `delay` being
/// `delay_initial × 2ⁿ`, at most `delay_max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often to try again after the first attempt; default 3.
    pub retry_count_max: u32,
    /// The wait before the first retry; default 50 ms.
    pub delay_initial: Duration,
    /// The longest wait; default 1 s.
    pub delay_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { retry_count_max: 3, delay_initial: Duration::from_millis(50), delay_max: Duration::from_secs(1) }
    }
}

impl RetryPolicy {
    /// The jittered wait before retry `retry`, counted from 0.
    pub fn delay(&self, retry: u32) -> Duration {
        let delay = self.delay_initial.saturating_mul(1_u32 << retry.min(20)).min(self.delay_max);
        delay.mul_f64(0.5 + 0.5 * fastrand::f64())
    }
}

/// Runs `attempt` and repeats it while it fails with `Aborted` (deadlock, serialization failure),
/// at most as often as `policy` says.
///
/// # Errors
///
/// That of the last attempt.
///
/// # Examples
///
/// ```
/// # use micro_core::{Error, ErrorKind, transaction::{retrying, RetryPolicy}};
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let mut attempts = 0;
/// let answer = retrying(RetryPolicy::default(), || {
///     attempts += 1;
///     let won = attempts == 3;
///     async move { if won { Ok(42) } else { Err(Error::new(ErrorKind::Aborted, "orders.pay", "deadlock")) } }
/// })
/// .await;
/// assert_eq!(answer.unwrap(), 42);
/// # });
/// ```
pub async fn retrying<T, F, Fut>(policy: RetryPolicy, mut attempt: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let mut retry = 0;
    loop {
        match attempt().await {
            Err(error) if error.kind() == ErrorKind::Aborted && retry < policy.retry_count_max => {
                tracing::debug!(retry, error = %error, "transaction lost a conflict, trying again");
                tokio::time::sleep(policy.delay(retry)).await;
                retry += 1;
            }
            outcome => return outcome,
        }
    }
}
