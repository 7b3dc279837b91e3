//! Registered instances while agents and processes come and go.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use micro_core::registry::{Instance, InstanceChange, Registry as _};
use micro_registry_consul::{CheckKind, ConsulConfig, ConsulRegistry};
use micro_testkit::{eventually, ready, unique};
use tokio::{net::TcpListener, time::timeout};

use crate::agent::{Agent, PATIENCE, Shared, becomes, blocking, quick};

/// Names the agent to the process that registers and is killed.
const KILLED_URL: &str = "MICRO_TEST_KILLED_URL";
const KILLED_SERVICE: &str = "MICRO_TEST_KILLED_SERVICE";

#[tokio::test]
async fn what_a_restarted_agent_forgot_is_registered_again_within_half_a_ttl() {
    let Some(agent) = ready::<Agent>().await else { return };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let registry = agent.registry().await;
    let mut config = agent.config();
    config.check = CheckKind::Tcp;
    let checked = ConsulRegistry::connect(config).await.unwrap();
    let beating = Instance::new("beating", &*address);
    let asked = Instance::new("asked", &*address);
    let mut options = quick();
    options.ttl = Duration::from_secs(20);
    let _beating = registry.register(beating.clone(), options.clone()).await.unwrap();
    let _asked = checked.register(asked.clone(), options.clone()).await.unwrap();
    becomes(&registry, "beating", std::slice::from_ref(&beating)).await;
    becomes(&registry, "asked", std::slice::from_ref(&asked)).await;

    let agent = agent.restart().await;
    let back = Instant::now();
    becomes(&registry, "beating", &[beating]).await;
    becomes(&registry, "asked", &[asked]).await;
    // Beside half a TTL, what a busy machine needs.
    let limit = options.ttl / 2 + Duration::from_secs(20);
    assert!(back.elapsed() < limit, "{:?}", back.elapsed());
    drop(agent);
}

#[tokio::test]
async fn a_frozen_agent_stops_nothing_for_good() {
    let Some(agent) = ready::<Agent>().await else { return };
    let registry = agent.registry().await;
    let mut hasty = agent.config();
    hasty.request_timeout = Duration::from_millis(500);
    let hasty = ConsulRegistry::connect(hasty).await.unwrap();
    let instance = Instance::new("greeter", "127.0.0.1:9000");
    let live = std::slice::from_ref(&instance);
    let _registration = registry.register(instance.clone(), quick()).await.unwrap();
    becomes(&registry, "greeter", live).await;
    let mut watch = registry.watch("greeter").await.unwrap();
    watch.next().await.expect("a snapshot comes");

    agent.server.pause();
    let frozen = Instant::now();
    eventually(PATIENCE, "the agent is frozen for two TTLs", || async { frozen.elapsed() > quick().ttl * 2 }).await;
    let error = hasty.instances("greeter").await.unwrap_err();
    assert_eq!(error.kind(), micro_core::ErrorKind::DeadlineExceeded);
    agent.server.resume();

    becomes(&registry, "greeter", live).await;
    let second = Instance::new("greeter", "127.0.0.1:9001");
    let _second = registry.register(second.clone(), quick()).await.unwrap();
    let both = async {
        loop {
            match watch.next().await {
                Some(InstanceChange::Snapshot(told)) if told.len() == 2 => break,
                other => assert!(other.is_some(), "the watch goes on"),
            }
        }
    };
    timeout(PATIENCE, both).await.expect("the watch tells of both");
}

