//! The registry port on one cluster.

use std::{
    collections::BTreeSet,
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
use tokio_util::task::AbortOnDropHandle;

use crate::{
    EtcdConfig, Layout,
    client::Client,
    keeper::{Keeper, announce, give_up},
    places::{Kept, Places},
    record,
    watch::{self, Listing},
};

/// A registry whose instances are keys of etcd's, kept by leases. Clones share everything.
///
/// - The keys and values are those of the configured [`Layout`], go-micro's where nothing is said.
/// - A lease has the TTL in whole seconds, at least the two that etcd gives where less is asked for.
/// - What etcd lost, the lease, the key, or everything, is registered again with the next heartbeat.
///   What stands there already with the same contents is taken over with its lease.
/// - Whoever has a user stays with etcd when authentication is switched on or off, and when a change of
///   users makes all tokens old: the user authenticates anew and what was refused is asked once more.
/// - A registration that was replaced by another one of its id withdraws nothing.
/// - A value that cannot be read, or called, is left out; the log says once why.
/// - A watch goes on through failures and compactions: it tells
///   [`Stale`](micro_core::registry::InstanceChange::Stale) once etcd cannot be asked, and a snapshot
///   when it can be again. It also lists everything every `relist_interval`.
#[derive(Clone)]
pub struct EtcdRegistry {
    client: Client,
    places: Places,
    generations: Arc<AtomicU64>,
}

impl EtcdRegistry {
    /// A registry on the cluster that `config` names, once one of its servers answered a request as
    /// the configured user.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for settings that cannot be; `Unavailable` when no server answers within
    /// `connect_timeout`; `Unauthenticated` where there is no such user, or one is needed;
    /// `PermissionDenied` where its roles do not reach the registry's keys.
    pub async fn connect(config: EtcdConfig) -> Result<Self> {
        Ok(Self { client: Client::connect(config).await?, places: Places::default(), generations: Arc::default() })
    }
}

impl fmt::Debug for EtcdRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdRegistry").field("config", &self.client.config).finish_non_exhaustive()
    }
}

#[async_trait]
impl Registry for EtcdRegistry {
    /// Registers the instance under a lease.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` also for an instance that says more than is read again: a mebibyte of JSON, a
    /// thousand endpoints or pairs of metadata, half a mebibyte of metadata, 4 KiB of version.
    ///
    /// # Cancel safety
    ///
    /// When it is cancelled, the instance may be registered, and is forgotten after its TTL.
    async fn register(&self, instance: Instance, options: RegisterOptions) -> Result<Registration> {
        instance.validate()?;
        validate(&options)?;
        record::check(&instance)?;
        let mut place = self.places.of(&instance).await;
        let claim = announce(&self.client, "registry.register", &instance, &options).await?;
        let generation = self.generations.fetch_add(1, Ordering::Relaxed);
        let keeper = Keeper {
            client: self.client.clone(),
            places: self.places.clone(),
            generation,
            instance: instance.clone(),
            options,
        };
        // Owned by the registration: if nobody can close it any more, the TTL ends the instance.
        let task = AbortOnDropHandle::new(tokio::spawn(keeper.run()));
        let kept = Kept { generation, claim: claim.clone(), task: task.abort_handle() };
        if let Some(replaced) = place.replace(kept) {
            replaced.task.abort();
            if replaced.claim.lease != claim.lease {
                give_up(&self.client, &replaced.claim).await;
            }
        }
        drop(place);
        let (registry, registered) = (self.clone(), instance.clone());
        Ok(Registration::new(instance, move || async move {
            let closed = registry.close(registered, generation).await;
            drop(task);
            closed
        }))
    }

    async fn deregister(&self, service: &str, id: &str) -> Result<()> {
        let operation = "registry.deregister";
        let mut place = self.places.named(service, id).await;
        if let Some(kept) = place.take() {
            kept.task.abort();
            self.client.delete(operation, &kept.claim.key).await?;
            give_up(&self.client, &kept.claim).await;
            return Ok(());
        }
        self.client.delete(operation, &self.client.config.key_of_id(service, id)).await
    }

