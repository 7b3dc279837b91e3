//! Registered instances while leases end, stores are wiped and processes are killed.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use etcd_client::{DeleteOptions, GetOptions};
use micro_core::registry::{Instance, InstanceChange, InstanceWatch, RegisterOptions, Registry as _};
use micro_etcd::{EtcdConfig, EtcdRegistry};
use micro_testkit::{eventually, ready, unique};

use crate::server::{Own, PATIENCE, Shared, becomes, blocking, client, lasting, quick};

/// Names the server to the process that registers and is killed.
const KILLED_URL: &str = "MICRO_TEST_KILLED_URL";
const KILLED_SERVICE: &str = "MICRO_TEST_KILLED_SERVICE";

/// How long an instance is seen that is [`renewed`].
const LIVES: Duration = Duration::from_secs(12);

/// A lease that ends within [`LIVES`] unless heartbeats come.
fn renewed() -> RegisterOptions {
    let mut options = quick();
    options.ttl = Duration::from_secs(8);
    options
}

/// The lease of a service's only key.
async fn lease_of(client: &mut etcd_client::Client, service: &str) -> i64 {
    let options = GetOptions::new().with_prefix();
    let answer = client.get(format!("/micro/registry/{service}/"), Some(options)).await.unwrap();
    answer.kvs().first().expect("the service has a key").lease()
}

/// Waits until a watch tells that an instance is gone, however soon the next heartbeat brings it back.
async fn removed(watch: &mut InstanceWatch, id: &str) {
    loop {
        let change = tokio::time::timeout(PATIENCE, watch.next()).await.expect("it goes").expect("the watch goes on");
        match change {
            InstanceChange::Removed(gone) if gone == id => return,
            InstanceChange::Snapshot(instances) if instances.is_empty() => return,
            _ => {}
        }
    }
}

#[tokio::test]
async fn an_instance_lives_for_longer_than_its_ttl_while_heartbeats_come() {
    let Some(shared) = ready::<Shared>().await else { return };
    let instance = Instance::new(unique("beating"), "127.0.0.1:9000");
    let registration = shared.registry.register(instance.clone(), renewed()).await.unwrap();
    let mut watch = shared.registry.watch(&instance.service).await.unwrap();
    watch.next().await.expect("a snapshot comes");
    let change = tokio::time::timeout(LIVES, watch.next()).await;
    assert!(change.is_err(), "{change:?}");
    registration.close().await.unwrap();
}

#[tokio::test]
async fn a_lease_that_ended_is_granted_again_and_a_deleted_key_comes_back_under_a_lease() {
    let Some(shared) = ready::<Shared>().await else { return };
    let instance = Instance::new(unique("lost"), "127.0.0.1:9000");
    let live = std::slice::from_ref(&instance);
    let registration = shared.registry.register(instance.clone(), lasting()).await.unwrap();
    let mut client = client(&shared.url).await;
    let first = lease_of(&mut client, &instance.service).await;

    // The key goes with its lease, at once.
    client.lease_client().revoke(first).await.unwrap();
    becomes(&shared.registry, &instance.service, live).await;
    assert_ne!(lease_of(&mut client, &instance.service).await, first);

    let all = DeleteOptions::new().with_prefix();
    client.delete(format!("/micro/registry/{}/", instance.service), Some(all)).await.unwrap();
    becomes(&shared.registry, &instance.service, live).await;
    assert!(lease_of(&mut client, &instance.service).await > 0);
    registration.close().await.unwrap();
    becomes(&shared.registry, &instance.service, &[]).await;
}

#[tokio::test]
async fn what_a_wiped_etcd_forgot_is_registered_again_within_a_heartbeat_of_its_return() {
    let Some(own) = ready::<Own>().await else { return };
    let registry = own.registry().await;
    let instance = Instance::new("greeter", "127.0.0.1:9000");
    let mut options = lasting();
    options.ttl = Duration::from_secs(40);
    let _registration = registry.register(instance.clone(), options.clone()).await.unwrap();
    let own = own.kill().await;
    let data = own.server.folder().join("data/member");
    blocking(move || std::fs::remove_dir_all(data).expect("the data are there")).await;
    let own = own.restart().await;
    let back = Instant::now();
    becomes(&registry, "greeter", &[instance]).await;
    // Not by the end of the lease, nor near it.
    assert!(back.elapsed() < options.ttl / 2, "{:?}", back.elapsed());
    drop(own);
}

