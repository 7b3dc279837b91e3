//! go-zero's own discovery and the etcd registry in go-zero's layout.

use std::sync::Arc;

use dev_servers::Kind;
use micro_rs::{
    backends,
    core::registry::{Instance, InstanceChange, InstanceWatch, RegisterOptions, Registry},
};
use micro_testkit::{Fixture, Missing, eventually, ready, unique};
use serde_json::{Value, json};

use crate::peer::{PATIENCE, Peer};

struct Shared {
    registry: Arc<dyn Registry>,
    /// `host:port`, as go-zero names it.
    server: String,
}

impl Fixture for Shared {
    async fn start() -> Result<Self, Missing> {
        let shared = || dev_servers::go_zero().and_then(|_| dev_servers::shared(Kind::Etcd));
        let url = tokio::task::spawn_blocking(shared).await.expect("it does not panic").map_err(Missing::new)?;
        let registry = backends::registry(&format!("{url}?layout=go-zero")).await;
        let registry = registry.map_err(|error| Missing::new(error.report()))?;
        Ok(Self { registry, server: url.trim_start_matches("etcd://").to_owned() })
    }

    fn patience(&self) -> std::time::Duration {
        PATIENCE
    }
}

impl Shared {
    async fn go_zero(&self, command: &str, key: &str, value: Option<&str>) -> Peer {
        let arguments = [command, &*self.server, key].into_iter().chain(value);
        let arguments: Vec<String> = arguments.map(str::to_owned).collect();
        let start = move || {
            let program = dev_servers::go_zero().expect("the fixture had it built");
            Peer::start(&program, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
        };
        tokio::task::spawn_blocking(start).await.expect("it does not panic")
    }

    async fn becomes(&self, key: &str, addresses: &[&str]) {
        eventually(PATIENCE, &format!("the addresses are {addresses:?}"), || async {
            let found = self.registry.instances(key).await.map_err(|error| error.report())?;
            let found: Vec<_> = found.iter().map(|instance| &*instance.address).collect();
            if found == addresses { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    }
}

/// The next instance that a watch tells of.
async fn next_instance(watch: &mut InstanceWatch) -> Instance {
    let mut was_stale = false;
    loop {
        match watch.next().await.expect("the watch goes on") {
            InstanceChange::Put(instance) => return instance,
            InstanceChange::Stale(_) => was_stale = true,
            // Behind a time in which etcd was not heard all is told anew.
            InstanceChange::Snapshot(mut instances) if was_stale => match instances.pop() {
                Some(instance) => return instance,
                None => was_stale = false,
            },
            told => panic!("{told:?}"),
        }
    }
}

/// Waits until go-zero's subscriber has these values.
async fn told(subscriber: &mut Peer, expected: &Value) {
    while subscriber.told().await["values"] != *expected {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn go_zero_subscribes_to_what_rust_registers() {
    let Some(shared) = ready::<Shared>().await else { return };
    let key = unique("user.rpc");
    let register = async |address: &str| {
        let instance = Instance::new(&*key, address);
        shared.registry.register(instance, RegisterOptions::default()).await.unwrap()
    };
    let first = register("127.0.0.1:8080").await;
    let mut subscriber = shared.go_zero("subscribe", &key, None).await;
    told(&mut subscriber, &json!(["127.0.0.1:8080"])).await;
    let second = register("127.0.0.1:8081").await;
    told(&mut subscriber, &json!(["127.0.0.1:8080", "127.0.0.1:8081"])).await;
    first.close().await.unwrap();
    told(&mut subscriber, &json!(["127.0.0.1:8081"])).await;
    second.close().await.unwrap();
    told(&mut subscriber, &json!([])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rust_finds_what_go_zero_publishes_until_it_stops_or_is_killed() {
    let Some(shared) = ready::<Shared>().await else { return };
    let key = unique("user.rpc");
    let mut watch = shared.registry.watch(&key).await.unwrap();
    assert_eq!(watch.next().await, Some(InstanceChange::Snapshot(Vec::new())));
    let mut stopped = shared.go_zero("publish", &key, Some("127.0.0.1:8080")).await;
    assert_eq!(stopped.told().await, json!({"published": "127.0.0.1:8080"}));
    shared.becomes(&key, &["127.0.0.1:8080"]).await;
    let instance = next_instance(&mut watch).await;
    assert_eq!((&*instance.address, &*instance.service), ("127.0.0.1:8080", &*key));
    stopped.end();
    shared.becomes(&key, &[]).await;

    let mut killed = shared.go_zero("publish", &key, Some("127.0.0.1:8081")).await;
    shared.becomes(&key, &["127.0.0.1:8081"]).await;
    killed.kill();
    // Its lease is of ten seconds.
    shared.becomes(&key, &[]).await;
}
