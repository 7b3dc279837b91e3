//! Gathers calls that come at the same time into batches: one transaction for many callers, as a
//! database's group commit has one write to the disk for many transactions.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, oneshot};

use crate::{Error, ErrorKind, Result, consume::unwind::unwound};

/// What is done for many calls at once.
#[async_trait]
pub trait BatchCall: Send + Sync + 'static {
    /// What a caller asks.
    type Request: Send + Sync + 'static;
    /// What a caller is answered.
    type Response: Send + 'static;

    /// Answers each request, in slice order.
    ///
    /// # Errors
    ///
    /// The inner ones are answers: a caller's own, its neighbours' effects stand. The outer one is
    /// the whole batch's. Where its kind says that nothing took effect and that one request may be
    /// the reason (a permanent one, `Aborted`, `NotFound`, `Internal`), each is tried alone, once; any
    /// other, such as that of a database that is away or of a commit without an answer, is everybody's.
    async fn call(&self, requests: &[Self::Request]) -> Result<Vec<Result<Self::Response>>>;
}

/// How a [`Batcher`] works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct BatcherConfig {
    /// The largest number of calls in one batch, at least 1; default 64.
    pub batch_count_max: usize,
    /// Batches that run side by side, at least 1; default 2: one is formed while another waits for
    /// the disk. More make smaller batches.
    pub running_count_max: usize,
    /// Calls that may wait, at least 1; default 4,096. What comes beyond is refused.
    pub waiting_count_max: usize,
    /// How long a batch that is not full waits for more calls before it is run; default zero, which
    /// waits for nobody. A millisecond or two pay where many callers come all the time: half as many
    /// transactions.
    pub gather: Duration,
}

impl Default for BatcherConfig {
    fn default() -> Self {
        Self { batch_count_max: 64, running_count_max: 2, waiting_count_max: 4_096, gather: Duration::ZERO }
    }
}

/// Lets callers share batches.
///
/// A call is run at once while fewer than [`running_count_max`](BatcherConfig::running_count_max)
/// batches run; the calls that come meanwhile form the next one. Nobody waits for a batch to fill,
/// but where [`gather`](BatcherConfig::gather) says for how long: without it a lonely call is a batch
/// of one and loses no time. Clones share the queue.
///
/// Calls of one batch are answered together. Calls that come later may be answered earlier.
pub struct Batcher<C: BatchCall> {
    shared: Arc<Shared<C>>,
}

struct Shared<C: BatchCall> {
    inner: C,
    config: BatcherConfig,
    /// Told when those who wait fill a batch.
    full: Notify,
    state: Mutex<State<C>>,
}

struct State<C: BatchCall> {
    waiting: VecDeque<Waiting<C>>,
    running_count: usize,
}

struct Waiting<C: BatchCall> {
    request: C::Request,
    answer: oneshot::Sender<Result<C::Response>>,
}

impl<C: BatchCall> Batcher<C> {
    /// A batcher in front of `inner`.
    pub fn new(inner: C, config: BatcherConfig) -> Self {
        let state = Mutex::new(State { waiting: VecDeque::new(), running_count: 0 });
        Self { shared: Arc::new(Shared { inner, config, full: Notify::new(), state }) }
    }

    /// What is done for many calls at once.
    pub(crate) fn inner(&self) -> &C {
        &self.shared.inner
    }

    /// Answers one request, in a batch with others that come at the same time.
    ///
    /// # Errors
    ///
    /// `ResourceExhausted` when too many wait already, and those of the batch's call; a panic in it
    /// is `Internal`.
    ///
    /// # Cancel safety
    ///
    /// A call whose future is dropped while it waits is not run; one that is in a batch already is.
    pub async fn call(&self, request: C::Request) -> Result<C::Response> {
        let (answer, answered) = oneshot::channel();
        self.shared.enqueue(Waiting { request, answer })?;
        answered.await.unwrap_or_else(|_| {
            // The runtime is going down and has dropped the task.
            Err(Error::new(ErrorKind::Unavailable, "batch.call", "the batch was dropped with its runtime"))
        })
    }
}

