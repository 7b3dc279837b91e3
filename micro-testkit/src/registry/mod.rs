//! The suite of the registry port.

mod broken;

pub use broken::{BrokenRegistry, RegistryFault};

use std::{collections::BTreeMap, sync::Arc};

use micro_core::registry::{
    Endpoint, EndpointValue, Instance, InstanceChange, InstanceWatch, RegisterOptions, Registration, Registry,
};
use tokio::time::{Instant, timeout_at};

use crate::{Fixture, eventually, unique};

/// What the registry suite runs on.
pub trait RegistryFixture: Fixture {
    /// The registry.
    fn registry(&self) -> Arc<dyn Registry>;
}

/// Makes a test of every promise of [`Registry`], or of those that are listed: a read-only
/// registry lists those that register nothing.
#[macro_export]
macro_rules! registry_conformance {
    ($fixture:ty) => {
        $crate::registry_conformance!(
            $fixture;
            a_registered_instance_is_found_by_its_service_name
            registering_an_id_again_replaces_it
            a_closed_registration_is_gone
            a_deregistered_instance_is_gone
            deregistering_what_is_not_there_is_no_error
            an_unknown_service_has_no_instances
            a_watch_begins_with_a_snapshot_and_then_tells_changes
            services_lists_each_name_once
        );
    };
    ($fixture:ty; $($promise:ident)+) => { $crate::__conformance!(registry, $fixture, $($promise)+); };
}

/// Every field comes back as it was registered, and several instances are sorted by id.
pub async fn a_registered_instance_is_found_by_its_service_name(fixture: &impl RegistryFixture) {
    let service = unique("service");
    let full = Instance::new(&*service, "127.0.0.1:9001")
        .with_id(format!("{service}-1"))
        .with_version("8.2.0")
        .with_metadata("protocol", "grpc")
        .with_metadata("zone", "östlich 1")
        .with_metadata("more.than/letters", "")
        .with_endpoints([
            Endpoint::new("Greeter.Hello")
                .with_request(EndpointValue::new("Hello", "Hello").with_values([EndpointValue::new("name", "string")]))
                .with_response(EndpointValue::new("Greeting", "Greeting")),
            Endpoint::new("Greeter.Count").with_metadata("stream", "true"),
        ]);
    let plain = Instance::new(&*service, "[::1]:9000").with_id(format!("{service}-0"));
    let _full = register(fixture, &full).await;
    let _plain = register(fixture, &plain).await;
    become_exactly(fixture, &service, &[plain, full]).await;
}

/// The later registration of an id is the one that is found, once.
pub async fn registering_an_id_again_replaces_it(fixture: &impl RegistryFixture) {
    let service = unique("service");
    let first = Instance::new(&*service, "127.0.0.1:9000");
    let _first = register(fixture, &first).await;
    become_exactly(fixture, &service, std::slice::from_ref(&first)).await;
    let second = Instance::new(&*service, "127.0.0.1:9001").with_id(first.id).with_version("2");
    let _second = register(fixture, &second).await;
    become_exactly(fixture, &service, &[second]).await;
}

/// A closed registration is not found any more, and neither is a dropped one, soon.
pub async fn a_closed_registration_is_gone(fixture: &impl RegistryFixture) {
    let service = unique("service");
    let [closed, dropped] = ["127.0.0.1:9000", "127.0.0.1:9001"].map(|address| Instance::new(&*service, address));
    let closing = register(fixture, &closed).await;
    let dropping = register(fixture, &dropped).await;
    assert_eq!(closing.instance(), &closed);
    closing.close().await.expect("a registration closes");
    become_exactly(fixture, &service, &[dropped]).await;
    drop(dropping);
    become_exactly(fixture, &service, &[]).await;
}

/// Withdrawing names that never were is no error.
pub async fn deregistering_what_is_not_there_is_no_error(fixture: &impl RegistryFixture) {
    let registry = fixture.registry();
    registry.deregister(&unique("service"), &unique("id")).await.expect("withdrawing what never was");
}

/// An instance can be withdrawn by its names, without its registration.
pub async fn a_deregistered_instance_is_gone(fixture: &impl RegistryFixture) {
    let instance = Instance::new(unique("service"), "127.0.0.1:9000");
    let _registration = register(fixture, &instance).await;
    become_exactly(fixture, &instance.service, std::slice::from_ref(&instance)).await;
    fixture.registry().deregister(&instance.service, &instance.id).await.expect("an instance is withdrawn");
    become_exactly(fixture, &instance.service, &[]).await;
}

