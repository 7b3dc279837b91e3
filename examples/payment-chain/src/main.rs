//! `cargo run --release -p payment-chain`: payments flow, and a verdict says whether all is right.

use std::process::ExitCode;

use clap::Parser;
use payment_chain::{options::Options, run};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let options = Options::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("the runtime did not start: {error}")),
    };
    runtime.block_on(judge(options))
}

async fn judge(options: Options) -> ExitCode {
    let stop = CancellationToken::new();
    let termination = match micro_rs::signals::termination() {
        Ok(termination) => termination,
        Err(error) => return fail(&error.report()),
    };
    let stopper = stop.clone();
    tokio::spawn(async move {
        termination.await;
        eprintln!("stopping: no new callbacks, what was accepted settles");
        stopper.cancel();
    });
    let report = match run(&options, stop).await {
        Ok(report) => report,
        Err(error) => return fail(&error.report()),
    };
    println!("{report}");
    if options.json {
        println!("{}", serde_json::to_string(&report).expect("numbers and booleans are JSON"));
    }
    if report.clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn fail(reason: &str) -> ExitCode {
    eprintln!("payment-chain: {reason}");
    ExitCode::FAILURE
}
