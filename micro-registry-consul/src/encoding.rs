//! An instance as a service of Consul's, and back: all that knows how one is written as the other.

use std::{collections::BTreeMap, time::Duration};

use micro_core::registry::{Instance, RegisterOptions};
use serde::{Deserialize, Serialize};

use crate::{CheckKind, ConsulConfig};

/// What the tag with the version begins with.
const VERSION_TAG: &str = "version=";

/// The body of `PUT /v1/agent/service/register`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ServiceRegistration {
    name: String,
    #[serde(rename = "ID")]
    id: String,
    address: String,
    port: u16,
    tags: Vec<String>,
    meta: BTreeMap<String, String>,
    check: Check,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    name: &'static str,
    /// An instance is announced when it is ready, so that it need not wait for its first check.
    status: &'static str,
    deregister_critical_service_after: String,
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
}

/// A service as the agent and the catalog tell of it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Service {
    service: String,
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    port: u16,
    // Consul writes empty ones as null.
    tags: Option<Vec<String>>,
    meta: Option<BTreeMap<String, String>>,
}

/// An entry of `GET /v1/health/service/NAME`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct HealthEntry {
    node: Node,
    service: Service,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    address: String,
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
            name: instance.service.clone(),
            id: instance.id.clone(),
            address: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: port.parse().expect("the instance is valid"),
            tags: vec![format!("{VERSION_TAG}{}", instance.version)],
            meta: instance.metadata.clone(),
            check: Check::new(&instance.address, host, options, config),
        }
    }
}

impl Check {
    /// `host` is that of `address`, in brackets if it is there.
    fn new(address: &str, host: &str, options: &RegisterOptions, config: &ConsulConfig) -> Self {
        let forgotten_after = config.deregister_critical_after.max(options.ttl + Duration::from_secs(5));
        let check =
            Self { status: "passing", deregister_critical_service_after: millis(forgotten_after), ..Self::default() };
        let asked =
            Self { interval: Some(millis(options.heartbeat)), timeout: Some(millis(config.check_timeout)), ..check };
        match &config.check {
            CheckKind::Ttl => {
                Self { name: "heartbeats", ttl: Some(millis(options.ttl)), interval: None, timeout: None, ..asked }
            }
            CheckKind::Tcp => Self { name: "TCP", tcp: Some(address.to_owned()), ..asked },
            CheckKind::Http { path, port } => {
                let address = port.map_or_else(|| address.to_owned(), |port| format!("{host}:{port}"));
                Self { name: "HTTP", http: Some(format!("http://{address}{path}")), ..asked }
            }
            CheckKind::Grpc { service } => {
                let slash = if service.is_empty() { "" } else { "/" };
                Self { name: "gRPC", grpc: Some(format!("{address}{slash}{service}")), ..asked }
            }
        }
    }
}

impl Service {
    /// The instance, unless what is registered has no port and cannot be called.
    pub(crate) fn into_instance(self) -> Option<Instance> {
        let host = if self.address.contains(':') { format!("[{}]", self.address) } else { self.address };
        let version = self.tags.iter().flatten().find_map(|tag| tag.strip_prefix(VERSION_TAG)).unwrap_or("latest");
        let mut instance =
            Instance::new(self.service, format!("{host}:{}", self.port)).with_id(self.id).with_version(version);
        instance.metadata = self.meta.unwrap_or_default();
        instance.validate().is_ok().then_some(instance)
    }
}

/// The instances of the answer, sorted by id.
pub(crate) fn instances(entries: Vec<HealthEntry>) -> Vec<Instance> {
    let mut instances: Vec<_> = entries.into_iter().filter_map(HealthEntry::into_instance).collect();
    instances.sort_by(|a, b| a.id.cmp(&b.id));
    instances
}

impl HealthEntry {
    fn into_instance(mut self) -> Option<Instance> {
        if self.service.address.is_empty() {
            // Consul's rule: a service without an address has that of its node.
            self.service.address = self.node.address;
        }
        self.service.into_instance()
    }
}

fn millis(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
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

    #[test]
    fn an_instance_is_written_readably() {
        assert_eq!(
            written("127.0.0.1:9000", CheckKind::Ttl),
            json!({
                "Name": "greeter",
                "ID": "greeter-1",
                "Address": "127.0.0.1",
                "Port": 9000,
                "Tags": ["version=8.2.0"],
                "Meta": {"protocol": "grpc"},
                "Check": {
                    "Name": "heartbeats",
                    "Status": "passing",
                    "TTL": "15000ms",
                    "DeregisterCriticalServiceAfter": "65000ms",
                },
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
            assert_eq!((&written["Interval"], &written["Timeout"]), (&json!("5000ms"), &json!("1000ms")));
            assert!(written.get("TTL").is_none(), "{written}");
        }
        assert_eq!(written("[::1]:9000", CheckKind::Ttl)["Address"], "::1");
    }

    #[test]
    fn a_long_ttl_is_not_forgotten_before_it_ends() {
        let mut options = RegisterOptions::default();
        options.ttl = Duration::from_secs(90);
        let instance = Instance::new("greeter", "a:1");
        let registration = ServiceRegistration::new(&instance, &options, &ConsulConfig::default());
        assert_eq!(registration.check.deregister_critical_service_after, "95000ms");
    }

    #[test]
    fn what_others_registered_is_read_as_far_as_it_can_be_called() {
        let entry = |service: serde_json::Value| json!({"Node": {"Address": "10.0.0.1"}, "Service": service});
        let entries = json!([
            entry(json!({"ID": "b", "Service": "web", "Tags": null, "Meta": null, "Address": "", "Port": 80})),
            entry(json!({"ID": "c", "Service": "web", "Tags": ["x"], "Meta": {}, "Address": "10.0.0.2", "Port": 0})),
            entry(json!({"ID": "a", "Service": "web", "Tags": ["version=2"], "Meta": {}, "Address": "::1", "Port": 1})),
        ]);
        let found = instances(serde_json::from_value(entries).unwrap());
        let expected = [
            Instance::new("web", "[::1]:1").with_id("a").with_version("2"),
            Instance::new("web", "10.0.0.1:80").with_id("b"),
        ];
        assert_eq!(found, expected);
    }
}
