//! Installing what a server needs: commands that must succeed, Debian packages, finished markers.

use std::{
    env, fs,
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    kind::Kind,
    process::{is_root, wait_until},
};

/// How long one process waits for another that is installing or starting.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(20 * 60);

/// How many of a log's last lines an error quotes.
const LINES_QUOTED_MAX: usize = 20;

/// Installs what the kinds lack; where that is not possible, [`Program::missing`] tells what to install.
///
/// [`Program::missing`]: crate::kind::Program::missing
pub(crate) fn debian_packages(kinds: &[Kind]) -> Result<(), String> {
    let mut packages: Vec<&str> = kinds.iter().flat_map(|kind| kind.program().debian_packages()).collect();
    packages.sort_unstable();
    packages.dedup();
    install_packages(&packages)
}

/// Installs Debian packages where this process may, as on a fresh machine of CI; elsewhere, as
/// somebody else than root or on another system, does nothing.
///
/// # Errors
///
/// The last lines of apt-get where it fails.
pub fn install_packages(packages: &[&str]) -> Result<(), String> {
    if packages.is_empty() || !is_root() || find("apt-get").is_none() {
        return Ok(());
    }
    run(apt_get().args(["update", "-qq"]))?;
    run(apt_get().args(["install", "-y", "-qq", "--no-install-recommends"]).args(packages))
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    // Another installation that runs at the same time is waited for, not failed on.
    command.args(["-o", "DPkg::Lock::Timeout=300"]).env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Does `work` unless it was finished before from the same `recipe`.
pub(crate) fn once(folder: &Path, recipe: &str, work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    if is_finished(folder, recipe) {
        return Ok(());
    }
    // What an interrupted or older installation left is no part of this one.
    let _ = fs::remove_dir_all(folder);
    make_folder(folder)?;
    work()?;
    write(&marker(folder), recipe)
}

pub(crate) fn is_finished(folder: &Path, recipe: &str) -> bool {
    fs::read_to_string(marker(folder)).is_ok_and(|text| text == recipe)
}

fn marker(folder: &Path) -> PathBuf {
    folder.join("finished")
}

/// Runs a command to its end; where it fails, the error quotes its last lines.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{name} does not start ({error})"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Err(format!("{name} ended with {}:\n{}", output.status, last_lines(&text)))
}

pub(crate) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES_QUOTED_MAX)..].join("\n")
}

/// A program's path, looked for where the user's shell would.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    // Daemons stand in folders that a plain user's PATH may leave out.
    let more = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(more).map(|folder| folder.join(program)).find(|path| path.is_file())
}

pub(crate) fn make_folder(folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|error| format!("{} cannot be made ({error})", folder.display()))
}

pub(crate) fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{} cannot be written ({error})", path.display()))
}

/// Keeps other processes out of `folder` until it is dropped.
pub(crate) fn lock(folder: &Path) -> Result<File, String> {
    make_folder(folder)?;
    let path = folder.join("lock");
    let file = File::create(&path).map_err(|error| format!("{} cannot be made ({error})", path.display()))?;
    let mut outcome = Err(format!("{} is held by another process", path.display()));
    wait_until(LOCK_WAIT_MAX, || match file.try_lock() {
        Ok(()) => {
            outcome = Ok(());
            true
        }
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(error)) => {
            outcome = Err(format!("{} cannot be locked ({error})", path.display()));
            true
        }
    });
    outcome.map(|()| file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installation_is_done_once_and_again_for_another_recipe() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("tool");
        let mut count = 0;
        let mut install = |recipe: &str, outcome: Result<(), String>| {
            once(&place, recipe, || {
                count += 1;
                outcome
            })
        };
        install("1", Err("no network".to_owned())).unwrap_err();
        install("1", Ok(())).unwrap();
        install("1", Ok(())).unwrap();
        install("2", Ok(())).unwrap();
        assert_eq!(count, 3);
    }

    #[test]
    fn a_command_that_fails_says_what_it_printed_last() {
        let error = run(Command::new("sh").args(["-c", "seq 100; exit 3"])).unwrap_err();
        assert!(error.starts_with("sh ended with exit status: 3:\n81\n") && error.ends_with("\n100"), "{error}");
        assert!(run(&mut Command::new("no-such-program")).unwrap_err().starts_with("no-such-program does not start"));
    }
}