    async fn instances(&self, service: &str) -> Result<Vec<Instance>> {
        Ok(Listing::of(&self.client, "registry.instances", service).await?.instances())
    }

    async fn services(&self) -> Result<Vec<String>> {
        let operation = "registry.services";
        if self.client.config.layout == Layout::GoZero {
            let message = "the keys of the layout go-zero stand beside all others: no list of services can be made";
            return Err(self.client.with_servers(Error::new(ErrorKind::Unimplemented, operation, message)));
        }
        let answer = self.client.list(operation, &self.client.config.root()).await?;
        // The names stand in the values: in a key a slash is a dash.
        let names: BTreeSet<_> = answer.kvs().iter().filter_map(|held| record::service_name(held.value())).collect();
        Ok(names.into_iter().collect())
    }

    async fn watch(&self, service: &str) -> Result<InstanceWatch> {
        watch::begin(self.client.clone(), service.to_owned()).await
    }
}

impl EtcdRegistry {
    async fn close(&self, instance: Instance, generation: u64) -> Result<()> {
        let mut place = self.places.of(&instance).await;
        let Some(kept) = place.take_if(|kept| kept.generation == generation) else { return Ok(()) };
        kept.task.abort();
        // Another process may have taken the id over: what it registered is its own.
        self.client.delete_of("registry.deregister", &kept.claim.key, kept.claim.lease).await?;
        give_up(&self.client, &kept.claim).await;
        Ok(())
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dev_servers::Kind;
    use micro_testkit::{Fixture, Missing, eventually, ready, unique};

    use super::*;

    #[test]
    fn without_a_ttl_where_go_micro_ends_in_a_panic_a_registration_is_refused() {
        let (_, panicked) = crate::vectors::WITHOUT_TTL.split_once("\npanic: ").expect("the process ended in one");
        assert!(panicked.contains("registry/etcd.(*etcdRegistry).Register("), "{panicked}");
        let mut options = RegisterOptions::default();
        (options.ttl, options.heartbeat) = (Duration::ZERO, Duration::ZERO);
        let error = validate(&options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.report().contains("ttl=0ns"), "{}", error.report());
        options.heartbeat = Duration::from_secs(5);
        assert!(validate(&options).is_err());
    }

    struct Shared(EtcdRegistry);

    impl Fixture for Shared {
        async fn start() -> std::result::Result<Self, Missing> {
            let shared = tokio::task::spawn_blocking(|| dev_servers::shared(Kind::Etcd));
            let url = shared.await.expect("it does not panic").map_err(Missing::new)?;
            let registry = EtcdRegistry::connect(EtcdConfig::from_url(&url).expect("a URL")).await;
            registry.map(Self).map_err(|error| Missing::new(error.report()))
        }

        fn patience(&self) -> Duration {
            Duration::from_secs(30)
        }
    }

    #[tokio::test]
    async fn a_slow_request_of_one_instance_holds_up_no_heartbeat_of_another() {
        let Some(Shared(registry)) = ready::<Shared>().await else { return };
        let (slow, quick) = (unique("slow"), unique("quick"));
        // Whoever waits for etcd holds the place; here it waits as long as the test goes on.
        let _held = registry.places.named(&slow, "1").await;
        let blocked =
            registry.register(Instance::new(&*slow, "127.0.0.1:9000").with_id("1"), RegisterOptions::default());
        assert!(tokio::time::timeout(Duration::from_millis(200), blocked).await.is_err());

        let mut options = RegisterOptions::default();
        (options.ttl, options.heartbeat) = (Duration::from_secs(8), Duration::from_millis(500));
        let instance = Instance::new(&*quick, "127.0.0.1:9000");
        let registration = registry.register(instance.clone(), options.clone()).await.unwrap();
        let lives_until = std::time::Instant::now() + options.ttl + options.ttl / 2;
        eventually(Duration::from_secs(30), "it lives for longer than its TTL", || async {
            let found = registry.instances(&quick).await.unwrap();
            assert_eq!(found, std::slice::from_ref(&instance));
            std::time::Instant::now() > lives_until
        })
        .await;
        registration.close().await.unwrap();
        assert_eq!(registry.instances(&quick).await.unwrap(), []);
    }
}
