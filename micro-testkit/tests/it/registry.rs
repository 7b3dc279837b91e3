//! The registry suite against honest and broken registries.

use std::{sync::Arc, time::Duration};

use micro_core::registry::{MemoryRegistry, Registry};
use micro_testkit::{
    Fixture, Missing, breaks,
    registry::{self, BrokenRegistry, RegistryFault, RegistryFixture},
};

struct Registering(Arc<BrokenRegistry>);

impl Registering {
    fn with(fault: impl Into<Option<RegistryFault>>) -> Self {
        Self(Arc::new(BrokenRegistry::new(Arc::new(MemoryRegistry::new()), fault)))
    }
}

impl Fixture for Registering {
    async fn start() -> Result<Self, Missing> {
        Ok(Self::with(None))
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(5)
    }
}

impl RegistryFixture for Registering {
    fn registry(&self) -> Arc<dyn Registry> {
        self.0.clone()
    }
}

mod unbroken {
    micro_testkit::registry_conformance!(super::Registering);
}

/// A test that `promise` fails for each fault, with time paused: the patience costs nothing.
macro_rules! can_fail {
    ($test:ident: $promise:ident, $($fault:ident => $reason:literal),+) => {
        #[tokio::test(start_paused = true)]
        async fn $test() {
            $(
                let fixture = Registering::with(RegistryFault::$fault);
                let reason = breaks(stringify!($promise), registry::$promise(&fixture)).await;
                assert!(reason.contains($reason), "{}: {reason}", stringify!($fault));
            )+
        }
    };
}

can_fail!(
    a_registered_instance_is_found_by_its_service_name_can_fail: a_registered_instance_is_found_by_its_service_name,
    LosesMetadata => "the instances are",
    ListsUnsorted => "the instances are"
);
can_fail!(
    registering_an_id_again_replaces_it_can_fail: registering_an_id_again_replaces_it,
    KeepsTheFirst => "the instances are"
);
can_fail!(
    a_closed_registration_is_gone_can_fail: a_closed_registration_is_gone,
    ClosesNothing => "the instances are"
);
can_fail!(
    a_deregistered_instance_is_gone_can_fail: a_deregistered_instance_is_gone,
    DeregistersNothing => "the instances are []"
);
can_fail!(
    deregistering_what_is_not_there_is_no_error_can_fail: deregistering_what_is_not_there_is_no_error,
    MissesWhatIsNotThere => "withdrawing what never was"
);
can_fail!(
    an_unknown_service_has_no_instances_can_fail: an_unknown_service_has_no_instances,
    MissesUnknownServices => "an unknown service is no error"
);
can_fail!(
    a_watch_can_fail: a_watch_begins_with_a_snapshot_and_then_tells_changes,
    WatchesWithoutSnapshot => "a watch begins with Put",
    HidesRemovals => "the watch tells",
    BeginsLate => "the watch tells"
);
can_fail!(
    services_lists_each_name_once_can_fail: services_lists_each_name_once,
    RepeatsNames => "services lists both names once, sorted"
);
