//! The project's tasks: `cargo xtask check`, `cargo xtask tidy`, `cargo xtask test`.

mod check;
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

#[derive(Clone, Copy, Subcommand)]
enum Task {
    /// Format, tidy rules, clippy, rustdoc, and each feature of the facade alone.
    Check,
    /// The tidy rules alone: a matter of seconds.
    Tidy,
    /// Everything `check` does, then every test.
    Test,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let tree = match Tree::load() {
        Ok(tree) => tree,
        Err(message) => {
            eprintln!("xtask: {message}");
            return ExitCode::FAILURE;
        }
    };
    match arguments.task {
        Task::Check => check::run(&tree),
        Task::Tidy => tidy::run(&tree),
        Task::Test => test::run(&tree),
    }
}
