//! An instance as a service of Consul's, and back: all that knows how one is written as the other.
//! The form is that of go-micro's Consul plugin of version 4, so that each finds the other's.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use micro_core::registry::{
    Endpoint, Instance, RegisterOptions,
    bounded::{FirstOf, Pairs},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    CheckKind, ConsulConfig,
    complaints::Complaint,
    go_duration::go_duration,
    limits::{CHECKS_MAX, COMPLAINTS_MAX, ENTRIES_MAX, Left, METADATA_BYTES_MAX, TAGS_MAX},
    tags,
};

/// How much of an id or a reason is told.
const SHOWN_CHARS: usize = 300;

/// What Consul takes as the meta of a service.
const META_COUNT_MAX: usize = 64;
const META_NAME_BYTES_MAX: usize = 128;
const META_VALUE_BYTES_MAX: usize = 512;
const META_NAME_RESERVED: &str = "consul-";

/// The body of `PUT /v1/agent/service/register`, its members in go-micro's order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ServiceRegistration {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    tags: Vec<String>,
    port: u16,
    address: String,
    /// For those who look at Consul; go-micro's programs and ours read the tags.
    meta: BTreeMap<String, String>,
    check: Check,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    #[serde(rename = "TTL", skip_serializing_if = "Option::is_none")]
    ttl: Option<String>,
    #[serde(rename = "TCP", skip_serializing_if = "Option::is_none")]
    tcp: Option<String>,
    #[serde(rename = "HTTP", skip_serializing_if = "Option::is_none")]
    http: Option<String>,
    #[serde(rename = "GRPC", skip_serializing_if = "Option::is_none")]
    grpc: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<String>,
    deregister_critical_service_after: String,
    /// An instance is announced when it is ready, so that it need not wait for its first check.
    /// go-micro leaves this out and passes its check right after.
    status: &'static str,
}

/// A service as the agent and the catalog tell of it. What is empty may be missing or `null`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Service {
    service: Option<String>,
    #[serde(rename = "ID")]
    id: Option<String>,
    address: Option<String>,
    port: Option<i64>,
    #[serde(default)]
    tags: FirstOf<Option<String>, TAGS_MAX>,
    #[serde(default)]
    meta: Pairs<META_COUNT_MAX, METADATA_BYTES_MAX>,
}

/// An entry of `GET /v1/health/service/NAME`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HealthEntry {
    node: Option<Node>,
    service: Option<Service>,
    #[serde(default)]
    checks: FirstOf<Option<CheckState>, CHECKS_MAX>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    address: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CheckState {
    status: Option<String>,
}

/// The id that Consul gives to the only check of a service.
pub(crate) fn check_id(id: &str) -> String {
    format!("service:{id}")
}

impl ServiceRegistration {
    /// `instance` must be valid.
    pub(crate) fn new(instance: &Instance, options: &RegisterOptions, config: &ConsulConfig) -> Self {
        let (host, port) = instance.address.rsplit_once(':').expect("the instance is valid");
        Self {
            id: instance.id.clone(),
            name: instance.service.clone(),
            tags: tags::encode(instance),
            port: port.parse().expect("the instance is valid"),
            address: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            meta: Meta::of(&instance.metadata).taken,
            check: Check::new(&instance.address, host, options, config),
        }
    }
}

/// Metadata as Consul takes it: one name that it refuses would make it refuse the registration.
pub(crate) struct Meta {
    pub(crate) taken: BTreeMap<String, String>,
    /// The names of those that only the tags have.
    pub(crate) left_out: Vec<String>,
}

impl Meta {
    pub(crate) fn of(metadata: &BTreeMap<String, String>) -> Self {
        let is_name = |name: &str| {
            let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            (1..=META_NAME_BYTES_MAX).contains(&name.len())
                && name.bytes().all(is_letter)
                && !name.starts_with(META_NAME_RESERVED)
        };
        let mut meta = Self { taken: BTreeMap::new(), left_out: Vec::new() };
        for (name, value) in metadata {
            if is_name(name) && value.len() <= META_VALUE_BYTES_MAX && meta.taken.len() < META_COUNT_MAX {
                meta.taken.insert(name.clone(), value.clone());
            } else {
                meta.left_out.push(name.clone());
            }
        }
        meta
    }
}