#[tokio::test]
async fn a_killed_process_vanishes_after_its_ttl() {
    let Some(shared) = ready::<Shared>().await else { return };
    let service = unique("killed");
    let this = std::env::current_exe().unwrap();
    let (url, name) = (shared.url.clone(), service.clone());
    let (mut child, seen) = blocking(move || {
        let mut child = Command::new(this)
            .args(["restarts::registers_until_it_is_killed", "--exact", "--nocapture"])
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
    assert!(killed.elapsed() < Duration::from_secs(30), "{:?}", killed.elapsed());
}

/// No test of its own: what the process does that is killed.
#[tokio::test]
async fn registers_until_it_is_killed() {
    let (Ok(url), Ok(service)) = (std::env::var(KILLED_URL), std::env::var(KILLED_SERVICE)) else { return };
    let registry = ConsulRegistry::connect(ConsulConfig::from_url(&url).unwrap()).await.unwrap();
    let _registration = registry.register(Instance::new(service, "127.0.0.1:9000"), quick()).await.unwrap();
    println!("registered");
    std::future::pending::<()>().await;
}

#[test]
fn a_registration_dropped_without_its_runtime_vanishes_after_its_ttl() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let first = runtime();
    let Some(shared) = first.block_on(ready::<Shared>()) else { return };
    let service = unique("dropped");
    let instance = Instance::new(&*service, "127.0.0.1:9000");
    let registration = first.block_on(shared.registry.register(instance.clone(), quick())).unwrap();
    first.block_on(becomes(&shared.registry, &service, &[instance]));
    // No runtime is entered here: nobody can withdraw it, and its heartbeats must end.
    drop(registration);
    first.block_on(becomes(&shared.registry, &service, &[]));
}

#[tokio::test]
async fn two_registrations_of_one_service_live_and_end_on_their_own() {
    let Some(shared) = ready::<Shared>().await else { return };
    let service = unique("twice");
    let mut instances = [0, 1].map(|number| Instance::new(&*service, format!("127.0.0.1:900{number}")));
    instances.sort_by(|a, b| a.id.cmp(&b.id));
    let first = shared.registry.register(instances[0].clone(), quick()).await.unwrap();
    let second = shared.registry.register(instances[1].clone(), quick()).await.unwrap();
    becomes(&shared.registry, &service, &instances).await;
    first.close().await.unwrap();
    becomes(&shared.registry, &service, &instances[1..]).await;
    second.close().await.unwrap();
    becomes(&shared.registry, &service, &[]).await;
}

#[tokio::test]
async fn a_replaced_registration_withdraws_nothing_of_its_successor() {
    let Some(shared) = ready::<Shared>().await else { return };
    let service = unique("replaced");
    let first = Instance::new(&*service, "127.0.0.1:9000");
    let second = Instance::new(&*service, "127.0.0.1:9001").with_id(&*first.id);
    let closing = shared.registry.register(first, quick()).await.unwrap();
    let _second = shared.registry.register(second.clone(), quick()).await.unwrap();
    closing.close().await.unwrap();
    becomes(&shared.registry, &service, std::slice::from_ref(&second)).await;

    // Another process's registry knows nothing of the generations of this one.
    let other = ConsulRegistry::connect(ConsulConfig::from_url(&shared.url).unwrap()).await.unwrap();
    let third = Instance::new(&*service, "127.0.0.1:9002").with_id(&*second.id);
    let _third = other.register(third.clone(), quick()).await.unwrap();
    _second.close().await.unwrap();
    becomes(&shared.registry, &service, &[third]).await;
}

#[tokio::test]
async fn what_was_deregistered_here_stays_away_and_what_somebody_else_withdrew_comes_back() {
    let Some(shared) = ready::<Shared>().await else { return };
    let other = ConsulRegistry::connect(ConsulConfig::from_url(&shared.url).unwrap()).await.unwrap();
    let service = unique("withdrawn");
    let instance = Instance::new(&*service, "127.0.0.1:9000");
    let live = std::slice::from_ref(&instance);
    let mut options = quick();
    options.ttl = Duration::from_secs(20);
    options.heartbeat = Duration::from_secs(4);
    let _registration = shared.registry.register(instance.clone(), options.clone()).await.unwrap();
    becomes(&other, &service, live).await;

    other.deregister("another service", &instance.id).await.unwrap();
    assert_eq!(other.instances(&service).await.unwrap(), live, "the id of another service is not meant");
    // A heartbeat may bring it back before anybody looked.
    eventually(PATIENCE, "it is withdrawn", || async {
        other.deregister(&service, &instance.id).await.map_err(|error| error.report())?;
        let instances = other.instances(&service).await.map_err(|error| error.report())?;
        if instances.is_empty() { Ok(()) } else { Err(format!("{instances:?}")) }
    })
    .await;
    becomes(&other, &service, live).await;

    shared.registry.deregister(&service, &instance.id).await.unwrap();
    becomes(&other, &service, &[]).await;
    let gone = Instant::now();
    eventually(PATIENCE, "it stays away for two heartbeats", || async {
        assert_eq!(other.instances(&service).await.unwrap(), []);
        gone.elapsed() > options.heartbeat * 2
    })
    .await;
}
