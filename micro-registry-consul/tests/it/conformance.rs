//! The suite of the registry port on Consul.

use std::sync::Arc;

use micro_core::registry::Registry;
use micro_testkit::registry::RegistryFixture;

use crate::agent::Shared as ConsulFixture;

impl RegistryFixture for ConsulFixture {
    fn registry(&self) -> Arc<dyn Registry> {
        Arc::new(self.registry.clone())
    }
}

micro_testkit::registry_conformance!(ConsulFixture);
