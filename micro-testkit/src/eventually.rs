//! Waiting for something to become true, with a deadline and a reason.

use std::{fmt::Debug, future::Future, time::Duration};

use tokio::time::{Instant, sleep};

const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Asks `check` until it says yes and returns what it found.
///
/// A yes is `true`, `Some` or `Ok`. The pauses between the checks grow from 1 to 100 ms; under
/// tokio's paused time they cost nothing.
///
/// # Panics
///
/// When `deadline` passed first, with `what` and the last answer.
///
/// # Examples
///
/// ```
/// # use std::{cell::Cell, time::Duration};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let checks = Cell::new(0);
/// let found = micro_testkit::eventually(Duration::from_secs(1), "the third check", || async {
///     checks.set(checks.get() + 1);
///     (checks.get() == 3).then(|| checks.get())
/// })
/// .await;
/// assert_eq!(found, 3);
/// # }
/// ```
pub async fn eventually<V: Verdict, Fut: Future<Output = V>>(
    deadline: Duration,
    what: &str,
    mut check: impl FnMut() -> Fut,
) -> V::Found {
    let end = Instant::now() + deadline;
    let mut pause = PAUSE_MIN;
    loop {
        match check().await.found() {
            Ok(found) => return found,
            Err(last) if Instant::now() >= end => panic!("{what}: not within {deadline:?}, last answer: {last}"),
            Err(_) => sleep(pause.min(end - Instant::now())).await,
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// How often [`in_time`] looks.
const LOOK_COUNT_MAX: u32 = 10;

/// What was found within `limit` of a moment, where only that says something: a look that comes back later,
/// on a machine that stood still meanwhile, is made again, with new rows.
///
/// `look` is given its number, from 0, and answers since when the limit runs, and what it found.
///
/// # Panics
///
/// When each of ten looks comes too late.
pub(crate) async fn in_time<T>(limit: Duration, mut look: impl AsyncFnMut(u32) -> (Instant, T)) -> T {
    for number in 0..LOOK_COUNT_MAX {
        let (since, found) = look(number).await;
        if since.elapsed() < limit {
            return found;
        }
    }
    panic!("each of {LOOK_COUNT_MAX} looks took longer than {limit:?}");
}

/// What a check of [`eventually`] may answer.
pub trait Verdict {
    /// What a yes brings.
    type Found;

    /// The yes, or the no in words.
    fn found(self) -> Result<Self::Found, String>;
}

impl Verdict for bool {
    type Found = ();

    fn found(self) -> Result<(), String> {
        self.then_some(()).ok_or_else(|| "false".to_owned())
    }
}

impl<T> Verdict for Option<T> {
    type Found = T;

    fn found(self) -> Result<T, String> {
        self.ok_or_else(|| "none".to_owned())
    }
}

impl<T, E: Debug> Verdict for Result<T, E> {
    type Found = T;

    fn found(self) -> Result<T, String> {
        self.map_err(|error| format!("{error:?}"))
    }
}
