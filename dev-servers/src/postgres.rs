//! PostgreSQL: the distribution's package, never run as root.

use std::{
    env, fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{Read, Write},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    install::{self, find, make_folder},
    kind::Program,
    probe::connect,
    process::is_root,
    site::Site,
};

/// Where Debian keeps the programs of each version.
const DEBIAN_FOLDER: &str = "/usr/lib/postgresql";

pub(crate) struct Postgres;

impl Program for Postgres {
    fn missing(&self, _tools: &Path) -> Option<String> {
        let is_there = program("postgres").is_some() && program("initdb").is_some();
        (!is_there).then(|| "PostgreSQL is not installed: as root, `apt-get install postgresql`".to_owned())
    }

    fn debian_packages(&self) -> Vec<&'static str> {
        self.missing(Path::new("")).map(|_| "postgresql").into_iter().collect()
    }

    fn install(&self, _tools: &Path) -> Result<(), String> {
        Ok(())
    }

    fn prepare(&self, site: &Site) -> Result<(), String> {
        let data = site.data();
        give(&data)?;
        let mut command = unprivileged("initdb")?;
        // A locale of its own: what the user's environment names need not be installed.
        command.args(["-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C", "-D"]).arg(&data);
        install::run(command.current_dir(&site.folder))
    }

    fn command(&self, site: &Site) -> Result<Command, String> {
        let mut command = unprivileged("postgres")?;
        command
            .arg("-D")
            .arg(site.data())
            // No socket file: its path may be longer than one may be.
            .args(["-h", "127.0.0.1", "-p", &site.port.to_string(), "-k", ""])
            .args(["-c", "max_connections=500"])
            // None by default: branches of XA are prepared transactions.
            .args(["-c", "max_prepared_transactions=100"])
            .current_dir(&site.folder);
        if !site.is_durable {
            command.arg("-F");
        }
        for (name, value) in site.settings(0) {
            command.args(["-c", &format!("{name}={value}")]);
        }
        Ok(command)
    }

    fn answers(&self, port: u16) -> bool {
        // A refusal, such as the one of a server that still recovers, begins with an `E`.
        first_byte(port) == Some(b'R')
    }

    /// Its fast shutdown; TERM waits until the last client has gone.
    fn stop_signal(&self) -> &'static str {
        "INT"
    }
}

/// The newest of the installed versions of a program.
fn program(name: &str) -> Option<PathBuf> {
    let version = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let mut versions: Vec<PathBuf> =
        fs::read_dir(DEBIAN_FOLDER).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    versions.sort_by_key(version);
    let newest = versions.into_iter().rev().map(|folder| folder.join("bin").join(name)).find(|path| path.is_file());
    newest.or_else(|| find(name))
}

/// The program as this user or, where this user is root, as the package's.
fn unprivileged(name: &str) -> Result<Command, String> {
    let path = program(name).ok_or_else(|| format!("{name} is not installed"))?;
    if !is_root() {
        return Ok(Command::new(path));
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(path);
    Ok(command)
}

/// Makes a folder the one of the user that the server runs as.
fn give(folder: &Path) -> Result<(), String> {
    if !is_root() {
        return Ok(());
    }
    install::run(Command::new("chown").arg("postgres:postgres").arg(folder))
}

/// The folder itself or, where the server's user may not go there (below root's own folder, say),
/// one in its place under the system's temporary folder.
pub(crate) fn reachable(folder: &Path) -> Result<PathBuf, String> {
    make_folder(folder)?;
    if !is_root() {
        return Ok(folder.to_owned());
    }
    let mut test = Command::new("setpriv");
    test.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "test", "-x"]).arg(folder);
    if install::run(&mut test).is_ok() {
        return Ok(folder.to_owned());
    }
    let mut hasher = DefaultHasher::new();
    folder.hash(&mut hasher);
    let other = env::temp_dir().join(format!("micro-rs-postgres-{:x}", hasher.finish()));
    make_folder(&other)?;
    Ok(other)
}

/// What the server's answer to a client's first message begins with.
fn first_byte(port: u16) -> Option<u8> {
    let mut stream = connect(port).ok()?;
    // Length, protocol 3.0, pairs of names and values.
    let pairs = b"user\0postgres\0database\0postgres\0\0";
    let length = u32::try_from(8 + pairs.len()).expect("a few bytes");
    let message = [&length.to_be_bytes()[..], &[0, 3, 0, 0], pairs].concat();
    stream.write_all(&message).ok()?;
    let mut answer = [0];
    stream.read_exact(&mut answer).ok()?;
    Some(answer[0])
}
