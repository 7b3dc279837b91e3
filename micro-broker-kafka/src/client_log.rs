//! What librdkafka says by itself: its log lines and errors go to `tracing`, and not too often.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{config::RDKafkaLogLevel, error::KafkaError, types::RDKafkaErrorCode};

use crate::error::classify;

/// While a broker is away a client repeats itself several times a second: a subject is heard once
/// in this time.
const REPEAT_INTERVAL: Duration = Duration::from_secs(10);
/// Subjects are librdkafka's own words and codes, some dozens.
const SUBJECT_COUNT_MAX: usize = 128;

/// The voice of one client.
pub(crate) struct ClientLog {
    /// Whose it is: `producer`, or the group.
    name: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    subjects: HashMap<String, Heard>,
    last_error: Option<(RDKafkaErrorCode, String)>,
}

struct Heard {
    at: Instant,
    suppressed_count: u64,
}

impl ClientLog {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), state: Mutex::default() }
    }

    /// A line of librdkafka's log.
    pub(crate) fn line(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        use RDKafkaLogLevel as Level;
        // A connection that failed is told of as an error, too.
        if facility == "FAIL" {
            return tracing::debug!(target: "librdkafka", client = self.name, facility, "{line}");
        }
        let Some(suppressed_count) = self.may_speak(facility) else { return };
        let client = &self.name;
        match level {
            // Nothing of it is final: what is, comes as an error.
            Level::Emerg | Level::Alert | Level::Critical | Level::Error | Level::Warning => {
                tracing::warn!(target: "librdkafka", client, facility, suppressed_count, "{line}");
            }
            Level::Notice | Level::Info => {
                tracing::info!(target: "librdkafka", client, facility, suppressed_count, "{line}");
            }
            Level::Debug => tracing::debug!(target: "librdkafka", client, facility, suppressed_count, "{line}"),
        }
    }

    /// An error that concerns the client, not one call.
    pub(crate) fn error(&self, error: &KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        let reason = reason.replace(['\n', '\r'], " ");
        // That all brokers are down says less than what each of them was down with.
        if code == RDKafkaErrorCode::AllBrokersDown {
            return tracing::debug!(target: "librdkafka", client = self.name, "{reason}");
        }
        self.state().last_error = Some((code, reason.clone()));
        let Some(suppressed_count) = self.may_speak(&format!("{code:?}")) else { return };
        let (kind, meaning) = classify(code);
        tracing::warn!(target: "librdkafka", client = self.name, %kind, meaning, suppressed_count, "{reason}");
    }

    /// The code and the words of the latest error.
    pub(crate) fn last_error(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.state().last_error.clone()
    }

    /// How often the subject was kept quiet since it was last heard; `None` when it is too early.
    fn may_speak(&self, subject: &str) -> Option<u64> {
        let now = Instant::now();
        let mut state = self.state();
        if let Some(heard) = state.subjects.get_mut(subject) {
            if now.duration_since(heard.at) < REPEAT_INTERVAL {
                heard.suppressed_count += 1;
                return None;
            }
            heard.at = now;
            return Some(std::mem::take(&mut heard.suppressed_count));
        }
        if state.subjects.len() < SUBJECT_COUNT_MAX {
            state.subjects.insert(subject.to_owned(), Heard { at: now, suppressed_count: 0 });
        }
        Some(0)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_heard_once_in_a_while_and_others_meanwhile() {
        let log = ClientLog::new("producer");
        assert_eq!(log.may_speak("FAIL"), Some(0));
        for _ in 0..1_000 {
            assert_eq!(log.may_speak("FAIL"), None);
        }
        assert_eq!(log.may_speak("SESSTMOUT"), Some(0));
        log.state().subjects.get_mut("FAIL").unwrap().at -= REPEAT_INTERVAL;
        assert_eq!(log.may_speak("FAIL"), Some(1_000));
    }

    #[test]
    fn the_last_error_is_the_cause_and_not_that_all_are_down() {
        let log = ClientLog::new("producer");
        log.error(&KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure), "connect to a:1\nrefused");
        log.error(&KafkaError::Global(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
        let cause = (RDKafkaErrorCode::BrokerTransportFailure, "connect to a:1 refused".to_owned());
        assert_eq!(log.last_error(), Some(cause));
    }
}
