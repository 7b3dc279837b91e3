//! The registry suite on the registries of this crate.

use std::{sync::Arc, time::Duration};

use micro_core::registry::{CachedRegistry, MemoryRegistry, Registry, StaticRegistry};
use micro_testkit::{Fixture, Missing, registry::RegistryFixture};

const PATIENCE: Duration = Duration::from_secs(5);

struct Memory(Arc<MemoryRegistry>);

impl Fixture for Memory {
    async fn start() -> Result<Self, Missing> {
        Ok(Self(Arc::new(MemoryRegistry::new())))
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

impl RegistryFixture for Memory {
    fn registry(&self) -> Arc<dyn Registry> {
        self.0.clone()
    }
}

mod memory {
    micro_testkit::registry_conformance!(super::Memory);
}

struct Cached(CachedRegistry);

impl Fixture for Cached {
    async fn start() -> Result<Self, Missing> {
        Ok(Self(CachedRegistry::new(Arc::new(MemoryRegistry::new()))))
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

impl RegistryFixture for Cached {
    fn registry(&self) -> Arc<dyn Registry> {
        Arc::new(self.0.clone())
    }
}

mod cached {
    micro_testkit::registry_conformance!(super::Cached);
}

struct Static(Arc<StaticRegistry>);

impl Fixture for Static {
    async fn start() -> Result<Self, Missing> {
        "product=127.0.0.1:9000".parse().map(|registry| Self(Arc::new(registry))).map_err(Missing::new)
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

impl RegistryFixture for Static {
    fn registry(&self) -> Arc<dyn Registry> {
        self.0.clone()
    }
}

/// What registers nothing; the rest of the port's promises is read in `static_list`'s own tests.
mod static_list {
    micro_testkit::registry_conformance!(
        super::Static;
        an_unknown_service_has_no_instances deregistering_what_is_not_there_is_no_error
    );
}
