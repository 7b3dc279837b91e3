//! Servers of a test's own, and the one that the tests share.

use std::time::Duration;

use dev_servers::{Kind, Server, shared};
use micro_core::registry::{Instance, RegisterOptions, Registry};
use micro_etcd::{EtcdConfig, EtcdRegistry};
use micro_testkit::{Fixture, Missing, eventually};

/// How long a test waits for what must happen: the machine may be compiling beside it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The server that the tests share; what is done there has a name of its own.
pub(crate) struct Shared {
    pub(crate) registry: EtcdRegistry,
    pub(crate) url: String,
}

impl Fixture for Shared {
    async fn start() -> Result<Self, Missing> {
        let url = blocking(|| shared(Kind::Etcd)).await.map_err(Missing::new)?;
        let mut config = EtcdConfig::from_url(&url).expect("a test's URL is right");
        (config.connect_timeout, config.request_timeout) = (PATIENCE, PATIENCE);
        let registry = EtcdRegistry::connect(config).await.map_err(|error| Missing::new(error.report()))?;
        Ok(Self { registry, url })
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

/// A server that a test may kill, freeze and restart.
pub(crate) struct Own {
    pub(crate) server: Server,
}

impl Fixture for Own {
    async fn start() -> Result<Self, Missing> {
        Self::with(Vec::new()).await
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

impl Own {
    /// With further flags.
    pub(crate) async fn with(flags: Vec<(&'static str, String)>) -> Result<Self, Missing> {
        let server = blocking(move || {
            let flags: Vec<_> = flags.iter().map(|(name, value)| (*name, value.as_str())).collect();
            Server::start_with(Kind::Etcd, &flags)
        });
        Ok(Self { server: server.await.map_err(Missing::new)? })
    }

    pub(crate) fn config(&self) -> EtcdConfig {
        let mut config = EtcdConfig::from_url(self.server.url()).expect("a test's URL is right");
        config.connect_timeout = PATIENCE;
        config
    }

    pub(crate) async fn registry(&self) -> EtcdRegistry {
        EtcdRegistry::connect(self.config()).await.expect("the server answers")
    }

    pub(crate) async fn restart(mut self) -> Self {
        blocking(move || {
            self.server.restart().expect("the server starts again");
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
}

/// etcd's own client, as anybody has it.
pub(crate) async fn client(url: &str) -> etcd_client::Client {
    etcd_client::Client::connect([url.trim_start_matches("etcd://")], None).await.expect("the server answers")
}

/// Short times, for what waits until a lease ends: two seconds is the least that etcd gives.
pub(crate) fn quick() -> RegisterOptions {
    let mut options = RegisterOptions::default();
    options.ttl = Duration::from_secs(2);
    options.heartbeat = Duration::from_millis(500);
    options
}

/// Heartbeats as frequent, and a lease that outlives what a test does.
pub(crate) fn lasting() -> RegisterOptions {
    let mut options = quick();
    options.ttl = Duration::from_secs(30);
    options
}

/// Waits until a service has exactly these instances.
pub(crate) async fn becomes(registry: &dyn Registry, service: &str, expected: &[Instance]) {
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
