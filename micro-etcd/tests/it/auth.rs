//! Users, passwords and roles, on a server that asks for them.

use etcd_client::{ConnectOptions, Permission, PermissionType};
use micro_core::{
    ErrorKind,
    registry::{Instance, Registry as _},
};
use micro_etcd::{EtcdConfig, EtcdRegistry};
use micro_testkit::ready;

use crate::server::{Own, PATIENCE, becomes, client, lasting};

const PASSWORD: &str = "canary-4711";

/// A server with authentication: root may do all, `fleet` what a registry needs, `nobody` nothing.
async fn guarded() -> Option<Own> {
    let own = ready::<Own>().await?;
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
    Some(own)
}

fn config(own: &Own, user: &str, password: &str) -> EtcdConfig {
    let url = own.server.url().replace("etcd://", &format!("etcd://{user}:{password}@"));
    EtcdConfig::from_url(&url).unwrap()
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
    let admin = ConnectOptions::new().with_user("root", PASSWORD);
    let servers = [own.server.url().trim_start_matches("etcd://")];
    let mut admin = etcd_client::Client::connect(servers, Some(admin)).await.unwrap();
    assert_eq!(admin.get(format!("/micro/registry/greeter/{}", instance.id), None).await.unwrap().count(), 0);
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
