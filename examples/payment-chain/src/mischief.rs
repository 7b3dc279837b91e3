//! What goes wrong on purpose: records published again with the same event id, and poison.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use micro_rs::{
    core::{
        broker::{Broker, Capabilities, Message, Receipt, SubscribeRequest, Subscription, header},
        event::seal_payload,
    },
    prelude::*,
};
use tokio_util::task::TaskTracker;

use crate::clock::Clock;

/// What the event ids of poison begin with.
pub const POISON_PREFIX: &str = "poison-";

/// A broker that publishes some records again, and tells the clock what it saw settle.
pub struct MischievousBroker {
    inner: Arc<dyn Broker>,
    clock: Arc<Clock>,
    duplicate_percent: f64,
    duplicates: AtomicU64,
    tasks: TaskTracker,
}

impl MischievousBroker {
    /// A decorator of `inner` that repeats `duplicate_percent` of what it publishes.
    pub fn new(inner: Arc<dyn Broker>, clock: Arc<Clock>, duplicate_percent: f64) -> Self {
        Self { inner, clock, duplicate_percent, duplicates: AtomicU64::new(0), tasks: TaskTracker::new() }
    }

    /// How many records were published again.
    pub fn duplicate_count(&self) -> u64 {
        self.duplicates.load(Ordering::Relaxed)
    }

    /// Waits for the duplicates under way.
    pub async fn settle(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }
}

#[async_trait]
impl Broker for MischievousBroker {
    async fn publish(&self, messages: Vec<Message>) -> Vec<Result<Receipt>> {
        for message in &messages {
            self.clock.observe(message);
        }
        let again: Vec<Message> =
            messages.iter().filter(|_| fastrand::f64() * 100.0 < self.duplicate_percent).cloned().collect();
        let receipts = self.inner.publish(messages).await;
        if !again.is_empty() {
            self.duplicates.fetch_add(again.len() as u64, Ordering::Relaxed);
            let inner = self.inner.clone();
            self.tasks.spawn(async move {
                for outcome in inner.publish(again).await {
                    if let Err(error) = outcome {
                        tracing::debug!(error = %error.report(), "a duplicate was not published");
                    }
                }
            });
        }
        receipts
    }

    async fn subscribe(&self, request: SubscribeRequest) -> Result<Arc<dyn Subscription>> {
        self.inner.subscribe(request).await
    }

    async fn flush(&self, deadline: Duration) -> Result<()> {
        self.inner.flush(deadline).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}

/// Injects poison records and remembers their event ids.
pub struct Poison {
    broker: Arc<dyn Broker>,
    event_ids: HashSet<String>,
}

impl Poison {
    /// Publishes on `broker`.
    pub fn new(broker: Arc<dyn Broker>) -> Self {
        Self { broker, event_ids: HashSet::new() }
    }

    /// Publishes one poison record: bad bytes and unknown types in turn, on both services' topics,
    /// under the key of a real order, so that a neighbour would suffer.
    pub async fn inject(&mut self, number: u32, order_id: i64) -> Result<()> {
        let topic = if number.is_multiple_of(2) { order::ORDER_TOPIC } else { order::PRODUCT_TOPIC };
        let key = order_id.to_string();
        let mut message = if (number / 2).is_multiple_of(2) {
            Message::keyed(topic, key, vec![0xff; 12])
        } else {
            seal_payload(topic, "OnSomethingUnheardOf", key, vec![1, 2, 3].into(), "poison", "0")
        };
        let event_id = format!("{POISON_PREFIX}{}", unique());
        message.headers.set(header::EVENT_ID, event_id.clone());
        for outcome in self.broker.publish(vec![message]).await {
            outcome?;
        }
        self.event_ids.insert(event_id);
        Ok(())
    }

    /// The event ids injected in this run.
    pub fn into_event_ids(self) -> HashSet<String> {
        self.event_ids
    }
}

fn unique() -> String {
    format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..))
}
