//! Processes by their number: what they are, their children, signals, waiting for their end.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

/// How often a state is looked at while waiting for it.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How long a server may take to stop in good order before it is killed.
const STOP_MAX: Duration = Duration::from_secs(15);

/// Whether the process is there and has `mark` in its command line: a number alone may by now be
/// somebody else's.
pub(crate) fn is_running(pid: u32, mark: &str) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(mark))
}

/// Every process that has `mark` in its command line.
pub(crate) fn with_mark(mark: &str) -> Vec<u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| is_running(*pid, mark))
        .collect()
}

/// Whether a process of that number is there and not only waiting to be buried.
pub(crate) fn is_alive(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

/// The processes that this one started and that still run (PostgreSQL has one for each connection).
pub(crate) fn children(pid: u32) -> Vec<u32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|child| child.parse().ok())
        .collect()
}

/// Sends a signal by name; that the process is gone is no error.
pub(crate) fn signal(pid: u32, name: &str) {
    // A shell's own `kill`: the program of that name is not on every machine.
    let _ = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\" 2>/dev/null", name, &pid.to_string()]).status();
}

/// Stops the process in good order or, where that takes too long, by force.
pub(crate) fn stop(pid: u32, mark: &str, name: &str) {
    signal(pid, name);
    if !wait_until(STOP_MAX, || !is_running(pid, mark)) {
        kill(pid);
    }
}

/// Kills the process and its children at once, as a power cut would, and waits until they are gone.
pub(crate) fn kill(pid: u32) {
    // Stopped, it cannot start another child between the look and the kill.
    signal(pid, "STOP");
    let all: Vec<u32> = std::iter::once(pid).chain(children(pid)).collect();
    for pid in &all {
        signal(*pid, "KILL");
    }
    wait_until(STOP_MAX, || !all.iter().any(|pid| is_alive(*pid)));
}

/// Polls until `state` holds; answers whether it did in time.
pub(crate) fn wait_until(limit: Duration, mut state: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if state() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        pause(LOOK_INTERVAL);
    }
}

#[expect(clippy::disallowed_methods, reason = "the crate is synchronous: no runtime's worker is blocked")]
fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// Lets the process live on when the terminal of the one that starts it is interrupted or closed.
pub(crate) fn detach(command: &mut Command) {
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    #[cfg(not(unix))]
    let _ = command;
}

/// Whether this process has all rights.
pub(crate) fn is_root() -> bool {
    #[cfg(unix)]
    return fs::metadata("/proc/self").is_ok_and(|entry| std::os::unix::fs::MetadataExt::uid(&entry) == 0);
    #[cfg(not(unix))]
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_command_line_until_it_is_gone() {
        let mut child = Command::new("sleep").arg("61.5").spawn().unwrap();
        let pid = child.id();
        assert!(wait_until(Duration::from_secs(5), || is_running(pid, "61.5")));
        assert!(!is_running(pid, "another program"));
        kill(pid);
        assert!(!is_running(pid, "61.5"), "a child that nobody waited for counts as gone");
        child.wait().unwrap();
        assert!(!is_alive(pid));
    }
}
