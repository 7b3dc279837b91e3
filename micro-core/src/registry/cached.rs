//! The registry's cache: one watch a service, and a snapshot that is read without waiting.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{sleep, timeout},
};

use crate::{Error, ErrorKind, Result, transaction::RetryPolicy};

use super::{Instance, InstanceChange, InstanceWatch, RegisterOptions, Registration, Registry};

/// The waits before a watch that ended is begun again: 100 ms, doubling, at most 10 s.
const WATCH_AGAIN: RetryPolicy = RetryPolicy {
    retry_count_max: u32::MAX,
    delay_initial: Duration::from_millis(100),
    delay_max: Duration::from_secs(10),
};

/// A registry whose instances are read from memory and kept fresh by a watch.
///
/// The first question about a service begins its watch, in a background task that ends when the
/// cache and every [`CachedService`] of it are dropped. A watch that fails or ends is begun again;
/// meanwhile the instances known last are served, and [`CachedService::last_error`] says why they
/// may be out of date. Services are never forgotten: ask for names that
/// come from the program, not from its input.
///
/// Registering and listing go to the registry behind it.
///
/// # Examples
///
/// ```
/// use std::{sync::Arc, time::Duration};
/// use micro_core::registry::{CachedRegistry, StaticRegistry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> micro_core::Result<()> {
/// let registry: StaticRegistry = "product=127.0.0.1:9000".parse()?;
/// let cache = CachedRegistry::new(Arc::new(registry));
/// let product = cache.service("product");
/// product.known(Duration::from_secs(1)).await?;
/// assert_eq!(product.instances()[0].address, "127.0.0.1:9000");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct CachedRegistry {
    shared: Arc<Shared>,
}

impl CachedRegistry {
    /// A cache over `registry`.
    pub fn new(registry: Arc<dyn Registry>) -> Self {
        Self { shared: Arc::new(Shared { registry, services: Mutex::default() }) }
    }

    /// The instances of a service as they are known now, sorted by id: empty until the watch's
    /// first snapshot came.
    ///
    /// # Panics
    ///
    /// As [`service`](Self::service).
    pub fn snapshot(&self, service: &str) -> Arc<Vec<Instance>> {
        self.service(service).instances()
    }

    /// A handle on one service: what a balancer keeps, for it reads without a look-up.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, when the service is asked for the first time.
    pub fn service(&self, service: &str) -> CachedService {
        let mut services = self.shared.services.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watched) = services.get(service) {
            return CachedService { slot: watched.slot.clone(), _cache: self.shared.clone() };
        }
        let slot = Arc::new(Slot::default());
        let watching = keep_watching(self.shared.registry.clone(), service.to_owned(), slot.clone());
        let task = tokio::spawn(watching).abort_handle();
        services.insert(service.to_owned(), Watched { slot: slot.clone(), task });
        CachedService { slot, _cache: self.shared.clone() }
    }
}

impl fmt::Debug for CachedRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedRegistry").finish_non_exhaustive()
    }
}

#[async_trait]
impl Registry for CachedRegistry {
    async fn register(&self, instance: Instance, options: RegisterOptions) -> Result<Registration> {
        self.shared.registry.register(instance, options).await
    }

    async fn deregister(&self, service: &str, id: &str) -> Result<()> {
        self.shared.registry.deregister(service, id).await
    }

    /// From memory once the first snapshot came, from the registry behind it before.
    async fn instances(&self, service: &str) -> Result<Vec<Instance>> {
        let cached = self.service(service);
        if cached.is_known() { Ok(cached.instances().to_vec()) } else { self.shared.registry.instances(service).await }
    }

    async fn services(&self) -> Result<Vec<String>> {
        self.shared.registry.services().await
    }

    async fn watch(&self, service: &str) -> Result<InstanceWatch> {
        self.shared.registry.watch(service).await
    }
}

/// The instances of one service in a [`CachedRegistry`]; keeps the cache alive.
#[derive(Clone)]
pub struct CachedService {
    slot: Arc<Slot>,
    _cache: Arc<Shared>,
}

impl CachedService {
    /// The instances as they are known now, sorted by id: empty until the first snapshot came.
    /// Costs one atomic load and a reference count.
    pub fn instances(&self) -> Arc<Vec<Instance>> {
        self.slot.state.load().instances.clone()
    }

