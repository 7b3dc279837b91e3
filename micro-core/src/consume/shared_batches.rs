//! Joins the batches of lanes: while as many run as may, those that come form the next one.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::{BoxFuture, join_all};
use tokio::sync::{Notify, oneshot};
use tower_service::Service;

use super::{ConsumerConfig, DeliveryBatch, batch::Slot, unwind::unwound};
use crate::{Error, ErrorKind, Result, batch::may_be_ones_fault, broker::Delivery};

/// A service whose callers share calls of the inner one. Clones share the queue.
///
/// While fewer than [`running_count_max`](ConsumerConfig::running_count_max) calls run, a batch is
/// handed on after [`gather`](ConsumerConfig::gather); those that come meanwhile, or while others
/// run, are joined, up to [`batch_count_max`](ConsumerConfig::batch_count_max) deliveries.
///
/// A delivery that fails holds up its own lane only. A joined batch that fails for what may be a
/// delivery's fault has no effect; each caller's part is then a call of its own. A call for one
/// caller whose handler failed is not counted from then on, while it waits and is tried again.
///
/// # Cancel safety
///
/// A batch whose caller is gone while it waits is not run; a call whose callers are all gone is
/// dropped. A joined one goes on for those who are left, with the deliveries of who has gone: the
/// inbox knows them when they come again.
pub(super) struct SharedBatches<S> {
    shared: Arc<Shared<S>>,
}

struct Shared<S> {
    /// In a lock because a boxed stack is `Send`, not `Sync`.
    service: Mutex<S>,
    running_count_max: usize,
    batch_count_max: usize,
    gather: Duration,
    /// Told when those who wait fill a batch.
    full: Notify,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// Their deliveries.
    waiting_count: usize,
    running_count: usize,
}

struct Waiting {
    batch: DeliveryBatch,
    answer: oneshot::Sender<Answer>,
    /// It is not joined with others.
    is_alone: bool,
}

/// Batches that are run as one, and who waits for the outcome.
struct Joined {
    group: Arc<str>,
    parts: Vec<Arc<[Delivery]>>,
    answers: Vec<oneshot::Sender<Answer>>,
}

impl Joined {
    fn of(batch: DeliveryBatch, answer: oneshot::Sender<Answer>) -> Self {
        Self { group: batch.group, parts: vec![batch.deliveries], answers: vec![answer] }
    }

    fn add(&mut self, batch: DeliveryBatch, answer: oneshot::Sender<Answer>) {
        self.parts.push(batch.deliveries);
        self.answers.push(answer);
    }

    fn batch(&self) -> DeliveryBatch {
        let deliveries = match &*self.parts {
            [part] => part.clone(),
            parts => parts.iter().flat_map(|part| part.iter().cloned()).collect(),
        };
        DeliveryBatch::new(self.group.clone(), deliveries)
    }
}

/// What a caller is told.
enum Answer {
    /// The outcome of its deliveries.
    Outcome(Result<()>),
    /// Nothing happened: it is to run its own part.
    Apart,
}

impl<S> SharedBatches<S> {
    pub(super) fn new(service: S, config: &ConsumerConfig) -> Self {
        let shared = Shared {
            service: Mutex::new(service),
            running_count_max: config.running_count_max.max(1),
            batch_count_max: config.batch_count_max.max(1),
            gather: config.gather,
            full: Notify::new(),
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
            match shared.answered(batch.clone(), false).await? {
                Answer::Outcome(outcome) => outcome,
                Answer::Apart => match shared.answered(batch, true).await? {
                    Answer::Outcome(outcome) => outcome,
                    Answer::Apart => unreachable!("what is alone has no parts"),
                },
            }
        })
    }
}

