//! Values of the key/value store.

use micro_registry_consul::{ConsulConfig, ConsulKv};
use micro_testkit::{ready, unique};
use serde_json::{Value, json};

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

#[tokio::test]
async fn the_keys_of_a_prefix_are_listed_with_their_values_in_order() {
    let Some(agent) = ready::<Agent>().await else { return };
    let (program, url) = (agent.program(), agent.server.url().to_owned());
    let keys = [("shop/a", "{}"), ("shop/a/b?", "{\"ü\": 1}\n"), ("shop/a/c/", ""), ("shop/ab", "7")];
    blocking(move || {
        for (key, value) in keys.iter().rev().chain([&("shop/b", "1")]) {
            consul(&program, &url, &["kv", "put", key, value]);
        }
    })
    .await;

    let kv = agent.registry().await.kv();
    for prefix in ["shop/a", "/shop/a"] {
        let listed = kv.list(prefix).await.unwrap();
        let listed: Vec<_> = listed.iter().map(|(key, value)| (&**key, std::str::from_utf8(value).unwrap())).collect();
        assert_eq!(listed, keys);
    }
    assert_eq!(kv.list("shop/none").await.unwrap(), []);
}

/// go-micro's config source reads all keys below a prefix as one tree; here a key is read by itself.
#[tokio::test]
async fn the_keys_of_go_micros_configuration_are_read_one_by_one_and_a_scalar_hides_none() {
    let Some(agent) = ready::<Agent>().await else { return };
    let capture = include_str!("../vectors/config-consul.txt");
    let trees: Vec<Value> = capture.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let changed = capture.lines().find_map(|line| line.strip_prefix("CHANGE ")).expect("one change");
    let changed: Value = serde_json::from_str(changed).unwrap();
    // Before and after, with the prefix in the tree, and nothing where one value is a scalar.
    assert_eq!(trees.len(), 4, "{trees:?}");
    assert_eq!((&trees[1], &trees[2]["micro"]["peercfg"], &trees[3]), (&changed, &changed, &Value::Null));
    assert!(capture.contains("path: scalar"), "{capture}");

    let kv = agent.registry().await.kv();
    for tree in [&trees[0], &changed] {
        let values = [
            ("micro/peercfg/database", &tree["database"]),
            ("micro/peercfg/list", &tree["list"]),
            ("micro/peercfg/service/order", &tree["service"]["order"]),
            ("micro/peercfg/scalar", &json!(7)),
        ];
        let (program, url) = (agent.program(), agent.server.url().to_owned());
        let put: Vec<_> = values.iter().map(|(key, value)| ((*key).to_owned(), value.to_string())).collect();
        blocking(move || put.iter().for_each(|(key, value)| drop(consul(&program, &url, &["kv", "put", key, value]))))
            .await;
        for (key, value) in values {
            let read = kv.get(key).await.unwrap().expect("it was put");
            assert_eq!(serde_json::from_slice::<Value>(&read).unwrap(), *value, "{key}");
        }
    }
}