impl Service {
    /// Whether it is an instance of the service of that name.
    pub(crate) fn is_of(&self, service: &str) -> bool {
        self.service.as_deref() == Some(service)
    }
}

impl Check {
    /// `host` is that of `address`, in brackets if it is there.
    fn new(address: &str, host: &str, options: &RegisterOptions, config: &ConsulConfig) -> Self {
        let asked = Self {
            interval: Some(go_duration(options.heartbeat)),
            timeout: Some(go_duration(config.check_timeout)),
            ..Self::passing(options.heartbeat, config)
        };
        match &config.check {
            CheckKind::Ttl => Self { ttl: Some(go_duration(options.ttl)), ..Self::passing(options.ttl, config) },
            CheckKind::Tcp => Self { tcp: Some(address.to_owned()), ..asked },
            CheckKind::Http { path, port } => {
                let address = port.map_or_else(|| address.to_owned(), |port| format!("{host}:{port}"));
                Self { http: Some(format!("http://{address}{path}")), ..asked }
            }
            CheckKind::Grpc { service } => {
                let slash = if service.is_empty() { "" } else { "/" };
                Self { grpc: Some(format!("{address}{slash}{service}")), ..asked }
            }
        }
    }

    /// go-micro's rule: forgotten 5 s after the TTL or interval, and never in less than 65 s.
    fn passing(interval: Duration, config: &ConsulConfig) -> Self {
        let forgotten_after = config.deregister_critical_after.max(interval + Duration::from_secs(5));
        Self { status: "passing", deregister_critical_service_after: go_duration(forgotten_after), ..Self::default() }
    }
}

/// The instances of an answer, and what of it cannot be read.
#[derive(Debug, Default)]
pub struct Reading {
    /// The live ones, sorted by id.
    pub instances: Vec<Instance>,
    /// Each said once is enough.
    pub complaints: Vec<Complaint>,
}

/// Reads an answer of `GET /v1/health/service/NAME`: its instances none of whose checks is critical.
///
/// An entry that cannot be called, or that is none, is left out with a complaint, and so is a tag
/// that cannot be read, and what is above a limit of `limits.rs`.
///
/// # Errors
///
/// Where it is no list of JSON.
pub fn instances(service: &str, answer: &[u8]) -> serde_json::Result<Reading> {
    // Entry by entry: one that is malformed is not to hide the others.
    let entries = serde_json::from_slice::<FirstOf<&RawValue, ENTRIES_MAX>>(answer)?;
    let mut reader = Reader::default();
    for entry in entries.kept {
        match serde_json::from_str::<Option<HealthEntry>>(entry.get()) {
            Ok(entry) => reader.entry(service, entry),
            Err(cause) => reader.complain("", format!("an entry is left out: {cause}")),
        }
    }
    if entries.left_out > 0 {
        reader.complain("", format!("of more than {ENTRIES_MAX} instances the rest is left out"));
    }
    reader.reading.instances.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(reader.reading)
}

/// The instance of a service that the agent told of, if it can be called and read as a whole.
pub(crate) fn whole_instance(service: Service) -> Option<Instance> {
    let mut reader = Reader::default();
    reader.service(service);
    reader.reading.instances.pop().filter(|_| reader.reading.complaints.is_empty())
}

/// As much of a text that others chose as a log's line needs.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).collect()
}

/// Reads the entries of one answer.
#[derive(Default)]
struct Reader {
    left: Left,
    /// By their tags: the instances of a version have the same, and share what was read.
    endpoints: HashMap<Vec<String>, Arc<Vec<Endpoint>>>,
    reading: Reading,
}

