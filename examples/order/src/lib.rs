//! The order service: payment callbacks, and what becomes of the orders they pay.
//!
//! Layers, from the inside: [`domain`] has the rules, [`application`] the use cases,
//! [`infrastructure`] the tables, [`interfaces`] the calls and events; [`bootstrap`] alone chooses
//! what is plugged in.

pub mod application;
pub mod bootstrap;
pub mod config;
pub mod domain;
pub mod infrastructure;
pub mod interfaces;
pub mod wire;

pub use wire::{order_event as events, service as proto};

/// The topic of the order service's facts.
pub const ORDER_TOPIC: &str = "OrderEvent";
/// The topic of the product service's facts.
pub const PRODUCT_TOPIC: &str = "ProductEvent";
/// Every topic that the service writes to or reads from.
pub const TOPICS: [&str; 5] = ["OrderEvent", "OrderEventDLQ", "ProductEvent", "ProductEventDLQ", "OrderStatus"];
