//! Redis: the distribution's package.

use std::{
    io::{Read, Write as _},
    path::Path,
    process::Command,
};

use crate::{install::find, kind::Program, probe::connect, site::Site};

pub(crate) struct Redis;

impl Program for Redis {
    fn missing(&self, _tools: &Path) -> Option<String> {
        find("redis-server")
            .is_none()
            .then(|| "redis-server is not installed: as root, `apt-get install redis-server`".to_owned())
    }

    fn debian_packages(&self) -> Vec<&'static str> {
        self.missing(Path::new("")).map(|_| "redis-server").into_iter().collect()
    }

    fn install(&self, _tools: &Path) -> Result<(), String> {
        Ok(())
    }

    fn prepare(&self, _site: &Site) -> Result<(), String> {
        Ok(())
    }

    fn command(&self, site: &Site) -> Result<Command, String> {
        let mut command = Command::new(find("redis-server").unwrap_or_else(|| "redis-server".into()));
        let folder = site.data();
        command
            // As a path of the site's own, by which the process is known; it sets the title of its own.
            .arg("--dir")
            .arg(format!("{}/", folder.display()))
            .args(["--bind", "127.0.0.1", "--port", &site.port.to_string(), "--save", ""])
            .args(["--set-proc-title", "no", "--daemonize", "no", "--appendonly", "yes"])
            .args(["--appendfsync", if site.is_durable { "always" } else { "no" }]);
        for (name, value) in site.settings(0) {
            command.arg(format!("--{name}")).arg(value);
        }
        Ok(command)
    }

    fn answers(&self, port: u16) -> bool {
        pong(port).is_some_and(|answer| answer == *b"+PONG" || answer == *b"-NOAU")
    }
}

/// The first bytes of its answer to a ping: that it is there, or that it wants a password first. While
/// it loads its data it answers with another error.
fn pong(port: u16) -> Option<[u8; 5]> {
    let mut stream = connect(port).ok()?;
    stream.write_all(b"PING\r\n").ok()?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).ok()?;
    Some(answer)
}
