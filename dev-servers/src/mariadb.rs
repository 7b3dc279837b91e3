//! MariaDB: the distribution's package.

use std::{io::Read, path::Path, process::Command};

use crate::{
    install::{self, find},
    kind::Program,
    probe::connect,
    process::is_root,
    site::Site,
};

/// The first byte of a greeting: the protocol's version. A refusal begins with 255.
const PROTOCOL: u8 = 10;

pub(crate) struct Mariadb;

impl Program for Mariadb {
    fn missing(&self, _tools: &Path) -> Option<String> {
        let is_there = find("mariadbd").is_some() && find("mariadb-install-db").is_some();
        (!is_there).then(|| "mariadbd is not installed: as root, `apt-get install mariadb-server`".to_owned())
    }

    fn debian_packages(&self) -> Vec<&'static str> {
        self.missing(Path::new("")).map(|_| "mariadb-server").into_iter().collect()
    }

    fn install(&self, _tools: &Path) -> Result<(), String> {
        Ok(())
    }

    fn prepare(&self, site: &Site) -> Result<(), String> {
        let mut command = Command::new("mariadb-install-db");
        command.arg("--no-defaults").args(user()).arg(format!("--datadir={}", site.data().display())).args([
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
        ]);
        install::run(&mut command)
    }

    fn command(&self, site: &Site) -> Result<Command, String> {
        let mut command = Command::new(find("mariadbd").unwrap_or_else(|| "mariadbd".into()));
        command
            .arg("--no-defaults")
            .args(user())
            .arg(format!("--datadir={}", site.data().display()))
            // Relative to the data folder: a whole path may be longer than a socket's may be.
            .arg("--socket=server.sock")
            .args(["--bind-address=127.0.0.1", &format!("--port={}", site.port), "--skip-name-resolve"])
            // DTM with its data here keeps up to 500 connections.
            .args(["--character-set-server=utf8mb4", "--innodb-buffer-pool-size=64M", "--max-connections=2000"])
            .arg(format!("--innodb-flush-log-at-trx-commit={}", u8::from(site.is_durable)))
            .args(site.settings(0).map(|(name, value)| format!("--{name}={value}")));
        Ok(command)
    }

    fn answers(&self, port: u16) -> bool {
        greeting(port) == Some(PROTOCOL)
    }
}

/// The server refuses to run as root unless told so.
fn user() -> Option<&'static str> {
    is_root().then_some("--user=root")
}

/// The first byte behind the header of the packet with which the server greets.
fn greeting(port: u16) -> Option<u8> {
    let mut stream = connect(port).ok()?;
    let mut packet = [0; 5];
    stream.read_exact(&mut packet).ok()?;
    Some(packet[4])
}
