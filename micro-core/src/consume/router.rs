//! Which handler an event goes to: by topic and event type.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    BatchHandler, Handler,
    unwind::{unwound, unwound_call},
};
use crate::{
    Error, ErrorKind, Result, Tx,
    broker::Delivery,
    event::{Event, Received},
};

/// How the topic of dead letters and the types on it end.
pub(crate) const DEAD_LETTER_SUFFIX: &str = "DLQ";

/// The handlers of one group, by topic and event type. A type that is known on another topic is
/// unknown here.
///
/// On a topic that ends in `DLQ` a type is also found without that ending: some services of the
/// go-micro fleet rewrite a dead letter's type and some do not.
#[derive(Clone, Default)]
pub struct Router {
    topics: BTreeMap<&'static str, HashMap<&'static str, Arc<dyn Route>>>,
    doubled: Option<(&'static str, &'static str)>,
}

impl Router {
    /// No handler.
    pub fn new() -> Self {
        Self::default()
    }

    /// Hands events of type `E` to `handler`, one by one.
    #[must_use]
    pub fn on<E: Event>(self, handler: impl Handler<E>) -> Self {
        self.route::<E>(Arc::new(Single(Arc::new(handler) as Arc<dyn Handler<E>>)))
    }

    /// Hands runs of events of type `E` to `handler`, as many at once as came in a row.
    #[must_use]
    pub fn on_batch<E: Event>(self, handler: impl BatchHandler<E>) -> Self {
        self.route::<E>(Arc::new(Set(Arc::new(handler) as Arc<dyn BatchHandler<E>>)))
    }

    /// The topics that have a handler, sorted.
    pub fn topics(&self) -> Vec<Arc<str>> {
        self.topics.keys().map(|topic| Arc::from(*topic)).collect()
    }

    fn route<E: Event>(mut self, route: Arc<dyn Route>) -> Self {
        if self.topics.entry(E::TOPIC).or_default().insert(E::EVENT_TYPE, route).is_some() {
            self.doubled = Some((E::TOPIC, E::EVENT_TYPE));
        }
        self
    }

    /// Refuses a router that cannot be meant: without a handler, or with two for one type.
    pub(crate) fn check(&self) -> Result<()> {
        if let Some((topic, event_type)) = self.doubled {
            return Err(Error::new(ErrorKind::AlreadyExists, "router.on", "an event type has two handlers")
                .with_context("topic", topic)
                .with_context("event_type", event_type));
        }
        if self.topics.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArgument, "router.on", "the router has no handler"));
        }
        Ok(())
    }

    pub(crate) fn find(&self, topic: &str, event_type: &str) -> Option<&Arc<dyn Route>> {
        let types = self.topics.get(topic)?;
        types.get(event_type).or_else(|| {
            let is_dead_letter = topic.ends_with(DEAD_LETTER_SUFFIX);
            is_dead_letter.then(|| types.get(format!("{event_type}{DEAD_LETTER_SUFFIX}").as_str())).flatten()
        })
    }
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.topics.iter().map(|(topic, types)| (topic, types.keys()))).finish()
    }
}

/// A handler whose event type is erased.
pub(crate) trait Route: Send + Sync {
    /// An empty run of its events.
    fn run(&self) -> Box<dyn Run>;
}

/// Events of one type in delivery order, on their way to one handler.
#[async_trait]
pub(crate) trait Run: Send {
    /// Decodes an event and adds it.
    fn push(&mut self, payload: Bytes, delivery: &Delivery, attempts: u32) -> Result<()>;

    /// Calls the handler; no call takes longer than `timeout`.
    async fn execute(self: Box<Self>, tx: &mut Tx, timeout: Duration) -> Result<(), RunFailure>;
}

/// Which of a run's events failed, by their index in the run, both ends included.
pub(crate) struct RunFailure {
    pub(crate) first: usize,
    pub(crate) last: usize,
    pub(crate) error: Error,
}

struct Single<E>(Arc<dyn Handler<E>>);

impl<E: Event> Route for Single<E> {
    fn run(&self) -> Box<dyn Run> {
        Box::new(SingleRun { handler: self.0.clone(), events: Vec::new() })
    }
}

struct SingleRun<E> {
    handler: Arc<dyn Handler<E>>,
    events: Vec<Received<E>>,
}

#[async_trait]
impl<E: Event> Run for SingleRun<E> {
    fn push(&mut self, payload: Bytes, delivery: &Delivery, attempts: u32) -> Result<()> {
        self.events.push(received(payload, delivery, attempts)?);
        Ok(())
    }

    async fn execute(self: Box<Self>, tx: &mut Tx, timeout: Duration) -> Result<(), RunFailure> {
        for (index, event) in self.events.into_iter().enumerate() {
            call("handler.handle", timeout, async { self.handler.handle(tx, event).await })
                .await
                .map_err(|error| RunFailure { first: index, last: index, error })?;
        }
        Ok(())
    }
}

struct Set<E>(Arc<dyn BatchHandler<E>>);

impl<E: Event> Route for Set<E> {
    fn run(&self) -> Box<dyn Run> {
        Box::new(SetRun { handler: self.0.clone(), events: Vec::new() })
    }
}

struct SetRun<E> {
    handler: Arc<dyn BatchHandler<E>>,
    events: Vec<Received<E>>,
}

#[async_trait]
impl<E: Event> Run for SetRun<E> {
    fn push(&mut self, payload: Bytes, delivery: &Delivery, attempts: u32) -> Result<()> {
        self.events.push(received(payload, delivery, attempts)?);
        Ok(())
    }

    async fn execute(self: Box<Self>, tx: &mut Tx, timeout: Duration) -> Result<(), RunFailure> {
        if self.events.is_empty() {
            return Ok(());
        }
        let last = self.events.len() - 1;
        call("handler.handle_batch", timeout, async { self.handler.handle_batch(tx, &self.events).await })
            .await
            .map_err(|error| RunFailure { first: 0, last, error })
    }
}

async fn call(operation: &'static str, timeout: Duration, work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::time::timeout(timeout, unwound(operation, work)).await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::DeadlineExceeded, operation, "the handler took too long")
            .with_context("timeout_ms", timeout.as_millis()))
    })
}

fn received<E: Event>(payload: Bytes, delivery: &Delivery, attempts: u32) -> Result<Received<E>> {
    let event = unwound_call("event.decode", || E::decode_payload(payload))?;
    Ok(Received { event, event_id: delivery.event_id(), attempts, delivery: delivery.clone() })
}
