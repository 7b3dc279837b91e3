//! `cargo run --release -p payment-chain`: payments flow, and a verdict says whether all is right.

use std::process::ExitCode;

use clap::Parser;
use payment_chain::{options::Options, report::SideBySide, run};
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
    let mut reports = Vec::new();
    let wires = options.wires();
    for wire in &wires {
        let options = if wires.len() > 1 { options.of_one(*wire) } else { options.clone() };
        match run(&options, *wire, stop.clone()).await {
            Ok(report) => reports.push(report),
            Err(error) => return fail(&error.report()),
        }
        println!("{}", reports[reports.len() - 1]);
    }
    if reports.len() > 1 {
        println!("{}", SideBySide(&reports));
    }
    if options.json {
        for report in &reports {
            println!("{}", serde_json::to_string(report).expect("numbers and booleans are JSON"));
        }
    }
    if reports.iter().all(|report| report.clean) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn fail(reason: &str) -> ExitCode {
    eprintln!("payment-chain: {reason}");
    ExitCode::FAILURE
}
