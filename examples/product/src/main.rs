//! Runs the product service until SIGTERM or SIGINT.

use std::process::ExitCode;

use clap::Parser;
use launch::{Options, Program, Settings};
use micro_rs::{core::Result, signals};
use product::{
    bootstrap::{self, Plugged},
    config::ProductConfig,
};

const PROGRAM: Program = Program { name: "product", database: "sqlite:products.db" };

/// The product service of the payment chain.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    let (Arguments { mut options }, go_micro) = launch::parse::<Arguments>();
    options.go_micro = go_micro;
    launch::run(PROGRAM, options, serve)
}

async fn serve(settings: Settings) -> Result<()> {
    let stopped = signals::termination()?;
    let mut config = ProductConfig::default();
    let ProductConfig { service, version, grpc, go_micro, consumer, .. } = &mut config;
    settings.apply(service, version, grpc, go_micro, consumer);
    config.register = settings.register_options();
    let backends = launch::connect(&settings, &product::TOPICS).await?;
    let plugged = Plugged { registry: backends.registry, broker: backends.broker, database: backends.database };
    let service = bootstrap::assemble(&config, &plugged).await?;
    service.into_app(&plugged).run_until(stopped).await
}
