//! Watches while etcd is away, and what a cache over them serves meanwhile.

use std::{sync::Arc, time::Duration};

use micro_core::registry::{CachedRegistry, Instance, InstanceChange, InstanceWatch, Registry as _};
use micro_testkit::{eventually, ready, unique};
use tokio::time::timeout;

use crate::server::{Own, PATIENCE, Shared, becomes, client, lasting};

async fn next(watch: &mut InstanceWatch) -> InstanceChange {
    timeout(PATIENCE, watch.next()).await.expect("the watch tells something in time").expect("the watch goes on")
}

#[tokio::test]
async fn changes_are_told_one_by_one_and_what_says_nothing_new_is_not_told() {
    let Some(shared) = ready::<Shared>().await else { return };
    let instance = Instance::new(unique("watched"), "127.0.0.1:9000").with_version("1");
    let mut watch = shared.registry.watch(&instance.service).await.unwrap();
    assert_eq!(next(&mut watch).await, InstanceChange::Snapshot(Vec::new()));
    let first = shared.registry.register(instance.clone(), lasting()).await.unwrap();
    assert_eq!(next(&mut watch).await, InstanceChange::Put(instance.clone()));
    // Written again as it stands there.
    let mut client = client(&shared.url).await;
    let key = format!("/micro/registry/{}/{}", instance.service, instance.id);
    let held = client.get(key.clone(), None).await.unwrap().kvs()[0].clone();
    let options = etcd_client::PutOptions::new().with_lease(held.lease());
    client.put(key, held.value(), Some(options)).await.unwrap();

    let changed = instance.clone().with_version("2");
    let second = shared.registry.register(changed.clone(), lasting()).await.unwrap();
    assert_eq!(next(&mut watch).await, InstanceChange::Put(changed));
    second.close().await.unwrap();
    assert_eq!(next(&mut watch).await, InstanceChange::Removed(instance.id));
    drop(first);
}

#[tokio::test]
async fn while_etcd_is_away_a_watch_says_so_once_and_goes_on_when_it_is_back() {
    let Some(own) = ready::<Own>().await else { return };
    let registry = own.registry().await;
    let instance = Instance::new("greeter", "127.0.0.1:9000");
    let live = vec![instance.clone()];
    let _registration = registry.register(instance.clone(), lasting()).await.unwrap();
    let mut watch = registry.watch("greeter").await.unwrap();
    assert_eq!(next(&mut watch).await, InstanceChange::Snapshot(live.clone()));

    let own = own.kill().await;
    let InstanceChange::Stale(reason) = next(&mut watch).await else { panic!("the watch says that it is stale") };
    assert!(reason.contains("backend=etcd") && reason.contains("127.0.0.1"), "{reason}");
    let quiet = timeout(Duration::from_secs(4), watch.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");

    let own = own.restart().await;
    let mut told = next(&mut watch).await;
    while let InstanceChange::Stale(_) = told {
        // It listens before it answers.
        told = next(&mut watch).await;
    }
    let InstanceChange::Snapshot(mut instances) = told else { panic!("a snapshot comes first: {told:?}") };
    while instances != live {
        // The lease may have ended before the heartbeat that renews it.
        match next(&mut watch).await {
            InstanceChange::Snapshot(all) => instances = all,
            InstanceChange::Put(instance) => instances = vec![instance],
            _ => {}
        }
    }
    drop(own);
}

#[tokio::test]
async fn stale_instances_go_on_being_served_while_etcd_is_away() {
    let Some(own) = ready::<Own>().await else { return };
    let registry = own.registry().await;
    let instance = Instance::new("greeter", "127.0.0.1:9000");
    let _registration = registry.register(instance.clone(), lasting()).await.unwrap();
    let cache = CachedRegistry::new(Arc::new(registry));
    let greeter = cache.service("greeter");
    assert_eq!(*greeter.known(PATIENCE).await.unwrap(), std::slice::from_ref(&instance));
    let own = own.kill().await;
    eventually(PATIENCE, "the cache says why it is stale", || async { greeter.last_error().is_some() }).await;
    assert_eq!(*greeter.instances(), [instance]);
    let own = own.restart().await;
    eventually(PATIENCE, "the cache is fresh again", || async { greeter.last_error().is_none() }).await;
    drop(own);
}

#[tokio::test]
async fn a_frozen_etcd_stops_nothing_for_good() {
    let Some(own) = ready::<Own>().await else { return };
    let mut config = own.config();
    config.request_timeout = Duration::from_millis(500);
    config.keepalive_interval = Duration::from_millis(500);
    config.keepalive_timeout = Duration::from_millis(500);
    let registry = micro_etcd::EtcdRegistry::connect(config).await.unwrap();
    let instance = Instance::new("greeter", "127.0.0.1:9000");
    // A request may take longer than these times.
    let registering = async || registry.register(instance.clone(), lasting()).await.map_err(|error| error.report());
    let _registration = eventually(PATIENCE, "it is registered", registering).await;
    let watching = async || registry.watch("greeter").await.map_err(|error| error.report());
    let mut watch = eventually(PATIENCE, "it is watched", watching).await;
    next(&mut watch).await;
    own.server.pause();
    // An answer may be on its way.
    let asked = async || registry.instances("greeter").await.err().ok_or("it answers still".to_owned());
    let error = eventually(PATIENCE, "no answer", asked).await;
    assert!(error.is_retryable(), "{error:?}");
    while !matches!(next(&mut watch).await, InstanceChange::Stale(_)) {}
    own.server.resume();
    becomes(&registry, "greeter", std::slice::from_ref(&instance)).await;
    while !matches!(next(&mut watch).await, InstanceChange::Snapshot(_)) {}
}

#[tokio::test]
async fn a_dropped_watch_ends_its_task() {
    let Some(own) = ready::<Own>().await else { return };
    let registry = own.registry().await;
    let mut watch = registry.watch("greeter").await.unwrap();
    next(&mut watch).await;
    let metrics = async || {
        let url = own.server.url().trim_start_matches("etcd://").to_owned();
        let mut stream = tokio::net::TcpStream::connect(url).await.unwrap();
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let line = text.lines().find(|line| line.starts_with("etcd_debugging_mvcc_watcher_total ")).unwrap().to_owned();
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    eventually(PATIENCE, "etcd has one watcher", || async { metrics().await == 1.0 }).await;
    drop(watch);
    eventually(PATIENCE, "etcd has no watcher", || async { metrics().await == 0.0 }).await;
}
