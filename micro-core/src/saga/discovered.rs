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
    branch::BranchAnswer,
    registry::{CachedRegistry, CachedService, Registry},
    selector::Selector,
};

/// What stands before the name of a service in the URL of a branch.
pub const REGISTRY_SCHEME: &str = "registry:///";

/// Calls `registry:///SERVICE/package.Service/Method` at an instance of `SERVICE`, and hands every other
/// URL on as it is.
///
/// A saga may outlive the instances that were there at its beginning: their names stay. DTM itself does
/// not understand these URLs; what is handed to it has addresses.
pub struct DiscoveredBranches<C> {
    registry: CachedRegistry,
    selector: Box<dyn Selector>,
    /// Their watches go on for as long as this lives.
    services: Mutex<HashMap<String, Arc<CachedService>>>,
    caller: C,
}

impl<C: BranchCaller> DiscoveredBranches<C> {
    /// Calls through `caller` what `selector` picks among the instances in `registry`.
    pub fn new(registry: Arc<dyn Registry>, selector: impl Selector, caller: C) -> Self {
        let registry = CachedRegistry::new(registry);
        Self { registry, selector: Box::new(selector), services: Mutex::default(), caller }
    }

    fn service(&self, name: &str) -> Arc<CachedService> {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        match services.get(name) {
            Some(service) => service.clone(),
            None => {
                let service = Arc::new(self.registry.service(name));
                services.insert(name.to_owned(), service.clone());
                service
            }
        }
    }
}

#[async_trait]
impl<C: BranchCaller> BranchCaller for DiscoveredBranches<C> {
    async fn call(&self, request: BranchRequest<'_>) -> Result<BranchAnswer> {
        let Some(named) = request.url.strip_prefix(REGISTRY_SCHEME) else { return self.caller.call(request).await };
        let parts = named.split_once('/').filter(|(name, method)| !name.is_empty() && !method.is_empty());
        let Some((name, method)) = parts else {
            let message = "no URL of a branch: expected registry:///SERVICE/package.Service/Method";
            return Err(Error::new(ErrorKind::InvalidArgument, "saga.call", message).with_context("url", request.url));
        };
        let instances = self.service(name).known(request.timeout).await?;
        let Some(index) = self.selector.pick(&instances) else {
            let message = "nobody offers this service: its participant is called again later";
            return Err(Error::new(ErrorKind::Unavailable, "saga.call", message).with_context("service", name));
        };
        let url = format!("{}/{method}", instances[index].address);
        self.caller.call(BranchRequest { url: &url, ..request }).await
    }
}

impl<C> fmt::Debug for DiscoveredBranches<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscoveredBranches").field("registry", &self.registry).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        branch::{Branch, Mode, Op},
        registry::{Instance, MemoryRegistry, RegisterOptions},
        selector::RoundRobinSelector,
    };

    /// Keeps the URLs that are called.
    #[derive(Clone, Default)]
    struct Called(Arc<Mutex<Vec<String>>>);

    #[async_trait]
    impl BranchCaller for Called {
        async fn call(&self, request: BranchRequest<'_>) -> Result<BranchAnswer> {
            self.0.lock().unwrap().push(request.url.to_owned());
            Ok(BranchAnswer::Succeeded)
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
            assert_eq!(branches.call(request).await.unwrap_err().kind(), kind, "{url}");
        }
    }
}