impl<S> Shared<S>
where
    S: Service<DeliveryBatch, Response = (), Error = Error> + Clone + Send + 'static,
    S::Future: Send,
{
    /// What a caller is told of its batch.
    async fn answered(self: &Arc<Self>, batch: DeliveryBatch, is_alone: bool) -> Result<Answer> {
        let (answer, answered) = oneshot::channel();
        self.enqueue(Waiting { batch, answer, is_alone });
        answered
            .await
            .map_err(|_| Error::new(ErrorKind::Unavailable, "consumer.call", "the batch was dropped with its runtime"))
    }

    fn enqueue(self: &Arc<Self>, waiting: Waiting) {
        let mut state = self.state();
        state.waiting_count += waiting.batch.deliveries.len();
        state.waiting.push_back(waiting);
        if state.waiting_count >= self.batch_count_max {
            self.full.notify_one();
        }
        if state.running_count < self.running_count_max {
            state.running_count += 1;
            // What is not gathered is handed on as it comes.
            let first = if self.gather.is_zero() { state.next_batch(self.batch_count_max) } else { None };
            // A task of its own: a lane that ends must not take the others' batch along.
            tokio::spawn(self.clone().run(first));
        }
    }

    /// Runs batches until nobody waits, or until one gave its slot back.
    async fn run(self: Arc<Self>, first: Option<Joined>) {
        let mut next = first;
        loop {
            if next.is_none() {
                self.gather().await;
                next = self.next_batch();
            }
            let Some(joined) = next.take() else { return };
            if !self.run_one(joined).await {
                return;
            }
        }
    }

    /// Waits while there is a batch that is not full, for so long as it may.
    async fn gather(&self) {
        let is_partial = {
            let state = self.state();
            let is_alone = state.waiting.front().is_some_and(|waiting| waiting.is_alone);
            !is_alone && (1..self.batch_count_max).contains(&state.waiting_count)
        };
        if is_partial && !self.gather.is_zero() {
            // Early or late, the batch is what is there then.
            let _ = tokio::time::timeout(self.gather, self.full.notified()).await;
        }
    }

    /// Runs one batch; whether it still holds the slot.
    async fn run_one(self: &Arc<Self>, joined: Joined) -> bool {
        let batch = joined.batch();
        let mut answers = joined.answers;
        let is_shared = answers.len() > 1;
        let slot = Slot::new(is_shared);
        let mut is_holding = true;
        let outcome = {
            let mut outcome = pin!(self.call(batch.with_slot(slot.clone())));
            let mut all_gone = pin!(join_all(answers.iter_mut().map(oneshot::Sender::closed)));
            loop {
                tokio::select! {
                    outcome = &mut outcome => break outcome,
                    _ = &mut all_gone => break Ok(()),
                    // One that is shared ends at once: its slot is the next batch's.
                    () = slot.left(), if !is_shared && is_holding => {
                        is_holding = false;
                        self.pass_slot_on();
                    }
                }
            }
        };
        let is_apart = is_shared && outcome.as_ref().is_err_and(|error| slot.is_left() || may_be_ones_fault(error));
        if let (true, Err(error)) = (is_apart, &outcome) {
            tracing::debug!(lane_count = answers.len(), error = %error.report(), "a joined batch failed");
        }
        for answer in answers {
            let outcome =
                if is_apart { Answer::Apart } else { Answer::Outcome(outcome.as_ref().copied().map_err(same)) };
            // A caller that is gone wants no answer.
            answer.send(outcome).ok();
        }
        is_holding
    }

    /// One call of the stack; a panic in it is an error.
    async fn call(&self, batch: DeliveryBatch) -> Result<()> {
        unwound("consumer.call", async move {
            let mut service = self.service.lock().unwrap_or_else(PoisonError::into_inner).clone();
            std::future::poll_fn(|context| service.poll_ready(context)).await?;
            service.call(batch).await
        })
        .await
    }

    /// Another runs in the place of a batch that waits.
    fn pass_slot_on(self: &Arc<Self>) {
        tokio::spawn(self.clone().run(None));
    }

    /// Those who wait; `None`, and one runner less, when there are none.
    fn next_batch(&self) -> Option<Joined> {
        let mut state = self.state();
        let joined = state.next_batch(self.batch_count_max);
        if joined.is_none() {
            state.running_count -= 1;
        }
        joined
    }
}

impl State {
    /// Those who wait, but those who have gone.
    fn next_batch(&mut self, batch_count_max: usize) -> Option<Joined> {
        self.waiting.retain(|waiting| !waiting.answer.is_closed());
        let mut joined: Option<Joined> = None;
        let mut count = 0;
        while let Some(next) = self.waiting.front() {
            count += next.batch.deliveries.len();
            // One lane alone may fill it.
            if joined.is_some() && (next.is_alone || count > batch_count_max) {
                break;
            }
            let Waiting { batch, answer, is_alone } = self.waiting.pop_front().expect("its front was looked at");
            match &mut joined {
                Some(joined) => joined.add(batch, answer),
                None => joined = Some(Joined::of(batch, answer)),
            }
            if is_alone {
                break;
            }
        }
        self.waiting_count = self.waiting.iter().map(|waiting| waiting.batch.deliveries.len()).sum();
        joined
    }
}

