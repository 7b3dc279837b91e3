//! What several tasks of one component say of its health: not serving while one of them is in
//! trouble.

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
    troubled_count: Mutex<usize>,
}

impl TroubleBoard {
    /// Serving, for now.
    pub(crate) fn new(health: &Health, part: &str) -> Self {
        health.set(part, HealthStatus::Serving);
        let shared = Shared { health: health.clone(), part: part.to_owned(), troubled_count: Mutex::new(0) };
        Self { shared: Arc::new(shared) }
    }

    /// Not serving, for the reason given, until every [`Trouble`] is dropped.
    pub(crate) fn trouble(&self, reason: String) -> Trouble {
        let mut count = self.shared.troubled_count.lock().unwrap_or_else(PoisonError::into_inner);
        *count += 1;
        self.shared.health.set(&self.shared.part, HealthStatus::NotServing(reason));
        Trouble { board: self.clone() }
    }
}

/// One task's trouble; its drop ends it.
#[derive(Debug)]
pub(crate) struct Trouble {
    board: TroubleBoard,
}

impl Drop for Trouble {
    fn drop(&mut self) {
        let shared = &self.board.shared;
        let mut count = shared.troubled_count.lock().unwrap_or_else(PoisonError::into_inner);
        *count -= 1;
        if *count == 0 {
            shared.health.set(&shared.part, HealthStatus::Serving);
        }
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
    fn backoff_doubles_up_to_its_limit() {
        let (initial, max) = (Duration::from_millis(100), Duration::from_secs(5));
        let waits: Vec<_> = [1, 2, 3, 7, 100].map(|count| backoff(count, initial, max).as_millis()).into();
        assert_eq!(waits, [100, 200, 400, 5_000, 5_000]);
    }
}
