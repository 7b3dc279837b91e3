//! `cargo xtask test`: what `.ci/run` calls: check, then every test, on real servers.

use std::{
    env,
    process::{ExitCode, Stdio},
};

use dev_servers::{Kind, Servers};

use crate::{
    check, features,
    step::{cargo, step},
    tree::Tree,
};

/// Under this name a test that needs a server which is not there fails instead of being skipped.
const REQUIRE: &str = "MICRO_TEST_REQUIRE";

/// Runs check, then the tests; the last lines are the test runner's, the exit code is its own.
pub(crate) fn run(tree: &Tree) -> ExitCode {
    if !check::passes(tree) {
        eprintln!("check failed, so no test was run: mend what says FAILED above");
        return ExitCode::FAILURE;
    }
    let is_ci = env::var_os("CI").is_some();
    let servers = Session::start();
    if is_ci && !servers.is_whole {
        eprintln!("a server is missing, so no test was run: under CI none may be skipped");
        return ExitCode::FAILURE;
    }
    let mut command = cargo(&tree.root);
    command.args(["test", "--workspace", "--no-fail-fast"]).args(features::arguments(tree)).stdin(Stdio::null());
    command.envs(servers.urls.iter().map(|(kind, url)| (kind.variable(), url)));
    if is_ci {
        command.env(REQUIRE, "1");
    }
    match command.status() {
        Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(error) => {
            eprintln!("cargo does not start: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The servers of one run of the tests. Those that ran before go on running after it.
struct Session {
    servers: Servers,
    urls: Vec<(Kind, String)>,
    started: Vec<Kind>,
    /// Whether no server is missing.
    is_whole: bool,
}

impl Session {
    /// Starts the servers, but for those whose URL the user gives and those that run.
    fn start() -> Self {
        let servers = Servers::of_workspace();
        let wanted: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| env::var_os(kind.variable()).is_none()).collect();
        let running = servers.status();
        let started = wanted.iter().copied().filter(|kind| running.iter().all(|other| other.kind != *kind)).collect();
        let mut urls = Vec::new();
        let is_whole = step("servers", || {
            let mut missing = Vec::new();
            for (kind, outcome) in servers.up(&wanted, false) {
                match outcome {
                    Ok(server) => urls.push((kind, server.url)),
                    Err(reason) => missing.push(format!("the tests that need {kind} are skipped: {reason}")),
                }
            }
            if missing.is_empty() { Ok(()) } else { Err(missing.join("\n")) }
        });
        Self { servers, urls, started, is_whole }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The tests' own lines stay the last ones; what cannot be stopped now, the next run finds.
        let _ = self.servers.down(&self.started);
    }
}
