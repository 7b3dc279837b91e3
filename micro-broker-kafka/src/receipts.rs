//! From delivery reports to results: one completion a call of `publish`, however many messages.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use micro_core::{
    Error, ErrorKind, Result,
    broker::{Message, Receipt},
};
use tokio::sync::{Notify, oneshot};

use crate::topics::Topic;

/// The place of a message among all that were handed to `publish`.
pub(crate) type Order = (u64, usize);

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

/// One call of `publish`: its messages, which may have to be sent again, and its results as they
/// come in.
pub(crate) struct Call {
    id: u64,
    began: Instant,
    messages: Vec<Message>,
    calls: Arc<OpenCalls>,
    state: Mutex<CallState>,
}

struct CallState {
    results: Vec<Result<Receipt>>,
    unsettled_count: usize,
    done: Option<oneshot::Sender<Vec<Result<Receipt>>>>,
}

impl Call {
    /// A call, and where its results come out once all are settled.
    pub(crate) fn open(
        calls: Arc<OpenCalls>,
        messages: Vec<Message>,
    ) -> (Arc<Self>, oneshot::Receiver<Vec<Result<Receipt>>>) {
        let (done, results) = oneshot::channel();
        let count = messages.len();
        // Each is replaced before anybody sees it, for the results come out when all are settled.
        let unsettled = || Ok(Receipt { partition: -1, offset: -1 });
        let state = CallState {
            results: std::iter::repeat_with(unsettled).take(count).collect(),
            unsettled_count: count,
            done: Some(done),
        };
        let id = calls.open(count);
        (Arc::new(Self { id, began: Instant::now(), messages, calls, state: Mutex::new(state) }), results)
    }

    pub(crate) fn messages(&self) -> &[Message] {
        &self.messages
    }

    fn settle(&self, index: usize, result: Result<Receipt>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.results[index] = result;
        state.unsettled_count -= 1;
        if state.unsettled_count > 0 {
            return;
        }
        let results = std::mem::take(&mut state.results);
        let done = state.done.take();
        drop(state);
        if let Some(done) = done {
            // Whoever called may have stopped waiting.
            drop(done.send(results));
        }
        // Whoever waits for a flush finds the results there.
        self.calls.close(self.id);
    }
}

/// Travels with a message through librdkafka and comes back with its report.
///
/// A ticket that is dropped without a report settles its message all the same: nobody waits for
/// ever.
pub(crate) struct Ticket {
    call: Arc<Call>,
    index: usize,
    pub(crate) topic: Arc<Topic>,
    /// Whether it was refused in company for its batch's size.
    pub(crate) was_too_large: bool,
    is_out: bool,
    is_settled: bool,
}

impl Ticket {
    pub(crate) fn new(call: Arc<Call>, index: usize, topic: Arc<Topic>) -> Self {
        Self { call, index, topic, was_too_large: false, is_out: false, is_settled: false }
    }

    pub(crate) fn message(&self) -> &Message {
        &self.call.messages[self.index]
    }

    /// Its call, and its place among the call's messages.
    pub(crate) fn place(&self) -> (Arc<Call>, usize) {
        (self.call.clone(), self.index)
    }

    /// What the message takes of a memory bound, roughly.
    pub(crate) fn bytes(&self) -> usize {
        let Message { key, headers, body, .. } = self.message();
        let headers: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        key.as_ref().map_or(0, Bytes::len) + headers + body.len()
    }

    pub(crate) fn order(&self) -> Order {
        (self.call.id, self.index)
    }

    /// How long ago its message was handed to `publish`.
    pub(crate) fn age(&self) -> Duration {
        self.call.began.elapsed()
    }

    /// Says whether librdkafka has it, so that its topic's count of these is kept also when it is
    /// dropped there.
    pub(crate) fn set_out(&mut self, is_out: bool) {
        self.is_out = is_out;
    }

    /// Settles its message. It is no longer librdkafka's.
    pub(crate) fn settle(mut self, result: Result<Receipt>) {
        self.is_settled = true;
        self.call.settle(self.index, result);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.is_out {
            self.topic.flow().out_count -= 1;
        }
        if !self.is_settled {
            let message = "the producer ended before the message was acknowledged";
            self.call.settle(self.index, Err(Error::new(ErrorKind::Unavailable, "broker.publish", message)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn messages(count: usize) -> Vec<Message> {
        vec![Message::unkeyed("t", ""); count]
    }

    #[tokio::test]
    async fn results_come_in_slice_order_when_the_last_report_is_in() {
        let calls = Arc::<OpenCalls>::default();
        let (call, mut results) = Call::open(calls.clone(), messages(3));
        let topic = Arc::new(Topic::new("t".into()));
        let ticket = |index| Ticket::new(call.clone(), index, topic.clone());
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
        let (first, _first) = Call::open(calls.clone(), messages(1));
        let mut closed = std::pin::pin!(calls.closed());
        assert!(timeout(Duration::ZERO, &mut closed).await.is_err());
        let (_second, _results) = Call::open(calls.clone(), messages(1));
        first.settle(0, Ok(Receipt { partition: 0, offset: 0 }));
        timeout(Duration::from_secs(5), closed).await.expect("the first call is closed");
    }
}
