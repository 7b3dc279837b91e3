//! What happens when a handler fails: one value, whose order is not the user's to get wrong.

use std::time::Duration;

use crate::{Error, transaction::RetryPolicy};

/// What happens when a handler fails.
///
/// Immediate retries, then delayed ones as rows of the parked store, then a dead letter. Permanent
/// errors, undecodable bytes and unknown types become dead letters at once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeliveryPolicy {
    /// Retries at once; default 3, waiting 50 ms × 2ⁿ with jitter.
    pub immediate: RetryPolicy,
    /// The waits before the delayed retries, one entry a retry; default 10 s, 1 min, 5 min. Empty:
    /// what fails its immediate retries becomes a dead letter.
    pub delayed: Vec<Duration>,
    /// How long one call of a handler may take; default 30 s. Longer is a failure of kind
    /// `DeadlineExceeded`: its transaction is rolled back, and it follows the policy like any other.
    pub handler_timeout: Duration,
    /// What becomes of the later messages of a dead letter's key; default skip.
    pub after_dead_letter: AfterDeadLetter,
    /// What becomes of an event type without a handler; default a dead letter.
    pub unknown_type: UnknownType,
    /// Whether a copy of each dead letter goes to `<Topic>DLQ` through the outbox, its envelope's
    /// type ending in `DLQ`; default no. A topic that ends in `DLQ` never gets one. The copy of a
    /// record that could not be decoded or had no handler is a dead letter once: a group that reads
    /// the copy and can do nothing with it either just acks it.
    pub copy_to_dead_letter_topic: bool,
    /// How long the inbox knows an event that was handled; default 7 days. An event that comes
    /// again later has its effect again, so keep it longer than the broker keeps its messages. The
    /// inbox belongs to the database: of several groups there, the shortest retention holds.
    pub inbox_retention: Duration,
}

impl Default for DeliveryPolicy {
    fn default() -> Self {
        Self {
            immediate: RetryPolicy::default(),
            delayed: vec![Duration::from_secs(10), Duration::from_secs(60), Duration::from_secs(300)],
            handler_timeout: Duration::from_secs(30),
            after_dead_letter: AfterDeadLetter::Skip,
            unknown_type: UnknownType::DeadLetter,
            copy_to_dead_letter_topic: false,
            inbox_retention: Duration::from_secs(7 * 24 * 60 * 60),
        }
    }
}

impl DeliveryPolicy {
    /// Sets the retries at once.
    #[must_use]
    pub fn with_immediate(mut self, immediate: RetryPolicy) -> Self {
        self.immediate = immediate;
        self
    }

    /// Sets the waits before the delayed retries.
    #[must_use]
    pub fn with_delayed(mut self, delayed: impl Into<Vec<Duration>>) -> Self {
        self.delayed = delayed.into();
        self
    }

    /// Sets how long one call of a handler may take.
    #[must_use]
    pub fn with_handler_timeout(mut self, timeout: Duration) -> Self {
        self.handler_timeout = timeout;
        self
    }

    /// Sets what becomes of the later messages of a dead letter's key.
    #[must_use]
    pub fn with_after_dead_letter(mut self, after: AfterDeadLetter) -> Self {
        self.after_dead_letter = after;
        self
    }

    /// Sets what becomes of an event type without a handler.
    #[must_use]
    pub fn with_unknown_type(mut self, unknown: UnknownType) -> Self {
        self.unknown_type = unknown;
        self
    }

    /// Sets whether a copy of each dead letter goes to `<Topic>DLQ`.
    #[must_use]
    pub fn with_copy_to_dead_letter_topic(mut self, is_copied: bool) -> Self {
        self.copy_to_dead_letter_topic = is_copied;
        self
    }

    /// Sets how long the inbox knows an event that was handled.
    #[must_use]
    pub fn with_inbox_retention(mut self, retention: Duration) -> Self {
        self.inbox_retention = retention;
        self
    }

    /// What follows a handler's failure number `attempts` (from 1).
    pub(crate) fn verdict(&self, attempts: u32, error: &Error) -> Verdict {
        if error.is_permanent() {
            return Verdict::DeadLetter;
        }
        let immediate_count_max = self.immediate.retry_count_max;
        if attempts <= immediate_count_max {
            return Verdict::RetryAfter(self.immediate.delay(attempts.saturating_sub(1)));
        }
        let delayed = usize::try_from(attempts - immediate_count_max - 1).unwrap_or(usize::MAX);
        self.delayed.get(delayed).map_or(Verdict::DeadLetter, |delay| Verdict::Park(*delay))
    }
}

/// What follows a handler's failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Again, after this wait.
    RetryAfter(Duration),
    /// Again, as a parked row, after this delay.
    Park(Duration),
    /// Never again.
    DeadLetter,
}

/// What becomes of the later messages of a dead letter's key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AfterDeadLetter {
    /// They go on.
    #[default]
    Skip,
    /// They are parked until the key is released: order with no gap.
    ParkKey,
}

/// What becomes of an event type that has no handler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownType {
    /// A dead letter.
    #[default]
    DeadLetter,
    /// It is acknowledged and forgotten: for a topic of which a service wants some types only.
    Ignore,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn three_retries_at_once_then_three_delayed_then_a_dead_letter() {
        let policy = DeliveryPolicy::default();
        let error = Error::new(ErrorKind::Unavailable, "stock.deduct", "no connection");
        let verdicts: Vec<_> = (1..=7).map(|attempts| policy.verdict(attempts, &error)).collect();
        assert!(verdicts[..3].iter().all(|verdict| matches!(verdict, Verdict::RetryAfter(_))));
        let parked = policy.delayed.iter().map(|delay| Verdict::Park(*delay));
        assert!(verdicts[3..6].iter().copied().eq(parked));
        assert_eq!(verdicts[6], Verdict::DeadLetter);
    }

    #[test]
    fn a_permanent_error_is_a_dead_letter_at_once() {
        let error = Error::new(ErrorKind::InvalidArgument, "stock.deduct", "no such product");
        assert_eq!(DeliveryPolicy::default().verdict(1, &error), Verdict::DeadLetter);
    }
}
