//! Joins the batches of lanes: while as many run as may, those that come form the next one.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use futures_util::future::{BoxFuture, join_all};
use tokio::sync::oneshot;
use tower_service::Service;

use super::{ConsumerConfig, DeliveryBatch, unwind::unwound};
use crate::{Error, ErrorKind, Result};

/// A service whose callers share calls of the inner one. Clones share the queue.
///
/// A batch is handed on at once while fewer than
/// [`running_count_max`](ConsumerConfig::running_count_max) calls run; the batches that come
/// meanwhile are joined, up to [`batch_count_max`](ConsumerConfig::batch_count_max) deliveries. All
/// who are in a joined batch are answered what it was answered.
///
/// # Cancel safety
///
/// A batch whose caller is gone while it waits is not run; a call whose callers are all gone is
/// dropped.
pub(super) struct SharedBatches<S> {
    shared: Arc<Shared<S>>,
}

struct Shared<S> {
    /// In a lock because a boxed stack is `Send`, not `Sync`.
    service: Mutex<S>,
    running_count_max: usize,
    batch_count_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    running_count: usize,
}

struct Waiting {
    batch: DeliveryBatch,
    answer: oneshot::Sender<Result<()>>,
}

/// Batches as one, and who waits for its outcome.
struct Joined {
    batch: DeliveryBatch,
    answers: Vec<oneshot::Sender<Result<()>>>,
}

impl<S> SharedBatches<S> {
    pub(super) fn new(service: S, config: &ConsumerConfig) -> Self {
        let shared = Shared {
            service: Mutex::new(service),
            running_count_max: config.running_count_max.max(1),
            batch_count_max: config.batch_count_max.max(1),
            state: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }
}

impl<S> Clone for SharedBatches<S> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<S> Service<DeliveryBatch> for SharedBatches<S>
where
    S: Service<DeliveryBatch, Response = (), Error = Error> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = ();
    type Error = Error;
    type Future = BoxFuture<'static, Result<()>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, batch: DeliveryBatch) -> Self::Future {
        let shared = self.shared.clone();
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            shared.enqueue(Waiting { batch, answer });
            answered.await.unwrap_or_else(|_| {
                let message = "the batch was dropped with its runtime";
                Err(Error::new(ErrorKind::Unavailable, "consumer.call", message))
            })
        })
    }
}

impl<S> Shared<S>
where
    S: Service<DeliveryBatch, Response = (), Error = Error> + Clone + Send + 'static,
    S::Future: Send,
{
    fn enqueue(self: &Arc<Self>, waiting: Waiting) {
        let mut state = self.state();
        if state.running_count >= self.running_count_max {
            state.waiting.push_back(waiting);
            return;
        }
        state.running_count += 1;
        // A task of its own: a lane that ends must not take the others' batch along.
        tokio::spawn(self.clone().run(Joined { batch: waiting.batch, answers: vec![waiting.answer] }));
    }

    /// Runs this batch and then others until nobody waits.
    async fn run(self: Arc<Self>, first: Joined) {
        let mut next = Some(first);
        while let Some(Joined { batch, mut answers }) = next {
            let service = self.service.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let all_gone = join_all(answers.iter_mut().map(oneshot::Sender::closed));
            let outcome = tokio::select! {
                outcome = call(service, batch) => outcome,
                _ = all_gone => Ok(()),
            };
            for answer in answers {
                // A caller that is gone wants no answer.
                answer.send(outcome.as_ref().map(drop).map_err(same)).ok();
            }
            next = self.next_batch();
        }
    }

    /// Those who wait, but those who have gone; `None`, and one runner less, when there are none.
    fn next_batch(&self) -> Option<Joined> {
        let mut state = self.state();
        state.waiting.retain(|waiting| !waiting.answer.is_closed());
        let Some(first) = state.waiting.pop_front() else {
            state.running_count -= 1;
            return None;
        };
        let (mut batch, mut answers) = (first.batch, vec![first.answer]);
        let mut count = batch.deliveries.len();
        let mut others = Vec::new();
        while let Some(next) = state.waiting.front() {
            count += next.batch.deliveries.len();
            if count > self.batch_count_max {
                break;
            }
            let Waiting { batch, answer } = state.waiting.pop_front().expect("its front was looked at");
            others.push(batch.deliveries);
            answers.push(answer);
        }
        if !others.is_empty() {
            let all = std::iter::once(&batch.deliveries).chain(&others);
            batch.deliveries = all.flat_map(|deliveries| deliveries.iter().cloned()).collect();
        }
        Some(Joined { batch, answers })
    }
}

impl<S> Shared<S> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call of the stack; a panic in it is an error.
async fn call<S>(mut service: S, batch: DeliveryBatch) -> Result<()>
where
    S: Service<DeliveryBatch, Response = (), Error = Error>,
{
    unwound("consumer.call", async move {
        std::future::poll_fn(|context| service.poll_ready(context)).await?;
        service.call(batch).await
    })
    .await
}

