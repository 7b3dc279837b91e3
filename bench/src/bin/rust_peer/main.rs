//! The Rust sides of `cargo xtask bench interop` and `bench sagas`: a greeter of ours or of tonic alone, who
//! calls one, who publishes through ours, branches of sagas, and who has them carried out.

mod branches;
mod calls;
mod publish;
mod sagas;
mod serve;
mod turns;

use std::process::ExitCode;

use bench::Result;
use clap::{Parser, Subcommand, ValueEnum};

/// A contestant's process: it says in JSON when it is ready, then does a turn a line of its input.
#[derive(Parser)]
struct Arguments {
    /// Worker threads of the runtime.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Greets until it is told to end.
    Serve(serve::Options),
    /// Calls in closed loops.
    Calls(calls::Options),
    /// Publishes with receipts.
    Publish(publish::Options),
    /// Serves branches of sagas until it is told to end.
    Branches(branches::Options),
    /// Has sagas carried out in closed loops.
    Sagas(sagas::Options),
}

/// What calls go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// micro-grpc in its go-micro mode, found through Consul.
    Micro,
    /// tonic alone, at an address.
    Tonic,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            turns::tell(&serde_json::json!({ "failure": error.to_string() }));
            ExitCode::FAILURE
        }
    }
}

fn run(Arguments { workers, task }: Arguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    runtime.block_on(async {
        match task {
            Task::Serve(options) => serve::run(options).await,
            Task::Calls(options) => calls::run(options).await,
            Task::Publish(options) => publish::run(options).await,
            Task::Branches(options) => branches::run(options).await,
            Task::Sagas(options) => sagas::run(options).await,
        }
    })
}
