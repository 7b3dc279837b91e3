//! The wait until nothing is under way any more.

use std::time::Duration;

use micro_rs::prelude::*;
use tokio::time::Instant;

/// How long nothing may move before what is left counts as left over: a delivery that fails again after its
/// first pause waits for a minute. And how long there may be no answer.
const STALL_MAX: Duration = Duration::from_secs(90);
/// How often it is asked whether everything settled.
const POLL_PAUSE: Duration = Duration::from_millis(20);
/// The pause before it is asked again where there was no answer.
const ERROR_PAUSE: Duration = Duration::from_millis(500);
/// How many outages begin the wait anew while nothing moves: with a server that is away again and again it
/// ends too.
const OUTAGE_COUNT_MAX: u32 = 10;

/// Waits until `count_left` answers that nothing is under way, or until nothing has moved for
/// [`STALL_MAX`]; answers how much was left over. A database or broker that is away is asked again for as
/// long, and what it held up has that time anew once it is back.
///
/// # Errors
///
/// Those of `count_left` that are not retryable, and the last one of an outage that does not end.
pub(crate) async fn settle<F: Future<Output = Result<u64>>>(mut count_left: impl FnMut() -> F) -> Result<u64> {
    let mut least_left = u64::MAX;
    let (mut last_moved, mut last_answered) = (Instant::now(), Instant::now());
    let (mut is_away, mut outage_count) = (false, 0);
    loop {
        let pause = match count_left().await {
            Ok(0) => return Ok(0),
            Ok(left) => {
                last_answered = Instant::now();
                if left < least_left {
                    (least_left, last_moved, outage_count) = (left, last_answered, 0);
                } else if is_away && outage_count < OUTAGE_COUNT_MAX {
                    (last_moved, outage_count) = (last_answered, outage_count + 1);
                }
                if last_moved.elapsed() > STALL_MAX {
                    return Ok(left);
                }
                is_away = false;
                POLL_PAUSE
            }
            Err(error) if !error.is_retryable() || last_answered.elapsed() > STALL_MAX => return Err(error),
            Err(error) => {
                tracing::debug!(error = %error.report(), "what is left cannot be counted");
                is_away = true;
                ERROR_PAUSE
            }
        };
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Waits for what `answer` says at a time since the wait began; with how long that took.
    async fn settle_by(mut answer: impl FnMut(Duration) -> Result<u64>) -> (Result<u64>, Duration) {
        let began = Instant::now();
        let outcome = settle(|| std::future::ready(answer(began.elapsed()))).await;
        (outcome, began.elapsed())
    }

    fn error(kind: ErrorKind) -> Error {
        Error::new(kind, "test.count", "as the test says")
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_move_is_left_over() {
        let (outcome, took) = settle_by(|_| Ok(7)).await;
        assert_eq!(outcome.unwrap(), 7);
        assert!(took > STALL_MAX && took < STALL_MAX + SECOND, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_no_standstill() {
        let is_away = |at: Duration| at >= SECOND && at < STALL_MAX;
        let unavailable = || Err(error(ErrorKind::Unavailable));
        let healed = |at| if at < 2 * STALL_MAX - SECOND { Ok(7) } else { Ok(0) };
        let (outcome, _) = settle_by(|at| if is_away(at) { unavailable() } else { healed(at) }).await;
        assert_eq!(outcome.unwrap(), 0);

        let (outcome, took) = settle_by(|at| if is_away(at) { unavailable() } else { Ok(7) }).await;
        assert_eq!(outcome.unwrap(), 7);
        assert!(took > 2 * STALL_MAX && took < 2 * STALL_MAX + 2 * SECOND, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_that_does_not_end_is_an_error() {
        let mut question_count = 0;
        let (outcome, took) = settle_by(|_| {
            question_count += 1;
            Err(error(ErrorKind::Unavailable))
        })
        .await;
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Unavailable);
        assert!(took > STALL_MAX && took < STALL_MAX + SECOND, "{took:?}");
        assert!(question_count < 200, "{question_count} questions");
    }

    #[tokio::test(start_paused = true)]
    async fn outages_again_and_again_do_not_make_the_wait_endless() {
        let mut question_count = 0;
        let (outcome, _) = settle_by(|_| {
            question_count += 1;
            if question_count % 2 == 0 { Err(error(ErrorKind::Unavailable)) } else { Ok(7) }
        })
        .await;
        assert_eq!(outcome.unwrap(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_heal_is_an_error_at_once() {
        for kind in [ErrorKind::DataLoss, ErrorKind::PermissionDenied, ErrorKind::Internal] {
            let (outcome, took) = settle_by(|_| Err(error(kind))).await;
            assert_eq!(outcome.unwrap_err().kind(), kind);
            assert_eq!(took, Duration::ZERO);
        }
    }
}
