//! Runs the order service until SIGTERM or SIGINT.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use launch::{Options, Program, Settings};
use micro_rs::{
    core::{
        Error, ErrorKind, Result,
        saga::{REGISTRY_SCHEME, SagaOptions},
    },
    signals,
};
use order::{
    bootstrap::{self, Plugged},
    config::{OrderConfig, SagaWire, Wire},
    infrastructure::deduction::BranchAddresses,
};

const PROGRAM: Program = Program { name: "order", database: "sqlite:orders.db" };

/// The product service's name where nothing else is said.
const PRODUCT: &str = "go.micro.service.Product";

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
    goods: Goods,
}

/// How the goods of paid orders are asked for.
#[derive(clap::Args)]
struct Goods {
    /// How the goods of paid orders are asked for: by events through the outbox (events), by a call
    /// within the callback (grpc), by a saga with compensations (dtm).
    #[arg(long, value_enum, default_value_t = WireOption::Events)]
    wire: WireOption,
    /// Who carries the sagas out: `dtm://HOST:PORT`, the gRPC port of a DTM server (feature `tx-dtm`).
    /// Default: this service itself, with its log in its own database.
    #[arg(long, value_name = "URL")]
    dtm: Option<String>,
    /// The product service, where it is called: its name in the registry; with `--dtm` its `host:port`, for
    /// a DTM server knows no registry. Default: `go.micro.service.Product`.
    #[arg(long, value_name = "NAME")]
    product: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WireOption {
    Events,
    Grpc,
    Dtm,
}

impl Goods {
    /// # Errors
    ///
    /// `InvalidArgument` for options that do not go together, and for a service that a DTM server cannot
    /// call.
    fn wire(&self, config: &OrderConfig) -> Result<Wire> {
        let refused = |message: &'static str| Err(Error::new(ErrorKind::InvalidArgument, "order.wire", message));
        if self.dtm.is_some() && self.wire != WireOption::Dtm {
            return refused("a DTM server carries sagas out: expected --wire dtm with --dtm");
        }
        if self.dtm.as_deref().is_some_and(|url| !url.starts_with("dtm://")) {
            return refused("the sagas call gRPC methods: expected --dtm dtm://HOST:PORT");
        }
        let product = self.product.as_deref().unwrap_or(PRODUCT);
        let addresses = match (self.wire, &self.dtm) {
            (WireOption::Events, _) => return Ok(Wire::Events),
            (WireOption::Grpc, _) => return Ok(Wire::Grpc { product: product.to_owned() }),
            (WireOption::Dtm, None) => BranchAddresses {
                order: format!("{REGISTRY_SCHEME}{}", config.service),
                product: format!("{REGISTRY_SCHEME}{product}"),
            },
            (WireOption::Dtm, Some(_)) => {
                let order = config.grpc.advertise.as_deref().unwrap_or(&config.grpc.address);
                if order.ends_with(":0") {
                    return refused("a DTM server calls this service by its address: expected --listen HOST:PORT");
                }
                if !product.contains(':') {
                    return refused("a DTM server knows no registry: expected --product HOST:PORT with --dtm");
                }
                BranchAddresses { order: order.to_owned(), product: product.to_owned() }
            }
        };
        let mut options = SagaOptions::default();
        options.retry_interval = Some(bootstrap::RETRY_INTERVAL);
        Ok(Wire::Saga(SagaWire { dtm: self.dtm.clone(), addresses, options }))
    }
}

fn main() -> ExitCode {
    let (Arguments { mut options, no_audit, goods }, go_micro) = launch::parse::<Arguments>();
    options.go_micro = go_micro;
    launch::run(PROGRAM, options, async move |settings| serve(settings, no_audit, goods).await)
}

async fn serve(settings: Settings, no_audit: bool, goods: Goods) -> Result<()> {
    let stopped = signals::termination()?;
    let mut config = OrderConfig::default();
    config.has_audit = !no_audit;
    let OrderConfig { service, version, grpc, go_micro, consumer, .. } = &mut config;
    settings.apply(service, version, grpc, go_micro, consumer);
    config.register = settings.register_options();
    config.wire = goods.wire(&config)?;
    let backends = launch::connect(&settings, &order::TOPICS).await?;
    let plugged = Plugged { registry: backends.registry, broker: backends.broker, database: backends.database };
    let service = bootstrap::assemble(&config, &plugged).await?;
    service.into_app(&plugged).run_until(stopped).await
}