impl<S> Shared<S> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a joined batch was answered, for each of its lanes.
fn same(error: &Error) -> Error {
    Error::new(error.kind(), "consumer.call", error.report())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use tokio::{sync::Semaphore, task::JoinHandle};

    use super::*;
    use crate::broker::Message;

    /// Notes the offsets of each batch, then waits for a permit; fails batches with offset 13 as a
    /// database that is away, with 14 as one that does not take a value, and with 15 as a handler:
    /// such a batch gives its slot back and ends when it is one lane's and has another permit.
    #[derive(Clone)]
    struct Slow {
        batches: Arc<Mutex<Vec<Vec<i64>>>>,
        finished: Arc<Mutex<usize>>,
        running_count: Arc<Mutex<usize>>,
        running_count_max: Arc<Mutex<usize>>,
        permits: Arc<Semaphore>,
    }

    impl Slow {
        fn new() -> Self {
            Self {
                batches: Arc::default(),
                finished: Arc::default(),
                running_count: Arc::default(),
                running_count_max: Arc::default(),
                permits: Arc::new(Semaphore::new(0)),
            }
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
                let running_count = {
                    let mut running_count = this.running_count.lock().unwrap();
                    *running_count += 1;
                    *running_count
                };
                let most = running_count.max(*this.running_count_max.lock().unwrap());
                *this.running_count_max.lock().unwrap() = most;
                this.permits.acquire().await.unwrap().forget();
                *this.running_count.lock().unwrap() -= 1;
                *this.finished.lock().unwrap() += 1;
                let failed = |kind, message: &'static str| Err(Error::new(kind, "inbox.claim", message));
                match offsets.iter().find(|offset| (13..=15).contains(*offset)) {
                    Some(13) => return failed(ErrorKind::Unavailable, "no database"),
                    Some(14) => return failed(ErrorKind::InvalidArgument, "a key that is too long"),
                    Some(_) if batch.leave_slot() => return failed(ErrorKind::Cancelled, "each apart"),
                    Some(_) => this.permits.acquire().await.unwrap().forget(),
                    None => {}
                }
                Ok(())
            })
        }
    }

    fn shared(slow: &Slow, running_count_max: usize, batch_count_max: usize) -> SharedBatches<Slow> {
        let gather = Duration::ZERO;
        let config = ConsumerConfig { running_count_max, batch_count_max, gather, ..ConsumerConfig::default() };
        SharedBatches::new(slow.clone(), &config)
    }

    fn batch(offsets: &[i64]) -> DeliveryBatch {
        let delivery = |offset: &i64| Delivery {
            message: Message::unkeyed("t", ""),
            partition: 0,
            offset: *offset,
            timestamp: SystemTime::UNIX_EPOCH,
        };
        DeliveryBatch::new("stock", offsets.iter().map(delivery).collect::<Vec<_>>())
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
    async fn a_batch_that_is_not_full_waits_for_more_and_a_full_one_does_not() {
        let slow = Slow::new();
        let gather = Duration::from_secs(2);
        let config = ConsumerConfig { batch_count_max: 3, running_count_max: 1, gather, ..ConsumerConfig::default() };
        let service = SharedBatches::new(slow.clone(), &config);
        slow.permits.add_permits(9);
        let began = tokio::time::Instant::now();
        let partial = [hand_in(&service, &[1]).await, hand_in(&service, &[2]).await];
        assert!(slow.batches().is_empty());
        for lane in partial {
            lane.await.unwrap().unwrap();
        }
        assert_eq!((slow.batches(), began.elapsed().as_secs()), (vec![vec![1, 2]], 2));
        let filled = [hand_in(&service, &[3]).await, hand_in(&service, &[4, 5]).await];
        for lane in filled {
            lane.await.unwrap().unwrap();
        }
        assert_eq!((slow.batches().len(), began.elapsed().as_secs()), (2, 2));
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
    async fn a_joined_batch_that_fails_for_one_delivery_is_run_by_each_lane_apart() {
        let slow = Slow::new();
        let service = shared(&slow, 1, 256);
        let first = hand_in(&service, &[1]).await;
        let good = [hand_in(&service, &[2]).await, hand_in(&service, &[3]).await];
        let bad = hand_in(&service, &[14]).await;
        slow.permits.add_permits(5);
        first.await.unwrap().unwrap();
        for lane in good {
            lane.await.unwrap().unwrap();
        }
        assert_eq!(bad.await.unwrap().unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(slow.batches()[..2], [vec![1], vec![2, 3, 14]]);
        let mut apart = slow.batches()[2..].to_vec();
        apart.sort();
        assert_eq!(apart, [[2], [3], [14]]);
        assert_eq!(*slow.running_count_max.lock().unwrap(), 1, "no more run side by side than may");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_whose_handler_failed_waits_alone() {
        let slow = Slow::new();
        let service = shared(&slow, 1, 256);
        let first = hand_in(&service, &[1]).await;
        let (good, bad) = (hand_in(&service, &[2]).await, hand_in(&service, &[15]).await);
        // One for the first, one for the joined batch, one for each part; the failing one needs another.
        slow.permits.add_permits(4);
        first.await.unwrap().unwrap();
        good.await.unwrap().unwrap();
        assert!(!bad.is_finished());
        // The only slot is free meanwhile.
        slow.permits.add_permits(2);
        hand_in(&service, &[4]).await.await.unwrap().unwrap();
        bad.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_gives_its_slot_back_lets_the_next_run_and_no_more_than_may() {
        let slow = Slow::new();
        let service = shared(&slow, 1, 1);
        let bad = hand_in(&service, &[15]).await;
        let others = [hand_in(&service, &[1]).await, hand_in(&service, &[2]).await];
        assert_eq!(slow.batches(), [[15]]);
        slow.permits.add_permits(1);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(slow.batches(), [[15], [1]], "one runs in the place of the one that failed");
        slow.permits.add_permits(3);
        for lane in others.into_iter().chain([bad]) {
            lane.await.unwrap().unwrap();
        }
        hand_in(&service, &[3]).await.abort();
        let last = hand_in(&service, &[4]).await;
        slow.permits.add_permits(1);
        last.await.unwrap().unwrap();
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
