//! What several tasks of one component say of its health: not serving, or degraded, while one of
//! them is in trouble.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{Error, Health, HealthStatus};

/// How long something may fail before health says so.
const TROUBLE_AFTER: Duration = Duration::from_secs(10);

/// The health of a component that works in several tasks. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct TroubleBoard {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    health: Health,
    part: String,
    troubles: Mutex<Troubles>,
}

/// How many tasks are in trouble, and the last reason, by how bad it is.
#[derive(Debug, Default)]
struct Troubles {
    not_serving: (usize, String),
    degraded: (usize, String),
}

impl Troubles {
    fn of(&mut self, is_serving: bool) -> &mut (usize, String) {
        if is_serving { &mut self.degraded } else { &mut self.not_serving }
    }

    fn status(&self) -> HealthStatus {
        match (&self.not_serving, &self.degraded) {
            ((1.., reason), _) => HealthStatus::NotServing(reason.clone()),
            (_, (1.., reason)) => HealthStatus::Degraded(reason.clone()),
            _ => HealthStatus::Serving,
        }
    }
}

impl TroubleBoard {
    /// Serving, for now.
    pub(crate) fn new(health: &Health, part: &str) -> Self {
        health.set(part, HealthStatus::Serving);
        let shared = Shared { health: health.clone(), part: part.to_owned(), troubles: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Not serving, for the reason given, until every such [`Trouble`] is dropped.
    pub(crate) fn trouble(&self, reason: String) -> Trouble {
        self.begin(false, reason)
    }

    /// Serving, but degraded, for the reason given, until every [`Trouble`] is dropped.
    pub(crate) fn degraded(&self, reason: String) -> Trouble {
        self.begin(true, reason)
    }

    fn begin(&self, is_serving: bool, reason: String) -> Trouble {
        self.change(|troubles| {
            let (count, last) = troubles.of(is_serving);
            *count += 1;
            *last = reason;
        });
        Trouble { board: self.clone(), is_serving }
    }

    fn change(&self, change: impl FnOnce(&mut Troubles)) {
        let mut troubles = self.shared.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut troubles);
        self.shared.health.set(&self.shared.part, troubles.status());
    }
}

/// One task's trouble; its drop ends it.
#[derive(Debug)]
pub(crate) struct Trouble {
    board: TroubleBoard,
    is_serving: bool,
}

impl Drop for Trouble {
    fn drop(&mut self) {
        self.board.change(|troubles| troubles.of(self.is_serving).0 -= 1);
    }
}

/// Since when something fails without a success in between; speaks of it now and then.
pub(crate) struct FailureWatch {
    board: TroubleBoard,
    /// Who fails, in logs.
    who: &'static str,
    what: &'static str,
    /// What is said on the board.
    says: fn(&TroubleBoard, String) -> Trouble,
    failing: Option<Failing>,
}

struct Failing {
    since: Instant,
    count: u64,
    last: String,
    trouble: Option<Trouble>,
}

impl FailureWatch {
    pub(crate) fn new(
        board: TroubleBoard,
        who: &'static str,
        what: &'static str,
        says: fn(&TroubleBoard, String) -> Trouble,
    ) -> Self {
        Self { board, who, what, says, failing: None }
    }

    pub(crate) fn succeeded(&mut self) {
        self.failing = None;
    }

    pub(crate) fn failed(&mut self, error: &Error) {
        let report = error.report();
        let failing = self.failing.get_or_insert_with(|| Failing {
            since: Instant::now(),
            count: 0,
            last: String::new(),
            trouble: None,
        });
        failing.count += 1;
        if failing.count.is_power_of_two() {
            let (who, what, count, kind) = (self.who, self.what, failing.count, error.kind());
            tracing::warn!(who, what, count, kind = %kind, error = %report, "fails, trying again");
        }
        failing.last = report;
    }

    /// How often it failed since the last success.
    pub(crate) fn count(&self) -> u32 {
        self.failing.as_ref().map_or(0, |failing| u32::try_from(failing.count).unwrap_or(u32::MAX))
    }

    /// Says so on the board once it has lasted too long.
    pub(crate) fn look(&mut self) {
        let Some(failing) = &mut self.failing else { return };
        if failing.trouble.is_none() && failing.since.elapsed() >= TROUBLE_AFTER {
            failing.trouble = Some((self.says)(&self.board, format!("{}: {}", self.what, failing.last)));
        }
    }

    pub(crate) fn looks_at(&self) -> Option<Instant> {
        self.failing.as_ref().filter(|failing| failing.trouble.is_none()).map(|failing| failing.since + TROUBLE_AFTER)
    }
}

/// The wait after failure number `failure_count` (from 1): doubling from `initial`, at most `max`.
pub(crate) fn backoff(failure_count: u32, initial: Duration, max: Duration) -> Duration {
    initial.saturating_mul(1 << failure_count.saturating_sub(1).min(20)).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_task_in_trouble_is_enough_and_the_last_ends_it() {
        let health = Health::new();
        let board = TroubleBoard::new(&health, "consumer");
        let first = board.trouble("no connection".to_owned());
        let second = board.trouble("no connection".to_owned());
        drop(first);
        assert!(!health.is_serving());
        drop(second);
        assert!(health.is_serving());
    }

    #[test]
    fn what_is_degraded_serves_until_something_worse_comes() {
        let health = Health::new();
        let board = TroubleBoard::new(&health, "relay");
        let said = || health.parts()["relay"].clone();
        let broker = board.degraded("no broker".to_owned());
        assert_eq!((said(), health.is_serving()), (HealthStatus::Degraded("no broker".to_owned()), true));
        let store = board.trouble("no store".to_owned());
        assert_eq!((said(), health.is_serving()), (HealthStatus::NotServing("no store".to_owned()), false));
        drop(store);
        assert_eq!(said(), HealthStatus::Degraded("no broker".to_owned()));
        drop(broker);
        assert_eq!(said(), HealthStatus::Serving);
    }

    #[test]
    fn backoff_doubles_up_to_its_limit() {
        let (initial, max) = (Duration::from_millis(100), Duration::from_secs(5));
        let waits: Vec<_> = [1, 2, 3, 7, 100].map(|count| backoff(count, initial, max).as_millis()).into();
        assert_eq!(waits, [100, 200, 400, 5_000, 5_000]);
    }
}
