//! A step: a name, something that may fail, and the one line that says how it went.

use std::{
    env,
    io::{IsTerminal, Write},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

/// Runs `work`, prints its name, how it went and how long it took, then what it complained of.
///
/// Answers whether it succeeded.
pub(crate) fn step(name: &str, work: impl FnOnce() -> Result<(), String>) -> bool {
    print!("{name:<32}");
    std::io::stdout().flush().expect("the output is open as long as the tool runs");
    let started = Instant::now();
    let outcome = work();
    let seconds = started.elapsed().as_secs_f64();
    match &outcome {
        Ok(()) => println!("ok      {seconds:>6.1} s"),
        Err(complaint) => println!("FAILED  {seconds:>6.1} s\n\n{}\n", complaint.trim_end()),
    }
    outcome.is_ok()
}

/// A step that is a Cargo command: its output is shown only where it fails.
pub(crate) fn cargo_step(root: &Path, name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> bool {
    step(name, || {
        let output = cargo(root)
            .args(arguments)
            .envs(variables.iter().copied())
            .env("CARGO_TERM_COLOR", if std::io::stdout().is_terminal() { "always" } else { "never" })
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("cargo does not start: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        Err(format!("{text}\nsee it again with: cargo {}", arguments.join(" ")))
    })
}

/// The Cargo that started this tool, in the workspace's root.
pub(crate) fn cargo(root: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_fails_its_step() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        assert!(cargo_step(root, "a command that works", &["--version"], &[]));
        assert!(!cargo_step(root, "a command that is not there", &["no-such-command"], &[]));
    }
}
