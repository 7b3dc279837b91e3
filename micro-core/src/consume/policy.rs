//! What happens when a handler fails: one value, whose order is not the user's to get wrong.

use std::time::Duration;

use crate::transaction::RetryPolicy;

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
    /// What becomes of the later messages of a dead letter's key; default skip.
    pub after_dead_letter: AfterDeadLetter,
    /// What becomes of an event type without a handler; default a dead letter.
    pub unknown_type: UnknownType,
    /// Whether a copy of each dead letter goes to `<Topic>DLQ` through the outbox, its envelope's
    /// type ending in `DLQ`; default no. A topic that ends in `DLQ` never gets one.
    pub copy_to_dead_letter_topic: bool,
}

impl Default for DeliveryPolicy {
    fn default() -> Self {
        Self {
            immediate: RetryPolicy::default(),
            delayed: vec![Duration::from_secs(10), Duration::from_secs(60), Duration::from_secs(300)],
            after_dead_letter: AfterDeadLetter::Skip,
            unknown_type: UnknownType::DeadLetter,
            copy_to_dead_letter_topic: false,
        }
    }
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
