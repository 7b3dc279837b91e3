//! Values of the key/value store.

use micro_registry_consul::{ConsulConfig, ConsulKv};
use micro_testkit::{ready, unique};

use crate::agent::{Agent, Shared, blocking, consul};

#[tokio::test]
async fn a_value_is_read_as_it_is_and_a_missing_one_is_none() {
    let Some(agent) = ready::<Agent>().await else { return };
    let (program, url) = (agent.program(), agent.server.url().to_owned());
    let document = "{\"service\": {\"name\": \"go.micro.service.Order\", \"ü\": [1, 2]}}\n";
    blocking(move || {
        consul(&program, &url, &["kv", "put", "micro/order", document]);
        consul(&program, &url, &["kv", "put", "micro/odd name?/x", ""]);
    })
    .await;

    let kv = agent.registry().await.kv();
    for key in ["micro/order", "/micro/order"] {
        assert_eq!(kv.get(key).await.unwrap().unwrap(), document);
    }
    assert_eq!(kv.get("micro/odd name?/x").await.unwrap().unwrap(), "");
    assert_eq!(kv.get("micro/product").await.unwrap(), None);
    assert_eq!(kv.get("").await.unwrap_err().kind(), micro_core::ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn the_store_needs_no_registry() {
    let Some(shared) = ready::<Shared>().await else { return };
    let kv = ConsulKv::connect(ConsulConfig::from_url(&shared.url).unwrap()).await.unwrap();
    assert_eq!(kv.get(&unique("micro/none")).await.unwrap(), None);
}