impl<C: BatchCall> Clone for Batcher<C> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<C: BatchCall> Shared<C> {
    fn enqueue(self: &Arc<Self>, waiting: Waiting<C>) -> Result<()> {
        let mut state = self.state();
        if state.waiting.len() >= self.config.waiting_count_max.max(1) {
            return Err(Error::new(ErrorKind::ResourceExhausted, "batch.call", "too many calls wait for their batch")
                .with_context("waiting_count_max", self.config.waiting_count_max));
        }
        state.waiting.push_back(waiting);
        if state.waiting.len() >= self.config.batch_count_max {
            self.full.notify_one();
        }
        if state.running_count < self.config.running_count_max.max(1) {
            state.running_count += 1;
            // A task of its own: a caller that goes away must not take the others' batch along.
            tokio::spawn(self.clone().run());
        }
        Ok(())
    }

    /// Runs batches until nobody waits.
    async fn run(self: Arc<Self>) {
        loop {
            self.gather().await;
            let Some(batch) = self.next_batch() else { return };
            let (requests, answers): (Vec<_>, Vec<_>) =
                batch.into_iter().map(|waiting| (waiting.request, waiting.answer)).unzip();
            self.answer(&requests, answers).await;
        }
    }

    /// Waits while there is a batch that is not full, for so long as it may.
    async fn gather(&self) {
        let is_partial = (1..self.config.batch_count_max).contains(&self.state().waiting.len());
        if is_partial && !self.config.gather.is_zero() {
            // Early or late, the batch is what is there then.
            let _ = tokio::time::timeout(self.config.gather, self.full.notified()).await;
        }
    }

    /// Those who wait, but those who have gone; `None`, and one runner less, when there are none.
    fn next_batch(&self) -> Option<Vec<Waiting<C>>> {
        let mut state = self.state();
        state.waiting.retain(|waiting| !waiting.answer.is_closed());
        if state.waiting.is_empty() {
            state.running_count -= 1;
            return None;
        }
        let count = state.waiting.len().min(self.config.batch_count_max.max(1));
        Some(state.waiting.drain(..count).collect())
    }

    async fn answer(&self, requests: &[C::Request], mut answers: Vec<oneshot::Sender<Result<C::Response>>>) {
        let error = match self.attempt(requests).await {
            Ok(outcomes) => {
                for (answer, outcome) in answers.into_iter().zip(outcomes) {
                    // A caller that is gone wants no answer.
                    answer.send(outcome).ok();
                }
                return;
            }
            Err(error) => error,
        };
        if let [_] = requests {
            answers.pop().expect("an answer for each request").send(Err(error)).ok();
            return;
        }
        let error = Arc::new(error);
        let is_tried_alone = may_be_ones_fault(&error);
        if is_tried_alone {
            tracing::debug!(count = requests.len(), error = %error.report(), "a batch failed, each call is tried alone");
        }
        for (request, answer) in requests.iter().zip(answers) {
            let outcome = if is_tried_alone && !answer.is_closed() {
                let alone = self.attempt(std::slice::from_ref(request)).await;
                alone.and_then(|mut outcomes| outcomes.pop().expect("attempt answers every request"))
            } else {
                Err(Error::new(error.kind(), "batch.call", error.message().to_owned()).with_source(error.clone()))
            };
            answer.send(outcome).ok();
        }
    }

    /// One call; as many answers as requests.
    async fn attempt(&self, requests: &[C::Request]) -> Result<Vec<Result<C::Response>>> {
        let answers = unwound("batch.call", self.inner.call(requests)).await?;
        if answers.len() == requests.len() {
            return Ok(answers);
        }
        Err(Error::new(ErrorKind::Internal, "batch.call", "a batch must answer each of its requests")
            .with_context("expected", requests.len())
            .with_context("actual", answers.len()))
    }

