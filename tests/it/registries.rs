//! Registrations of go-micro v4 and ours in the same registry: each sees the other's come, change and go.

use std::{sync::Arc, time::Duration};

use dev_servers::Kind;
use micro_rs::{
    backends,
    core::registry::{Endpoint, EndpointValue, Instance, InstanceChange, RegisterOptions, Registry},
};
use micro_testkit::{Fixture, Missing, eventually, unique};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::peer::{PATIENCE, Peer};

/// A registry that tests share, and how go-peer names it.
pub(crate) struct Shared<const IS_ETCD: bool> {
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) url: String,
}

impl<const IS_ETCD: bool> Fixture for Shared<IS_ETCD> {
    async fn start() -> Result<Self, Missing> {
        let kind = if IS_ETCD { Kind::Etcd } else { Kind::Consul };
        let shared = move || dev_servers::go_peer().and_then(|_| dev_servers::shared(kind));
        let url = blocking(shared).await.map_err(Missing::new)?;
        let registry = backends::registry(&url).await.map_err(|error| Missing::new(error.report()))?;
        Ok(Self { registry, url })
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

/// Makes each of the functions a test on each registry that is compiled in.
macro_rules! on_each_registry {
    ($($test:ident)+) => {
        #[cfg(feature = "registry-consul")]
        mod consul {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    if let Some(shared) = micro_testkit::ready::<super::Shared<false>>().await {
                        super::$test(&shared.registry, &shared.url).await;
                    }
                }
            )+
        }

        #[cfg(feature = "registry-etcd")]
        mod etcd {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    if let Some(shared) = micro_testkit::ready::<super::Shared<true>>().await {
                        super::$test(&shared.registry, &shared.url).await;
                    }
                }
            )+
        }
    };
}

pub(crate) use on_each_registry;

on_each_registry! {
    go_looks_up_what_rust_registered_with_version_metadata_and_endpoints
    rust_looks_up_what_go_registered_with_version_metadata_and_endpoints
    go_is_told_of_what_rust_registers_changes_and_withdraws
    rust_is_told_of_what_go_registers_changes_and_withdraws
    a_rust_process_that_ends_without_a_word_is_gone_for_go_after_its_ttl
    a_go_process_that_is_killed_is_gone_for_rust_after_its_ttl
    versions_of_one_service_are_kept_apart_by_both
    the_endpoints_of_a_go_service_are_those_that_rust_tells_of_the_same_proto
}

async fn go_looks_up_what_rust_registered_with_version_metadata_and_endpoints(registry: &Arc<dyn Registry>, url: &str) {
    let instance = full(unique("rust"));
    let registration = registry.register(instance.clone(), lasting()).await.unwrap();
    go_finds(url, &instance.service, &json!([service(&instance)])).await;
    let names = eventually(PATIENCE, "go-micro lists services", || once(url, "services", &[])).await;
    assert!(names["names"].as_array().unwrap().contains(&json!(instance.service)), "{names}");

    let changed = instance.clone().with_metadata("zone", "b").with_version("8.3.0");
    let second = registry.register(changed.clone(), lasting()).await.unwrap();
    go_finds(url, &instance.service, &json!([service(&changed)])).await;
    second.close().await.unwrap();
    go_finds(url, &instance.service, &Value::Null).await;
    drop(registration);
}

async fn rust_looks_up_what_go_registered_with_version_metadata_and_endpoints(registry: &Arc<dyn Registry>, url: &str) {
    let instance = full(unique("go"));
    let mut go = registering(url).await;
    go_registers(&mut go, &instance).await;
    becomes(registry, &instance.service, std::slice::from_ref(&instance)).await;
    assert!(registry.services().await.unwrap().contains(&instance.service));

    // go-micro's etcd plugin looks at the node alone to see whether there is anything new to write.
    let changed = instance.clone().with_metadata("zone", "b").with_version("8.3.0");
    go_registers(&mut go, &changed).await;
    becomes(registry, &instance.service, std::slice::from_ref(&changed)).await;
    go.end();
    becomes(registry, &instance.service, &[]).await;
}

async fn go_is_told_of_what_rust_registers_changes_and_withdraws(registry: &Arc<dyn Registry>, url: &str) {
    let instance = full(unique("rust"));
    let mut go = start(&["watch", "--registry", url, "--service", &instance.service]).await;
    assert_eq!(go.told().await, json!({"watching": instance.service}));
    let first = registry.register(instance.clone(), lasting()).await.unwrap();
    assert_eq!(told_until(&mut go, "create").await, service(&instance));
    let changed = instance.clone().with_metadata("zone", "b");
    let second = registry.register(changed.clone(), lasting()).await.unwrap();
    assert_eq!(told_until(&mut go, "update").await, service(&changed));
    second.close().await.unwrap();
    assert_eq!(told_until(&mut go, "delete").await["nodes"][0]["id"], json!(instance.id));
    drop(first);
}

