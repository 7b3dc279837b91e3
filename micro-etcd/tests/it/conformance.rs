//! The suite of the registry port on etcd.

use std::sync::Arc;

use micro_core::registry::Registry;
use micro_testkit::registry::RegistryFixture;

use crate::server::Shared as EtcdFixture;

impl RegistryFixture for EtcdFixture {
    fn registry(&self) -> Arc<dyn Registry> {
        Arc::new(self.registry.clone())
    }
}

micro_testkit::registry_conformance!(EtcdFixture);
