//! The settings of the product service.

use micro_core::{
    app::{AppConfig, ProbeConfig},
    batch::BatcherConfig,
    consume::{ConsumerConfig, DeliveryPolicy},
    registry::RegisterOptions,
    transaction::RetryPolicy,
};
use micro_grpc::{GoMicroConfig, GrpcServerConfig};

/// The settings of the product service; the defaults are those of the Go product service's names.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProductConfig {
    /// Its name in the registry, and the source in its events' headers; default
    /// `go.micro.service.Product`.
    pub service: String,
    /// Its version in the registry and in its events' headers; default this crate's.
    pub version: String,
    /// The server's settings.
    pub grpc: GrpcServerConfig,
    /// How it answers go-micro's clients: the Go service's callers are its own.
    pub go_micro: GoMicroConfig,
    /// The group that deducts and gives back; default `product-consumer`.
    pub group: String,
    /// How it consumes.
    pub consumer: ConsumerConfig,
    /// What happens when a handler fails.
    pub delivery: DeliveryPolicy,
    /// How often a deduction by a call is tried again that lost against another one; default 3 times.
    pub deduction_retry: RetryPolicy,
    /// How deductions by calls that come at the same time share transactions; default up to 64 in one at a
    /// time, gathered for 1 ms.
    pub deduction_batches: BatcherConfig,
    /// The table of the barrier of global transactions' branches; default `barrier` in the service's own
    /// database. The Go product service had `products.barrier`.
    pub barrier_table: String,
    /// How its instance is kept alive in the registry.
    pub register: RegisterOptions,
    /// How the database is asked whether it answers: it must at the start, and the service is not serving
    /// while it does not.
    pub probe: ProbeConfig,
    /// How long each phase of the stop may take.
    pub app: AppConfig,
}

impl Default for ProductConfig {
    fn default() -> Self {
        Self {
            service: "go.micro.service.Product".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            grpc: GrpcServerConfig::default(),
            go_micro: GoMicroConfig::default(),
            group: "product-consumer".to_owned(),
            consumer: one_batch_at_a_time(),
            delivery: DeliveryPolicy::default(),
            deduction_retry: RetryPolicy::default(),
            deduction_batches: gathered(),
            barrier_table: "barrier".to_owned(),
            register: RegisterOptions::default(),
            probe: ProbeConfig::default(),
            app: AppConfig::default(),
        }
    }
}

/// A millisecond gathers most of the callers that come back after the batch before.
fn gathered() -> BatcherConfig {
    let mut config = BatcherConfig::default();
    config.running_count_max = 1;
    config.gather = std::time::Duration::from_millis(1);
    config
}

/// The handlers work on whole batches and wait for the database alone: one large transaction after
/// the other settles most.
fn one_batch_at_a_time() -> ConsumerConfig {
    let mut config = ConsumerConfig::default();
    config.running_count_max = 1;
    config
}
