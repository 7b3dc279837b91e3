//! Members of a group as the broker suite needs them: one that is led step by step, and one that
//! collects by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use micro_core::broker::{
    Delivery, Position, RevokeGuard, SubscribeRequest, Subscription, SubscriptionEvent, TopicPartition,
};
use tokio::{task::AbortHandle, time::timeout};

use super::BrokerFixture;

/// A member that does one thing after the other.
pub(super) struct Consumer {
    subscription: Arc<dyn Subscription>,
    patience: Duration,
}

impl Consumer {
    pub(super) async fn join(fixture: &impl BrokerFixture, topic: &str, group: &str) -> Self {
        let request = SubscribeRequest::new(group, [topic]);
        let subscription = fixture.broker().subscribe(request).await.expect("a member joins");
        Self { subscription, patience: fixture.patience() }
    }

    pub(super) fn subscription(&self) -> &dyn Subscription {
        &*self.subscription
    }

    /// Receives `count` different deliveries and acks them.
    pub(super) async fn consume(&self, count: usize) -> Vec<Delivery> {
        let ack = async |batch: Vec<Delivery>| self.ack(&batch).await;
        self.receive(count, ack).await
    }

    /// Receives `count` different deliveries and acks none.
    pub(super) async fn take(&self, count: usize) -> Vec<Delivery> {
        self.receive(count, async |_| ()).await
    }

    async fn receive(&self, count: usize, after_batch: impl AsyncFn(Vec<Delivery>)) -> Vec<Delivery> {
        let mut received = Received::default();
        let receive = async {
            while received.deliveries.len() < count {
                let batch = next_batch(&*self.subscription).await;
                received.add(&batch);
                after_batch(batch).await;
            }
        };
        let in_time = timeout(self.patience, receive).await.is_ok();
        let deliveries = received.deliveries;
        assert!(in_time, "{} of {count} deliveries came within {:?}", deliveries.len(), self.patience);
        deliveries
    }

    /// Receives `count` different deliveries at either member.
    pub(super) async fn take_together(members: [&Self; 2], count: usize) -> Vec<Delivery> {
        let mut received = Received::default();
        let receive = async {
            while received.deliveries.len() < count {
                let batch = tokio::select! {
                    batch = next_batch(&*members[0].subscription) => batch,
                    batch = next_batch(&*members[1].subscription) => batch,
                };
                received.add(&batch);
            }
        };
        let patience = members[0].patience;
        let in_time = timeout(patience, receive).await.is_ok();
        let deliveries = received.deliveries;
        assert!(in_time, "{} of {count} deliveries came to two members within {patience:?}", deliveries.len());
        deliveries
    }

    pub(super) async fn revoked(&self) -> (Vec<TopicPartition>, RevokeGuard) {
        let revoked = async {
            loop {
                match self.subscription.next().await {
                    Some(SubscriptionEvent::Revoked(partitions, guard)) => return (partitions, guard),
                    Some(_) => {}
                    None => panic!("the subscription ended"),
                }
            }
        };
        timeout(self.patience, revoked).await.expect("a partition is taken away when a member joins")
    }

    /// Acks everything up to the last of these, partition by partition.
    pub(super) async fn ack(&self, deliveries: &[Delivery]) {
        ack(&*self.subscription, deliveries).await;
    }
}

/// Receives a batch; hands over what is taken away.
async fn next_batch(subscription: &dyn Subscription) -> Vec<Delivery> {
    loop {
        match subscription.next().await {
            Some(SubscriptionEvent::Batch(batch)) => {
                assert!(!batch.is_empty(), "a batch is never empty");
                return batch;
            }
            Some(_) => {}
            None => panic!("the subscription ended"),
        }
    }
}

async fn ack(subscription: &dyn Subscription, deliveries: &[Delivery]) {
    let mut ends: BTreeMap<TopicPartition, i64> = BTreeMap::new();
    for delivery in deliveries {
        let end = ends.entry(delivery.topic_partition()).or_default();
        *end = (*end).max(delivery.offset + 1);
    }
    for (partition, next_offset) in ends {
        subscription.ack(Position { partition, next_offset }).await.expect("a position is acked");
    }
}

/// Deliveries in the order they first came: a broker may deliver again.
#[derive(Default)]
struct Received {
    deliveries: Vec<Delivery>,
    places: BTreeSet<(TopicPartition, i64)>,
}

impl Received {
    fn add(&mut self, batch: &[Delivery]) {
        let is_new = |delivery: &&Delivery| self.places.insert((delivery.topic_partition(), delivery.offset));
        self.deliveries.extend(batch.iter().filter(is_new).cloned());
    }
}

/// A member that receives and acks in a task until it is dropped.
pub(super) struct Collector {
    bodies: Arc<Mutex<Vec<String>>>,
    task: AbortHandle,
}

impl Collector {
    pub(super) async fn start(fixture: &impl BrokerFixture, topic: &str, group: &str) -> Self {
        let subscription = Consumer::join(fixture, topic, group).await.subscription;
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(collect(subscription, bodies.clone())).abort_handle();
        Self { bodies, task }
    }

    pub(super) fn body(round: usize, number: usize) -> String {
        format!("{round}/{number:02}")
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bodies.lock().expect("no holder panics").is_empty()
    }

    /// The bodies of a round, as often as they came.
    pub(super) fn bodies(&self, round: usize) -> Vec<String> {
        let prefix = format!("{round}/");
        let bodies = self.bodies.lock().expect("no holder panics");
        bodies.iter().filter(|body| body.starts_with(&prefix)).cloned().collect()
    }
}

async fn collect(subscription: Arc<dyn Subscription>, bodies: Arc<Mutex<Vec<String>>>) {
    loop {
        let batch = next_batch(&*subscription).await;
        let collected = batch.iter().map(|delivery| String::from_utf8_lossy(&delivery.message.body).into_owned());
        bodies.lock().expect("no holder panics").extend(collected);
        ack(&*subscription, &batch).await;
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}