/// An unknown service has an empty list, which is no error.
pub async fn an_unknown_service_has_no_instances(fixture: &impl RegistryFixture) {
    let instances = fixture.registry().instances(&unique("service")).await.expect("an unknown service is no error");
    assert_eq!(instances, []);
}

/// First a snapshot, then every change, those made while the watch began among them.
pub async fn a_watch_begins_with_a_snapshot_and_then_tells_changes(fixture: &impl RegistryFixture) {
    let service = unique("service");
    let instances = [0, 1, 2].map(|number| Instance::new(&*service, format!("127.0.0.1:900{number}")));
    let registry = fixture.registry();
    let _first = register(fixture, &instances[0]).await;
    become_exactly(fixture, &service, &instances[..1]).await;

    let (watch, _second) = tokio::join!(registry.watch(&service), register(fixture, &instances[1]));
    let mut view = View::begin(watch.expect("a watch begins"), fixture).await;
    view.becomes(&instances[..2]).await;

    let third = register(fixture, &instances[2]).await;
    view.becomes(&instances).await;

    let moved = Instance::new(&*service, "127.0.0.1:9009").with_id(&*instances[1].id);
    let _moved = register(fixture, &moved).await;
    view.becomes(&[instances[0].clone(), moved.clone(), instances[2].clone()]).await;

    third.close().await.expect("a registration closes");
    view.becomes(&[instances[0].clone(), moved]).await;
}

/// Every service that has instances, each name once, sorted.
pub async fn services_lists_each_name_once(fixture: &impl RegistryFixture) {
    let names = [unique("service-a"), unique("service-b")];
    let mut registrations = Vec::new();
    for name in [&names[1], &names[0], &names[0]] {
        registrations.push(register(fixture, &Instance::new(name, "127.0.0.1:9000")).await);
    }
    let registry = fixture.registry();
    eventually(fixture.patience(), "services lists both names once, sorted", || async {
        let services = registry.services().await.map_err(|error| vec![error.report()])?;
        let is_ours = |name: &&String| names.contains(name);
        let is_right = services.iter().filter(is_ours).eq(&names) && services.is_sorted();
        if is_right { Ok(()) } else { Err(services) }
    })
    .await;
}

async fn register(fixture: &impl RegistryFixture, instance: &Instance) -> Registration {
    fixture.registry().register(instance.clone(), RegisterOptions::default()).await.expect("an instance registers")
}

async fn become_exactly(fixture: &impl RegistryFixture, service: &str, expected: &[Instance]) {
    let registry = fixture.registry();
    let what = format!("the instances are {expected:?}");
    eventually(fixture.patience(), &what, || async {
        let instances = registry.instances(service).await.map_err(|error| error.report())?;
        if instances == expected { Ok(()) } else { Err(format!("{instances:?}")) }
    })
    .await;
}

/// What a watcher knows from what it was told.
struct View {
    watch: InstanceWatch,
    instances: BTreeMap<String, Instance>,
    patience: std::time::Duration,
}

impl View {
    async fn begin(watch: InstanceWatch, fixture: &impl RegistryFixture) -> Self {
        let mut view = Self { watch, instances: BTreeMap::new(), patience: fixture.patience() };
        let first = view.next(Instant::now() + view.patience, "a watch tells something").await;
        assert!(matches!(first, InstanceChange::Snapshot(_)), "a watch begins with {first:?}");
        view.apply(first);
        view
    }

    async fn becomes(&mut self, expected: &[Instance]) {
        let end = Instant::now() + self.patience;
        let expected: BTreeMap<_, _> = expected.iter().map(|known| (known.id.clone(), known.clone())).collect();
        while self.instances != expected {
            let what = format!("the watch tells {expected:?}, told so far: {:?}", self.instances);
            let change = self.next(end, &what).await;
            self.apply(change);
        }
    }

    async fn next(&mut self, end: Instant, what: &str) -> InstanceChange {
        match timeout_at(end, self.watch.next()).await {
            Ok(Some(change)) => change,
            Ok(None) => panic!("{what}: the watch ended"),
            Err(_) => panic!("{what}: not within {:?}", self.patience),
        }
    }

    fn apply(&mut self, change: InstanceChange) {
        match change {
            InstanceChange::Snapshot(instances) => {
                self.instances = instances.into_iter().map(|known| (known.id.clone(), known)).collect();
            }
            InstanceChange::Put(instance) => drop(self.instances.insert(instance.id.clone(), instance)),
            InstanceChange::Removed(id) => drop(self.instances.remove(&id)),
            InstanceChange::Stale(_) => {}
            other => panic!("a change the suite does not know: {other:?}"),
        }
    }
}
