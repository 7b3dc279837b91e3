//! The project's tasks: `cargo xtask check`, `cargo xtask tidy`, `cargo xtask test`, `cargo xtask servers`,
//! `cargo xtask bench`.

mod bench;
mod check;
mod features;
mod package;
mod servers;
mod step;
mod test;
mod tidy;
mod tree;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::tree::Tree;

/// The project's tasks.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Format, tidy rules, clippy, rustdoc, each feature of the facade alone, and what would be published.
    Check,
    /// The tidy rules alone: a matter of seconds.
    Tidy,
    /// Everything `check` does, then every test on real servers.
    Test,
    /// The real servers that tests and benchmarks share: Kafka, Consul, etcd, MariaDB, PostgreSQL, DTM,
    /// Redis.
    #[command(subcommand)]
    Servers(servers::Task),
    /// The benchmarks that need servers, or several programs.
    #[command(subcommand)]
    Bench(bench::Task),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.task {
        Task::Check => on_tree(check::run),
        Task::Tidy => on_tree(tidy::run),
        Task::Test => on_tree(test::run),
        Task::Servers(task) => servers::run(task),
        Task::Bench(task) => on_tree(|tree| bench::run(&task, tree)),
    }
}

fn on_tree(task: impl FnOnce(&Tree) -> ExitCode) -> ExitCode {
    match Tree::load() {
        Ok(tree) => task(&tree),
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}
