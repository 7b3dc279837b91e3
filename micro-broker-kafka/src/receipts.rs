//! From delivery reports to results: one completion a call of `publish`, however many messages.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use micro_core::{Error, ErrorKind, Result, broker::Receipt};
use tokio::sync::{Notify, oneshot};

/// The calls that have messages under way.
#[derive(Default)]
pub(crate) struct OpenCalls {
    state: Mutex<OpenState>,
    closed: Notify,
}

#[derive(Default)]
struct OpenState {
    next_id: u64,
    /// How many messages each call has handed in, by the order of the calls.
    open: BTreeMap<u64, usize>,
}

impl OpenCalls {
    fn open(&self, message_count: usize) -> u64 {
        let mut state = self.state();
        let id = state.next_id;
        state.next_id += 1;
        state.open.insert(id, message_count);
        id
    }

    fn close(&self, id: u64) {
        self.state().open.remove(&id);
        self.closed.notify_waiters();
    }

    /// Waits until every call that began before this one has its results.
    pub(crate) async fn closed(&self) {
        let before = self.state().next_id;
        loop {
            let mut closed = std::pin::pin!(self.closed.notified());
            closed.as_mut().enable();
            if self.state().open.first_key_value().is_none_or(|(first, _)| *first >= before) {
                return;
            }
            closed.await;
        }
    }

    /// How many messages were handed in by calls that have no results yet.
    pub(crate) fn message_count(&self) -> usize {
        self.state().open.values().sum()
    }

    fn state(&self) -> MutexGuard<'_, OpenState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call of `publish`: its results as they come in.
pub(crate) struct Call {
    id: u64,
    calls: Arc<OpenCalls>,
    state: Mutex<CallState>,
}

struct CallState {
    results: Vec<Result<Receipt>>,
    unsettled_count: usize,
    done: Option<oneshot::Sender<Vec<Result<Receipt>>>>,
}

impl Call {
    /// A call of so many messages, and where its results come out once all are settled.
    pub(crate) fn open(calls: Arc<OpenCalls>, count: usize) -> (Arc<Self>, oneshot::Receiver<Vec<Result<Receipt>>>) {
        let (done, results) = oneshot::channel();
        // Each is replaced before anybody sees it, for the results come out when all are settled.
        let unsettled = || Ok(Receipt { partition: -1, offset: -1 });
        let state = CallState {
            results: std::iter::repeat_with(unsettled).take(count).collect(),
            unsettled_count: count,
            done: Some(done),
        };
        let id = calls.open(count);
        (Arc::new(Self { id, calls, state: Mutex::new(state) }), results)
    }

    pub(crate) fn settle(&self, index: usize, result: Result<Receipt>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.results[index] = result;
        state.unsettled_count -= 1;
        if state.unsettled_count > 0 {
            return;
        }
        let results = std::mem::take(&mut state.results);
        let done = state.done.take();
        drop(state);
        self.calls.close(self.id);
        if let Some(done) = done {
            // Whoever called may have stopped waiting.
            drop(done.send(results));
        }
    }
}

/// Travels with a message through librdkafka and comes back with its report.
///
/// A ticket that is dropped without a report settles its message all the same: nobody waits for
/// ever.
pub(crate) struct Ticket {
    call: Option<Arc<Call>>,
    index: usize,
    pub(crate) topic: Arc<str>,
}

impl Ticket {
    pub(crate) fn new(call: Arc<Call>, index: usize, topic: Arc<str>) -> Self {
        Self { call: Some(call), index, topic }
    }

    pub(crate) fn settle(mut self, result: Result<Receipt>) {
        if let Some(call) = self.call.take() {
            call.settle(self.index, result);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            let message = "the producer ended before the message was acknowledged";
            call.settle(self.index, Err(Error::new(ErrorKind::Unavailable, "broker.publish", message)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn results_come_in_slice_order_when_the_last_report_is_in() {
        let calls = Arc::<OpenCalls>::default();
        let (call, mut results) = Call::open(calls.clone(), 3);
        let ticket = |index| Ticket::new(call.clone(), index, "t".into());
        ticket(2).settle(Ok(Receipt { partition: 2, offset: 20 }));
        drop(ticket(1));
        assert!(results.try_recv().is_err(), "one is missing");
        assert_eq!(calls.message_count(), 3);
        ticket(0).settle(Ok(Receipt { partition: 0, offset: 10 }));
        let results = results.await.unwrap();
        assert_eq!(results[0].as_ref().unwrap().offset, 10);
        assert_eq!(results[1].as_ref().unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(results[2].as_ref().unwrap().offset, 20);
        assert_eq!(calls.message_count(), 0);
    }

    #[tokio::test]
    async fn closed_waits_for_the_calls_before_it_and_not_for_later_ones() {
        let calls = Arc::<OpenCalls>::default();
        let (first, _first) = Call::open(calls.clone(), 1);
        let mut closed = std::pin::pin!(calls.closed());
        assert!(timeout(Duration::ZERO, &mut closed).await.is_err());
        let (_second, _results) = Call::open(calls.clone(), 1);
        first.settle(0, Ok(Receipt { partition: 0, offset: 0 }));
        timeout(Duration::from_secs(5), closed).await.expect("the first call is closed");
    }
}
