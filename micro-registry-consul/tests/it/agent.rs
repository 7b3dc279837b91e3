//! Agents of a test's own, and the one that the tests share.

use std::{path::PathBuf, process::Command, time::Duration};

use dev_servers::{Kind, Server, shared};
use micro_core::registry::{Instance, RegisterOptions, Registry};
use micro_registry_consul::{ConsulConfig, ConsulRegistry};
use micro_testkit::{Fixture, Missing, eventually};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// How long a test waits for what must happen: the machine may be compiling beside it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The agent that the tests share; what is done there has a name of its own.
pub(crate) struct Shared {
    pub(crate) registry: ConsulRegistry,
    pub(crate) url: String,
}

impl Fixture for Shared {
    async fn start() -> Result<Self, Missing> {
        let url = blocking(|| shared(Kind::Consul)).await.map_err(Missing::new)?;
        let config = ConsulConfig::from_url(&url).expect("a test's URL is right");
        let registry = ConsulRegistry::connect(config).await.map_err(|error| Missing::new(error.report()))?;
        Ok(Self { registry, url })
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

/// An agent that a test may kill, freeze and restart.
pub(crate) struct Agent {
    pub(crate) server: Server,
}

impl Fixture for Agent {
    async fn start() -> Result<Self, Missing> {
        Self::with(&[]).await
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

impl Agent {
    /// With further settings in HCL.
    pub(crate) async fn with(settings: &[(&str, &str)]) -> Result<Self, Missing> {
        let settings: Vec<_> = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let server = blocking(move || {
            let settings: Vec<_> = settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            Server::start_with(Kind::Consul, &settings)
        });
        Ok(Self { server: server.await.map_err(Missing::new)? })
    }

    pub(crate) fn config(&self) -> ConsulConfig {
        ConsulConfig::from_url(self.server.url()).expect("a test's URL is right")
    }

    pub(crate) async fn registry(&self) -> ConsulRegistry {
        ConsulRegistry::connect(self.config()).await.expect("the agent answers")
    }

    /// Kills it and starts it again: a development agent has forgotten everything.
    pub(crate) async fn restart(mut self) -> Self {
        blocking(move || {
            self.server.restart().expect("the agent starts again");
            self
        })
        .await
    }

    pub(crate) async fn kill(mut self) -> Self {
        blocking(move || {
            self.server.kill();
            self
        })
        .await
    }

    /// The program that runs.
    pub(crate) fn program(&self) -> PathBuf {
        std::fs::read_link(format!("/proc/{}/exe", self.server.pid())).expect("the agent runs")
    }
}

/// Runs `consul ARGUMENTS` against the agent at `url` and returns what it printed.
pub(crate) fn consul(program: &PathBuf, url: &str, arguments: &[&str]) -> String {
    let address = url.replace("consul://", "http://");
    let output = Command::new(program).args(arguments).env("CONSUL_HTTP_ADDR", address).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// `PUT PATH` to the agent at `url`, as anybody may.
pub(crate) async fn put(url: &str, path: &str, body: &str) {
    let mut stream = TcpStream::connect(url.trim_start_matches("consul://")).await.expect("the agent listens");
    let head = format!("PUT {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await.expect("the agent reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("the agent answers");
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
}

/// Short times, so that a test need not wait for the usual ones.
pub(crate) fn quick() -> RegisterOptions {
    let mut options = RegisterOptions::default();
    options.ttl = Duration::from_secs(2);
    options.heartbeat = Duration::from_millis(500);
    options
}

/// Waits until a service has exactly these instances.
pub(crate) async fn becomes(registry: &ConsulRegistry, service: &str, expected: &[Instance]) {
    eventually(PATIENCE, &format!("the instances are {expected:?}"), || async {
        let instances = registry.instances(service).await.map_err(|error| error.report())?;
        if instances == expected { Ok(()) } else { Err(format!("{instances:?}")) }
    })
    .await;
}

/// Runs what blocks beside the runtime.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("it does not panic")
}