#[tokio::test]
async fn a_process_that_comes_back_takes_its_key_over_with_the_lease() {
    let Some(shared) = ready::<Shared>().await else { return };
    let instance = Instance::new(unique("adopted"), "127.0.0.1:9000");
    let mut client = client(&shared.url).await;
    let first = shared.registry.register(instance.clone(), lasting()).await.unwrap();
    let lease = lease_of(&mut client, &instance.service).await;

    let again = EtcdRegistry::connect(EtcdConfig::from_url(&shared.url).unwrap()).await.unwrap();
    let second = again.register(instance.clone(), lasting()).await.unwrap();
    assert_eq!(lease_of(&mut client, &instance.service).await, lease);
    let mut watch = shared.registry.watch(&instance.service).await.unwrap();
    std::mem::drop(second);
    removed(&mut watch, &instance.id).await;
    // Who granted the lease keeps it, and with it the key: the process is still there.
    becomes(&shared.registry, &instance.service, std::slice::from_ref(&instance)).await;

    // A lease of another TTL is no use: this one would keep the instance too long.
    let mut longer = RegisterOptions::default();
    longer.ttl = Duration::from_secs(60);
    let other = Instance::new(unique("adopted"), "127.0.0.1:9000");
    let third = again.register(other.clone(), longer).await.unwrap();
    let lease = lease_of(&mut client, &other.service).await;
    let fourth = shared.registry.register(other.clone(), lasting()).await.unwrap();
    assert_ne!(lease_of(&mut client, &other.service).await, lease);
    third.close().await.unwrap();
    assert_eq!(shared.registry.instances(&other.service).await.unwrap(), [other], "it was another one's by then");
    fourth.close().await.unwrap();
    first.close().await.unwrap();
}

#[tokio::test]
async fn a_replaced_registration_withdraws_nothing_of_its_successor() {
    let Some(shared) = ready::<Shared>().await else { return };
    let service = unique("replaced");
    let first = Instance::new(&*service, "127.0.0.1:9000");
    let second = Instance::new(&*service, "127.0.0.1:9001").with_id(&*first.id);
    let closing = shared.registry.register(first, lasting()).await.unwrap();
    let second_registration = shared.registry.register(second.clone(), lasting()).await.unwrap();
    closing.close().await.unwrap();
    becomes(&shared.registry, &service, std::slice::from_ref(&second)).await;

    // Another process's registry knows nothing of the generations of this one.
    let other = EtcdRegistry::connect(EtcdConfig::from_url(&shared.url).unwrap()).await.unwrap();
    let third = Instance::new(&*service, "127.0.0.1:9002").with_id(&*second.id);
    let _third = other.register(third.clone(), lasting()).await.unwrap();
    second_registration.close().await.unwrap();
    becomes(&shared.registry, &service, &[third]).await;
}

#[tokio::test]
async fn the_same_instance_registered_twice_lives_until_the_second_ends() {
    let Some(shared) = ready::<Shared>().await else { return };
    let instance = Instance::new(unique("twice"), "127.0.0.1:9000");
    let live = std::slice::from_ref(&instance);
    let first = shared.registry.register(instance.clone(), renewed()).await.unwrap();
    let second = shared.registry.register(instance.clone(), renewed()).await.unwrap();
    first.close().await.unwrap();
    assert_eq!(shared.registry.instances(&instance.service).await.unwrap(), live);
    let closed = Instant::now();
    eventually(PATIENCE, "it lives for longer than its TTL", || async {
        assert_eq!(shared.registry.instances(&instance.service).await.unwrap(), live);
        closed.elapsed() > LIVES
    })
    .await;
    second.close().await.unwrap();
    becomes(&shared.registry, &instance.service, &[]).await;
}

