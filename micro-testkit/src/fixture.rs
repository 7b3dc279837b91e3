//! What every suite runs on, and how a missing backend is told.

use std::{
    fmt::Display,
    future::Future,
    panic::AssertUnwindSafe,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::FutureExt;

/// A backend made ready for one test; its drop cleans up.
pub trait Fixture: Sized {
    /// Makes it ready, or says why it cannot be had here.
    fn start() -> impl Future<Output = Result<Self, Missing>> + Send;

    /// How long a suite waits for what must happen: a few seconds in memory, more for a server.
    fn patience(&self) -> Duration;

    /// How long a suite watches that something does not happen.
    fn silence(&self) -> Duration {
        self.patience() / 20
    }
}

/// Why a backend cannot be had, and how to have it.
#[derive(Debug)]
pub struct Missing(String);

impl Missing {
    /// A backend that is missing because of `reason`.
    pub fn new(reason: impl Display) -> Self {
        Self(reason.to_string())
    }
}

/// The fixture, or `None` after printing why the test is skipped.
///
/// # Panics
///
/// When the backend is missing under `MICRO_TEST_REQUIRE=1`.
pub async fn ready<F: Fixture>() -> Option<F> {
    let is_required = std::env::var("MICRO_TEST_REQUIRE").is_ok_and(|value| value == "1");
    or_skip(F::start().await, std::any::type_name::<F>(), is_required)
}

fn or_skip<F>(fixture: Result<F, Missing>, name: &str, is_required: bool) -> Option<F> {
    match fixture {
        Ok(fixture) => Some(fixture),
        Err(Missing(reason)) if is_required => panic!("{name} is missing and required: {reason}"),
        Err(Missing(reason)) => {
            eprintln!("skipped, {name} is missing: {reason}");
            None
        }
    }
}

/// A name that no other test has, in this run or another one.
pub fn unique(name: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    format!("{name}-{:x}-{now:x}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Runs a suite function that must fail, and returns what it failed with.
///
/// # Panics
///
/// When it passes: then the promise it stands for could be broken unseen.
pub async fn breaks(promise: &str, suite: impl Future<Output = ()>) -> String {
    let Err(panic) = AssertUnwindSafe(suite).catch_unwind().await else {
        panic!("{promise} passed although its promise is broken");
    };
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// Turns suite functions into tests; the macros of the ports call it with their promises.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance {
    ($suite:ident, $fixture:ty, $($promise:ident)+) => {
        $(
            #[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                if let Some(fixture) = $crate::ready::<$fixture>().await {
                    $crate::$suite::$promise(&fixture).await;
                }
            }
        )+
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_backend_skips_the_test() {
        assert!(or_skip::<()>(Err(Missing::new("no server")), "KafkaFixture", false).is_none());
        assert!(or_skip(Ok(()), "KafkaFixture", true).is_some());
    }

    #[test]
    #[should_panic(expected = "KafkaFixture is missing and required: no server")]
    fn a_missing_backend_fails_the_test_where_it_is_required() {
        or_skip::<()>(Err(Missing::new("no server")), "KafkaFixture", true);
    }

    #[test]
    fn unique_names_differ() {
        assert_ne!(unique("topic"), unique("topic"));
    }

    #[tokio::test]
    #[should_panic(expected = "it_holds passed although its promise is broken")]
    async fn a_proof_fails_when_the_suite_passes() {
        breaks("it_holds", async {}).await;
    }
}
