//! What another service does with the events; it is here so that the example shows something.

use std::sync::Arc;

use micro_core::{
    Result,
    broker::{Broker, Delivery, Position, SubscribeRequest, Subscription, SubscriptionEvent},
    event::{BaseEvent, Event as _},
};

use crate::shop::OrderPlaced;

/// Joins a group that reads the orders' events.
pub async fn subscribe(broker: &dyn Broker) -> Result<Arc<dyn Subscription>> {
    broker.subscribe(SubscribeRequest::new("embed-follow", [OrderPlaced::TOPIC])).await
}

/// Prints every event that arrives, as a service in another process would work on it.
///
/// It has no transaction of its own, and so needs no inbox; a line may be printed twice after a crash.
pub async fn follow(subscription: Arc<dyn Subscription>) -> Result<()> {
    while let Some(event) = subscription.next().await {
        let SubscriptionEvent::Batch(deliveries) = event else { continue };
        for delivery in deliveries {
            match read(&delivery) {
                Ok(order) => println!("order {}: {} of {} was placed", order.order_id, order.quantity, order.sku),
                Err(error) => tracing::warn!(error = %error.report(), "skipped what is no event of an order"),
            }
            let partition = delivery.topic_partition();
            subscription.ack(Position { partition, next_offset: delivery.offset + 1 }).await?;
        }
    }
    Ok(())
}

fn read(delivery: &Delivery) -> Result<OrderPlaced> {
    OrderPlaced::decode_payload(BaseEvent::open(delivery)?.payload)
}
