//! What is known of a service: its instances, and an endpoint for each.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use micro_core::registry::{CachedRegistry, CachedService, Instance, Registry};
use tokio::time::timeout;

use super::{GrpcClientConfig, endpoint::Endpoint, mucp::is_mucp};

/// The instances of one moment, and at the same index their endpoints.
#[derive(Default)]
pub(crate) struct Snapshot {
    pub(crate) instances: Arc<Vec<Instance>>,
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
}

/// The current [`Snapshot`] of a service, by the registry's cache.
pub(crate) struct Snapshots {
    known: CachedService,
    config: GrpcClientConfig,
    current: ArcSwap<Snapshot>,
    /// Held while the snapshot is replaced, so that an instance has one endpoint.
    replacing: Mutex<()>,
}

impl Snapshots {
    /// Begins to watch the service.
    pub(crate) fn watch(registry: Arc<dyn Registry>, service: &str, config: GrpcClientConfig) -> Self {
        let known = CachedRegistry::new(registry).service(service);
        Self { known, config, current: ArcSwap::default(), replacing: Mutex::default() }
    }

    /// Waits until the registry told of the instances, or could not.
    pub(crate) async fn wait_for_first(&self, limit: Duration) {
        let mut changes = self.known.changes();
        let _ = timeout(limit, changes.wait_for(|count| *count > 0)).await;
    }

    /// Why the registry cannot be asked now; the instances are then those it told of last.
    pub(crate) fn registry_error(&self) -> Option<Arc<str>> {
        self.known.last_error()
    }

    /// The snapshot of the instances as they are known now.
    pub(crate) fn current(&self) -> Arc<Snapshot> {
        let instances = self.known.instances();
        let current = self.current.load();
        if Arc::ptr_eq(&current.instances, &instances) { current.clone() } else { self.replace() }
    }

    /// An instance that stays where it was keeps its connections.
    fn replace(&self) -> Arc<Snapshot> {
        let _replacing = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let (instances, last) = (self.known.instances(), self.current.load());
        let known: HashMap<_, _> =
            last.instances.iter().zip(&last.endpoints).map(|(instance, endpoint)| (key(instance), endpoint)).collect();
        let endpoints = instances
            .iter()
            .map(|instance| match known.get(&key(instance)) {
                Some(endpoint) => (*endpoint).clone(),
                None => Arc::new(Endpoint::new(instance, &self.config)),
            })
            .collect();
        let next = Arc::new(Snapshot { instances, endpoints });
        self.current.store(next.clone());
        next
    }
}

fn key(instance: &Instance) -> (&str, &str, bool) {
    (&instance.id, &instance.address, is_mucp(instance))
}
