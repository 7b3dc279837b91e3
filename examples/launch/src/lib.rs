//! What the programs of the example services have in common: their options, the settings that come
//! of them, the backends that these name, how a program ends, and the shape of dead-letter events.
//!
//! Settings are laid over each other: the defaults, then the document that the Go services keep in
//! Consul's key/value store, then the variables and flags of go-micro, then the command line.

mod backends;
mod dead_letter;
mod document;
mod options;
mod settings;
#[cfg(any(feature = "registry-consul", test))]
mod tree;

pub use backends::{Backends, connect};
pub use document::Document;
pub use options::{Options, parse};
pub use settings::Settings;

use std::{future::Future, io::IsTerminal as _, process::ExitCode};

use micro_core::Result;
use tracing_subscriber::EnvFilter;

/// A program: what it is called, and what it does where nothing else is said.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Its name: in its messages, and the key of its document behind the prefix.
    pub name: &'static str,
    /// Where its rows are kept.
    pub database: &'static str,
}

/// Runs `serve` with the program's settings to its end. What it fails with is one line on standard
/// error, and the exit code 1.
pub fn run<F>(program: Program, options: Options, serve: impl FnOnce(Settings) -> F) -> ExitCode
where
    F: Future<Output = Result<()>>,
{
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(count) = options.workers {
        runtime.worker_threads(usize::from(count));
    }
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(program, &format!("the runtime did not start: {error}")),
    };
    let outcome = runtime.block_on(async {
        let settings = Settings::of(program, &options).await?;
        log(&settings.log_level);
        settings.tell();
        serve(settings).await
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(program, &error.report()),
    }
}

/// `RUST_LOG` has the last word.
fn log(level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let is_terminal = std::io::stdout().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(is_terminal).init();
}

fn fail(program: Program, reason: &str) -> ExitCode {
    eprintln!("{}: {}", program.name, reason.replace('\n', " "));
    ExitCode::FAILURE
}
