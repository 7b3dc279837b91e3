//! What is known of a service: its instances and an endpoint for each, replaced as a whole when the
//! registry tells of a change.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use micro_core::registry::{Instance, InstanceChange, Registry};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{GrpcClientConfig, endpoint::Endpoint};

const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// The instances of one moment, and at the same index their endpoints.
#[derive(Default)]
pub(crate) struct Snapshot {
    pub(crate) instances: Vec<Instance>,
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    /// Why the registry cannot be asked now; the instances are then those it told of last.
    pub(crate) registry_error: Option<String>,
}

/// The current [`Snapshot`], kept by a task that ends with this.
pub(crate) struct Snapshots {
    current: Arc<ArcSwap<Snapshot>>,
    is_told: watch::Receiver<bool>,
    _watching: AbortOnDropHandle<()>,
}

impl Snapshots {
    pub(crate) fn watch(registry: Arc<dyn Registry>, service: Arc<str>, config: GrpcClientConfig) -> Self {
        let current = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
        let (told, is_told) = watch::channel(false);
        let watching = Watching { registry, service, config, current: current.clone(), told };
        Self { current, is_told, _watching: AbortOnDropHandle::new(tokio::spawn(watching.run())) }
    }

    /// Waits until the registry told of the instances, or could not.
    pub(crate) async fn wait_for_first(&self, limit: Duration) {
        let mut is_told = self.is_told.clone();
        let _ = timeout(limit, is_told.wait_for(|is_told| *is_told)).await;
    }

    pub(crate) fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }
}

struct Watching {
    registry: Arc<dyn Registry>,
    service: Arc<str>,
    config: GrpcClientConfig,
    current: Arc<ArcSwap<Snapshot>>,
    told: watch::Sender<bool>,
}

impl Watching {
    async fn run(self) {
        let mut retry = RETRY;
        loop {
            match self.registry.watch(&self.service).await {
                Ok(mut changes) => {
                    let mut instances = BTreeMap::new();
                    while let Some(change) = changes.next().await {
                        retry = RETRY;
                        apply(&mut instances, change);
                        self.publish(instances.values().cloned().collect());
                    }
                    self.keep_stale("the registry ended the watch".to_owned());
                }
                Err(error) => {
                    tracing::warn!(service = &*self.service, error = %error.report(), "watching the registry");
                    self.keep_stale(error.to_string());
                }
            }
            sleep(retry.mul_f64(0.8 + 0.4 * fastrand::f64())).await;
            retry = retry.mul_f64(1.6).min(RETRY_MAX);
        }
    }

    /// An instance that stays where it was keeps its connections.
    fn publish(&self, instances: Vec<Instance>) {
        let last = self.current.load();
        let known: HashMap<_, _> =
            last.instances.iter().zip(&last.endpoints).map(|(instance, endpoint)| (key(instance), endpoint)).collect();
        let endpoints = instances
            .iter()
            .map(|instance| match known.get(&key(instance)) {
                Some(endpoint) => (*endpoint).clone(),
                None => Arc::new(Endpoint::new(&instance.address, &self.config)),
            })
            .collect();
        self.current.store(Arc::new(Snapshot { instances, endpoints, registry_error: None }));
        self.told.send_replace(true);
    }

    fn keep_stale(&self, registry_error: String) {
        let last = self.current.load();
        self.current.store(Arc::new(Snapshot {
            instances: last.instances.clone(),
            endpoints: last.endpoints.clone(),
            registry_error: Some(registry_error),
        }));
        self.told.send_replace(true);
    }
}

fn key(instance: &Instance) -> (&str, &str) {
    (&instance.id, &instance.address)
}

fn apply(instances: &mut BTreeMap<String, Instance>, change: InstanceChange) {
    match change {
        InstanceChange::Snapshot(all) => {
            *instances = all.into_iter().map(|instance| (instance.id.clone(), instance)).collect();
        }
        InstanceChange::Put(instance) => {
            instances.insert(instance.id.clone(), instance);
        }
        InstanceChange::Removed(id) => {
            instances.remove(&id);
        }
        // A kind of change this version does not know says nothing about who is alive.
        _ => {}
    }
}
