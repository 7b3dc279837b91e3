//! `cargo xtask bench`: the benchmarks that need servers, or several programs.

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use clap::Subcommand;
use dev_servers::{Kind, Servers};

use crate::{step::cargo, tree::Tree};

/// The features with which the services reach the servers of the chain.
const SERVICE_FEATURES: &str = "order/broker-kafka,order/registry-consul,order/tx-mysql,\
                                product/broker-kafka,product/registry-consul,product/tx-mysql";
/// What is measured is built as what is deployed is.
const PROFILE: &str = "dist";
/// The benches of a part each: those that bring what they need, and those that are given a database.
const PARTS: [(&str, &str); 3] =
    [("micro-grpc", "unary"), ("micro-broker-kafka", "publish"), ("micro-broker-kafka", "consume")];
const PARTS_ON_DATABASES: [&str; 3] = ["transaction", "inbox", "relay"];

/// What is measured.
#[derive(Subcommand)]
pub(crate) enum Task {
    /// The payment chain of the examples against one on go-micro, or one by hand, in turn.
    Chain {
        /// For the program that measures: `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Calls and publishing beside go-micro v4's and raw tonic's, in turn.
    Interop {
        /// For the program that measures: `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Sagas beside those of DTM's client for Go, behind the barrier, and on the embedded coordinator.
    Sagas {
        /// For the program that measures: `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Each part against the library beneath it, and the chain against one by hand.
    Parts,
}

/// Measures, and answers 1 where something could not be had or a round ended wrong.
pub(crate) fn run(task: &Task, tree: &Tree) -> ExitCode {
    let done = match task {
        Task::Chain { arguments } => chain(tree, arguments),
        Task::Interop { arguments } => interop(tree, arguments),
        Task::Sagas { arguments } => sagas(tree, arguments),
        Task::Parts => parts(tree),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn chain(tree: &Tree, arguments: &[String]) -> Result<(), String> {
    let urls = durable_servers(&[Kind::Kafka, Kind::Consul, Kind::Mariadb])?;
    let binaries = tree.metadata.target_directory.as_std_path().join(PROFILE);
    finish(cargo(&tree.root).args(["build", "--profile", PROFILE, "-p", "bench"]))?;
    finish(cargo(&tree.root).args([
        "build",
        "--profile",
        PROFILE,
        "-p",
        "order",
        "-p",
        "product",
        "--features",
        SERVICE_FEATURES,
    ]))?;
    let go_chain = binaries.join("go-chain");
    fs::copy(dev_servers::go_chain()?, &go_chain).map_err(|error| format!("{}: {error}", go_chain.display()))?;
    finish(Command::new(binaries.join("chain")).args(arguments).envs(urls))
}

fn interop(tree: &Tree, arguments: &[String]) -> Result<(), String> {
    let urls = durable_servers(&[Kind::Kafka, Kind::Consul])?;
    let go_peer = dev_servers::go_peer()?;
    let program = with_rust_peer(tree, "interop")?;
    finish(Command::new(program).arg("--go-peer").arg(go_peer).args(arguments).envs(urls))
}

fn sagas(tree: &Tree, arguments: &[String]) -> Result<(), String> {
    let urls = durable_servers(&[Kind::Mariadb])?;
    let go_dtm = dev_servers::go_dtm()?;
    let program = with_rust_peer(tree, "sagas")?;
    finish(Command::new(program).arg("--go-dtm").arg(go_dtm).args(arguments).envs(urls))
}

/// Builds a program that measures, and the Rust sides beside it.
fn with_rust_peer(tree: &Tree, program: &str) -> Result<PathBuf, String> {
    let build = ["build", "--profile", PROFILE, "-p", "bench", "--bin", program, "--bin", "rust-peer"];
    finish(cargo(&tree.root).args(build))?;
    Ok(tree.metadata.target_directory.as_std_path().join(PROFILE).join(program))
}

/// What a claim rests on is measured with commits that are on the disk.
fn durable_servers(kinds: &[Kind]) -> Result<Vec<(&'static str, String)>, String> {
    let wanted: Vec<Kind> = kinds.iter().copied().filter(|kind| env::var_os(kind.variable()).is_none()).collect();
    let started = Servers::of_workspace().up(&wanted, true);
    started.into_iter().map(|(kind, outcome)| Ok((kind.variable(), outcome?.url))).collect()
}

/// A database of the bench's own on each durable server.
fn databases() -> Result<Vec<String>, String> {
    let urls = durable_servers(&[Kind::Mariadb, Kind::Postgres])?;
    Ok(urls.into_iter().map(|(_, url)| url).collect())
}

fn parts(tree: &Tree) -> Result<(), String> {
    for (package, bench) in PARTS {
        finish(cargo(&tree.root).args(["bench", "-p", package, "--bench", bench]))?;
    }
    let urls = databases()?;
    for bench in PARTS_ON_DATABASES {
        let command = ["bench", "-p", "micro-tx", "--all-features", "--bench", bench, "--"];
        finish(cargo(&tree.root).args(command))?;
        for url in &urls {
            finish(cargo(&tree.root).args(command).args(["--database", url]))?;
        }
    }
    chain(tree, &["--against", "raw", "--closed-only"].map(str::to_owned))
}

fn finish(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    match command.stdin(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{name}: {status}")),
        Err(error) => Err(format!("{name} does not start: {error}")),
    }
}
