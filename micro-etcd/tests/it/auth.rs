//! Users, passwords and roles, on a server that asks for them.

use std::{
    fs,
    time::{Duration, Instant},
};

use etcd_client::{ConnectOptions, Permission, PermissionType};
use micro_core::{
    ErrorKind,
    registry::{Instance, InstanceChange, InstanceWatch, Registry as _},
};
use micro_etcd::{EtcdConfig, EtcdRegistry};
use micro_testkit::{Fixture, Missing, eventually, ready};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::server::{Own, PATIENCE, becomes, client, lasting};

const PASSWORD: &str = "canary-4711";

/// A server with authentication.
async fn guarded() -> Option<Own> {
    let own = ready::<Own>().await?;
    guard(&own).await;
    Some(own)
}

/// Switches authentication on: root may do all, `fleet` what a registry needs, `nobody` nothing.
async fn guard(own: &Own) {
    let mut client = client(own.server.url()).await;
    client.role_add("root").await.unwrap();
    client.role_add("fleet").await.unwrap();
    let all = Permission::new(PermissionType::Readwrite, "/micro/registry/").with_prefix();
    client.role_grant_permission("fleet", all).await.unwrap();
    for user in ["root", "fleet", "nobody"] {
        client.user_add(user, PASSWORD, None).await.unwrap();
    }
    client.user_grant_role("root", "root").await.unwrap();
    client.user_grant_role("fleet", "fleet").await.unwrap();
    client.auth_enable().await.unwrap();
}

/// root's client, whom etcd knows as it is now.
async fn admin(own: &Own) -> etcd_client::Client {
    let root = ConnectOptions::new().with_user("root", PASSWORD);
    let servers = [own.server.url().trim_start_matches("etcd://")];
    etcd_client::Client::connect(servers, Some(root)).await.unwrap()
}

/// A server whose tokens are JSON Web Tokens, which name the revision of users and roles.
struct WithJwt {
    own: Own,
    _folder: TempDir,
}

