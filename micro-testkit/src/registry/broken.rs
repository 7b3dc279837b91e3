//! A registry that breaks one promise, to show that the suite sees it.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use micro_core::{
    Error, ErrorKind, Result,
    registry::{Instance, InstanceChange, InstanceWatch, RegisterOptions, Registration, Registry},
};

/// A promise of [`Registry`] that [`BrokenRegistry`] breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistryFault {
    /// Registers without metadata.
    LosesMetadata,
    /// Lists instances in another order.
    ListsUnsorted,
    /// Takes no second registration of an id.
    KeepsTheFirst,
    /// Closing a registration does nothing.
    ClosesNothing,
    /// Withdrawing by names does nothing.
    DeregistersNothing,
    /// Says `NotFound` when what is withdrawn is not there.
    MissesWhatIsNotThere,
    /// Says `NotFound` of a service without instances.
    MissesUnknownServices,
    /// Tells the instances of the first snapshot one by one.
    WatchesWithoutSnapshot,
    /// Tells no removals.
    HidesRemovals,
    /// Loses the changes between the snapshot and the watch.
    BeginsLate,
    /// Lists a service once an instance.
    RepeatsNames,
}

/// A registry that breaks one promise of the one inside, or none.
pub struct BrokenRegistry {
    registry: Arc<dyn Registry>,
    fault: Option<RegistryFault>,
    ids: Mutex<HashSet<String>>,
    /// Registrations whose end is kept from the registry.
    kept: Arc<Mutex<Vec<Registration>>>,
}

impl BrokenRegistry {
    /// Breaks `fault`'s promise.
    pub fn new(registry: Arc<dyn Registry>, fault: impl Into<Option<RegistryFault>>) -> Self {
        Self { registry, fault: fault.into(), ids: Mutex::default(), kept: Arc::default() }
    }

    fn has(&self, fault: RegistryFault) -> bool {
        self.fault == Some(fault)
    }

    fn is_known_id(&self, id: &str) -> bool {
        !self.ids.lock().expect("no holder panics").insert(id.to_owned())
    }
}

#[async_trait]
impl Registry for BrokenRegistry {
    async fn register(&self, mut instance: Instance, options: RegisterOptions) -> Result<Registration> {
        if self.is_known_id(&instance.id) && self.has(RegistryFault::KeepsTheFirst) {
            return Ok(Registration::new(instance, || async { Ok(()) }));
        }
        if self.has(RegistryFault::LosesMetadata) {
            instance.metadata.clear();
        }
        let registration = self.registry.register(instance.clone(), options).await?;
        if !self.has(RegistryFault::ClosesNothing) {
            return Ok(registration);
        }
        self.kept.lock().expect("no holder panics").push(registration);
        Ok(Registration::new(instance, || async { Ok(()) }))
    }

    async fn deregister(&self, service: &str, id: &str) -> Result<()> {
        let instances = self.registry.instances(service).await?;
        if self.has(RegistryFault::MissesWhatIsNotThere) && instances.iter().all(|instance| instance.id != id) {
            return Err(Error::new(ErrorKind::NotFound, "registry.deregister", "no such instance"));
        }
        if self.has(RegistryFault::DeregistersNothing) {
            return Ok(());
        }
        self.registry.deregister(service, id).await
    }

    async fn instances(&self, service: &str) -> Result<Vec<Instance>> {
        let mut instances = self.registry.instances(service).await?;
        if instances.is_empty() && self.has(RegistryFault::MissesUnknownServices) {
            return Err(Error::new(ErrorKind::NotFound, "registry.instances", "no such service"));
        }
        if self.has(RegistryFault::ListsUnsorted) {
            instances.reverse();
        }
        Ok(instances)
    }

    async fn services(&self) -> Result<Vec<String>> {
        let names = self.registry.services().await?;
        if !self.has(RegistryFault::RepeatsNames) {
            return Ok(names);
        }
        let mut repeated = Vec::new();
        for name in names {
            let count = self.registry.instances(&name).await?.len();
            repeated.extend(std::iter::repeat_n(name, count));
        }
        Ok(repeated)
    }

    async fn watch(&self, service: &str) -> Result<InstanceWatch> {
        let Some(fault) = self.fault else { return self.registry.watch(service).await };
        let snapshot = InstanceChange::Snapshot(self.registry.instances(service).await?);
        if fault == RegistryFault::BeginsLate {
            // Whoever registers at the same time does it now.
            tokio::task::yield_now().await;
        }
        let mut inner = self.registry.watch(service).await?;
        let (changes, watch) = InstanceWatch::channel();
        tokio::spawn(async move {
            let mut is_first = true;
            while let Some(mut change) = inner.next().await {
                if is_first && fault == RegistryFault::BeginsLate {
                    change = snapshot.clone();
                }
                is_first = false;
                for told in changed(fault, change) {
                    if changes.send(told).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(watch)
    }
}

fn changed(fault: RegistryFault, change: InstanceChange) -> Vec<InstanceChange> {
    match (fault, change) {
        (RegistryFault::WatchesWithoutSnapshot, InstanceChange::Snapshot(instances)) => {
            instances.into_iter().map(InstanceChange::Put).collect()
        }
        (RegistryFault::HidesRemovals, InstanceChange::Removed(_)) => Vec::new(),
        (_, change) => vec![change],
    }
}
