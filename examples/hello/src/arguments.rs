//! What the command line says.

use clap::{Parser, ValueEnum};

#[derive(Parser)]
#[command(about = "The smallest micro-rs program")]
pub(crate) struct Arguments {
    pub(crate) job: Job,
    /// memory: (this process only) or static:NAME=HOST:PORT
    #[arg(long, default_value = "memory:")]
    pub(crate) registry: String,
    #[arg(long, default_value = "hello.Greeter")]
    pub(crate) name: String,
    /// Where to listen; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    pub(crate) address: String,
    /// How often to call
    #[arg(long, default_value_t = 1)]
    pub(crate) count: u32,
    /// How many seconds a call may take; where nothing is said, 2
    #[arg(long = "timeout", value_name = "SECONDS")]
    pub(crate) timeout_seconds: Option<u64>,
}

#[derive(Clone, PartialEq, ValueEnum)]
pub(crate) enum Job {
    Serve,
    Call,
}
