//! Consuming: from a subscription through key lanes into the inbox's transaction.
//!
//! A [`Consumer`] receives a group's deliveries and runs them, lane by lane, through a tower stack
//! that ends in the [`InboxService`]. That one opens a transaction, claims the event ids, calls the
//! [`Handler`]s its [`Router`] names, and commits; then the offsets are acked. What a handler
//! writes through its [`Tx`](crate::Tx) is applied once, however often the event is delivered.
//! When a handler fails, its [`DeliveryPolicy`] decides: again at once, again later as a parked
//! row behind which the key waits, or a dead letter.
//!
//! An error of the handler never leaves the inbox service; an error of the database does, and the
//! consumer tries the same batch again until it works, with nothing acked.
//!
//! # Examples
//!
//! ```
//! # use std::sync::Arc;
//! # use async_trait::async_trait;
//! # use micro_core::{Error, Health, Result, TransactionManagerExt as _, Tx, app::Component as _, impl_event};
//! # use micro_core::{event::Received, outbox::{Outbox, Relay}};
//! use micro_core::broker::MemoryBroker;
//! use micro_core::consume::{Consumer, DeliveryPolicy, Handler, InboxService, InboxStores, Router};
//! use micro_core::transaction::{MemoryDatabase, MemoryTxExt as _};
//!
//! #[derive(Clone, PartialEq, prost::Message)]
//! struct OrderPaid {
//!     #[prost(string, tag = "1")]
//!     order_code: String,
//! }
//! impl_event!(OrderPaid, topic: "OrderEvent", event_type: "OrderPaid", key: |event| event.order_code.clone());
//!
//! struct Stock;
//!
//! #[async_trait]
//! impl Handler<OrderPaid> for Stock {
//!     async fn handle(&self, tx: &mut Tx, paid: Received<OrderPaid>) -> Result<()> {
//!         tx.put("deducted", &paid.event.order_code, "1")
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<()> {
//! let (database, broker) = (MemoryDatabase::new(), Arc::new(MemoryBroker::new()));
//! let outbox = Outbox::new(database.outbox(), "order", "v1");
//! let stores = InboxStores {
//!     transactions: database.transactions(),
//!     inbox: database.inbox(),
//!     parked: database.parked(),
//!     dead_letters: database.dead_letters(),
//!     outbox: Some(outbox.clone()),
//! };
//! let inbox = InboxService::new("stock", stores, Router::new().on::<OrderPaid>(Stock), DeliveryPolicy::default())?;
//! let consumer = Consumer::builder(broker.clone(), inbox).build();
//! let relay = Relay::builder(database.outbox(), broker).build();
//! # let health = Health::new();
//! consumer.start(&health).await?;
//! relay.start(&health).await?;
//!
//! let paid = OrderPaid { order_code: "A-17".to_owned() };
//! database.transactions().run(async |tx| outbox.add(tx, &paid).await).await?;
//!
//! # let is_deducted = || database.read("deducted", "A-17").is_some();
//! # for _ in 0..1_000 {
//! #     if is_deducted() { break }
//! #     tokio::time::sleep(std::time::Duration::from_millis(5)).await;
//! # }
//! # relay.drain(std::time::Duration::from_secs(5)).await?;
//! consumer.drain(std::time::Duration::from_secs(5)).await?;
//! assert!(database.read("deducted", "A-17").is_some());
//! # Ok(())
//! # }
//! ```

mod batch;
mod consumer;
mod dead_letters;
mod handler;
mod inbox_purge;
mod inbox_service;
mod lanes;
mod parked_retry;
mod partition;
mod policy;
mod router;
mod shared_batches;
mod tracker;
pub(crate) mod trouble;
pub(crate) mod unwind;

pub use batch::DeliveryBatch;
pub use consumer::{Consumer, ConsumerBuilder, ConsumerConfig};
pub use dead_letters::DeadLetters;
pub use handler::{BatchHandler, Handler};
pub use inbox_service::{InboxService, InboxStores};
pub use lanes::KeyLanes;
pub use policy::{AfterDeadLetter, DeliveryPolicy, UnknownType};
pub use router::Router;
pub use tracker::OffsetTracker;