    /// Whether the first snapshot came.
    pub fn is_known(&self) -> bool {
        self.slot.state.load().is_known
    }

    /// Why the registry cannot be asked now, without the causes, which are logged; the instances are
    /// then those it told of last. `None` while the watch is fresh, and until it was first tried.
    pub fn last_error(&self) -> Option<Arc<str>> {
        self.slot.state.load().last_error.clone()
    }

    /// Waits for the first snapshot, at most for `deadline`.
    ///
    /// # Errors
    ///
    /// `Unavailable` when the registry told nothing by then, with its last error if there is one.
    pub async fn known(&self, deadline: Duration) -> Result<Arc<Vec<Instance>>> {
        let mut versions = self.changes();
        match timeout(deadline, versions.wait_for(|_| self.is_known())).await {
            Ok(_) => Ok(self.instances()),
            Err(_) => {
                let error = Error::new(ErrorKind::Unavailable, "registry.watch", "no snapshot came in time")
                    .with_context("deadline", format!("{deadline:?}"));
                Err(match self.last_error() {
                    Some(cause) => error.with_source(&*cause),
                    None => error,
                })
            }
        }
    }

    /// Counts the changes of [`instances`](Self::instances) and [`last_error`](Self::last_error):
    /// wake up on it, then read them. 0 until the registry told something, or could not.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.slot.version.subscribe()
    }
}

impl fmt::Debug for CachedService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedService").field("instances", &self.instances()).finish_non_exhaustive()
    }
}

struct Shared {
    registry: Arc<dyn Registry>,
    services: Mutex<HashMap<String, Watched>>,
}

struct Watched {
    slot: Arc<Slot>,
    task: AbortHandle,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Default)]
struct Slot {
    state: ArcSwap<State>,
    version: watch::Sender<u64>,
}

/// What is known of a service; replaced as a whole.
#[derive(Clone, Default, PartialEq)]
struct State {
    instances: Arc<Vec<Instance>>,
    is_known: bool,
    last_error: Option<Arc<str>>,
}

async fn keep_watching(registry: Arc<dyn Registry>, service: String, slot: Arc<Slot>) {
    let mut failures = 0;
    loop {
        match registry.watch(&service).await {
            Ok(mut changes) => {
                while let Some(change) = changes.next().await {
                    failures = 0;
                    slot.apply(change);
                }
                tracing::debug!(service, "the registry ended a watch, beginning it again");
                slot.fail("the registry ended the watch".to_owned());
            }
            Err(error) => {
                // The first failure tells all; the others would fill the log of a long outage.
                match failures {
                    0 => {
                        tracing::warn!(service, error = %error.report(), "a watch did not begin, serving what is known")
                    }
                    _ => tracing::debug!(service, error = %error.report(), "a watch did not begin"),
                }
                slot.fail(error.to_string());
            }
        }
        sleep(WATCH_AGAIN.delay(failures)).await;
        failures = failures.saturating_add(1);
    }
}

impl Slot {
    fn apply(&self, change: InstanceChange) {
        let known = self.state.load().instances.clone();
        let mut instances = match change {
            InstanceChange::Snapshot(instances) => instances,
            InstanceChange::Put(instance) => {
                let others = known.iter().filter(|other| other.id != instance.id).cloned();
                others.chain([instance.clone()]).collect()
            }
            InstanceChange::Removed(id) => known.iter().filter(|instance| instance.id != id).cloned().collect(),
            InstanceChange::Stale(reason) => return self.fail(reason),
        };
        instances.sort_by(|a, b| a.id.cmp(&b.id));
        // An unchanged list stays the one that readers may have compared theirs with.
        let instances = if instances == *known { known } else { Arc::new(instances) };
        self.replace(State { instances, is_known: true, last_error: None });
    }

    fn fail(&self, reason: String) {
        self.replace(State { last_error: Some(reason.into()), ..State::clone(&self.state.load()) });
    }

