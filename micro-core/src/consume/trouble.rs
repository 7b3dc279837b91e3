//! What several tasks of one component say of its health: not serving, or degraded, while one of
//! them is in trouble.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::{Health, HealthStatus};

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
