//! Runs the order service until SIGTERM or SIGINT.

use std::{process::ExitCode, time::Duration};

use clap::{Args, Parser, ValueEnum};
use launch::{Options, Program, Settings};
use micro_core::saga::{REGISTRY_SCHEME, SagaOptions};
use micro_rs::{core::Result, signals};
use order::{
    bootstrap::{self, Plugged},
    config::{OrderConfig, SagaWire, Wire},
    infrastructure::deduction::BranchAddresses,
};

/// The first pause before a step is called again that is not done.
const SAGA_RETRY_INTERVAL: Duration = Duration::from_secs(1);

const PROGRAM: Program = Program { name: "order", database: "sqlite:orders.db" };

/// The order service of the payment chain.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Neither publishes an order's transitions on `OrderStatus` nor audits them.
    #[arg(long)]
    no_audit: bool,
    #[command(flatten)]
    deduction: Deduction,
}

/// How the goods of paid orders are asked for.
#[derive(Args)]
struct Deduction {
    /// By an event through the outbox (events), by a call within the callback (grpc), or by a saga with
    /// compensations (dtm).
    #[arg(long, value_enum, default_value_t = WireName::Events)]
    wire: WireName,
    /// The product service's name in the registry, for grpc and dtm.
    #[arg(long, value_name = "NAME", default_value = "go.micro.service.Product")]
    product: String,
    /// The coordinator of the sagas: dtm://HOST:PORT, the gRPC port of a DTM server. Default: this
    /// service's own, with its log in this service's database.
    #[arg(long, value_name = "URL", requires_all = ["order_at", "product_at"])]
    dtm: Option<String>,
    /// Where the DTM server reaches this service, HOST:PORT: it knows no registry.
    #[arg(long, value_name = "ADDRESS", requires = "dtm")]
    order_at: Option<String>,
    /// Where the DTM server reaches the product service, HOST:PORT.
    #[arg(long, value_name = "ADDRESS", requires = "dtm")]
    product_at: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum WireName {
    Events,
    Grpc,
    Dtm,
}

impl Deduction {
    fn wire(self, order: &str) -> Wire {
        match self.wire {
            WireName::Events => Wire::Events,
            WireName::Grpc => Wire::Grpc { product: self.product },
            WireName::Dtm => {
                let named = |service: &str| format!("{REGISTRY_SCHEME}{service}");
                let addresses = BranchAddresses {
                    order: self.order_at.unwrap_or_else(|| named(order)),
                    product: self.product_at.unwrap_or_else(|| named(&self.product)),
                };
                let mut options = SagaOptions::default();
                options.retry_interval = Some(SAGA_RETRY_INTERVAL);
                Wire::Saga(SagaWire { dtm: self.dtm, addresses, options })
            }
        }
    }
}

fn main() -> ExitCode {
    let (Arguments { mut options, no_audit, deduction }, go_micro) = launch::parse::<Arguments>();
    options.go_micro = go_micro;
    launch::run(PROGRAM, options, async move |settings| serve(settings, no_audit, deduction).await)
}

async fn serve(settings: Settings, no_audit: bool, deduction: Deduction) -> Result<()> {
    let stopped = signals::termination()?;
    let mut config = OrderConfig::default();
    config.has_audit = !no_audit;
    let OrderConfig { service, version, grpc, go_micro, consumer, .. } = &mut config;
    settings.apply(service, version, grpc, go_micro, consumer);
    config.register = settings.register_options();
    config.wire = deduction.wire(&config.service);
    let backends = launch::connect(&settings, &order::TOPICS).await?;
    let plugged = Plugged { registry: backends.registry, broker: backends.broker, database: backends.database };
    let service = bootstrap::assemble(&config, &plugged).await?;
    service.into_app(&plugged).run_until(stopped).await
}
