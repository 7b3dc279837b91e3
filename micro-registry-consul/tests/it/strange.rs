//! Registrations of others as an agent really hands them out: read as far as they can be, and said once.

use micro_core::registry::{Instance, Registry as _};
use micro_registry_consul::{ConsulConfig, ConsulRegistry};
use micro_testkit::{Logged, ready, unique};
use serde_json::json;

use crate::agent::{Shared, becomes, put};

/// Registers with the agent as anybody may.
async fn register(shared: &Shared, body: serde_json::Value) {
    put(&shared.url, "/v1/agent/service/register", &body.to_string()).await;
}

#[tokio::test]
async fn a_registration_with_a_warning_is_live_and_a_critical_one_is_not() {
    let Some(shared) = ready::<Shared>().await else { return };
    let service = unique("states");
    for status in ["passing", "warning", "critical"] {
        let check = json!({"TTL": "1h", "Status": status});
        let id = format!("{service}-{status}");
        let body = json!({"ID": id, "Name": service, "Address": "127.0.0.1", "Port": 9000, "Check": check});
        register(&shared, body).await;
    }
    let live = ["passing", "warning"].map(|status| {
        Instance::new(&*service, "127.0.0.1:9000").with_id(format!("{service}-{status}")).with_version("")
    });
    becomes(&shared.registry, &service, &live).await;
}

#[tokio::test]
async fn what_cannot_be_read_is_left_out_and_logged_once_and_hides_nothing_else() {
    let logged = Logged::default();
    let _guard = logged.here(tracing::Level::INFO);
    let Some(shared) = ready::<Shared>().await else { return };
    let service = unique("strange");
    let good = json!({"ID": "good", "Name": service, "Address": "::1", "Port": 9000,
                      "Tags": ["t={\"zone\":\"a\"}", "e={\"name\":\"A.B\"}", "e=null{", "v=1", "urlprefix-/"]});
    let no_port = json!({"ID": "no-port", "Name": service, "Address": "127.0.0.1"});
    let bad_tags = json!({"ID": "bad-tags", "Name": service, "Port": 9000, "Address": "127.0.0.1",
                          "Tags": ["t-789c", "v-no-hex", "e-00"]});
    let big_tag = json!({"ID": "big-tag", "Name": service, "Port": 9000, "Address": "127.0.0.1",
                         "Tags": [format!("v-{}", "00".repeat(1 << 20))]});
    for body in [good, no_port, bad_tags, big_tag] {
        let mut body = body;
        body["ID"] = format!("{service}-{}", body["ID"].as_str().unwrap()).into();
        register(&shared, body).await;
    }
    let registry = ConsulRegistry::connect(ConsulConfig::from_url(&shared.url).unwrap()).await.unwrap();
    for _ in 0..3 {
        let found = registry.instances(&service).await.unwrap();
        let ids: Vec<_> = found.iter().map(|instance| instance.id.trim_start_matches(&*service)).collect();
        assert_eq!(ids, ["-bad-tags", "-big-tag", "-good"]);
        let good = &found[2];
        assert_eq!((&*good.address, &*good.version, &*good.metadata["zone"]), ("[::1]:9000", "1", "a"));
        assert_eq!(good.endpoints.iter().map(|endpoint| &*endpoint.name).collect::<Vec<_>>(), ["A.B"]);
    }
    let text = logged.text();
    for (id, count) in [("good", 1), ("no-port", 1), ("bad-tags", 3), ("big-tag", 1)] {
        let lines = text.lines().filter(|line| line.contains("WARN") && line.contains(&format!("{service}-{id}\"")));
        assert_eq!(lines.count(), count, "{id}: {text}");
    }
    // What cannot be read can be withdrawn.
    for id in ["good", "no-port", "bad-tags", "big-tag"] {
        registry.deregister(&service, &format!("{service}-{id}")).await.unwrap();
    }
    assert!(!registry.services().await.unwrap().contains(&service));
}