    fn replace(&self, state: State) {
        if **self.state.load() != state {
            self.state.store(Arc::new(state));
            self.version.send_modify(|version| *version += 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::atomic::{AtomicUsize, Ordering};

    use crate::registry::MemoryRegistry;

    /// Ends its first watch after the snapshot and refuses the second.
    #[derive(Default)]
    struct Unsteady {
        registry: MemoryRegistry,
        watch_count: AtomicUsize,
    }

    #[async_trait]
    impl Registry for Unsteady {
        async fn register(&self, instance: Instance, options: RegisterOptions) -> Result<Registration> {
            self.registry.register(instance, options).await
        }

        async fn deregister(&self, service: &str, id: &str) -> Result<()> {
            self.registry.deregister(service, id).await
        }

        async fn instances(&self, _: &str) -> Result<Vec<Instance>> {
            Err(Error::new(ErrorKind::Unavailable, "registry.instances", "no agent answers"))
        }

        async fn services(&self) -> Result<Vec<String>> {
            self.registry.services().await
        }

        async fn watch(&self, service: &str) -> Result<InstanceWatch> {
            match self.watch_count.fetch_add(1, Ordering::SeqCst) {
                0 => {
                    let (changes, watch) = InstanceWatch::channel();
                    let snapshot = self.registry.instances(service).await?;
                    changes.send(InstanceChange::Snapshot(snapshot)).await.expect("the watch is here");
                    Ok(watch)
                }
                1 => Err(Error::new(ErrorKind::Unavailable, "registry.watch", "no agent answers")),
                _ => self.registry.watch(service).await,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_is_served_while_the_watch_is_begun_again() {
        let unsteady = Arc::new(Unsteady::default());
        let first = Instance::new("greeter", "a:1");
        let _first = unsteady.register(first.clone(), RegisterOptions::default()).await.unwrap();
        let cache = CachedRegistry::new(unsteady.clone());
        let greeter = cache.service("greeter");
        greeter.known(Duration::from_secs(1)).await.unwrap();
        let mut changes = greeter.changes();

        let second = Instance::new("greeter", "b:2");
        let _second = unsteady.register(second.clone(), RegisterOptions::default()).await.unwrap();
        assert_eq!(cache.instances("greeter").await.unwrap(), [first]);
        let mut errors = vec![greeter.last_error()];
        while greeter.instances().len() < 2 {
            changes.changed().await.unwrap();
            errors.push(greeter.last_error());
        }
        for expected in [Some("the registry ended the watch"), Some("registry.watch: no agent answers"), None] {
            assert!(errors.iter().any(|error| error.as_deref() == expected), "{errors:?}");
        }
        assert_eq!(unsteady.watch_count.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_is_stale_keeps_what_is_known_until_the_next_snapshot() {
        let slot = Slot::default();
        slot.apply(InstanceChange::Stale("away".to_owned()));
        assert!(!slot.state.load().is_known);
        let known = vec![Instance::new("greeter", "a:1")];
        slot.apply(InstanceChange::Snapshot(known.clone()));
        let first = slot.state.load().instances.clone();
        slot.apply(InstanceChange::Stale("away".to_owned()));
        slot.apply(InstanceChange::Stale("away".to_owned()));
        assert_eq!((&**first, slot.state.load().last_error.as_deref()), (&*known, Some("away")));
        slot.apply(InstanceChange::Snapshot(known));
        let state = slot.state.load();
        assert!(Arc::ptr_eq(&state.instances, &first) && state.last_error.is_none());
        assert_eq!(*slot.version.borrow(), 4, "the second word of the same says nothing new");
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_ends_with_the_last_handle() {
        let registry = Arc::new(MemoryRegistry::new());
        let cache = CachedRegistry::new(registry.clone());
        let greeter = cache.service("greeter");
        greeter.known(Duration::from_secs(1)).await.unwrap();
        drop(cache);
        tokio::task::yield_now().await;
        assert_eq!(Arc::strong_count(&registry), 3, "the test, the cache behind the handle, and its task");
        drop(greeter);
        while Arc::strong_count(&registry) > 1 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn before_the_first_snapshot_the_registry_is_asked_and_its_error_told() {
        let cache = CachedRegistry::new(Arc::new(Unsteady { watch_count: AtomicUsize::new(1), ..Unsteady::default() }));
        assert_eq!(cache.instances("greeter").await.unwrap_err().kind(), ErrorKind::Unavailable);
        let greeter = cache.service("greeter");
        greeter.changes().changed().await.unwrap();
        assert_eq!(greeter.last_error().as_deref(), Some("registry.watch: no agent answers"));
        let error = greeter.known(Duration::from_millis(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.report().ends_with(": registry.watch: no agent answers"), "{}", error.report());
    }
}