impl Reader {
    fn entry(&mut self, name: &str, entry: Option<HealthEntry>) {
        let Some(HealthEntry { node, service: Some(mut service), checks }) = entry else {
            return self.complain("", "an entry is left out: it has no service".to_owned());
        };
        let is_critical = |check: &CheckState| check.status.as_deref() == Some("critical");
        let is_other = service.service.as_deref().is_some_and(|other| other != name);
        if is_other || checks.kept.iter().flatten().any(is_critical) {
            return;
        }
        if checks.left_out > 0 {
            let id = service.id.unwrap_or_default();
            return self.complain(&id, format!("it is left out: it has more than {CHECKS_MAX} checks"));
        }
        if service.address.as_ref().is_none_or(String::is_empty) {
            // Consul's rule: a service without an address has that of its node.
            service.address = node.and_then(|node| node.address);
        }
        self.service(service);
    }

    fn service(&mut self, service: Service) {
        let Service { service, id, address, port, tags, meta } = service;
        let (service, id) = (service.unwrap_or_default(), id.unwrap_or_default());
        if tags.left_out > 0 {
            self.complain(&id, format!("of more than {TAGS_MAX} tags the rest is left out"));
        }
        let tags: Vec<String> = tags.kept.into_iter().flatten().collect();
        let (host, port) = (address.unwrap_or_default(), port.unwrap_or_default());
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let mut instance = Instance::new(service, format!("{host}:{port}")).with_id(&*id);
        if let Err(refusal) = instance.validate() {
            return self.complain(&id, format!("it is left out: {refusal}"));
        }
        self.say(&mut instance, &tags, meta.kept);
        self.reading.instances.push(instance);
    }

    /// Lets the instance have what its tags say.
    fn say(&mut self, instance: &mut Instance, tags: &[String], meta: BTreeMap<String, String>) {
        let endpoint_tags = tags::of_endpoints(tags);
        let known = self.endpoints.get(&endpoint_tags).cloned();
        let read = tags::decode(tags, known.is_none(), &mut self.left);
        instance.version = read.version;
        // Else no registration of go-micro's or ours, or one without metadata, whose meta is empty.
        instance.metadata = read.metadata.unwrap_or(meta);
        instance.endpoints = known.unwrap_or_else(|| {
            let endpoints = Arc::new(read.endpoints);
            self.endpoints.insert(endpoint_tags, endpoints.clone());
            endpoints
        });
        for reason in read.complaints {
            self.complain(&instance.id, reason);
        }
    }

