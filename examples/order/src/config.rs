//! The settings of the order service.

use std::time::Duration;

use micro_core::{
    app::{AppConfig, ProbeConfig},
    batch::BatcherConfig,
    consume::{ConsumerConfig, DeliveryPolicy},
    registry::RegisterOptions,
    saga::SagaOptions,
    transaction::RetryPolicy,
};
use micro_grpc::{GoMicroConfig, GrpcClientConfig, GrpcServerConfig};

use crate::infrastructure::deduction::BranchAddresses;

/// The settings of the order service; the defaults are those of the Go order service's names.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OrderConfig {
    /// Its name in the registry, and the source in its events' headers; default
    /// `go.micro.service.Order`.
    pub service: String,
    /// Its version in the registry and in its events' headers; default this crate's.
    pub version: String,
    /// The server's settings.
    pub grpc: GrpcServerConfig,
    /// How it answers go-micro's clients: the Go service's callers are its own.
    pub go_micro: GoMicroConfig,
    /// The group that moves orders on; default `order-consumer`.
    pub group: String,
    /// The group of the audit; default `order-audit`.
    pub audit_group: String,
    /// Whether an order's transitions are published on `OrderStatus` and audited; default yes.
    pub has_audit: bool,
    /// How both groups consume.
    pub consumer: ConsumerConfig,
    /// What happens when a handler fails. A confirmation that is given up is always copied to
    /// `ProductEventDLQ`, for the stock is given back from there.
    pub delivery: DeliveryPolicy,
    /// How often a callback is tried again that lost against another one; default 3 times.
    pub callback_retry: RetryPolicy,
    /// How callbacks that come at the same time share transactions; default up to 64 in one at a
    /// time, gathered for 1 ms.
    pub callback_batches: BatcherConfig,
    /// How the goods of paid orders are asked for; default by events.
    pub wire: Wire,
    /// How the product service is connected where it is called; by default without pings, for it may be
    /// the Go one, which closes a connection that has many.
    pub product_client: GrpcClientConfig,
    /// How long such a call may take; default 2 s.
    pub deduction_timeout: Duration,
    /// The table of the barrier of global transactions' branches; default `barrier` in the service's own
    /// database.
    pub barrier_table: String,
    /// How its instance is kept alive in the registry.
    pub register: RegisterOptions,
    /// How the database is asked whether it answers: it must at the start, and the service is not serving
    /// while it does not.
    pub probe: ProbeConfig,
    /// How long each phase of the stop may take.
    pub app: AppConfig,
}

impl Default for OrderConfig {
    fn default() -> Self {
        Self {
            service: "go.micro.service.Order".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            grpc: GrpcServerConfig::default(),
            go_micro: GoMicroConfig::default(),
            group: "order-consumer".to_owned(),
            audit_group: "order-audit".to_owned(),
            has_audit: true,
            consumer: one_batch_at_a_time(),
            delivery: DeliveryPolicy::default(),
            callback_retry: RetryPolicy::default(),
            callback_batches: gathered(),
            wire: Wire::Events,
            product_client: without_pings(),
            deduction_timeout: Duration::from_secs(2),
            barrier_table: "barrier".to_owned(),
            register: RegisterOptions::default(),
            probe: ProbeConfig::default(),
            app: AppConfig::default(),
        }
    }
}

/// How the order service has the goods of paid orders deducted.
#[derive(Clone, Debug, PartialEq)]
pub enum Wire {
    /// By an event through the outbox; the product service answers by another one.
    Events,
    /// By a call within the transaction that takes the payment.
    Grpc {
        /// The product service's name in the registry.
        product: String,
    },
    /// By a saga that begins when the payment commits.
    Saga(SagaWire),
}

/// How sagas are carried out.
#[derive(Clone, Debug, PartialEq)]
pub struct SagaWire {
    /// A DTM server, `dtm://HOST:PORT`; `None`: this service's own coordinator, with its log in this
    /// service's database.
    pub dtm: Option<String>,
    /// Where the coordinator reaches the two services.
    pub addresses: BranchAddresses,
    /// How patient the coordinator is.
    pub options: SagaOptions,
}

fn without_pings() -> GrpcClientConfig {
    let mut client = GrpcClientConfig::default();
    client.sends_pings = Some(false);
    client
}

/// A millisecond gathers most of the callers that come back after the batch before.
fn gathered() -> BatcherConfig {
    let mut config = BatcherConfig::default();
    config.running_count_max = 1;
    config.gather = Duration::from_millis(1);
    config
}

/// The handlers work on whole batches and wait for the database alone: one large transaction after
/// the other settles most.
fn one_batch_at_a_time() -> ConsumerConfig {
    let mut config = ConsumerConfig::default();
    config.running_count_max = 1;
    config
}
