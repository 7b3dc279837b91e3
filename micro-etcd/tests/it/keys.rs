//! What stands in etcd of what is registered here, and what others put there.

use micro_core::registry::{Endpoint, Instance, Registry as _};
use micro_etcd::{EtcdConfig, EtcdRegistry, Layout};
use micro_testkit::{ready, unique};

use crate::server::{Shared, becomes, client, lasting};

#[tokio::test]
async fn an_instance_is_go_micros_key_and_json_under_a_lease_of_its_ttl() {
    let Some(shared) = ready::<Shared>().await else { return };
    let service = format!("{}/x", unique("keys"));
    let instance = Instance::new(&*service, "127.0.0.1:9000")
        .with_id(format!("{service}-1"))
        .with_version("8.2.0")
        .with_metadata("protocol", "grpc")
        .with_endpoints([Endpoint::new("Greeter.Hello")]);
    let registration = shared.registry.register(instance.clone(), lasting()).await.unwrap();
    let mut client = client(&shared.url).await;
    let dashed = service.replace('/', "-");
    let key = format!("/micro/registry/{dashed}/{dashed}-1");
    let answer = client.get(key.clone(), None).await.unwrap();
    let [held] = answer.kvs() else { panic!("{answer:?}") };
    let expected = format!(
        r#"{{"name":"{service}","version":"8.2.0","metadata":null,"endpoints":[{{"request":null,"response":null,"metadata":{{}},"name":"Greeter.Hello"}}],"nodes":[{{"metadata":{{"protocol":"grpc"}},"id":"{service}-1","address":"127.0.0.1:9000"}}]}}"#
    );
    assert_eq!(held.value_str().unwrap(), expected);
    let lease = client.lease_client().time_to_live(held.lease(), None).await.unwrap();
    assert_eq!(lease.granted_ttl(), 30);

    becomes(&shared.registry, &service, std::slice::from_ref(&instance)).await;
    registration.close().await.unwrap();
    assert_eq!(client.get(key, None).await.unwrap().count(), 0);
    let lease = client.lease_client().time_to_live(held.lease(), None).await.unwrap();
    assert_eq!(lease.ttl(), -1, "the lease has ended too");
}

#[tokio::test]
async fn what_others_wrote_is_read_as_far_as_it_can_be_called() {
    let Some(shared) = ready::<Shared>().await else { return };
    let service = unique("foreign");
    let mut client = client(&shared.url).await;
    let two_nodes = format!(
        r#"{{"name":"{service}","version":null,"endpoints":null,"nodes":[{{"id":"b","address":"h:2","metadata":null}},{{"id":"a","address":"h:1"}}],"more":1}}"#
    );
    let no_address = format!(r#"{{"name":"{service}","nodes":[{{"id":"c"}}]}}"#);
    for (id, value) in [("b", &*two_nodes), ("c", &*no_address), ("d", "not JSON"), ("e", "")] {
        client.put(format!("/micro/registry/{service}/{id}"), value, None).await.unwrap();
    }
    let expected = ["a", "b"].map(|id| {
        let port = if id == "a" { 1 } else { 2 };
        Instance::new(&*service, format!("h:{port}")).with_id(id).with_version("")
    });
    becomes(&shared.registry, &service, &expected).await;
    assert!(shared.registry.services().await.unwrap().contains(&service));
    let prefix = etcd_client::DeleteOptions::new().with_prefix();
    client.delete(format!("/micro/registry/{service}/"), Some(prefix)).await.unwrap();
}

#[tokio::test]
async fn another_prefix_is_another_registry() {
    let Some(shared) = ready::<Shared>().await else { return };
    let mut config = EtcdConfig::from_url(&shared.url).unwrap();
    config.prefix = format!("/{}/", unique("fleet"));
    let other = EtcdRegistry::connect(config).await.unwrap();
    let instance = Instance::new(unique("prefixed"), "127.0.0.1:9000");
    let _registration = other.register(instance.clone(), lasting()).await.unwrap();
    becomes(&other, &instance.service, std::slice::from_ref(&instance)).await;
    assert_eq!(other.services().await.unwrap(), std::slice::from_ref(&instance.service));
    assert_eq!(shared.registry.instances(&instance.service).await.unwrap(), []);
}

#[tokio::test]
async fn the_layout_of_go_zero_is_an_address_below_name_and_lease() {
    let Some(shared) = ready::<Shared>().await else { return };
    let mut config = EtcdConfig::from_url(&shared.url).unwrap();
    config.layout = Layout::GoZero;
    let registry = EtcdRegistry::connect(config).await.unwrap();
    let service = unique("user.rpc");
    let registration = registry.register(Instance::new(&*service, "127.0.0.1:8080"), lasting()).await.unwrap();
    let mut client = client(&shared.url).await;
    let options = etcd_client::GetOptions::new().with_prefix();
    let answer = client.get(format!("{service}/"), Some(options)).await.unwrap();
    let [held] = answer.kvs() else { panic!("{answer:?}") };
    assert_eq!(held.key_str().unwrap(), format!("{service}/{}", held.lease()));
    assert_eq!(held.value_str().unwrap(), "127.0.0.1:8080");

    let found = Instance::new(&*service, "127.0.0.1:8080").with_id(held.lease().to_string()).with_version("");
    becomes(&registry, &service, &[found]).await;
    assert_eq!(registry.services().await.unwrap_err().kind(), micro_core::ErrorKind::Unimplemented);
    registration.close().await.unwrap();
    becomes(&registry, &service, &[]).await;
}
