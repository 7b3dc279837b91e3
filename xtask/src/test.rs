//! `cargo xtask test`: what `.ci/run` calls: check, then every test.

use std::{
    env,
    process::{ExitCode, Stdio},
};

use crate::{check, step::cargo, tree::Tree};

/// Under this name a test that needs a server which is not there fails instead of being skipped.
const REQUIRE: &str = "MICRO_TEST_REQUIRE";

/// Runs check, then the tests; the last lines are the test runner's, the exit code is its own.
pub(crate) fn run(tree: &Tree) -> ExitCode {
    if !check::passes(tree) {
        eprintln!("check failed, so no test was run: mend what says FAILED above");
        return ExitCode::FAILURE;
    }
    let mut command = cargo(&tree.root);
    command.args(["test", "--workspace", "--no-fail-fast"]).stdin(Stdio::null());
    if env::var_os("CI").is_some() {
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
