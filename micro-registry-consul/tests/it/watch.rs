//! Watches: how often they ask, and what they tell while Consul is away.

use std::time::{Duration, Instant};

use micro_core::registry::{Instance, InstanceChange, InstanceWatch, RegisterOptions, Registry as _};
use micro_registry_consul::{ConsulConfig, ConsulRegistry};
use micro_testkit::{Logged, eventually, ready, unique};
use tokio::time::timeout;

use crate::{
    agent::{Agent, PATIENCE, Shared, becomes, blocking, consul, put, quick},
    proxy::Proxy,
};

const QUERY: &str = "GET /v1/health/service/";

async fn next(watch: &mut InstanceWatch) -> InstanceChange {
    timeout(PATIENCE, watch.next()).await.expect("the watch tells something in time").expect("the watch goes on")
}

/// Waits for the snapshot that has this version of its only instance.
async fn until_version(watch: &mut InstanceWatch, version: &str) -> usize {
    for told in 1.. {
        match next(watch).await {
            InstanceChange::Snapshot(instances) if instances.iter().any(|known| known.version == version) => {
                return told;
            }
            _ => {}
        }
    }
    unreachable!("the wait for a change ends first")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_changes_in_a_row_make_few_questions_and_the_last_one_is_told() {
    let Some(shared) = ready::<Shared>().await else { return };
    let proxy = Proxy::of(&shared.url).await;
    let watcher = ConsulRegistry::connect(ConsulConfig::from_url(&proxy.url).unwrap()).await.unwrap();
    let mut patient = ConsulConfig::from_url(&shared.url).unwrap();
    patient.request_timeout = Duration::from_secs(60);
    let registry = ConsulRegistry::connect(patient).await.unwrap();
    let instance = Instance::new(unique("churning"), "127.0.0.1:9000");
    let mut watch = watcher.watch(&instance.service).await.unwrap();
    let began = Instant::now();
    let mut registrations = Vec::new();
    for version in 1..=1000 {
        let changed = instance.clone().with_version(version.to_string());
        registrations.push(registry.register(changed, quick()).await.unwrap());
    }
    until_version(&mut watch, "1000").await;
    let count = proxy.count(QUERY);
    let seconds = began.elapsed().as_secs() as usize;
    assert!(count <= 1 + 2 + seconds + 1, "{count} questions in {seconds} s");
    assert!(count >= 3, "it did watch");
    registrations.pop().expect("the last one is the owner").close().await.unwrap();
}

#[tokio::test]
async fn a_quiet_watch_asks_once_and_is_told_at_once() {
    // On an agent that others share, their services wake the question up.
    let Some(agent) = ready::<Agent>().await else { return };
    let registry = agent.registry().await;
    let first = Instance::new("first", "127.0.0.1:9000");
    let registration = registry.register(first.clone(), RegisterOptions::default()).await.unwrap();
    // What the agent tells the servers of itself when it starts goes with its first service.
    becomes(&registry, "first", &[first]).await;
    registration.close().await.unwrap();
    becomes(&registry, "first", &[]).await;

    let proxy = Proxy::of(agent.server.url()).await;
    let mut config = ConsulConfig::from_url(&proxy.url).unwrap();
    config.churn_interval = Duration::from_secs(60);
    let watcher = ConsulRegistry::connect(config).await.unwrap();
    let instance = Instance::new("quiet", "127.0.0.1:9000").with_version("1");
    let mut watch = watcher.watch(&instance.service).await.unwrap();
    assert_eq!(next(&mut watch).await, InstanceChange::Snapshot(Vec::new()));
    eventually(PATIENCE, "the next question waits", || async { proxy.count(QUERY) >= 2 }).await;
    assert!(timeout(Duration::from_secs(3), watch.next()).await.is_err());
    assert_eq!(proxy.count(QUERY), 2, "the snapshot, and the question that waits:\n{}", proxy.asked());

    let began = Instant::now();
    let registration = registry.register(instance, RegisterOptions::default()).await.unwrap();
    until_version(&mut watch, "1").await;
    // Much sooner than the question's wait and than the pause between questions.
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    registration.close().await.unwrap();
}

#[tokio::test]
async fn an_answer_without_a_change_tells_nothing() {
    let Some(shared) = ready::<Shared>().await else { return };
    let proxy = Proxy::of(&shared.url).await;
    let mut config = ConsulConfig::from_url(&proxy.url).unwrap();
    config.blocking_wait = Duration::from_millis(200);
    config.churn_interval = Duration::from_millis(50);
    let mut watch = ConsulRegistry::connect(config).await.unwrap().watch(&unique("nothing")).await.unwrap();
    assert_eq!(next(&mut watch).await, InstanceChange::Snapshot(Vec::new()));
    tokio::select! {
        told = watch.next() => panic!("{told:?}"),
        () = eventually(PATIENCE, "waits ended", || async { proxy.count(QUERY) > 6 }) => {}
    }
}

#[tokio::test]
async fn a_dropped_watch_asks_no_more() {
    let Some(shared) = ready::<Shared>().await else { return };
    let proxy = Proxy::of(&shared.url).await;
    let mut config = ConsulConfig::from_url(&proxy.url).unwrap();
    config.blocking_wait = Duration::from_millis(100);
    config.blocking_timeout = Duration::from_secs(5);
    config.churn_interval = Duration::from_millis(10);
    let registry = ConsulRegistry::connect(config).await.unwrap();
    let mut watch = registry.watch(&unique("dropped")).await.unwrap();
    next(&mut watch).await;
    drop(watch);
    // A question that was on its way may end.
    tokio::task::yield_now().await;
    let count = proxy.count(QUERY);
    let asked_more = timeout(Duration::from_secs(2), async {
        while proxy.count(QUERY) <= count + 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(asked_more.await.is_err(), "{}", proxy.asked());
}

#[tokio::test]
async fn an_index_that_went_down_does_not_put_the_watch_to_sleep() {
    let Some(agent) = ready::<Agent>().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let (program, url, file) = (agent.program(), agent.server.url().to_owned(), folder.path().join("state.tgz"));
    let snapshot = move |command: &str| {
        let (program, url, file, command) = (program.clone(), url.clone(), file.clone(), command.to_owned());
        blocking(move || consul(&program, &url, &["snapshot", &command, file.to_str().expect("a path is text")]))
    };
    // A node without an agent: nobody tells the servers again what they forget below.
    let register = async |version: u32| {
        let service =
            serde_json::json!({"ID": "g-1", "Service": "greeter", "Port": 1, "Tags": [format!("v={version}")]});
        let node = serde_json::json!({"Node": "far", "Address": "127.0.0.1", "Service": service});
        put(agent.server.url(), "/v1/catalog/register", &node.to_string()).await;
    };
    register(1).await;
    snapshot("save").await;
    for version in 2..=20 {
        register(version).await;
    }
    let proxy = Proxy::of(agent.server.url()).await;
    let mut config = ConsulConfig::from_url(&proxy.url).unwrap();
    config.blocking_wait = Duration::from_millis(500);
    let mut watch = ConsulRegistry::connect(config).await.unwrap().watch("greeter").await.unwrap();
    until_version(&mut watch, "20").await;
    assert_eq!(at_once(&proxy.asked()), 1, "the snapshot");

    // The servers go back to where they were, and their index with them.
    snapshot("restore").await;
    until_version(&mut watch, "1").await;
    eventually(PATIENCE, "it asks without the old index", || async { at_once(&proxy.asked()) >= 2 }).await;
    register(21).await;
    until_version(&mut watch, "21").await;
}

/// How many questions did not wait for an index.
fn at_once(asked: &str) -> usize {
    asked.lines().filter(|line| line.starts_with(QUERY) && !line.contains("index=")).count()
}

#[tokio::test]
async fn while_consul_is_away_a_watch_says_so_once_and_goes_on_when_it_is_back() {
    let logged = Logged::default();
    let _guard = logged.here(tracing::Level::INFO);

    let Some(agent) = ready::<Agent>().await else { return };
    let proxy = Proxy::of(agent.server.url()).await;
    let registry = ConsulRegistry::connect(ConsulConfig::from_url(&proxy.url).unwrap()).await.unwrap();
    let instance = Instance::new("greeter", "127.0.0.1:9000");
    let mut options = quick();
    options.ttl = Duration::from_secs(20);
    options.heartbeat = Duration::from_secs(2);
    let _registration = registry.register(instance.clone(), options).await.unwrap();
    becomes(&registry, "greeter", std::slice::from_ref(&instance)).await;
    let mut watch = registry.watch("greeter").await.unwrap();
    assert_eq!(next(&mut watch).await, InstanceChange::Snapshot(vec![instance.clone()]));

    let logged_before = logged.text().len();
    let agent = agent.kill().await;
    let before = proxy.count(QUERY);
    let InstanceChange::Stale(reason) = next(&mut watch).await else { panic!("the watch says that it is stale") };
    assert!(reason.contains("backend=consul"), "{reason}");
    let quiet = timeout(Duration::from_secs(6), watch.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    // 200 ms, doubling: six attempts or so, and jitter.
    let asked = proxy.count(QUERY) - before;
    assert!(asked <= 12, "{asked} questions in 6 s");

    let warnings = |work: &str| {
        let text = logged.text();
        text[logged_before..].lines().filter(|line| line.contains("WARN") && line.contains(work)).count()
    };
    eventually(PATIENCE, "a heartbeat failed", || async { warnings("work=\"heartbeat\"") > 0 }).await;
    for work in ["work=\"watch\"", "work=\"heartbeat\""] {
        assert_eq!(warnings(work), 1, "{}", logged.text());
    }

    let agent = agent.restart().await;
    loop {
        // The agent may be asked before it knows its leader, and before the instance was registered again.
        match next(&mut watch).await {
            InstanceChange::Snapshot(instances) if instances == [instance.clone()] => break,
            _ => {}
        }
    }
    drop(agent);
}
