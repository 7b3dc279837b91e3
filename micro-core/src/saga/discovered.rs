//! Finds participants by their names in a registry.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;

use super::{BranchCaller, BranchRequest};
use crate::{
    Error, ErrorKind, Result,
    branch::{BranchAnswer, shown_url},
    registry::{CachedRegistry, CachedService, Registry},
    selector::Selector,
};

/// What stands before the name of a service in the URL of a branch.
pub const REGISTRY_SCHEME: &str = "registry:///";

/// How many services are watched at the same time: names come from sagas, and may be anybody's.
const SERVICE_COUNT_MAX: usize = 256;

/// An address as instances have them.
const SOME_ADDRESS: &str = "127.0.0.1:1";

/// Calls `registry:///SERVICE/package.Service/Method` at an instance of `SERVICE`, and hands every other
/// URL on as it is.
///
/// A saga may outlive the instances that were there at its beginning: their names stay. DTM itself does
/// not understand these URLs; what is handed to it has addresses.
///
/// A service is watched from its first call on, at most 256 of them at the same time: for one more, the
/// watch of the one that was not called for longest ends, and begins again when it is called.
pub struct DiscoveredBranches<C> {
    registry: Arc<dyn Registry>,
    selector: Box<dyn Selector>,
    services: Mutex<Services>,
    caller: C,
}

/// Those that are watched.
#[derive(Default)]
struct Services {
    by_name: HashMap<String, Watched>,
    /// How often one was asked for.
    ask_count: u64,
}

/// A service and its watch, which ends when nobody has it any more.
struct Watched {
    service: Arc<CachedService>,
    /// Which ask was the last one for it.
    asked_last: u64,
}

impl<C: BranchCaller> DiscoveredBranches<C> {
    /// Calls through `caller` what `selector` picks among the instances in `registry`.
    pub fn new(registry: Arc<dyn Registry>, selector: impl Selector, caller: C) -> Self {
        Self { registry, selector: Box::new(selector), services: Mutex::default(), caller }
    }

    fn service(&self, name: &str) -> Arc<CachedService> {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        services.ask_count += 1;
        let asked_last = services.ask_count;
        if let Some(watched) = services.by_name.get_mut(name) {
            watched.asked_last = asked_last;
            return watched.service.clone();
        }
        if services.by_name.len() >= SERVICE_COUNT_MAX {
            services.forget_one();
        }
        // In a cache of its own, for a cache keeps what it was asked for.
        let service = Arc::new(CachedRegistry::new(self.registry.clone()).service(name));
        services.by_name.insert(name.to_owned(), Watched { service: service.clone(), asked_last });
        service
    }
}

impl Services {
    /// Forgets the one that was not asked for longest.
    fn forget_one(&mut self) {
        let oldest = self.by_name.iter().min_by_key(|(_, watched)| watched.asked_last);
        if let Some(name) = oldest.map(|(name, _)| name.clone()) {
            self.by_name.remove(&name);
        }
    }
}

#[async_trait]
impl<C: BranchCaller> BranchCaller for DiscoveredBranches<C> {
    async fn call(&self, request: BranchRequest<'_>) -> Result<BranchAnswer> {
        let Some((name, method)) = named(request.url)? else { return self.caller.call(request).await };
        let instances = self.service(name).known(request.timeout).await?;
        let Some(index) = self.selector.pick(&instances) else {
            let message = "nobody offers this service: its participant is called again later";
            return Err(Error::new(ErrorKind::Unavailable, "saga.call", message).with_context("service", name));
        };
        let url = format!("{}/{method}", instances[index].address);
        self.caller.call(BranchRequest { url: &url, ..request }).await
    }

    fn check(&self, request: &BranchRequest<'_>) -> Result<()> {
        let Some((_, method)) = named(request.url)? else { return self.caller.check(request) };
        // Whichever instance it will be; the caller is asked about the rest.
        let url = format!("{SOME_ADDRESS}/{method}");
        self.caller.check(&BranchRequest { url: &url, ..request.clone() })
    }
}

/// The service and the method of a URL that names a service; `None` for any other URL.
fn named(url: &str) -> Result<Option<(&str, &str)>> {
    let Some(named) = url.strip_prefix(REGISTRY_SCHEME) else { return Ok(None) };
    let parts = named.split_once('/').filter(|(name, method)| !name.is_empty() && !method.is_empty());
    parts.map(Some).ok_or_else(|| {
        let message = "no URL of a branch: expected registry:///SERVICE/package.Service/Method";
        Error::new(ErrorKind::InvalidArgument, "saga.call", message).with_context("url", shown_url(url))
    })
}

