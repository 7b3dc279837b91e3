//! When each order's callback was sent and when the order was seen settled.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use micro_rs::core::{
    broker::Message,
    event::{BaseEvent, Event},
};
use order::events::OrderStatusChanged;
use prost::Message as _;

/// Times of orders `1..=count`, in microseconds since the start; 0 is "not yet".
pub struct Clock {
    start: Instant,
    sent: Vec<AtomicU64>,
    settled: Vec<AtomicU64>,
    settled_count: AtomicU64,
}

impl Clock {
    /// A clock for orders `1..=order_count`.
    pub fn new(order_count: u32) -> Self {
        let times = || (0..=order_count).map(|_| AtomicU64::new(0)).collect();
        Self { start: Instant::now(), sent: times(), settled: times(), settled_count: AtomicU64::new(0) }
    }

    /// The first callback of this order goes out now.
    pub fn sent(&self, order_id: i64) {
        set_once(&self.sent, order_id, self.now());
    }

    /// Looks at a record that is being published: a final status is an order that settled.
    pub fn observe(&self, message: &Message) {
        if *message.topic != *OrderStatusChanged::TOPIC {
            return;
        }
        let Ok(envelope) = BaseEvent::decode(message.body.clone()) else { return };
        let Ok(change) = <OrderStatusChanged as Event>::decode_payload(envelope.payload) else { return };
        if change.to_status >= 4 && set_once(&self.settled, change.order_id, self.now()) {
            self.settled_count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many orders were seen settled in this run.
    pub fn settled_count(&self) -> u64 {
        self.settled_count.load(Ordering::Relaxed)
    }

    /// From the first callback to the settled order, of every order that has both.
    pub fn settle_times(&self) -> impl Iterator<Item = Duration> {
        self.sent.iter().zip(&self.settled).filter_map(|(sent, settled)| {
            let (sent, settled) = (sent.load(Ordering::Relaxed), settled.load(Ordering::Relaxed));
            (sent > 0 && settled > 0).then(|| Duration::from_micros(settled.saturating_sub(sent)))
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX).max(1)
    }
}

fn set_once(times: &[AtomicU64], order_id: i64, now: u64) -> bool {
    usize::try_from(order_id)
        .ok()
        .and_then(|index| times.get(index))
        .is_some_and(|time| time.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed).is_ok())
}
