//! The registry in memory: instances of one process, for tests and for services that share one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};

use crate::Result;

use super::{Instance, InstanceChange, InstanceWatch, RegisterOptions, Registration, Registry};

/// A registry within this process. Clones share everything.
///
/// There is no TTL: an instance that ends without closing its [`Registration`] ends with the
/// process. A registration that was replaced by another one of the same id withdraws nothing.
///
/// # Examples
///
/// ```
/// use micro_core::registry::{Instance, MemoryRegistry, RegisterOptions, Registry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> micro_core::Result<()> {
/// let registry = MemoryRegistry::new();
/// let instance = Instance::new("greeter", "127.0.0.1:9000");
/// let registration = registry.register(instance.clone(), RegisterOptions::default()).await?;
/// assert_eq!(registry.instances("greeter").await?, [instance]);
///
/// registration.close().await?;
/// assert!(registry.instances("greeter").await?.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryRegistry {
    shared: Arc<Shared>,
}

impl MemoryRegistry {
    /// A registry without instances.
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl Registry for MemoryRegistry {
    async fn register(&self, instance: Instance, _options: RegisterOptions) -> Result<Registration> {
        instance.validate()?;
        let shared = self.shared.clone();
        let generation = self.shared.put(instance.clone());
        let (service, id) = (instance.service.clone(), instance.id.clone());
        Ok(Registration::new(instance, move || async move {
            shared.remove(&service, &id, Some(generation));
            Ok(())
        }))
    }

    async fn deregister(&self, service: &str, id: &str) -> Result<()> {
        self.shared.remove(service, id, None);
        Ok(())
    }

    async fn instances(&self, service: &str) -> Result<Vec<Instance>> {
        let state = self.shared.lock();
        let known = state.services.get(service).map(|instances| instances.borrow().clone());
        Ok(known.iter().flat_map(|instances| instances.values()).map(|entry| entry.instance.clone()).collect())
    }

    async fn services(&self) -> Result<Vec<String>> {
        let state = self.shared.lock();
        Ok(state
            .services
            .iter()
            .filter(|(_, known)| !known.borrow().is_empty())
            .map(|(name, _)| name.clone())
            .collect())
    }

    async fn watch(&self, service: &str) -> Result<InstanceWatch> {
        let known = self.shared.lock().service(service).subscribe();
        let (changes, watch) = InstanceWatch::channel();
        tokio::spawn(tell_changes(known, changes, self.shared.clone(), service.to_owned()));
        Ok(watch)
    }
}

/// Tells a watcher the differences between what it was told and what is there. A slow watcher
/// misses steps in between, never the last one.
async fn tell_changes(
    mut known: watch::Receiver<Instances>,
    changes: mpsc::Sender<InstanceChange>,
    shared: Arc<Shared>,
    service: String,
) {
    let mut told = known.borrow_and_update().clone();
    let snapshot = told.values().map(|entry| entry.instance.clone()).collect();
    let mut is_heard = changes.send(InstanceChange::Snapshot(snapshot)).await.is_ok();
    while is_heard {
        tokio::select! {
            () = changes.closed() => break,
            changed = known.changed() => if changed.is_err() { break },
        }
        let current = known.borrow_and_update().clone();
        for change in differences(&told, &current) {
            is_heard = changes.send(change).await.is_ok();
        }
        told = current;
    }
    drop(known);
    shared.forget_if_unused(&service);
}

fn differences(told: &Instances, current: &Instances) -> Vec<InstanceChange> {
    let gone = told.keys().filter(|id| !current.contains_key(*id));
    let put = current.iter().filter(|(id, entry)| told.get(*id) != Some(entry));
    let removed = gone.map(|id| InstanceChange::Removed(id.clone()));
    removed.chain(put.map(|(_, entry)| InstanceChange::Put(entry.instance.clone()))).collect()
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    services: BTreeMap<String, watch::Sender<Instances>>,
    generation: u64,
}

type Instances = Arc<BTreeMap<String, Entry>>;

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    instance: Instance,
    /// Tells this registration from an earlier one of the same id.
    generation: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one statement, so what a panicking holder leaves is consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, instance: Instance) -> u64 {
        let mut state = self.lock();
        state.generation += 1;
        let generation = state.generation;
        state.service(&instance.service).send_modify(|instances| {
            Arc::make_mut(instances).insert(instance.id.clone(), Entry { instance, generation });
        });
        generation
    }

    fn remove(&self, service: &str, id: &str, generation: Option<u64>) {
        if let Some(known) = self.lock().services.get(service) {
            known.send_if_modified(|instances| {
                let entry = instances.get(id);
                let is_meant = entry.is_some_and(|entry| generation.is_none_or(|number| number == entry.generation));
                is_meant && Arc::make_mut(instances).remove(id).is_some()
            });
        }
        self.forget_if_unused(service);
    }

    /// A service without instances and watchers takes no memory.
    fn forget_if_unused(&self, service: &str) {
        let mut state = self.lock();
        let is_unused = |known: &watch::Sender<Instances>| known.receiver_count() == 0 && known.borrow().is_empty();
        if state.services.get(service).is_some_and(is_unused) {
            state.services.remove(service);
        }
    }
}

impl State {
    fn service(&mut self, name: &str) -> &watch::Sender<Instances> {
        self.services.entry(name.to_owned()).or_insert_with(|| watch::Sender::new(Instances::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_replaced_registration_does_not_withdraw_its_successor() {
        let registry = MemoryRegistry::new();
        let instance = Instance::new("greeter", "127.0.0.1:9000");
        let first = registry.register(instance.clone(), RegisterOptions::default()).await.unwrap();
        let _second = registry.register(instance.clone(), RegisterOptions::default()).await.unwrap();
        first.close().await.unwrap();
        assert_eq!(registry.instances("greeter").await.unwrap(), [instance]);
    }

    #[tokio::test]
    async fn what_is_not_used_any_more_is_forgotten() {
        let registry = MemoryRegistry::new();
        let instance = Instance::new("greeter", "127.0.0.1:9000");
        let registration = registry.register(instance, RegisterOptions::default()).await.unwrap();
        let mut watch = registry.watch("greeter").await.unwrap();
        assert!(watch.next().await.is_some());
        registration.close().await.unwrap();
        assert!(watch.next().await.is_some());
        drop(watch);
        while !registry.shared.lock().services.is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_bad_instance_is_refused_with_what_was_expected() {
        let registry = MemoryRegistry::new();
        for address in ["", "localhost", "localhost:", ":80", "host:0", "host:65536", "host:+1", "::1:80", "[x]:80"] {
            let error = registry
                .register(Instance::new("greeter", address), RegisterOptions::default())
                .await
                .expect_err(address);
            assert_eq!(error.kind(), crate::ErrorKind::InvalidArgument, "{address}");
            assert!(error.to_string().contains("host:port"), "{error}");
        }
        for instance in [Instance::new("", "h:1"), Instance::new("greeter", "h:1").with_id("")] {
            let error = registry.register(instance, RegisterOptions::default()).await.unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::InvalidArgument);
        }
        let ipv6 = Instance::new("greeter", "[::1]:9000");
        assert!(registry.register(ipv6, RegisterOptions::default()).await.is_ok());
    }
}