/// What a joined batch was answered, for each of its lanes.
fn same(error: &Error) -> Error {
    Error::new(error.kind(), "consumer.call", error.report())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use tokio::{sync::Semaphore, task::JoinHandle};

    use super::*;
    use crate::broker::{Delivery, Message};

    /// Notes the offsets of each batch, then waits for a permit; refuses batches with offset 13.
    #[derive(Clone)]
    struct Slow {
        batches: Arc<Mutex<Vec<Vec<i64>>>>,
        finished: Arc<Mutex<usize>>,
        permits: Arc<Semaphore>,
    }

    impl Slow {
        fn new() -> Self {
            Self { batches: Arc::default(), finished: Arc::default(), permits: Arc::new(Semaphore::new(0)) }
        }

        fn batches(&self) -> Vec<Vec<i64>> {
            self.batches.lock().unwrap().clone()
        }
    }

    impl Service<DeliveryBatch> for Slow {
        type Response = ();
        type Error = Error;
        type Future = BoxFuture<'static, Result<()>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, batch: DeliveryBatch) -> Self::Future {
            let this = self.clone();
            Box::pin(async move {
                let offsets: Vec<i64> = batch.deliveries.iter().map(|delivery| delivery.offset).collect();
                this.batches.lock().unwrap().push(offsets.clone());
                this.permits.acquire().await.unwrap().forget();
                *this.finished.lock().unwrap() += 1;
                if offsets.contains(&13) {
                    return Err(Error::new(ErrorKind::Unavailable, "inbox.claim", "no database"));
                }
                Ok(())
            })
        }
    }

    fn shared(slow: &Slow, running_count_max: usize, batch_count_max: usize) -> SharedBatches<Slow> {
        let config = ConsumerConfig { running_count_max, batch_count_max, ..ConsumerConfig::default() };
        SharedBatches::new(slow.clone(), &config)
    }

    fn batch(offsets: &[i64]) -> DeliveryBatch {
        let delivery = |offset: &i64| Delivery {
            message: Message::unkeyed("t", ""),
            partition: 0,
            offset: *offset,
            timestamp: SystemTime::UNIX_EPOCH,
        };
        DeliveryBatch { group: "stock".into(), deliveries: offsets.iter().map(delivery).collect() }
    }

    /// A lane that hands this in, and everything that can happen before time passes.
    async fn hand_in(service: &SharedBatches<Slow>, offsets: &[i64]) -> JoinHandle<Result<()>> {
        let lane = tokio::spawn(service.clone().call(batch(offsets)));
        tokio::time::sleep(Duration::from_millis(1)).await;
        lane
    }

    #[tokio::test(start_paused = true)]
    async fn batches_that_come_while_others_run_are_joined_in_their_order() {
        let slow = Slow::new();
        let service = shared(&slow, 2, 256);
        let mut lanes = Vec::new();
        for offsets in [&[1, 2][..], &[3], &[4], &[5, 6], &[7]] {
            lanes.push(hand_in(&service, offsets).await);
        }
        assert_eq!(slow.batches(), [vec![1, 2], vec![3]]);
        slow.permits.add_permits(3);
        for lane in lanes {
            lane.await.unwrap().unwrap();
        }
        assert_eq!(slow.batches(), [vec![1, 2], vec![3], vec![4, 5, 6, 7]]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_joined_batch_stays_below_the_limit_and_one_lane_alone_may_fill_it() {
        let slow = Slow::new();
        let service = shared(&slow, 1, 3);
        let mut lanes = Vec::new();
        for offsets in [&[1][..], &[2, 3], &[4, 5], &[6, 7, 8]] {
            lanes.push(hand_in(&service, offsets).await);
        }
        slow.permits.add_permits(4);
        for lane in lanes {
            lane.await.unwrap().unwrap();
        }
        assert_eq!(slow.batches(), [vec![1], vec![2, 3], vec![4, 5], vec![6, 7, 8]]);
    }

    #[tokio::test(start_paused = true)]
    async fn everyone_in_a_joined_batch_is_told_its_error() {
        let slow = Slow::new();
        let service = shared(&slow, 1, 256);
        let first = hand_in(&service, &[1]).await;
        let others = [hand_in(&service, &[12]).await, hand_in(&service, &[13]).await];
        slow.permits.add_permits(2);
        first.await.unwrap().unwrap();
        for lane in others {
            let error = lane.await.unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(error.to_string().contains("no database"), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_while_waiting_is_not_run_and_a_batch_that_nobody_waits_for_is_dropped() {
        let slow = Slow::new();
        let service = shared(&slow, 1, 256);
        let running = hand_in(&service, &[1]).await;
        let gone = hand_in(&service, &[2]).await;
        let stays = hand_in(&service, &[3]).await;
        gone.abort();
        running.abort();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(slow.batches(), [vec![1], vec![3]]);
        slow.permits.add_permits(1);
        stays.await.unwrap().unwrap();
        assert_eq!(*slow.finished.lock().unwrap(), 1);
    }
}
