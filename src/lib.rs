//! micro-rs: services that call each other, publish events to each other and keep their data right.
//!
//! This is the facade: it re-exports the crates that its features name, and `backends` turns a URL
//! into an adapter. What follows is the project's README.
#![doc = include_str!("../README.md")]
// docs.rs shows beside each item which feature it needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub use micro_core as core;
#[cfg(feature = "grpc")]
pub use micro_grpc as grpc;
#[cfg(feature = "middleware")]
pub use micro_middleware as middleware;
#[cfg(feature = "redis")]
pub use micro_redis as redis;
#[cfg(any(feature = "tx-sqlite", feature = "tx-mysql", feature = "tx-postgres", feature = "tx-dtm"))]
pub use micro_tx as tx;

/// Adapters of the broker port.
#[cfg(feature = "broker-kafka")]
pub mod broker {
    pub use micro_broker_kafka as kafka;
}

/// Adapters of the registry port.
#[cfg(any(feature = "registry-consul", feature = "registry-etcd"))]
pub mod registry {
    #[cfg(feature = "registry-etcd")]
    pub use micro_etcd as etcd;
    #[cfg(feature = "registry-consul")]
    pub use micro_registry_consul as consul;
}

pub mod backends;
pub mod go_micro;
pub mod signals;

/// What most programs import.
pub mod prelude {
    pub use async_trait::async_trait;
    pub use micro_core::{
        Error, ErrorKind, Health, Metadata, Result, TransactionManager, TransactionManagerExt, Tx,
        app::{App, Component},
        consume::{BatchHandler, Consumer, DeliveryPolicy, Handler, InboxService, Router},
        event::{Event, Received},
        impl_event,
        outbox::{Outbox, Relay},
    };
}

/// The Rust in the guide compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../docs/guide/handling-failures.md")]
pub struct Guide;

/// The Rust in the guide's part on distributed transactions compiles and runs.
#[cfg(all(doctest, feature = "grpc", feature = "tx-sqlite", feature = "tx-mysql", feature = "tx-dtm"))]
#[doc = include_str!("../docs/guide/distributed-transactions.md")]
pub struct GuideToTransactions;
