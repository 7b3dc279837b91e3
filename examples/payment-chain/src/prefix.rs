//! Topics of one run's own on a broker that others use too.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use micro_rs::{
    core::broker::{
        Broker, Capabilities, Delivery, Message, Position, Receipt, SubscribeRequest, Subscription, SubscriptionEvent,
        TopicPartition,
    },
    prelude::*,
};

/// A broker on which every topic and group has a prefix that its users do not see.
pub struct PrefixedBroker {
    inner: Arc<dyn Broker>,
    prefix: Arc<str>,
}

impl PrefixedBroker {
    /// A decorator of `inner` that puts `prefix` before topics and groups.
    pub fn new(inner: Arc<dyn Broker>, prefix: impl Into<Arc<str>>) -> Self {
        Self { inner, prefix: prefix.into() }
    }
}

#[async_trait]
impl Broker for PrefixedBroker {
    async fn publish(&self, mut messages: Vec<Message>) -> Vec<Result<Receipt>> {
        for message in &mut messages {
            message.topic = prefixed(&self.prefix, &message.topic);
        }
        self.inner.publish(messages).await
    }

    async fn subscribe(&self, mut request: SubscribeRequest) -> Result<Arc<dyn Subscription>> {
        request.group = prefixed(&self.prefix, &request.group);
        for topic in &mut request.topics {
            *topic = prefixed(&self.prefix, topic);
        }
        let inner = self.inner.subscribe(request).await?;
        Ok(Arc::new(PrefixedSubscription { inner, prefix: self.prefix.clone() }))
    }

    async fn flush(&self, deadline: Duration) -> Result<()> {
        self.inner.flush(deadline).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}

struct PrefixedSubscription {
    inner: Arc<dyn Subscription>,
    prefix: Arc<str>,
}

impl PrefixedSubscription {
    fn inside(&self, partition: TopicPartition) -> TopicPartition {
        TopicPartition { topic: prefixed(&self.prefix, &partition.topic), ..partition }
    }

    fn outside(&self, topic: &str) -> Arc<str> {
        topic.strip_prefix(&*self.prefix).unwrap_or(topic).into()
    }

    fn all_outside(&self, partitions: Vec<TopicPartition>) -> Vec<TopicPartition> {
        let outside = |partition: TopicPartition| TopicPartition { topic: self.outside(&partition.topic), ..partition };
        partitions.into_iter().map(outside).collect()
    }

    fn all_inside(&self, partitions: &[TopicPartition]) -> Vec<TopicPartition> {
        partitions.iter().map(|partition| self.inside(partition.clone())).collect()
    }
}

#[async_trait]
impl Subscription for PrefixedSubscription {
    async fn next(&self) -> Option<SubscriptionEvent> {
        Some(match self.inner.next().await? {
            SubscriptionEvent::Batch(mut deliveries) => {
                deliveries.iter_mut().for_each(|delivery: &mut Delivery| {
                    delivery.message.topic = self.outside(&delivery.message.topic);
                });
                SubscriptionEvent::Batch(deliveries)
            }
            SubscriptionEvent::Revoked(partitions, guard) => {
                SubscriptionEvent::Revoked(self.all_outside(partitions), guard)
            }
            SubscriptionEvent::Lost(partitions) => SubscriptionEvent::Lost(self.all_outside(partitions)),
            other => other,
        })
    }

    async fn ack(&self, position: Position) -> Result<()> {
        self.inner.ack(Position { partition: self.inside(position.partition), ..position }).await
    }

    async fn pause(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.inner.pause(&self.all_inside(partitions)).await
    }

    async fn resume(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.inner.resume(&self.all_inside(partitions)).await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

/// A topic or group with the prefix that keeps it apart.
pub fn prefixed(prefix: &str, name: &str) -> Arc<str> {
    format!("{prefix}{name}").into()
}

#[cfg(test)]
mod tests {
    use micro_rs::core::broker::MemoryBroker;

    use super::*;

    /// Reads one delivery and acks it.
    async fn one(broker: &dyn Broker, topic: &str) -> Delivery {
        let member = broker.subscribe(SubscribeRequest::new("group", [topic])).await.unwrap();
        let Some(SubscriptionEvent::Batch(deliveries)) = member.next().await else { panic!("no batch") };
        let delivery = deliveries[0].clone();
        member.ack(Position { partition: delivery.topic_partition(), next_offset: delivery.offset + 1 }).await.unwrap();
        member.close().await.unwrap();
        delivery
    }

    #[tokio::test]
    async fn runs_do_not_see_each_other_and_no_run_sees_its_prefix() {
        let shared: Arc<dyn Broker> = Arc::new(MemoryBroker::new());
        let (mine, other) =
            (PrefixedBroker::new(shared.clone(), "mine."), PrefixedBroker::new(shared.clone(), "other."));
        for (broker, body) in [(&mine, "m"), (&other, "o")] {
            let publishing = broker.publish(vec![Message::keyed("Orders", "1", body)]);
            let receiving = one(broker, "Orders");
            let (receipts, delivery) = tokio::join!(publishing, receiving);
            assert!(receipts[0].is_ok());
            assert_eq!((&*delivery.message.topic, &delivery.message.body[..]), ("Orders", body.as_bytes()));
        }
    }
}
