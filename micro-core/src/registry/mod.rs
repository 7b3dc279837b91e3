//! The registry port: where the instances of a service are.

pub mod bounded;
mod cached;
mod endpoint;
mod memory;
mod outage;
mod static_list;

pub use cached::{CachedRegistry, CachedService};
pub use endpoint::{Endpoint, EndpointValue};
pub use memory::MemoryRegistry;
pub use outage::Outage;
pub use static_list::StaticRegistry;

use std::{collections::BTreeMap, fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::{Error, ErrorKind, Result};

/// Knows which instances of which services there are.
///
/// # Contract
///
/// - `a_registered_instance_is_found_by_its_service_name`, with every field as it was registered.
/// - `registering_an_id_again_replaces_it`.
/// - `a_closed_registration_is_gone`, and so is a dropped one, soon.
/// - `a_deregistered_instance_is_gone`.
/// - `deregistering_what_is_not_there_is_no_error`.
/// - `an_unknown_service_has_no_instances`: an empty list, no error.
/// - `a_watch_begins_with_a_snapshot_and_then_tells_changes`, including those made while it began.
/// - `services_lists_each_name_once`, sorted.
#[async_trait]
pub trait Registry: Send + Sync + 'static {
    /// Announces an instance and keeps it alive until the registration is closed or dropped.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an instance without name, id or address; `Unavailable` when the
    /// registry cannot be reached; `Unimplemented` where the registry is read-only.
    async fn register(&self, instance: Instance, options: RegisterOptions) -> Result<Registration>;

    /// Withdraws an instance by service name and id.
    async fn deregister(&self, service: &str, id: &str) -> Result<()>;

    /// The live instances of a service, sorted by id.
    async fn instances(&self, service: &str) -> Result<Vec<Instance>>;

    /// The names of the services that have instances, sorted.
    async fn services(&self) -> Result<Vec<String>>;

    /// Watches a service: first a snapshot, then changes.
    async fn watch(&self, service: &str) -> Result<InstanceWatch>;
}

/// One running process of a service and where to reach it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Instance {
    /// The service's name, for instance `go.micro.service.Order`.
    pub service: String,
    /// The instance's id, unique in the registry; by custom `<service>-<uuid>`.
    pub id: String,
    /// The service's version; `latest` where nothing else is said, empty where another program
    /// registered it without one.
    pub version: String,
    /// `host:port`, an IPv6 host in brackets.
    pub address: String,
    /// Names and values beside it, for instance `protocol` = `grpc`.
    pub metadata: BTreeMap<String, String>,
    /// What it can be called for; empty where nobody said. Shared, for a service has many instances
    /// of the same.
    #[serde(default)]
    pub endpoints: Arc<Vec<Endpoint>>,
}

impl Instance {
    /// An instance with a new id, version `latest` and no metadata.
    pub fn new(service: impl Into<String>, address: impl Into<String>) -> Self {
        let service = service.into();
        let id = format!("{service}-{}", uuid::Uuid::new_v4());
        let (version, address) = ("latest".to_owned(), address.into());
        Self { service, id, version, address, metadata: BTreeMap::new(), endpoints: Arc::default() }
    }

    /// Sets the id.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        self
    }

    /// Sets the version.
    #[must_use]
    pub fn with_version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// Sets one metadata value.
    #[must_use]
    pub fn with_metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }

    /// Sets what it can be called for.
    #[must_use]
    pub fn with_endpoints(mut self, endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        self.endpoints = Arc::new(endpoints.into_iter().collect());
        self
    }

    /// Checks what every registry must refuse.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` when the service, the id or the address is missing, or the address is not
    /// `host:port` with a port from 1 to 65535.
    pub fn validate(&self) -> Result<()> {
        let refused = |what: &'static str| {
            let error = Error::new(ErrorKind::InvalidArgument, "registry.register", what);
            Err(error.with_context("service", &self.service).with_context("id", &self.id))
        };
        if self.service.is_empty() {
            return refused("the instance names no service");
        }
        if self.id.is_empty() {
            return refused("the instance has no id");
        }
        if !is_address(&self.address) {
            let expected = "the address is not host:port with a port from 1 to 65535, an IPv6 host in brackets";
            return refused(expected).map_err(|error| error.with_context("address", &self.address));
        }
        Ok(())
    }
}

fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || ":/[]@".contains(c)),
    };
    is_host && is_port
}

/// How an instance is kept alive.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegisterOptions {
    /// After this long without a heartbeat the registry drops the instance; default 15 s.
    pub ttl: Duration,
    /// The time between heartbeats, ±10 %; default 5 s.
    pub heartbeat: Duration,
}

impl Default for RegisterOptions {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(15), heartbeat: Duration::from_secs(5) }
    }
}

type CloseFuture = Pin<Box<dyn Future<Output = Result<()>> + Send>>;
type Close = Box<dyn FnOnce() -> CloseFuture + Send + Sync>;

/// An announced instance. [`close`](Self::close) withdraws it; dropping it withdraws it in a
/// spawned task, or leaves it to the TTL where no runtime is left.
pub struct Registration {
    instance: Instance,
    close: Option<Close>,
}

impl Registration {
    /// A registration of `instance`; `close` ends the heartbeat and withdraws it.
    pub fn new<F, Fut>(instance: Instance, close: F) -> Self
    where
        F: FnOnce() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        Self { instance, close: Some(Box::new(move || Box::pin(close()))) }
    }

    /// The instance as it was registered.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Withdraws the instance and waits until the registry confirmed it.
    pub async fn close(mut self) -> Result<()> {
        match self.close.take() {
            Some(close) => close().await,
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("instance", &self.instance).finish_non_exhaustive()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let (Some(close), Ok(runtime)) = (self.close.take(), tokio::runtime::Handle::try_current()) else { return };
        let id = self.instance.id.clone();
        runtime.spawn(async move {
            if let Err(error) = close().await {
                tracing::warn!(instance = id, error = %error.report(), "withdrawing a dropped registration");
            }
        });
    }
}

/// What a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InstanceChange {
    /// All live instances; replaces what was known. Always the first, and again after a gap.
    Snapshot(Vec<Instance>),
    /// This instance is new or changed.
    Put(Instance),
    /// The instance of this id is gone.
    Removed(String),
    /// The registry cannot be asked now, for the reason told; what was known is what is known. A
    /// snapshot follows once it can be asked again.
    Stale(String),
}

/// The changes of one service's instances. Dropping it ends the watch.
#[derive(Debug)]
pub struct InstanceWatch {
    changes: mpsc::Receiver<InstanceChange>,
}

impl InstanceWatch {
    /// A watch, and the sender for its changes; the sender sees the watch's drop as a closed channel.
    pub fn channel() -> (mpsc::Sender<InstanceChange>, Self) {
        let (sender, changes) = mpsc::channel(64);
        (sender, Self { changes })
    }

    /// The next change; `None` when the registry ended the watch.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<InstanceChange> {
        self.changes.recv().await
    }
}