    fn state(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the rest of a batch may do without one of its parts, and nothing of it took effect.
pub(crate) fn may_be_ones_fault(error: &Error) -> bool {
    let kind = error.kind();
    kind.is_permanent() || matches!(kind, ErrorKind::Aborted | ErrorKind::NotFound | ErrorKind::Internal)
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, future::join_all};
    use tokio::sync::Semaphore;

    use super::*;

    /// Doubles numbers; refuses 0, fails whole batches with a 13 or a 14 in them, panics at 99.
    struct Doubling {
        batches: Arc<Mutex<Vec<Vec<u32>>>>,
        permits: Arc<Semaphore>,
    }

    #[async_trait]
    impl BatchCall for Doubling {
        type Request = u32;
        type Response = u32;

        async fn call(&self, requests: &[u32]) -> Result<Vec<Result<u32>>> {
            self.batches.lock().unwrap().push(requests.to_vec());
            self.permits.acquire().await.unwrap().forget();
            assert!(!requests.contains(&99), "no 99");
            if requests.contains(&13) {
                return Err(Error::new(ErrorKind::Aborted, "double", "13"));
            }
            if requests.contains(&14) {
                return Err(Error::new(ErrorKind::Unknown, "double", "no answer to the commit"));
            }
            let double = |request: &u32| match request {
                0 => Err(Error::new(ErrorKind::InvalidArgument, "double", "0")),
                number => Ok(number * 2),
            };
            let mut answers: Vec<_> = requests.iter().map(double).collect();
            if requests.contains(&7777) {
                answers.pop();
            }
            Ok(answers)
        }
    }

    struct Stage {
        batcher: Batcher<Doubling>,
        batches: Arc<Mutex<Vec<Vec<u32>>>>,
        permits: Arc<Semaphore>,
    }

    fn stage(config: BatcherConfig) -> Stage {
        let (batches, permits) = (Arc::default(), Arc::new(Semaphore::new(0)));
        let inner = Doubling { batches: Arc::clone(&batches), permits: permits.clone() };
        Stage { batcher: Batcher::new(inner, config), batches, permits }
    }

    fn one_at_a_time() -> BatcherConfig {
        BatcherConfig { running_count_max: 1, ..BatcherConfig::default() }
    }

    async fn outcomes(stage: &Stage, requests: &[u32]) -> Vec<Result<u32, ErrorKind>> {
        // The first call runs alone; the others come while it does and share the next batch.
        let first = tokio::spawn({
            let batcher = stage.batcher.clone();
            async move { batcher.call(500).await }
        });
        while stage.batches.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        let calls = join_all(requests.iter().map(|request| stage.batcher.call(*request)));
        let (outcomes, ()) = tokio::join!(calls, async { stage.permits.add_permits(1_000) });
        assert_eq!(first.await.unwrap().unwrap(), 1_000);
        outcomes.into_iter().map(|outcome| outcome.map_err(|error| error.kind())).collect()
    }

    #[tokio::test]
    async fn calls_that_come_while_a_batch_runs_form_the_next() {
        let stage = stage(one_at_a_time());
        assert_eq!(outcomes(&stage, &[1, 2, 3]).await, [Ok(2), Ok(4), Ok(6)]);
        assert_eq!(*stage.batches.lock().unwrap(), [vec![500], vec![1, 2, 3]]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_is_not_full_waits_for_more_where_it_is_told_to() {
        let stage = stage(BatcherConfig { batch_count_max: 2, gather: Duration::from_secs(2), ..one_at_a_time() });
        stage.permits.add_permits(10);
        let began = tokio::time::Instant::now();
        assert_eq!(stage.batcher.call(1).await.unwrap(), 2);
        assert_eq!(began.elapsed(), Duration::from_secs(2));
        let full = join_all([stage.batcher.call(2), stage.batcher.call(3)]).await;
        assert!(full.iter().all(Result::is_ok));
        assert_eq!((began.elapsed(), stage.batches.lock().unwrap().len()), (Duration::from_secs(2), 2));
    }

    #[tokio::test]
    async fn a_batch_has_its_largest_size_and_the_rest_follows() {
        let stage = stage(BatcherConfig { batch_count_max: 2, ..one_at_a_time() });
        assert_eq!(outcomes(&stage, &[1, 2, 3]).await, [Ok(2), Ok(4), Ok(6)]);
        assert_eq!(*stage.batches.lock().unwrap(), [vec![500], vec![1, 2], vec![3]]);
    }

    #[tokio::test]
    async fn an_answer_that_is_an_error_is_its_callers_own() {
        let stage = stage(one_at_a_time());
        assert_eq!(outcomes(&stage, &[1, 0, 3]).await, [Ok(2), Err(ErrorKind::InvalidArgument), Ok(6)]);
        assert_eq!(stage.batches.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_batch_that_fails_is_tried_call_by_call() {
        let stage = stage(one_at_a_time());
        assert_eq!(outcomes(&stage, &[1, 13, 3]).await, [Ok(2), Err(ErrorKind::Aborted), Ok(6)]);
        assert_eq!(*stage.batches.lock().unwrap(), [vec![500], vec![1, 13, 3], vec![1], vec![13], vec![3]]);
    }

    #[tokio::test]
    async fn a_batch_of_unknown_outcome_is_not_repeated() {
        let stage = stage(one_at_a_time());
        assert_eq!(outcomes(&stage, &[1, 14, 3]).await, [Err(ErrorKind::Unknown); 3]);
        assert_eq!(*stage.batches.lock().unwrap(), [vec![500], vec![1, 14, 3]]);
    }

    #[tokio::test]
    async fn a_panic_costs_its_own_caller_alone() {
        let stage = stage(one_at_a_time());
        assert_eq!(outcomes(&stage, &[1, 99, 3]).await, [Ok(2), Err(ErrorKind::Internal), Ok(6)]);
        stage.permits.add_permits(10);
        assert_eq!(stage.batcher.call(4).await.unwrap(), 8, "and the next batch runs");
    }

    #[tokio::test]
    async fn a_batch_that_forgets_an_answer_leaves_nobody_waiting() {
        let stage = stage(one_at_a_time());
        assert_eq!(outcomes(&stage, &[1, 7777]).await, [Ok(2), Err(ErrorKind::Internal)]);
    }

    #[tokio::test]
    async fn a_call_that_was_given_up_while_it_waited_is_not_run() {
        let stage = stage(one_at_a_time());
        let first = stage.batcher.call(1);
        tokio::pin!(first);
        assert!(first.as_mut().now_or_never().is_none());
        assert!(stage.batcher.call(2).now_or_never().is_none());
        stage.permits.add_permits(10);
        assert_eq!(first.await.unwrap(), 2);
        assert_eq!(stage.batcher.call(3).await.unwrap(), 6);
        assert_eq!(*stage.batches.lock().unwrap(), [vec![1], vec![3]]);
    }

    #[tokio::test]
    async fn more_than_may_wait_are_refused() {
        let stage = stage(BatcherConfig { waiting_count_max: 2, ..one_at_a_time() });
        let mut calls: Vec<_> = (1..=3).map(|request| Box::pin(stage.batcher.call(request))).collect();
        assert!(calls[0].as_mut().now_or_never().is_none());
        while stage.batches.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(calls[1].as_mut().now_or_never().is_none());
        assert!(calls[2].as_mut().now_or_never().is_none());
        let error = stage.batcher.call(4).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
        stage.permits.add_permits(10);
        for (call, answer) in calls.into_iter().zip([2, 4, 6]) {
            assert_eq!(call.await.unwrap(), answer);
        }
    }
}