    fn complain(&mut self, id: &str, reason: String) {
        if self.reading.complaints.len() == COMPLAINTS_MAX {
            return;
        }
        self.reading.complaints.push(Complaint { id: shown(id), reason: shown(&reason) });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(address: &str, check: CheckKind) -> serde_json::Value {
        let instance = Instance::new("greeter", address).with_id("greeter-1").with_version("8.2.0");
        let config = ConsulConfig { check, ..ConsulConfig::default() };
        let instance = instance.with_metadata("protocol", "grpc");
        serde_json::to_value(ServiceRegistration::new(&instance, &RegisterOptions::default(), &config)).unwrap()
    }

    fn read(entries: serde_json::Value) -> Reading {
        instances("web", &serde_json::to_vec(&entries).unwrap()).unwrap()
    }

    fn entry(service: serde_json::Value) -> serde_json::Value {
        json!({"Node": {"Address": "10.0.0.1"}, "Service": service, "Checks": null, "Added": {"later": true}})
    }

    #[test]
    fn an_instance_is_written_as_go_micro_writes_it() {
        let mut written = written("127.0.0.1:9000", CheckKind::Ttl);
        let tags = written["Tags"].take();
        let tags: Vec<String> = serde_json::from_value(tags).unwrap();
        assert!(tags[0].starts_with("t-78") && tags[1].starts_with("v-78") && tags.len() == 2, "{tags:?}");
        assert_eq!(
            written,
            json!({
                "ID": "greeter-1",
                "Name": "greeter",
                "Tags": null,
                "Port": 9000,
                "Address": "127.0.0.1",
                "Meta": {"protocol": "grpc"},
                "Check": {"TTL": "15s", "DeregisterCriticalServiceAfter": "1m5s", "Status": "passing"},
            })
        );
    }

    #[test]
    fn every_kind_of_check_is_written_with_its_target() {
        let http = |port| CheckKind::Http { path: "/healthz".to_owned(), port };
        let grpc = |service: &str| CheckKind::Grpc { service: service.to_owned() };
        for (check, member, target) in [
            (CheckKind::Tcp, "TCP", "[::1]:9000"),
            (http(None), "HTTP", "http://[::1]:9000/healthz"),
            (http(Some(8080)), "HTTP", "http://[::1]:8080/healthz"),
            (grpc(""), "GRPC", "[::1]:9000"),
            (grpc("greeter.Greeter"), "GRPC", "[::1]:9000/greeter.Greeter"),
        ] {
            let written = &written("[::1]:9000", check)["Check"];
            assert_eq!(written[member], target);
            assert_eq!((&written["Interval"], &written["Timeout"]), (&json!("5s"), &json!("1s")));
            assert_eq!(written["DeregisterCriticalServiceAfter"], "1m5s");
            assert!(written.get("TTL").is_none(), "{written}");
        }
        assert_eq!(written("[::1]:9000", CheckKind::Ttl)["Address"], "::1");
    }

    #[test]
    fn what_is_critical_is_forgotten_five_seconds_after_the_ttl_and_never_within_65() {
        for (ttl, forgotten_after) in [(1, "1m5s"), (59, "1m5s"), (60, "1m5s"), (90, "1m35s"), (600, "10m5s")] {
            let mut options = RegisterOptions::default();
            options.ttl = Duration::from_secs(ttl);
            let instance = Instance::new("greeter", "a:1");
            let registration = ServiceRegistration::new(&instance, &options, &ConsulConfig::default());
            assert_eq!(registration.check.deregister_critical_service_after, forgotten_after);
        }
    }

    #[test]
    fn metadata_that_consul_refuses_is_left_out_of_the_meta() {
        let mut metadata: BTreeMap<String, String> = (0..70).map(|n| (format!("z{n:02}"), String::new())).collect();
        let long = "a".repeat(128);
        for (name, value_length) in [
            ("", 1),
            ("two words", 1),
            ("a.b", 1),
            ("ö", 1),
            ("consul-version", 1),
            (&*"a".repeat(129), 1),
            (&*long, 1),
            ("long", 513),
            ("full", 512),
        ] {
            metadata.insert(name.to_owned(), "x".repeat(value_length));
        }
        let meta = Meta::of(&metadata);
        assert_eq!((meta.taken.len(), meta.left_out.len()), (64, 70 - 62 + 7));
        assert!(meta.taken.contains_key(&*long) && meta.taken.contains_key("full"));
        for name in ["", "two words", "a.b", "ö", "consul-version", "long", "z69"] {
            assert!(meta.left_out.iter().any(|left| left == name), "{name}");
        }
    }

    #[test]
    fn what_others_registered_is_read_as_far_as_it_can_be_called() {
        let reading = read(json!([
            entry(json!({"ID": "b", "Service": "web", "Tags": null, "Meta": null, "Address": "", "Port": 80})),
            entry(json!({"ID": "c", "Service": "web", "Tags": ["x"], "Meta": {}, "Address": "10.0.0.2", "Port": 0})),
            entry(json!({"ID": "a", "Service": "web", "Tags": ["v=2", null], "Meta": {"a": "1", "b": null},
                         "Address": "::1", "Port": 1})),
            entry(json!({"ID": "d", "Service": "other", "Port": 1})),
            entry(json!({"ID": "e", "Service": "web", "Port": "eighty"})),
            entry(json!({"ID": null, "Service": "web", "Port": 80})),
            entry(json!(null)),
            json!(null),
            json!(7),
        ]));
        let expected = [
            Instance::new("web", "[::1]:1")
                .with_id("a")
                .with_version("2")
                .with_metadata("a", "1")
                .with_metadata("b", ""),
            Instance::new("web", "10.0.0.1:80").with_id("b").with_version(""),
        ];
        assert_eq!(reading.instances, expected);
        let reasons = [
            ("c", "host:port"),
            ("", "invalid type: string"),
            ("", "no id"),
            ("", "no service"),
            ("", "no service"),
            ("", "integer"),
        ];
        assert_eq!(reading.complaints.len(), reasons.len(), "{:?}", reading.complaints);
        for (complaint, (id, part)) in reading.complaints.iter().zip(reasons) {
            assert!(complaint.id == id && complaint.reason.contains(part), "{complaint:?}");
        }
    }

    #[test]
    fn an_answer_is_a_list_or_null() {
        assert!(instances("web", b"null").unwrap().instances.is_empty());
        assert!(instances("web", b"{}").is_err());
        assert!(instances("web", b"<html>").is_err());
    }

    #[test]
    fn a_critical_check_of_service_or_node_makes_an_instance_dead_and_a_warning_does_not() {
        let service = json!({"ID": "a", "Service": "web", "Port": 80, "Address": "h"});
        for (states, is_live) in [
            (json!(null), true),
            (json!([]), true),
            (json!([null, {}, {"Status": null}, {"Status": "strange"}]), true),
            (json!([{"Status": "passing"}, {"Status": "warning"}]), true),
            (json!([{"Status": "passing"}, {"Status": "critical"}]), false),
        ] {
            let reading = read(json!([{"Service": service, "Checks": states}]));
            assert_eq!((reading.instances.len(), reading.complaints.len()), (usize::from(is_live), 0), "{states}");
        }
    }

    /// A few bytes of each become a hundred of memory.
    #[test]
    fn of_an_answer_without_end_the_beginning_is_read() {
        let text = |list: String| instances("web", format!("[{list}]").as_bytes()).unwrap();
        let service =
            |id: usize, more: &str| format!(r#"{{"Service":{{"ID":"{id:06}","Service":"web","Port":80{more}}}"#);
        let address = r#","Address":"h""#;
        let many = (0..ENTRIES_MAX + 2).map(|id| service(id, address) + "}").collect::<Vec<_>>().join(",");
        let reading = text(many);
        assert_eq!(reading.instances.len(), ENTRIES_MAX);
        assert_eq!(reading.complaints.len(), 1, "{:?}", reading.complaints);

        let reading = text("{},".repeat(ENTRIES_MAX) + "7");
        assert_eq!((reading.instances.len(), reading.complaints.len()), (0, COMPLAINTS_MAX));

        let tags = format!(r#"{address},"Tags":["v=1"{}]"#, r#","""#.repeat(TAGS_MAX));
        let checks = format!(r#","Checks":[{}]}}"#, vec!["{}"; CHECKS_MAX + 1].join(","));
        let reading =
            text([service(1, &tags) + "}", service(2, address) + &checks, service(3, address) + "}"].join(","));
        let ids: Vec<&str> = reading.instances.iter().map(|instance| &*instance.id).collect();
        assert_eq!((ids, &*reading.instances[0].version), (vec!["000001", "000003"], "1"));
        let reasons =
            reading.complaints.iter().map(|complaint| (&*complaint.id, complaint.reason.contains("more than")));
        assert_eq!(reasons.collect::<Vec<_>>(), [("000001", true), ("000002", true)]);
    }

    #[test]
    fn instances_with_the_same_tags_share_their_endpoints() {
        let tags = json!([r#"e={"name":"Web.Get"}"#, "v=1"]);
        let service = |id: &str| entry(json!({"ID": id, "Service": "web", "Tags": tags, "Port": 80}));
        let reading = read(json!([service("a"), service("b")]));
        let [a, b] = &reading.instances[..] else { panic!("{reading:?}") };
        assert_eq!(a.endpoints[0].name, "Web.Get");
        assert!(Arc::ptr_eq(&a.endpoints, &b.endpoints));
    }

    #[test]
    fn what_was_registered_is_recognised() {
        let instance =
            Instance::new("web", "[::1]:80").with_metadata("a.b", "1").with_endpoints([Endpoint::new("A.B")]);
        let registration = ServiceRegistration::new(&instance, &RegisterOptions::default(), &ConsulConfig::default());
        let mut told = serde_json::to_value(registration).unwrap();
        told["Service"] = told["Name"].take();
        assert_eq!(whole_instance(serde_json::from_value(told.clone()).unwrap()), Some(instance));
        told["Tags"][0] = "t-00".into();
        assert_eq!(whole_instance(serde_json::from_value(told).unwrap()), None);
    }
}
