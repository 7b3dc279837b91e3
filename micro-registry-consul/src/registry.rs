//! The registry port on one agent's API.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use micro_core::{
    Error, ErrorKind, Result,
    registry::{Instance, InstanceWatch, RegisterOptions, Registration, Registry},
};
use serde::de::IgnoredAny;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    ConsulConfig, ConsulKv,
    client::Client,
    encoding::{Meta, whole_instance},
    keeper::{Keeper, Keepers, Kept, announce, withdraw},
    tags, watch,
};

/// A registry whose instances are services of Consul's. Clones share everything.
///
/// - An instance belongs to the agent it was registered with: [`deregister`](Registry::deregister)
///   withdraws those of this agent, and what this process registered is registered again when
///   somebody else withdrew it.
/// - A registration that was replaced by another one of its id withdraws nothing.
/// - A live instance is one of which no check is critical, its node's among them; a warning is live.
/// - Metadata, endpoints and version stand in the service's tags as go-micro writes and reads them, so
///   that each finds the other's; what somebody registered without such tags has the version "" and
///   its meta as metadata.
/// - A registration that cannot be read, or called, is left out, and so is a tag; the log says once why.
/// - [`services`](Registry::services) are those of Consul's catalog, `consul` itself included, and for
///   about a minute also one whose last instance died.
/// - A watch goes on through failures: it tells
///   [`Stale`](micro_core::registry::InstanceChange::Stale) once Consul cannot be asked, and a
///   snapshot when it can be again.
#[derive(Clone)]
pub struct ConsulRegistry {
    client: Client,
    keepers: Keepers,
    generations: Arc<AtomicU64>,
}

impl ConsulRegistry {
    /// A registry on the agent that `config` names, once the agent says that it has a leader and,
    /// if there is a token, that the token exists.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for settings that cannot be; `Unavailable` when no agent answers within
    /// `connect_timeout`; `PermissionDenied` for a token that Consul does not know.
    pub async fn connect(config: ConsulConfig) -> Result<Self> {
        Ok(Self { client: Client::connect(config).await?, keepers: Keepers::default(), generations: Arc::default() })
    }

    /// The key/value store behind the same agent.
    pub fn kv(&self) -> ConsulKv {
        ConsulKv::new(self.client.clone())
    }
}

impl fmt::Debug for ConsulRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsulRegistry").field("config", &self.client.config).finish_non_exhaustive()
    }
}

#[async_trait]
impl Registry for ConsulRegistry {
    /// Registers with the agent.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` also for metadata, an endpoint or a version of more than 256 KiB, or more
    /// than 16 MiB together, which nobody would read.
    ///
    /// # Cancel safety
    ///
    /// When it is cancelled, the instance may be registered, and is forgotten after its TTL.
    async fn register(&self, instance: Instance, options: RegisterOptions) -> Result<Registration> {
        instance.validate()?;
        validate(&options)?;
        tags::check(&instance)?;
        tell_left_out(&instance);
        let mut keepers = self.keepers.lock().await;
        announce(&self.client, "registry.register", &instance, &options).await?;
        let generation = self.generations.fetch_add(1, Ordering::Relaxed);
        let keeper = Keeper {
            client: self.client.clone(),
            keepers: self.keepers.clone(),
            generation,
            instance: instance.clone(),
            options,
        };
        // Owned by the registration: if nobody can close it any more, the TTL ends the instance.
        let task = AbortOnDropHandle::new(tokio::spawn(keeper.run()));
        let kept = Kept { service: instance.service.clone(), generation, task: task.abort_handle() };
        if let Some(replaced) = keepers.insert(instance.id.clone(), kept) {
            replaced.task.abort();
        }
        drop(keepers);
        let (registry, registered) = (self.clone(), instance.clone());
        Ok(Registration::new(instance, move || async move {
            let closed = registry.close(registered, generation).await;
            drop(task);
            closed
        }))
    }

    async fn deregister(&self, service: &str, id: &str) -> Result<()> {
        let mut keepers = self.keepers.lock().await;
        if keepers.get(id).is_some_and(|kept| kept.service == service) {
            keepers.remove(id).expect("it was just there").task.abort();
        }
        withdraw(&self.client, id, |found| found.is_of(service)).await
    }

    async fn instances(&self, service: &str) -> Result<Vec<Instance>> {
        Ok(watch::query(&self.client, "registry.instances", service, 0).await?.instances)
    }

    async fn services(&self) -> Result<Vec<String>> {
        let operation = "registry.services";
        let answer = self.client.get_newer(operation, &["catalog", "services"], &[], 0).await?;
        let tags_by_name: Option<BTreeMap<String, IgnoredAny>> = answer.json(operation)?;
        Ok(tags_by_name.unwrap_or_default().into_keys().collect())
    }

    async fn watch(&self, service: &str) -> Result<InstanceWatch> {
        watch::begin(self.client.clone(), service.to_owned()).await
    }
}

impl ConsulRegistry {
    async fn close(&self, instance: Instance, generation: u64) -> Result<()> {
        let mut keepers = self.keepers.lock().await;
        if keepers.get(&instance.id).is_none_or(|kept| kept.generation != generation) {
            return Ok(());
        }
        keepers.remove(&instance.id).expect("it was just there").task.abort();
        // Another process may have taken the id over: what it registered is its own.
        withdraw(&self.client, &instance.id, |found| whole_instance(found).as_ref() == Some(&instance)).await
    }
}

/// Consul's meta has rules of its own; the tags, which instances are read from, take everything.
fn tell_left_out(instance: &Instance) {
    let names = Meta::of(&instance.metadata).left_out;
    if !names.is_empty() {
        let reason = "a meta has at most 64 names of letters, digits, - and _, and values of at most 512 bytes";
        tracing::info!(
            instance = instance.id,
            ?names,
            reason,
            "metadata that Consul's meta does not take is in tags only"
        );
    }
}

fn validate(options: &RegisterOptions) -> Result<()> {
    if !options.heartbeat.is_zero() && options.heartbeat < options.ttl {
        return Ok(());
    }
    let message = "the heartbeat must be more than zero and less than the TTL";
    Err(Error::new(ErrorKind::InvalidArgument, "registry.register", message)
        .with_context("heartbeat", format!("{:?}", options.heartbeat))
        .with_context("ttl", format!("{:?}", options.ttl)))
}
