//! What go-micro 4.11 wrote to Consul and read from it, as it was captured: files of `tests/vectors`.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use micro_core::registry::{Endpoint, Instance, RegisterOptions};
use serde_json::{Value, json};

use crate::{
    CheckKind, ConsulConfig,
    encoding::{ServiceRegistration, check_id, instances},
    limits::Left,
    tags,
};

fn vector(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn parsed(name: &str) -> Value {
    serde_json::from_str(&vector(name)).unwrap()
}

/// The instances of an answer of the health endpoint, all of which can be read.
fn read(service: &str, entries: &Value) -> Vec<Instance> {
    let reading = instances(service, &serde_json::to_vec(entries).unwrap()).unwrap();
    assert_eq!(reading.complaints, []);
    reading.instances
}

/// Instances of one service as go-micro's `GetService` prints them.
fn as_go_prints(instances: &[Instance]) -> Value {
    let mut versions: BTreeMap<&str, Vec<&Instance>> = BTreeMap::new();
    for instance in instances {
        versions.entry(&instance.version).or_default().push(instance);
    }
    let null_where_empty = |endpoints: &[Endpoint]| if endpoints.is_empty() { Value::Null } else { json!(endpoints) };
    let service = |(version, of_version): (&str, Vec<&Instance>)| {
        let node = |node: &&Instance| json!({"metadata": node.metadata, "id": node.id, "address": node.address});
        json!({
            "name": of_version[0].service, "version": version, "metadata": null,
            "endpoints": null_where_empty(&of_version[0].endpoints),
            "nodes": of_version.iter().map(node).collect::<Vec<_>>(),
        })
    };
    versions.into_iter().map(service).collect()
}

/// The lists of services in a text that has lines of others between them.
fn lists(text: &str) -> Vec<Value> {
    text.split("\n[\n")
        .skip(1)
        .map(|list| {
            let end = list.find("\n]").expect("a list ends");
            serde_json::from_str(&format!("[{}]", &list[..end])).unwrap()
        })
        .collect()
}

#[test]
fn an_answer_of_the_health_endpoint_is_read_as_go_micro_reads_it() {
    for (name, port) in [("consul-health-ttl.json", 9431), ("consul-health-tcp.json", 9432)] {
        let found = read("go.micro.service.greeter", &parsed(name));
        let [greeter] = &found[..] else { panic!("{found:?}") };
        assert_eq!(greeter.address, format!("127.0.0.1:{port}"));
        // The same service, looked up by go-micro from another of its instances.
        let mut expected = lists(&vector("lookup-decoded.json")).swap_remove(0);
        expected[0]["nodes"][0]["id"] = json!(greeter.id);
        expected[0]["nodes"][0]["address"] = json!(greeter.address);
        assert_eq!(as_go_prints(&found), expected, "{name}");
    }
}

#[test]
fn registrations_without_go_micros_tags_are_read_as_go_micro_reads_them() {
    let text = vector("minimal-registration.txt");
    let found = lists(&text);
    // Registered by hand: with ID, Name, Address and Port alone, and with tags.
    assert_eq!(found.len(), 2);
    let entries = [
        json!([{"Service": {"ID": "peer.min-1", "Service": "peer.min", "Address": "127.0.0.1", "Port": 9435}}]),
        json!([{"Service": {"ID": "peer.full-1", "Service": "peer.full", "Address": "127.0.0.1", "Port": 9435,
                            "Tags": [pair("protocol", "grpc"), version("2.0.0"), "other"]}}]),
    ];
    for (name, (entries, expected)) in ["peer.min", "peer.full"].into_iter().zip(entries.iter().zip(found)) {
        assert_eq!(as_go_prints(&read(name, entries)), expected);
    }
}

fn pair(name: &str, value: &str) -> String {
    tags::encode(&Instance::new("a", "a:1").with_metadata(name, value)).swap_remove(0)
}

fn version(text: &str) -> String {
    tags::encode(&Instance::new("a", "a:1").with_version(text)).swap_remove(0)
}

#[test]
fn the_services_of_an_agent_are_read_and_written_again() {
    let mut count = 0;
    for name in ["consul-agent-services-ttl.json", "order-product-agent-services.json"] {
        for (id, service) in parsed(name).as_object().unwrap() {
            let found = read(service["Service"].as_str().unwrap(), &json!([{ "Service": service }]));
            let [instance] = &found[..] else { panic!("{found:?}") };
            assert_eq!((&instance.id, instance.metadata["protocol"].as_str()), (id, "grpc"));
            assert!(instance.endpoints.len() >= 3, "{instance:?}");
            let config = ConsulConfig::default();
            let again = ServiceRegistration::new(instance, &RegisterOptions::default(), &config);
            let mut again = serde_json::to_value(again).unwrap();
            for member in ["ID", "Address", "Port", "Meta"] {
                assert_eq!(again[member], service[member], "{member}");
            }
            assert_eq!(again["Name"], service["Service"]);
            assert_eq!(said(again["Tags"].take()), said(service["Tags"].clone()));
            count += 1;
        }
    }
    assert_eq!(count, 4);
}

/// What the tags hold, sorted: go-micro writes metadata in an order of chance.
fn said(tags: Value) -> Vec<String> {
    let tags: Vec<String> = serde_json::from_value(tags).unwrap();
    let read = tags::decode(&tags, true, &mut Left::default());
    assert_eq!(read.complaints, [] as [String; 0]);
    let metadata = read.metadata.into_iter().flatten().map(|(name, value)| json!({name: value}).to_string());
    let endpoints = read.endpoints.iter().map(|endpoint| serde_json::to_string(endpoint).unwrap());
    let mut texts: Vec<String> = metadata.chain(endpoints).chain([read.version]).collect();
    assert_eq!(texts.len(), tags.len(), "each tag says one thing");
    texts.sort();
    texts
}

#[test]
fn tags_hold_to_the_byte_what_was_decoded_of_them_elsewhere() {
    let services = parsed("order-product-agent-services.json");
    let text = vector("order-product-tags-decoded.txt");
    let mut expected: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut id = "";
    for line in text.lines() {
        if let Some(next) = line.strip_prefix("== ") {
            id = next;
        } else if let Some((kind, rest)) = line.trim_start().split_once("- ").filter(|(kind, _)| kind.len() == 1) {
            assert!("tev".contains(kind), "{line}");
            let (decoded, _) = rest.rsplit_once("  rawlen ").unwrap();
            expected.entry(id).or_default().push(decoded.to_owned());
        }
    }
    assert_eq!(expected.len(), 2);
    for (id, mut texts) in expected {
        texts.sort();
        assert_eq!(said(services[id]["Tags"].clone()), texts, "{id}");
    }
}

#[test]
fn the_subscriptions_of_the_go_services_are_told_as_they_told_them() {
    let text = vector("order-product-tags-decoded.txt");
    let endpoints = text.lines().filter_map(|line| line.trim_start().strip_prefix("e- ")?.rsplit_once("  rawlen "));
    let told: Vec<&str> = endpoints.map(|(json, _)| json).filter(|json| json.contains("subscriber")).collect();
    let ours = ["ProductEventDLQ", "ProductEvent", "OrderEventDLQ", "OrderEvent"].map(Endpoint::subscriber);
    assert_eq!(told, ours.map(|endpoint| serde_json::to_string(&endpoint).unwrap()));
}

#[test]
fn the_checks_of_an_agent_say_that_their_instances_live_and_by_which_check() {
    let mut count = 0;
    for name in ["consul-checks-ttl.json", "consul-checks-tcp.json", "order-product-agent-checks.json"] {
        for (key, check) in parsed(name).as_object().unwrap() {
            let (id, service) = (check["ServiceID"].as_str().unwrap(), check["ServiceName"].as_str().unwrap());
            assert_eq!(*key, check_id(id));
            let registered = json!({"ID": id, "Service": service, "Port": 1, "Tags": check["ServiceTags"]});
            let with = |check: &Value| json!([{"Node": {"Address": "a"}, "Service": registered, "Checks": [check]}]);
            let found = read(service, &with(check));
            assert_eq!((found.len(), &*found[0].id), (1, id));
            let mut critical = check.clone();
            critical["Status"] = json!("critical");
            assert_eq!(read(service, &with(&critical)), []);
            count += 1;
        }
    }
    assert_eq!(count, 7);
}

/// The first request of a capture with this head: its body.
fn request(capture: &str, head: &str) -> String {
    let text = vector(capture);
    let request = text.split("--- C>S\n").find(|request| request.starts_with(head)).expect(head);
    let (_, body) = request.split_once("\n\n").unwrap();
    body.split("\n--- ").next().unwrap().trim().to_owned()
}

#[test]
fn a_registration_is_sent_as_go_micro_sends_it() {
    let mut options = RegisterOptions::default();
    options.ttl = Duration::from_secs(60);
    options.heartbeat = Duration::from_secs(10);
    for (capture, check) in [("consul-http-ttl.txt", CheckKind::Ttl), ("consul-http-tcp.txt", CheckKind::Tcp)] {
        let sent: Value = serde_json::from_str(&request(capture, "PUT /v1/agent/service/register ")).unwrap();
        let mut service = sent.clone();
        service["Service"] = sent["Name"].clone();
        let found = read("go.micro.service.greeter", &json!([{ "Service": service }]));
        let config = ConsulConfig { check, ..ConsulConfig::default() };
        let mut ours = serde_json::to_value(ServiceRegistration::new(&found[0], &options, &config)).unwrap();
        // What we say beyond go-micro: that it passes already, and how long Consul's own check may take.
        for more in ["Status", "Timeout"] {
            ours["Check"].as_object_mut().unwrap().remove(more);
        }
        let mut theirs = sent.clone();
        assert_eq!(theirs.as_object_mut().unwrap().remove("Checks"), Some(Value::Null));
        assert_eq!(said(ours["Tags"].take()), said(theirs["Tags"].take()));
        assert_eq!(ours, theirs, "{capture}");
    }
}

#[test]
fn a_registration_has_its_members_in_the_order_of_the_capture() {
    let captured = vector("consul-register-ttl.json");
    let theirs: Value = serde_json::from_str(&captured).unwrap();
    let mut instance = Instance::new(theirs["Name"].as_str().unwrap(), "127.0.0.1:9431")
        .with_id(theirs["ID"].as_str().unwrap())
        .with_version("1.0.0")
        .with_endpoints([Endpoint::new("a"), Endpoint::new("b"), Endpoint::new("c")]);
    instance.metadata = serde_json::from_value(theirs["Meta"].clone()).unwrap();
    let mut options = RegisterOptions::default();
    options.ttl = Duration::from_secs(60);
    let ours = ServiceRegistration::new(&instance, &options, &ConsulConfig::default());
    let kinds = |tags: &Value| -> Vec<String> {
        tags.as_array().unwrap().iter().map(|tag| tag.as_str().unwrap()[..6].to_owned()).collect()
    };
    let written = serde_json::to_value(&ours).unwrap();
    assert_eq!(kinds(&written["Tags"]).iter().map(|tag| &tag[..2]).collect::<String>(), "t-t-t-t-t-t-e-e-e-v-");
    assert_eq!(
        kinds(&written["Tags"]).iter().map(|tag| &tag[..2]).collect::<Vec<_>>(),
        kinds(&theirs["Tags"]).iter().map(|tag| &tag[..2]).collect::<Vec<_>>()
    );
    let text = serde_json::to_string_pretty(&ours).unwrap();
    let place = |text: &str, member: &str| text.find(&format!("\"{member}\":")).expect(member);
    let members = ["ID", "Name", "Tags", "Port", "Address", "Meta", "Check"];
    for text in [&text, &captured] {
        assert!(members.map(|member| place(text, member)).is_sorted(), "{text}");
    }
}

#[test]
fn a_heartbeat_and_a_withdrawal_go_where_go_micro_sends_them() {
    let id = "go.micro.service.greeter-128edff3-324e-4937-b072-97c469fa454a";
    let text = vector("consul-http-ttl.txt");
    assert_eq!(text.matches(&format!("\nPUT /v1/agent/check/pass/{}?", check_id(id))).count(), 3);
    assert!(text.contains(&format!("\nPUT /v1/agent/service/deregister/{id} ")));
}

#[test]
fn the_endpoints_of_every_event_that_go_micro_printed_are_written_to_the_same_byte() {
    let text = vector("watch-events.txt");
    let mut count = 0;
    for line in text.lines().filter_map(|line| line.strip_prefix("EVENT ")) {
        let value: Value = serde_json::from_str(line).unwrap();
        let Ok(endpoints) = serde_json::from_value::<Vec<Endpoint>>(value["Service"]["endpoints"].clone()) else {
            // The event that tells of a service without nodes.
            assert!(value["Service"]["endpoints"].is_null(), "{line}");
            continue;
        };
        let written = serde_json::to_string(&endpoints).unwrap();
        assert!(line.contains(&format!("\"endpoints\":{written},")), "{written}");
        count += endpoints.len();
    }
    assert!(count >= 9, "{count}");
    assert_eq!(lists(&format!("\n{text}")).len(), 1);
}

#[test]
fn a_watch_asks_with_the_index_that_go_micro_asks_with() {
    let text = vector("consul-http-watch.txt");
    let mut indices = Vec::new();
    let mut answered = 0;
    for part in text.split("--- ").skip(1) {
        let line = part.lines().nth(1).unwrap_or_default();
        if part.starts_with("S>C") {
            let index = part.lines().find_map(|line| line.strip_prefix("X-Consul-Index: "));
            answered = index.map_or(answered, |index| index.parse().unwrap());
        } else if let Some((_, query)) = line.split_once("/v1/health/service/go.micro.service.greeter?index=") {
            let asked: u64 = query.split(' ').next().unwrap().parse().unwrap();
            indices.push(asked);
            assert_eq!(crate::watch::next_index(asked.min(answered), answered), asked);
        }
    }
    assert_eq!(indices, [39, 41, 42, 43, 44]);
}
