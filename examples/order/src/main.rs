//! Runs the order service until SIGTERM or SIGINT.

use std::{io::IsTerminal as _, process::ExitCode};

use clap::Parser;
use micro_rs::{backends, core::Result, signals};
use order::{bootstrap, config::OrderConfig};
use tracing_subscriber::EnvFilter;

/// The order service of the payment chain.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where the instance is announced: `memory:` (this process only).
    #[arg(long, default_value = "memory:")]
    registry: String,
    /// Where events go: `memory:` (this process only).
    #[arg(long, default_value = "memory:")]
    broker: String,
    /// Where rows are kept: `sqlite:FILE`.
    #[arg(long, default_value = "sqlite:orders.db")]
    database: String,
    /// Where calls are taken; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let is_terminal = std::io::stdout().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(is_terminal).init();
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("order: {}", error.report());
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    let stopped = signals::termination()?;
    let plugged = bootstrap::Plugged {
        registry: backends::registry(&arguments.registry).await?,
        broker: backends::broker(&arguments.broker).await?,
        database: backends::database(&arguments.database).await?,
    };
    let service = bootstrap::assemble(&OrderConfig::listening_on(arguments.listen), &plugged).await?;
    for (port, url) in [("registry", &arguments.registry), ("broker", &arguments.broker)] {
        if url.starts_with("memory:") {
            tracing::warn!(port, "memory: reaches this process only; no other service sees what is in it");
        }
    }
    service.into_app(&plugged).run_until(stopped).await
}
