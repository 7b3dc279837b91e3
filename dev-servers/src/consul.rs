//! Consul: built by Go from a go.mod of our own, run in its development mode.

use std::{
    fmt::Write as _,
    io::{Read, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    install::{self, find},
    kind::Program,
    ports::free_port,
    probe::connect,
    site::Site,
};

const GO_MOD: &str = include_str!("../consul/go.mod");
const GO_SUM: &str = include_str!("../consul/go.sum");

pub(crate) struct Consul;

impl Program for Consul {
    fn missing(&self, tools: &Path) -> Option<String> {
        (!install::is_finished(&folder(tools), GO_MOD))
            .then(|| "Consul is not there: `cargo xtask servers up consul` builds it".to_owned())
    }

    /// None: Debian's Go is too old to build it.
    fn debian_packages(&self) -> Vec<&'static str> {
        Vec::new()
    }

    fn install(&self, tools: &Path) -> Result<(), String> {
        let folder = folder(tools);
        install::once(&folder, GO_MOD, || {
            let go =
                find("go").ok_or("go is not installed: Consul is built from source, see https://go.dev/doc/install")?;
            install::write(&folder.join("go.mod"), GO_MOD)?;
            install::write(&folder.join("go.sum"), GO_SUM)?;
            install::run(
                Command::new(go)
                    .args(["build", "-mod=readonly", "-trimpath", "-ldflags", "-s -w", "-o", "consul"])
                    .arg("github.com/hashicorp/consul")
                    .env("CGO_ENABLED", "0")
                    .current_dir(&folder),
            )
        })
    }

    fn prepare(&self, _site: &Site) -> Result<(), String> {
        Ok(())
    }

    fn command(&self, site: &Site) -> Result<Command, String> {
        let server = free_port();
        let ports = format!(
            "ports {{ http = {} grpc = -1 dns = -1 serf_wan = -1 serf_lan = {} server = {server} }}\n",
            site.port,
            free_port()
        );
        install::write(&site.folder.join("1-ports.hcl"), &format!("disable_update_check = true\n{ports}"))?;
        // A file of its own: Consul joins files, so that a further port does not replace ours.
        let settings = site.settings(server).fold(String::new(), |mut text, (name, value)| {
            writeln!(text, "{name} = {value}").expect("a string takes any text");
            text
        });
        install::write(&site.folder.join("2-settings.hcl"), &settings)?;
        let mut command = Command::new(folder(&site.tools).join("consul"));
        command.args(["agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1", "-node=dev", "-log-level=warn"]);
        command.arg("-disable-host-node-id");
        for file in ["1-ports.hcl", "2-settings.hcl"] {
            command.arg(format!("-config-file={}", site.folder.join(file).display()));
        }
        Ok(command)
    }

    fn answers(&self, port: u16) -> bool {
        leader(port).is_some_and(|leader| leader.contains(':'))
    }
}

fn folder(tools: &Path) -> PathBuf {
    tools.join("consul")
}

/// The address of the cluster's leader: empty until the agent has elected itself.
fn leader(port: u16) -> Option<String> {
    let mut stream = connect(port).ok()?;
    stream.write_all(b"GET /v1/status/leader HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.split_whitespace().nth(1).filter(|status| *status == "200").map(|_| body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Kind;

    #[test]
    fn the_version_is_the_one_of_the_go_mod() {
        assert!(GO_MOD.contains(&format!("require github.com/hashicorp/consul v{}\n", Kind::Consul.version())));
    }
}