impl<C> fmt::Debug for DiscoveredBranches<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscoveredBranches").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        branch::{Branch, Mode, Op},
        registry::{Instance, InstanceChange, InstanceWatch, MemoryRegistry, RegisterOptions, Registration},
        selector::RoundRobinSelector,
    };

    /// Tells each watch of one instance, and knows which watches go on.
    #[derive(Default)]
    struct Watches(Mutex<Vec<(String, mpsc::Sender<InstanceChange>)>>);

    impl Watches {
        fn going_on(&self) -> Vec<String> {
            let watches = self.0.lock().unwrap();
            watches.iter().filter(|(_, sender)| !sender.is_closed()).map(|(name, _)| name.clone()).collect()
        }
    }

    #[async_trait]
    impl Registry for Watches {
        async fn register(&self, _: Instance, _: RegisterOptions) -> Result<Registration> {
            unreachable!("nobody registers")
        }

        async fn deregister(&self, _: &str, _: &str) -> Result<()> {
            Ok(())
        }

        async fn instances(&self, _: &str) -> Result<Vec<Instance>> {
            Ok(Vec::new())
        }

        async fn services(&self) -> Result<Vec<String>> {
            Ok(Vec::new())
        }

        async fn watch(&self, service: &str) -> Result<InstanceWatch> {
            let (sender, watch) = InstanceWatch::channel();
            let instance = Instance::new(service, "127.0.0.1:1");
            sender.try_send(InstanceChange::Snapshot(vec![instance])).unwrap();
            self.0.lock().unwrap().push((service.to_owned(), sender));
            Ok(watch)
        }
    }

    /// Keeps the URLs that are called.
    #[derive(Clone, Default)]
    struct Called(Arc<Mutex<Vec<String>>>);

    #[async_trait]
    impl BranchCaller for Called {
        async fn call(&self, request: BranchRequest<'_>) -> Result<BranchAnswer> {
            self.0.lock().unwrap().push(request.url.to_owned());
            Ok(BranchAnswer::Succeeded)
        }

        fn check(&self, request: &BranchRequest<'_>) -> Result<()> {
            match request.url.ends_with("/Unknown") {
                true => {
                    Err(Error::new(ErrorKind::InvalidArgument, "test.check", "not so").with_context("url", request.url))
                }
                false => Ok(()),
            }
        }
    }

    fn branches() -> (Arc<MemoryRegistry>, Called, DiscoveredBranches<Called>) {
        let (registry, called) = (Arc::new(MemoryRegistry::new()), Called::default());
        let branches = DiscoveredBranches::new(registry.clone(), RoundRobinSelector::default(), called.clone());
        (registry, called, branches)
    }

    #[tokio::test]
    async fn a_named_participant_is_called_at_its_instances_and_an_address_as_it_is() {
        let (registry, called, branches) = branches();
        let mut registrations = Vec::new();
        for address in ["127.0.0.1:1", "127.0.0.1:2"] {
            let instance = Instance::new("shop.Product", address);
            registrations.push(registry.register(instance, RegisterOptions::default()).await.unwrap());
        }
        let branch = Branch::new(Mode::Saga, "g", "01", Op::Action).unwrap();
        for url in ["registry:///shop.Product/shop.Product/Deduct"; 2].into_iter().chain(["h:1/shop.Product/Deduct"]) {
            branches.call(BranchRequest::new(url, &branch)).await.unwrap();
        }
        let mut urls = called.0.lock().unwrap().clone();
        urls.sort_unstable();
        assert_eq!(
            urls,
            ["127.0.0.1:1/shop.Product/Deduct", "127.0.0.1:2/shop.Product/Deduct", "h:1/shop.Product/Deduct"]
        );
    }

    #[tokio::test]
    async fn a_participant_that_is_not_there_is_unavailable_and_a_url_without_a_name_is_wrong() {
        let (_, _, branches) = branches();
        let branch = Branch::new(Mode::Saga, "g", "01", Op::Action).unwrap();
        for (url, kind) in [
            ("registry:///shop.Product/shop.Product/Deduct", ErrorKind::Unavailable),
            ("registry:///shop.Product", ErrorKind::InvalidArgument),
            ("registry:////Deduct", ErrorKind::InvalidArgument),
        ] {
            let request = BranchRequest::new(url, &branch).timeout(Duration::from_secs(1));
            let checked = branches.check(&request);
            assert_eq!(checked.is_err(), kind == ErrorKind::InvalidArgument, "{url}: nobody is asked");
            assert_eq!(branches.call(request).await.unwrap_err().kind(), kind, "{url}");
        }
    }

    #[tokio::test]
    async fn what_stands_behind_the_name_is_checked_by_the_caller() {
        let (_, called, branches) = branches();
        let branch = Branch::new(Mode::Saga, "g", "01", Op::Action).unwrap();
        for (url, asked) in [
            ("registry:///shop.Product/shop.Product/Unknown", "127.0.0.1:1/shop.Product/Unknown"),
            ("h:1/shop.Product/Unknown", "h:1/shop.Product/Unknown"),
        ] {
            let error = branches.check(&BranchRequest::new(url, &branch)).unwrap_err();
            assert!(error.to_string().contains(&format!("url={asked}")), "{error}");
        }
        let known = BranchRequest::new("registry:///shop.Product/shop.Product/Deduct", &branch);
        branches.check(&known).unwrap();
        assert!(called.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn no_more_services_are_watched_than_the_limit_and_the_longest_unused_one_goes_first() {
        let registry = Arc::new(Watches::default());
        let branches = DiscoveredBranches::new(registry.clone(), RoundRobinSelector::default(), Called::default());
        let branch = Branch::new(Mode::Saga, "g", "01", Op::Action).unwrap();
        let call = async |service: usize| {
            let url = format!("registry:///shop-{service}/shop.Shop/Do");
            branches.call(BranchRequest::new(&url, &branch)).await.unwrap();
        };
        for service in 0..SERVICE_COUNT_MAX {
            call(service).await;
        }
        call(0).await;
        assert_eq!(registry.going_on().len(), SERVICE_COUNT_MAX);
        call(SERVICE_COUNT_MAX).await;
        // Whose watch was told of its end has to run once more.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let watched = registry.going_on();
        assert_eq!(watched.len(), SERVICE_COUNT_MAX);
        let is_watched = |service: usize| watched.contains(&format!("shop-{service}"));
        assert!(is_watched(0) && !is_watched(1) && is_watched(2) && is_watched(SERVICE_COUNT_MAX), "{watched:?}");
        call(1).await;
        assert!(registry.going_on().contains(&"shop-1".to_owned()), "it is watched again");
    }
}
