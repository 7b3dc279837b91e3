//! What becomes of a consumer whose broker's adapter panics.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use micro_core::{
    Health, HealthStatus, Result,
    app::Component as _,
    broker::{
        Broker, Capabilities, MemoryBroker, Message, Position, Receipt, SubscribeRequest, Subscription,
        SubscriptionEvent, TopicPartition,
    },
    consume::{Consumer, DeliveryPolicy},
};

use crate::world::{Ledger, Paid, World, eventually, message};

/// What panics, and how often it still will.
#[derive(Clone)]
struct Fault {
    method: &'static str,
    left: Arc<AtomicUsize>,
}

impl Fault {
    fn strike(&self, method: &str) {
        let is_left = |left: usize| left.checked_sub(1);
        let strikes =
            self.method == method && self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, is_left).is_ok();
        assert!(!strikes, "the adapter has a fault in {method}");
    }
}

/// A broker whose subscriptions panic.
struct Panicking {
    inner: MemoryBroker,
    fault: Fault,
}

struct PanickingSubscription {
    inner: Arc<dyn Subscription>,
    fault: Fault,
}

#[async_trait]
impl Broker for Panicking {
    async fn publish(&self, messages: Vec<Message>) -> Vec<Result<Receipt>> {
        self.inner.publish(messages).await
    }

    async fn subscribe(&self, request: SubscribeRequest) -> Result<Arc<dyn Subscription>> {
        let inner = self.inner.subscribe(request).await?;
        Ok(Arc::new(PanickingSubscription { inner, fault: self.fault.clone() }))
    }

    async fn flush(&self, deadline: std::time::Duration) -> Result<()> {
        self.inner.flush(deadline).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}

#[async_trait]
impl Subscription for PanickingSubscription {
    async fn next(&self) -> Option<SubscriptionEvent> {
        let event = self.inner.next().await;
        self.fault.strike("next");
        event
    }

    async fn ack(&self, position: Position) -> Result<()> {
        self.fault.strike("ack");
        self.inner.ack(position).await
    }

    async fn pause(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.fault.strike("pause");
        self.inner.pause(partitions).await
    }

    async fn resume(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.fault.strike("resume");
        self.inner.resume(partitions).await
    }

    async fn close(&self) -> Result<()> {
        self.fault.strike("close");
        self.inner.close().await
    }
}

/// Everything that a health said, one after the other.
fn history(health: &Health) -> Arc<Mutex<Vec<HealthStatus>>> {
    let history = Arc::<Mutex<Vec<HealthStatus>>>::default();
    let (mut parts, told) = (health.watch(), history.clone());
    tokio::spawn(async move {
        while parts.changed().await.is_ok() {
            told.lock().unwrap().extend(parts.borrow_and_update().values().cloned());
        }
    });
    history
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_adapter_is_seen_in_health_and_what_was_not_acked_comes_again() {
    for method in ["next", "ack", "pause", "resume"] {
        let (world, ledger) = (World::new(), Ledger::applying());
        let broker = MemoryBroker::new();
        let fault = Fault { method, left: Arc::new(AtomicUsize::new(2)) };
        let panicking = Panicking { inner: broker.clone(), fault: fault.clone() };
        let consumer = Consumer::builder(Arc::new(panicking), world.inbox(&ledger, DeliveryPolicy::default()))
            .unfinished_count_max(2)
            .build();
        let health = Health::new();
        let history = history(&health);
        consumer.start(&health).await.unwrap();

        // The receipt of the memory broker is the group's ack.
        let events = (1..=20).map(|seq| message(&Paid::new("a", seq)));
        let receipts = broker.publish(events.collect()).await;
        assert!(receipts.iter().all(|receipt| receipt.is_ok()), "{method}");
        assert_eq!(world.applied("a"), (1..=20).collect::<Vec<_>>(), "{method}");
        assert!(fault.left.load(Ordering::SeqCst) < 2, "{method} panicked");
        eventually("serving again", || health.is_serving()).await;
        let expected = format!("the adapter has a fault in {method}");
        let said = |status: &&HealthStatus| matches!(status, HealthStatus::NotServing(why) if why.contains(&expected));
        assert!(history.lock().unwrap().iter().any(|status| said(&status)), "{:?}", history.lock().unwrap());
        consumer.close().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_adapter_that_always_panics_costs_ever_longer_waits_and_ends_with_the_stop() {
    let (world, ledger) = (World::new(), Ledger::applying());
    let broker = MemoryBroker::new();
    let fault = Fault { method: "next", left: Arc::new(AtomicUsize::new(usize::MAX)) };
    let panicking = Panicking { inner: broker.clone(), fault: fault.clone() };
    let consumer = Consumer::builder(Arc::new(panicking), world.inbox(&ledger, DeliveryPolicy::default())).build();
    let health = Health::new();
    consumer.start(&health).await.unwrap();
    let publishing = tokio::spawn(async move { broker.publish(vec![message(&Paid::new("a", 1))]).await });
    tokio::time::sleep(std::time::Duration::from_secs(120)).await;
    assert!(!health.is_serving());
    let panic_count = usize::MAX - fault.left.load(Ordering::SeqCst);
    assert!((5..20).contains(&panic_count), "{panic_count} panics in two minutes");
    consumer.drain(std::time::Duration::from_secs(1)).await.unwrap();
    publishing.abort();
}