async fn rust_is_told_of_what_go_registers_changes_and_withdraws(registry: &Arc<dyn Registry>, url: &str) {
    let instance = full(unique("go"));
    let mut watch = registry.watch(&instance.service).await.unwrap();
    let mut go = registering(url).await;
    let mut known = Vec::new();
    let changed = instance.clone().with_metadata("zone", "b");
    for expected in [Some(&instance), Some(&changed), None] {
        match expected {
            Some(next) => go_registers(&mut go, next).await,
            None => go.end(),
        }
        let expected: Vec<_> = expected.into_iter().cloned().collect();
        while known != expected {
            let change = tokio::time::timeout(PATIENCE, watch.next()).await.expect("in time").expect("it goes on");
            match change {
                InstanceChange::Snapshot(all) => known = all,
                InstanceChange::Put(one) => known = vec![one],
                InstanceChange::Removed(_) => known.clear(),
                InstanceChange::Stale(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

async fn a_rust_process_that_ends_without_a_word_is_gone_for_go_after_its_ttl(_: &Arc<dyn Registry>, url: &str) {
    let instance = full(unique("rust"));
    let (registered, address) = (instance.clone(), url.to_owned());
    let (ending, end) = oneshot::channel::<()>();
    // The runtime's end takes the heartbeats along, and nobody can withdraw anything.
    let process = tokio::spawn(blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let registry = backends::registry(&address).await.unwrap();
            let registration = registry.register(registered, quick()).await.unwrap();
            let _ = end.await;
            registration
        })
    }));
    go_finds(url, &instance.service, &json!([service(&instance)])).await;
    drop(ending);
    let registration = process.await.unwrap();
    let gone = |found: &Value| match found["services"].as_array() {
        None => true,
        // Consul keeps a critical instance for a minute, which go-micro shows as a service without nodes.
        Some(services) => services.iter().all(|service| service["nodes"].is_null()),
    };
    eventually(PATIENCE, "the instance is gone for go-micro", || async {
        match once(url, "lookup", &["--service", &instance.service]).await {
            Some(found) if gone(&found) => Ok(()),
            found => Err(found),
        }
    })
    .await;
    blocking(move || drop(registration)).await;
}

async fn a_go_process_that_is_killed_is_gone_for_rust_after_its_ttl(registry: &Arc<dyn Registry>, url: &str) {
    let instance = full(unique("go"));
    let mut go = registering_for(url, "8s").await;
    go_registers(&mut go, &instance).await;
    becomes(registry, &instance.service, std::slice::from_ref(&instance)).await;
    let lives_until = std::time::Instant::now() + Duration::from_secs(16);
    eventually(PATIENCE, "it lives for two TTLs", || async {
        let found = registry.instances(&instance.service).await.map_err(|error| error.report())?;
        assert_eq!(found.len(), 1);
        if std::time::Instant::now() > lives_until { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    go.kill();
    becomes(registry, &instance.service, &[]).await;
}

async fn versions_of_one_service_are_kept_apart_by_both(registry: &Arc<dyn Registry>, url: &str) {
    let name = unique("versions");
    let ours = full(name.clone()).with_version("1");
    let theirs = full(name.clone()).with_version("2").with_endpoints([Endpoint::new("Greeter.New")]);
    let _registration = registry.register(ours.clone(), lasting()).await.unwrap();
    let mut go = registering(url).await;
    go_registers(&mut go, &theirs).await;
    let mut both = vec![ours.clone(), theirs.clone()];
    both.sort_by(|a, b| a.id.cmp(&b.id));
    becomes(registry, &name, &both).await;
    go_finds(url, &name, &json!([service(&ours), service(&theirs)])).await;
}

/// Fields of every kind that proto3 has are among them, and streams.
async fn the_endpoints_of_a_go_service_are_those_that_rust_tells_of_the_same_proto(
    registry: &Arc<dyn Registry>,
    url: &str,
) {
    let service = unique("served");
    let mut go = start(&["serve", "--registry", url, "--service", &service]).await;
    let ready = go.told().await;
    assert_eq!(ready["ready"]["service"], json!(service), "{ready}");
    let served = eventually(PATIENCE, "it is the one instance", || async {
        let found = registry.instances(&service).await.map_err(|error| error.report())?;
        <[_; 1]>::try_from(found).map_err(|found| format!("{found:?}"))
    });
    let [served] = served.await;
    assert_eq!(served.metadata["protocol"], "grpc");

    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/go-peer/pb");
    let descriptors = protox::compile(["greeter.proto"], [folder]).unwrap();
    let descriptors = prost::Message::encode_to_vec(&descriptors);
    let expected = micro_rs::grpc::endpoints_of([&*descriptors], &["peer.Greeter"]).unwrap();
    assert_eq!(expected.len(), 8);
    let json = |endpoints: &[Endpoint]| serde_json::to_string_pretty(endpoints).unwrap();
    assert_eq!(json(&served.endpoints), json(&expected));
}

/// An instance with all that one can have.
fn full(service: String) -> Instance {
    let value = |name: &str| EndpointValue::new(name, name);
    let hello = value("HelloRequest")
        .with_values([EndpointValue::new("name", "string"), EndpointValue::new("payload", "[]uint8")]);
    Instance::new(service, "127.0.0.1:9000")
        .with_version("8.2.0")
        .with_metadata("protocol", "grpc")
        .with_metadata("zone", "östlich 1")
        .with_endpoints([
            Endpoint::new("Greeter.Count")
                .with_request(value("Context"))
                .with_response(value("Stream"))
                .with_metadata("stream", "true"),
            Endpoint::new("Greeter.Hello").with_request(hello).with_response(value("HelloResponse")),
        ])
}

/// As go-micro prints a service with one node.
fn service(instance: &Instance) -> Value {
    json!({
        "name": instance.service, "version": instance.version, "metadata": null, "endpoints": *instance.endpoints,
        "nodes": [{"metadata": instance.metadata, "id": instance.id, "address": instance.address}],
    })
}

/// A TTL that nothing here outlasts.
fn lasting() -> RegisterOptions {
    let mut options = quick();
    options.ttl = Duration::from_secs(30);
    options
}

/// The shortest that both registries take.
fn quick() -> RegisterOptions {
    let mut options = RegisterOptions::default();
    options.ttl = Duration::from_secs(3);
    options.heartbeat = Duration::from_secs(1);
    options
}

async fn start(arguments: &[&str]) -> Peer {
    let arguments: Vec<_> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let program = || dev_servers::go_peer().expect("the fixture had it built");
    blocking(move || Peer::start(&program(), &arguments.iter().map(String::as_str).collect::<Vec<_>>())).await
}

/// What it tells of the first change of this kind that has nodes.
async fn told_until(peer: &mut Peer, action: &str) -> Value {
    loop {
        let told = peer.told().await;
        if told["action"] == action && !told["service"]["nodes"].is_null() {
            return told["service"].clone();
        }
        // Consul's watcher tells what it knows as an update now and then, and an empty one at the end.
        assert!(told["action"] == "update", "{told}");
    }
}

/// What a subcommand tells that tells one thing; `None` where its registry did not answer it.
async fn once(url: &str, command: &str, arguments: &[&str]) -> Option<Value> {
    start(&[&[command, "--registry", url], arguments].concat()).await.told_if_it_goes_on().await
}

/// A process that registers what it is told.
async fn registering(url: &str) -> Peer {
    registering_for(url, "30s").await
}

async fn registering_for(url: &str, ttl: &str) -> Peer {
    start(&["register", "--registry", url, "--ttl", ttl]).await
}

async fn go_registers(go: &mut Peer, instance: &Instance) {
    go.tell(&service(instance));
    let told = go.told().await;
    assert_eq!(told, json!({"registered": instance.id}));
}

/// Waits until go-micro finds exactly this, its versions sorted.
async fn go_finds(url: &str, name: &str, expected: &Value) {
    eventually(PATIENCE, &format!("go-micro finds {expected}"), || async {
        let mut found = once(url, "lookup", &["--service", name]).await.ok_or("no answer")?["services"].take();
        if let Some(versions) = found.as_array_mut() {
            versions.sort_by_key(|service| service["version"].to_string());
        }
        if found == *expected { Ok(()) } else { Err(found.to_string()) }
    })
    .await;
}

async fn becomes(registry: &Arc<dyn Registry>, service: &str, expected: &[Instance]) {
    eventually(PATIENCE, &format!("the instances are {expected:?}"), || async {
        let instances = registry.instances(service).await.map_err(|error| error.report())?;
        if instances == expected { Ok(()) } else { Err(format!("{instances:?}")) }
    })
    .await;
}

/// Runs what blocks beside the runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("it does not panic")
}