#[tokio::test]
async fn what_was_deregistered_here_stays_away_and_what_somebody_else_withdrew_comes_back() {
    let Some(shared) = ready::<Shared>().await else { return };
    let other = EtcdRegistry::connect(EtcdConfig::from_url(&shared.url).unwrap()).await.unwrap();
    let instance = Instance::new(unique("withdrawn"), "127.0.0.1:9000");
    let (service, live) = (&*instance.service, std::slice::from_ref(&instance));
    let _registration = shared.registry.register(instance.clone(), lasting()).await.unwrap();
    becomes(&other, service, live).await;

    other.deregister("another service", &instance.id).await.unwrap();
    assert_eq!(other.instances(service).await.unwrap(), live, "the id of another service is not meant");
    let mut watch = other.watch(service).await.unwrap();
    other.deregister(service, &instance.id).await.unwrap();
    removed(&mut watch, &instance.id).await;
    becomes(&other, service, live).await;

    shared.registry.deregister(service, &instance.id).await.unwrap();
    becomes(&other, service, &[]).await;
    let gone = Instant::now();
    eventually(PATIENCE, "it stays away for four heartbeats", || async {
        assert_eq!(other.instances(service).await.unwrap(), []);
        gone.elapsed() > lasting().heartbeat * 4
    })
    .await;
}

#[tokio::test]
async fn a_killed_process_vanishes_after_its_ttl() {
    let Some(shared) = ready::<Shared>().await else { return };
    let service = unique("killed");
    let this = std::env::current_exe().unwrap();
    let (url, name) = (shared.url.clone(), service.clone());
    let (mut child, seen) = blocking(move || {
        let mut child = Command::new(this)
            .args(["leases::registers_until_it_is_killed", "--exact", "--nocapture"])
            .env(KILLED_URL, url)
            .env(KILLED_SERVICE, name)
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program runs again");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let seen = output.lines().map_while(Result::ok).any(|line| line.contains("registered"));
        (child, seen)
    })
    .await;
    assert!(seen, "the process says that it registered");
    eventually(PATIENCE, "the instance is there", || async {
        shared.registry.instances(&service).await.is_ok_and(|instances| instances.len() == 1)
    })
    .await;
    child.kill().unwrap();
    child.wait().unwrap();
    let killed = Instant::now();
    becomes(&shared.registry, &service, &[]).await;
    // etcd looks for leases that ended every half second.
    let limit = quick().ttl + Duration::from_secs(10);
    assert!(killed.elapsed() < limit, "{:?}", killed.elapsed());
}

/// No test of its own: what the process does that is killed.
#[tokio::test]
async fn registers_until_it_is_killed() {
    let (Ok(url), Ok(service)) = (std::env::var(KILLED_URL), std::env::var(KILLED_SERVICE)) else { return };
    let registry = EtcdRegistry::connect(EtcdConfig::from_url(&url).unwrap()).await.unwrap();
    let _registration = registry.register(Instance::new(service, "127.0.0.1:9000"), quick()).await.unwrap();
    println!("registered");
    std::future::pending::<()>().await;
}

#[test]
fn a_registration_dropped_without_its_runtime_vanishes_after_its_ttl() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let first = runtime();
    let Some(shared) = first.block_on(ready::<Shared>()) else { return };
    let instance = Instance::new(unique("dropped"), "127.0.0.1:9000");
    let registration = first.block_on(shared.registry.register(instance.clone(), quick())).unwrap();
    first.block_on(becomes(&shared.registry, &instance.service, std::slice::from_ref(&instance)));
    // No runtime is entered here: nobody can withdraw it, and its heartbeats must end.
    drop(registration);
    first.block_on(becomes(&shared.registry, &instance.service, &[]));
}

#[tokio::test]
async fn a_heartbeat_that_comes_too_late_is_refused_with_its_reason() {
    let Some(shared) = ready::<Shared>().await else { return };
    let mut options = RegisterOptions::default();
    options.heartbeat = options.ttl;
    let error = shared.registry.register(Instance::new(unique("late"), "a:1"), options).await.unwrap_err();
    assert_eq!(error.kind(), micro_core::ErrorKind::InvalidArgument);
}
