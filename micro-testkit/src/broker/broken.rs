//! A broker that breaks one promise, to show that the suite sees it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use micro_core::{
    Error, ErrorKind, Result,
    broker::{
        Broker, Capabilities, Delivery, Message, Position, Receipt, RevokeGuard, SubscribeRequest, Subscription,
        SubscriptionEvent, TopicPartition,
    },
};

use crate::unique;

/// A promise of [`Broker`] or [`Subscription`] that [`BrokenBroker`] breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerFault {
    /// Sends the messages of a call last first.
    ReordersMessages,
    /// Enqueues after its first await.
    AwaitsBeforeItEnqueues,
    /// Fails every message of a call when one fails.
    FailsNeighbours,
    /// Answers with the results last first.
    SwapsResults,
    /// Shares the messages among all groups.
    MixesGroups,
    /// Gives every member of a group every message.
    SeparatesMembers,
    /// Acks what it delivers.
    AcksOnDelivery,
    /// Keeps no acks.
    ForgetsAcks,
    /// Gives a delivery the time at which it is handed out.
    StampsOnDelivery,
    /// Delivers only what was sent after a member came.
    StartsAtTheLatest,
    /// Writes header names in lower case.
    ChangesHeaders,
    /// Flushes without waiting.
    FlushesAtOnce,
    /// Flushes for ever.
    FlushesForEver,
    /// Delivers of paused partitions.
    IgnoresPause,
    /// Does not resume.
    IgnoresResume,
    /// Moves partitions whose guard is held.
    IgnoresGuards,
    /// Goes on after a close.
    IgnoresClose,
}

/// A broker that breaks one promise of the one inside, or none.
pub struct BrokenBroker {
    broker: Arc<dyn Broker>,
    fault: Option<BrokerFault>,
    one_group: Arc<str>,
}

impl BrokenBroker {
    /// Breaks `fault`'s promise.
    pub fn new(broker: Arc<dyn Broker>, fault: impl Into<Option<BrokerFault>>) -> Self {
        Self { broker, fault: fault.into(), one_group: unique("one-group").into() }
    }
}

#[async_trait]
impl Broker for BrokenBroker {
    async fn publish(&self, mut messages: Vec<Message>) -> Vec<Result<Receipt>> {
        match self.fault {
            Some(BrokerFault::ReordersMessages) => messages.reverse(),
            Some(BrokerFault::AwaitsBeforeItEnqueues) => tokio::task::yield_now().await,
            Some(BrokerFault::ChangesHeaders) => messages.iter_mut().for_each(lowercase_header_names),
            _ => {}
        }
        let mut results = self.broker.publish(messages).await;
        match self.fault {
            Some(BrokerFault::ReordersMessages | BrokerFault::SwapsResults) => results.reverse(),
            Some(BrokerFault::FailsNeighbours) if results.iter().any(Result::is_err) => {
                results.iter_mut().for_each(|result| *result = Err(failed()));
            }
            _ => {}
        }
        results
    }

    async fn subscribe(&self, mut request: SubscribeRequest) -> Result<Arc<dyn Subscription>> {
        match self.fault {
            Some(BrokerFault::MixesGroups) => request.group = self.one_group.clone(),
            Some(BrokerFault::SeparatesMembers) => request.group = unique(&request.group).into(),
            _ => {}
        }
        let subscribed_at = SystemTime::now();
        let subscription = self.broker.subscribe(request).await?;
        Ok(Arc::new(BrokenSubscription { subscription, fault: self.fault, subscribed_at }))
    }

    async fn flush(&self, deadline: Duration) -> Result<()> {
        match self.fault {
            Some(BrokerFault::FlushesAtOnce) => Ok(()),
            Some(BrokerFault::FlushesForEver) => std::future::pending().await,
            _ => self.broker.flush(deadline).await,
        }
    }

    fn capabilities(&self) -> Capabilities {
        self.broker.capabilities()
    }
}

fn lowercase_header_names(message: &mut Message) {
    message.headers = message.headers.iter().map(|(name, value)| (name.to_lowercase(), value.clone())).collect();
}

fn failed() -> Error {
    Error::new(ErrorKind::Unavailable, "broker.publish", "a neighbour was refused")
}

struct BrokenSubscription {
    subscription: Arc<dyn Subscription>,
    fault: Option<BrokerFault>,
    subscribed_at: SystemTime,
}

#[async_trait]
impl Subscription for BrokenSubscription {
    async fn next(&self) -> Option<SubscriptionEvent> {
        loop {
            let event = self.subscription.next().await?;
            match (self.fault, event) {
                (Some(BrokerFault::IgnoresGuards), SubscriptionEvent::Revoked(partitions, _)) => {
                    return Some(SubscriptionEvent::Revoked(partitions, RevokeGuard::new().0));
                }
                (Some(BrokerFault::AcksOnDelivery), SubscriptionEvent::Batch(batch)) => {
                    self.ack_all(&batch).await;
                    return Some(SubscriptionEvent::Batch(batch));
                }
                (Some(BrokerFault::StampsOnDelivery), SubscriptionEvent::Batch(mut batch)) => {
                    batch.iter_mut().for_each(|delivery| delivery.timestamp = SystemTime::now());
                    return Some(SubscriptionEvent::Batch(batch));
                }
                (Some(BrokerFault::StartsAtTheLatest), SubscriptionEvent::Batch(mut batch)) => {
                    batch.retain(|delivery| delivery.timestamp > self.subscribed_at);
                    if !batch.is_empty() {
                        return Some(SubscriptionEvent::Batch(batch));
                    }
                }
                (_, event) => return Some(event),
            }
        }
    }

    async fn ack(&self, position: Position) -> Result<()> {
        if self.fault == Some(BrokerFault::ForgetsAcks) { Ok(()) } else { self.subscription.ack(position).await }
    }

    async fn pause(&self, partitions: &[TopicPartition]) -> Result<()> {
        if self.fault == Some(BrokerFault::IgnoresPause) { Ok(()) } else { self.subscription.pause(partitions).await }
    }

    async fn resume(&self, partitions: &[TopicPartition]) -> Result<()> {
        if self.fault == Some(BrokerFault::IgnoresResume) { Ok(()) } else { self.subscription.resume(partitions).await }
    }

    async fn close(&self) -> Result<()> {
        if self.fault == Some(BrokerFault::IgnoresClose) { Ok(()) } else { self.subscription.close().await }
    }
}

impl BrokenSubscription {
    async fn ack_all(&self, batch: &[Delivery]) {
        for delivery in batch {
            let done = Position { partition: delivery.topic_partition(), next_offset: delivery.offset + 1 };
            self.subscription.ack(done).await.expect("what was delivered is acked");
        }
    }
}
