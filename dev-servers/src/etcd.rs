//! etcd: the distribution's package.

use std::{
    io::{Read, Write as _},
    path::Path,
    process::Command,
};

use crate::{install::find, kind::Program, probe::connect, site::Site};

pub(crate) struct Etcd;

impl Program for Etcd {
    fn missing(&self, _tools: &Path) -> Option<String> {
        find("etcd").is_none().then(|| "etcd is not installed: as root, `apt-get install etcd-server`".to_owned())
    }

    fn debian_packages(&self) -> Vec<&'static str> {
        self.missing(Path::new("")).map(|_| "etcd-server").into_iter().collect()
    }

    fn install(&self, _tools: &Path) -> Result<(), String> {
        Ok(())
    }

    fn prepare(&self, _site: &Site) -> Result<(), String> {
        Ok(())
    }

    fn command(&self, site: &Site) -> Result<Command, String> {
        let client_url = format!("http://127.0.0.1:{}", site.port);
        let mut command = Command::new(find("etcd").unwrap_or_else(|| "etcd".into()));
        command
            // A folder in there: etcd wants to be alone in its own, and ours has a marker.
            .arg(format!("--data-dir={}", site.data().join("member").display()))
            .args(["--logger=zap", "--log-level=warn"])
            .arg(format!("--listen-client-urls={client_url}"))
            .arg(format!("--advertise-client-urls={client_url}"))
            // Nobody joins: a port that nobody needs to know.
            .arg("--listen-peer-urls=http://127.0.0.1:0")
            .args(site.settings(0).map(|(name, value)| format!("--{name}={value}")))
            // 3.4 asks for it on ARM, and elsewhere does not look at it.
            .env("ETCD_UNSUPPORTED_ARCH", "arm64");
        Ok(command)
    }

    fn answers(&self, port: u16) -> bool {
        health(port).is_some_and(|health| health.contains("\"true\""))
    }
}

/// What it says of its health: that it has a leader and takes writes.
fn health(port: u16) -> Option<String> {
    let mut stream = connect(port).ok()?;
    stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.split_whitespace().nth(1).filter(|status| *status == "200").map(|_| body.to_owned())
}
