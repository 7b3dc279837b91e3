//! Access control: which token may do what, and where it is seen.

use micro_core::{
    ErrorKind,
    registry::{Instance, RegisterOptions, Registry as _},
};
use micro_registry_consul::{ConsulConfig, ConsulRegistry};
use micro_testkit::{Fixture, Missing, ready};

use crate::{
    agent::{Agent, PATIENCE, becomes, blocking, consul},
    proxy::Proxy,
};

const MASTER: &str = "0f0f0f0f-1111-4222-8333-canary000001";
const WRONG: &str = "0f0f0f0f-1111-4222-8333-canary000002";

/// An agent that allows nothing without a token.
struct Closed(Agent);

impl Fixture for Closed {
    async fn start() -> Result<Self, Missing> {
        let tokens = format!("{{ enabled = true default_policy = \"deny\" tokens {{ master = \"{MASTER}\" }} }}");
        Agent::with(&[("primary_datacenter", "\"dc1\""), ("acl", &tokens)]).await.map(Self)
    }

    fn patience(&self) -> std::time::Duration {
        PATIENCE
    }
}

fn with_token(url: &str, token: &str) -> ConsulConfig {
    ConsulConfig::from_url(&format!("{url}?token={token}")).unwrap()
}

/// The registry of the master token, once the agent has it.
async fn master(url: &str) -> ConsulRegistry {
    micro_testkit::eventually(PATIENCE, "the token is there", || async {
        ConsulRegistry::connect(with_token(url, MASTER)).await.map_err(|error| error.report())
    })
    .await
}

#[tokio::test]
async fn the_right_token_works_and_is_sent_in_its_header_only() {
    let Some(Closed(agent)) = ready::<Closed>().await else { return };
    let proxy = Proxy::of(agent.server.url()).await;
    let registry = master(&proxy.url).await;
    let instance = Instance::new("greeter", "127.0.0.1:9000");
    let registration = registry.register(instance.clone(), RegisterOptions::default()).await.unwrap();
    becomes(&registry, "greeter", std::slice::from_ref(&instance)).await;
    assert!(registry.watch("greeter").await.unwrap().next().await.is_some());
    registration.close().await.unwrap();
    becomes(&registry, "greeter", &[]).await;

    let asked = proxy.asked();
    let (with, without): (Vec<_>, Vec<_>) = asked.lines().partition(|line| line.contains(MASTER));
    assert!(with.iter().all(|line| line.to_ascii_lowercase().starts_with("x-consul-token: ")), "{with:?}");
    let requests = without.iter().filter(|line| line.ends_with("HTTP/1.1")).count();
    assert_eq!(requests, with.len(), "{asked}");
    assert!(!format!("{registry:?} {:?}", registry.kv()).contains(MASTER));
}

#[tokio::test]
async fn a_wrong_token_is_permission_denied_and_not_shown() {
    let Some(Closed(agent)) = ready::<Closed>().await else { return };
    master(agent.server.url()).await;
    let error = ConsulRegistry::connect(with_token(agent.server.url(), WRONG)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let text = format!("{error:?} {}", error.report());
    assert!(!text.contains(WRONG) && text.contains("token"), "{text}");
}

#[tokio::test]
async fn a_token_whose_policy_forbids_it_is_permission_denied() {
    let Some(Closed(agent)) = ready::<Closed>().await else { return };
    master(agent.server.url()).await;
    let (program, url) = (agent.program(), agent.server.url().to_owned());
    let created = blocking(move || {
        let rules = "service_prefix \"\" { policy = \"read\" }";
        let policy = ["acl", "policy", "create", "-name=reader", "-rules", rules, "-token", MASTER];
        consul(&program, &url, &policy);
        consul(&program, &url, &["acl", "token", "create", "-policy-name=reader", "-token", MASTER])
    })
    .await;
    let reader = created.lines().find_map(|line| line.strip_prefix("SecretID:")).expect(&created).trim().to_owned();
    let registry = ConsulRegistry::connect(with_token(agent.server.url(), &reader)).await.unwrap();
    assert_eq!(registry.instances("greeter").await.unwrap(), []);
    let instance = Instance::new("greeter", "127.0.0.1:9000");
    let register = registry.register(instance, RegisterOptions::default()).await.unwrap_err();
    let read = registry.kv().get("micro/order").await.unwrap_err();
    for error in [register, read] {
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
        assert!(!error.report().contains(&reader), "{error:?}");
    }
}

#[tokio::test]
async fn a_token_where_no_access_is_controlled_is_not_looked_at() {
    let Some(agent) = ready::<Agent>().await else { return };
    let registry = ConsulRegistry::connect(with_token(agent.server.url(), WRONG)).await.unwrap();
    micro_testkit::eventually(PATIENCE, "the agent's own service is there", || async {
        let services = registry.services().await.map_err(|error| error.report())?;
        if services == ["consul"] { Ok(()) } else { Err(format!("{services:?}")) }
    })
    .await;
}
