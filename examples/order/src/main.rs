//! Runs the order service until SIGTERM or SIGINT.

use std::process::ExitCode;

use clap::Parser;
use launch::{Options, Program, Settings};
use micro_rs::{core::Result, signals};
use order::{
    bootstrap::{self, Plugged},
    config::OrderConfig,
};

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
}

fn main() -> ExitCode {
    let (Arguments { mut options, no_audit }, go_micro) = launch::parse::<Arguments>();
    options.go_micro = go_micro;
    launch::run(PROGRAM, options, async move |settings| serve(settings, no_audit).await)
}

async fn serve(settings: Settings, no_audit: bool) -> Result<()> {
    let stopped = signals::termination()?;
    let mut config = OrderConfig::default();
    config.has_audit = !no_audit;
    let OrderConfig { service, version, grpc, go_micro, consumer, .. } = &mut config;
    settings.apply(service, version, grpc, go_micro, consumer);
    config.register = settings.register_options();
    let backends = launch::connect(&settings, &order::TOPICS).await?;
    let plugged = Plugged { registry: backends.registry, broker: backends.broker, database: backends.database };
    let service = bootstrap::assemble(&config, &plugged).await?;
    service.into_app(&plugged).run_until(stopped).await
}