impl Fixture for WithJwt {
    async fn start() -> Result<Self, Missing> {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let key = folder.path().join("hmac.key");
        fs::write(&key, "of one test only, and long enough").expect("a file can be written");
        let tokens = format!("jwt,sign-method=HS256,priv-key={},ttl=1h", key.display());
        Ok(Self { own: Own::with(vec![("auth-token", tokens)]).await?, _folder: folder })
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

fn config(own: &Own, user: &str, password: &str) -> EtcdConfig {
    let url = own.server.url().replace("etcd://", &format!("etcd://{user}:{password}@"));
    EtcdConfig::from_url(&url).unwrap()
}

/// A registry as `fleet` that waits as long as a test does, and whose watches list all the time.
async fn of_the_fleet(own: &Own) -> EtcdRegistry {
    let mut config = config(own, "fleet", PASSWORD);
    (config.connect_timeout, config.request_timeout) = (PATIENCE, PATIENCE);
    config.relist_interval = Duration::from_millis(300);
    EtcdRegistry::connect(config).await.unwrap()
}

fn greeter(port: u16) -> Instance {
    Instance::new("greeter", format!("127.0.0.1:{port}")).with_id(port.to_string())
}

/// Waits until a watch tells of an instance; it was never without the registry.
async fn told(watch: &mut InstanceWatch, instance: &Instance) {
    loop {
        let change = timeout(PATIENCE, watch.next()).await.expect("it comes").expect("the watch goes on");
        match change {
            InstanceChange::Put(put) if put == *instance => return,
            InstanceChange::Snapshot(all) if all.contains(instance) => return,
            InstanceChange::Stale(reason) => panic!("the watch is stale: {reason}"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_user_whose_role_has_the_prefix_registers_and_is_known_again_after_a_restart() {
    let Some(own) = guarded().await else { return };
    let registry = EtcdRegistry::connect(config(&own, "fleet", PASSWORD)).await.unwrap();
    let instance = Instance::new("greeter", "127.0.0.1:9000");
    let live = std::slice::from_ref(&instance);
    let registration = registry.register(instance.clone(), lasting()).await.unwrap();
    becomes(&registry, "greeter", live).await;
    let mut watch = registry.watch("greeter").await.unwrap();
    watch.next().await.expect("a snapshot comes");

    // It has forgotten the tokens that it gave.
    let own = own.restart().await;
    becomes(&registry, "greeter", live).await;
    let second = Instance::new("greeter", "127.0.0.1:9001");
    let _second = registry.register(second.clone(), lasting()).await.unwrap();
    let mut both = vec![instance.clone(), second];
    both.sort_by(|a, b| a.id.cmp(&b.id));
    becomes(&registry, "greeter", &both).await;
    registration.close().await.unwrap();
    let left = admin(&own).await.get(format!("/micro/registry/greeter/{}", instance.id), None).await.unwrap();
    assert_eq!(left.count(), 0);
}

#[tokio::test]
async fn whom_etcd_does_not_know_or_let_is_refused_at_once_without_showing_a_password() {
    let Some(own) = guarded().await else { return };
    for (mut config, kind, part) in [
        (own.config(), ErrorKind::Unauthenticated, "name one as etcd://user:password@"),
        (config(&own, "fleet", "canary-wrong"), ErrorKind::Unauthenticated, "correct them"),
        (config(&own, "stranger", PASSWORD), ErrorKind::Unauthenticated, "correct them"),
        (config(&own, "nobody", PASSWORD), ErrorKind::PermissionDenied, "grant them the keys' prefix"),
    ] {
        config.connect_timeout = PATIENCE * 2;
        let began = std::time::Instant::now();
        let shown = format!("{config:?}");
        let error = EtcdRegistry::connect(config).await.unwrap_err();
        assert!(began.elapsed() < PATIENCE, "{error:?}");
        let text = error.report();
        assert_eq!(error.kind(), kind, "{text}");
        assert!(text.contains(part) && text.contains("backend=etcd"), "{text}");
        for text in [text, format!("{error:?}"), shown] {
            assert!(!text.contains("canary"), "{text}");
        }
    }
}

#[tokio::test]
async fn who_has_a_user_before_authentication_is_switched_on_stays_with_it_and_after_it_is_off_again() {
    let Some(own) = ready::<Own>().await else { return };
    let registry = of_the_fleet(&own).await;
    let (first, second, third) = (greeter(9000), greeter(9001), greeter(9002));
    let mut options = lasting();
    options.ttl = Duration::from_secs(8);
    let _first = registry.register(first.clone(), options.clone()).await.unwrap();
    let mut watch = registry.watch("greeter").await.unwrap();
    told(&mut watch, &first).await;

    guard(&own).await;
    assert_eq!(registry.instances("greeter").await.unwrap(), std::slice::from_ref(&first));
    let _second = registry.register(second.clone(), options.clone()).await.unwrap();
    told(&mut watch, &second).await;
    // What etcd loses is registered again, and what it has is kept.
    let both = [first.clone(), second.clone()];
    admin(&own).await.delete("/micro/registry/greeter/9000", None).await.unwrap();
    becomes(&registry, "greeter", &both).await;
    let lives_until = Instant::now() + options.ttl + options.ttl / 2;
    eventually(PATIENCE, "they live for longer than their TTL", || async {
        assert_eq!(registry.instances("greeter").await.unwrap(), both);
        Instant::now() > lives_until
    })
    .await;

    admin(&own).await.auth_disable().await.unwrap();
    assert_eq!(registry.instances("greeter").await.unwrap(), both);
    let _third = registry.register(third.clone(), options).await.unwrap();
    told(&mut watch, &third).await;
}

#[tokio::test]
async fn a_change_of_users_and_roles_that_makes_all_tokens_old_is_met_with_a_new_one() {
    let Some(WithJwt { own, _folder }) = ready::<WithJwt>().await else { return };
    guard(&own).await;
    let registry = of_the_fleet(&own).await;
    let (first, second) = (greeter(9000), greeter(9001));
    let _first = registry.register(first.clone(), lasting()).await.unwrap();
    let mut watch = registry.watch("greeter").await.unwrap();
    told(&mut watch, &first).await;

    admin(&own).await.user_add("newcomer", PASSWORD, None).await.unwrap();
    assert_eq!(registry.instances("greeter").await.unwrap(), std::slice::from_ref(&first));
    admin(&own).await.role_add("newcomers").await.unwrap();
    let _second = registry.register(second.clone(), lasting()).await.unwrap();
    told(&mut watch, &second).await;
    admin(&own).await.user_delete("newcomer").await.unwrap();
    // The key may be gone and back in between: the heartbeat notices by itself.
    admin(&own).await.delete("/micro/registry/greeter/9000", None).await.unwrap();
    becomes(&registry, "greeter", &[first, second]).await;
}
