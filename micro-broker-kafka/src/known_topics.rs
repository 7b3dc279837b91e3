//! The topics that this process has seen, and for how long the brokers have not known one of them.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

/// How long a topic that was there may be missing before it counts as deleted. Brokers that start
/// know their topics again within seconds.
pub(crate) const MISSING_MAX: Duration = Duration::from_mins(2);

/// The topics that the brokers had in this process's time.
#[derive(Default)]
pub(crate) struct KnownTopics {
    topics: RwLock<HashMap<Arc<str>, Option<Missing>>>,
}

/// When the brokers said for the first time, and when for the last, that they do not know a topic.
#[derive(Clone, Copy, PartialEq)]
struct Missing {
    since: Instant,
    last: Instant,
}

/// What it means that the brokers do not know a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absence {
    /// This process has never seen it.
    NeverSeen,
    /// They may be starting.
    MayPass,
    /// It has been missing for longer than [`MISSING_MAX`].
    Lasts,
}

impl KnownTopics {
    /// Notes that the brokers have a topic.
    pub(crate) fn found(&self, topic: &str, owned: impl FnOnce() -> Arc<str>) {
        // Every receipt comes by here: readers do not wait for one another.
        let is_noted = self.topics.read().unwrap_or_else(PoisonError::into_inner).get(topic) == Some(&None);
        if !is_noted {
            self.topics.write().unwrap_or_else(PoisonError::into_inner).insert(owned(), None);
        }
    }

    /// Notes that the brokers said at `now` that they do not know a topic.
    pub(crate) fn missed(&self, topic: &str, now: Instant) -> Absence {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        let Some(missing) = topics.get_mut(topic) else { return Absence::NeverSeen };
        // Nothing was sent there for so long: it may have been back meanwhile.
        let is_of_now = |missing: &Missing| now.saturating_duration_since(missing.last) <= MISSING_MAX;
        let since = missing.filter(is_of_now).map_or(now, |missing| missing.since);
        *missing = Some(Missing { since, last: now });
        if now.saturating_duration_since(since) > MISSING_MAX { Absence::Lasts } else { Absence::MayPass }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a topic that is missed at these seconds.
    fn absences<const N: usize>(topics: &KnownTopics, began: Instant, seconds: [u64; N]) -> [Absence; N] {
        seconds.map(|seconds| topics.missed("orders", began + Duration::from_secs(seconds)))
    }

    #[test]
    fn an_absence_lasts_after_two_minutes_without_the_topic() {
        use Absence::{Lasts, MayPass, NeverSeen};
        let (topics, began) = (KnownTopics::default(), Instant::now());
        assert_eq!(absences(&topics, began, [0, 300]), [NeverSeen; 2]);
        topics.found("orders", || "orders".into());
        assert_eq!(absences(&topics, began, [300, 360, 420, 421]), [MayPass, MayPass, MayPass, Lasts]);
        // It was there again.
        topics.found("orders", || "orders".into());
        assert_eq!(absences(&topics, began, [422, 480, 542, 543]), [MayPass, MayPass, MayPass, Lasts]);
        // Nobody asked for it meanwhile.
        assert_eq!(absences(&topics, began, [700, 760, 820, 821]), [MayPass, MayPass, MayPass, Lasts]);
    }
}
