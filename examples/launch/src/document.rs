//! The document that the Go services keep in Consul's key/value store, read for what it says of
//! this service.

use std::collections::BTreeSet;

use micro_core::{Error, ErrorKind, Result};
use serde_json::Value;

/// What such a document says. Everything is optional.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Document {
    /// `service.name`.
    pub service: Option<String>,
    /// `service.version`.
    pub version: Option<String>,
    /// `service.listen`, as `host:port`.
    pub listen: Option<String>,
    /// `service.log_level`.
    pub log_level: Option<String>,
    /// `service.max_conn`: connections of callers.
    pub connection_count_max: Option<u64>,
    /// `service.max_msg_size`: bytes of one message.
    pub message_bytes_max: Option<u64>,
    /// `database.dsn`, as a URL.
    pub database: Option<String>,
    /// `database.max_open_conns`.
    pub database_connection_count_max: Option<u64>,
    /// `consul.registry_addrs`, the first of them, as a URL.
    pub registry: Option<String>,
    /// `consul.register_ttl` in seconds.
    pub ttl_seconds: Option<u64>,
    /// `consul.register_interval` in seconds.
    pub heartbeat_seconds: Option<u64>,
    /// `broker.kafka.hosts`, as a URL: with go-micro's envelope and its way to spread partitions.
    pub broker: Option<String>,
    /// The keys that say nothing here.
    pub unused: BTreeSet<String>,
}

impl Document {
    /// Reads a document.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for what is no JSON object, and for a key whose value is of another type,
    /// which it names without showing the value.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let value: Value = serde_json::from_slice(text).map_err(|error| {
            // Where it is wrong, and not what stands there: it may be a password.
            refused("expected a JSON object").with_context("line", error.line()).with_context("column", error.column())
        })?;
        Self::of(value)
    }

    /// Reads a document that was parsed.
    pub(crate) fn of(value: Value) -> Result<Self> {
        if !value.is_object() {
            return Err(refused("expected a JSON object"));
        }
        let mut keys = Keys { value, used: BTreeSet::new() };
        let addresses = keys.texts("consul.registry_addrs")?;
        let mut document = Self {
            service: keys.text("service.name")?,
            version: keys.text("service.version")?,
            listen: keys.text("service.listen")?.map(|address| with_host(&address)),
            log_level: keys.text("service.log_level")?,
            connection_count_max: keys.number("service.max_conn")?,
            message_bytes_max: keys.number("service.max_msg_size")?,
            database: keys.text("database.dsn")?.map(|dsn| database_url(&dsn)).transpose()?,
            database_connection_count_max: keys.number("database.max_open_conns")?,
            registry: addresses.first().map(|address| format!("consul://{address}")),
            ttl_seconds: keys.number("consul.register_ttl")?,
            heartbeat_seconds: keys.number("consul.register_interval")?,
            broker: Some(keys.texts("broker.kafka.hosts")?.join(","))
                .filter(|hosts| !hosts.is_empty())
                // Who has such a document has services on go-micro beside this one.
                .map(|hosts| format!("kafka://{hosts}?envelope_topics=*&assignment=range")),
            unused: BTreeSet::new(),
        };
        collect_unused(&keys.value, "", &keys.used, &mut document.unused);
        if addresses.len() > 1 {
            document.unused.insert("consul.registry_addrs[1..]".to_owned());
        }
        Ok(document)
    }
}

/// A document, and which of its keys were asked for.
struct Keys {
    value: Value,
    used: BTreeSet<&'static str>,
}

impl Keys {
    /// The value of a key such as `service.name`; NULL, 0 and an empty text are as good as none, for
    /// Go's zero values say nothing.
    fn find(&mut self, key: &'static str) -> Option<&Value> {
        self.used.insert(key);
        let value = key.split('.').try_fold(&self.value, |value, part| value.get(part))?;
        let is_zero = value.is_null() || value.as_str() == Some("") || value.as_u64() == Some(0);
        (!is_zero).then_some(value)
    }

    fn text(&mut self, key: &'static str) -> Result<Option<String>> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        self.find(key).map(|value| text(value).ok_or_else(|| wrong_type(key, "a text"))).transpose()
    }

    fn number(&mut self, key: &'static str) -> Result<Option<u64>> {
        self.find(key).map(|value| value.as_u64().ok_or_else(|| wrong_type(key, "a number from 0"))).transpose()
    }

    fn texts(&mut self, key: &'static str) -> Result<Vec<String>> {
        let Some(value) = self.find(key) else { return Ok(Vec::new()) };
        let texts = value.as_array().and_then(|values| {
            values.iter().map(|value| value.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        texts.ok_or_else(|| wrong_type(key, "a list of texts"))
    }
}

fn collect_unused(value: &Value, key: &str, used: &BTreeSet<&'static str>, unused: &mut BTreeSet<String>) {
    if used.contains(key) {
        return;
    }
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                collect_unused(value, &key, used, unused);
            }
        }
        _ => {
            unused.insert(key.to_owned());
        }
    }
}

/// `:9000` is Go's for every address.
fn with_host(address: &str) -> String {
    if address.starts_with(':') { format!("0.0.0.0{address}") } else { address.to_owned() }
}

/// Go's `user:password@tcp(host:port)/name?parameters` as a URL. Its parameters are the driver's.
fn database_url(dsn: &str) -> Result<String> {
    let expected = || refused("expected user:password@tcp(host:port)/name").with_context("key", "database.dsn");
    let (address, rest) = dsn.rsplit_once('/').ok_or_else(expected)?;
    let name = rest.split('?').next().filter(|name| !name.is_empty()).ok_or_else(expected)?;
    let (account, network) = address.rsplit_once('@').unwrap_or(("", address));
    let host = network.strip_prefix("tcp(").and_then(|host| host.strip_suffix(')')).ok_or_else(expected)?;
    let account = match account.split_once(':') {
        _ if account.is_empty() => String::new(),
        None => format!("{}@", escaped(account)),
        Some((user, "")) => format!("{}@", escaped(user)),
        Some((user, password)) => format!("{}:{}@", escaped(user), escaped(password)),
    };
    Ok(format!("mysql://{account}{host}/{}", escaped(name)))
}

/// What of a URL's grammar stands in an account is written as `%XX`.
fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

fn wrong_type(key: &'static str, expected: &'static str) -> Error {
    refused("a key's value is of another type").with_context("key", key).with_context("expected", expected)
}

fn refused(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidArgument, "launch.document", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GO: &str = r#"{
        "service": {"name": "go.micro.service.Order", "version": "7.0.0", "listen": ":9000", "qps": 5000,
            "log_level": "info", "max_conn": 1000, "max_msg_size": 4194304},
        "database": {"dsn": "app:p@ss/w:rd@tcp(db:3306)/orders?charset=utf8mb4&parseTime=True", "max_open_conns": 50},
        "consul": {"registry_addrs": ["127.0.0.1:8500", "other:8500"], "register_ttl": 30, "register_interval": 15},
        "broker": {"kafka": {"hosts": ["k1:9092", "k2:9092"], "producer": {"max_retry": 3}}},
        "redis": {"addr": "127.0.0.1:6379"}
    }"#;

    #[test]
    fn the_documents_of_the_go_services_load_unchanged() {
        let order = Document::parse(include_bytes!("../tests/vectors/consul-kv-order.json")).unwrap();
        assert_eq!(order.service.as_deref(), Some("go.micro.service.Order"));
        assert_eq!((order.version.as_deref(), order.listen.as_deref()), (Some("7.0.0"), Some("0.0.0.0:9000")));
        assert_eq!(order.database.as_deref(), Some("mysql://root@127.0.0.1:3306/orders"));
        assert_eq!(order.registry.as_deref(), Some("consul://127.0.0.1:8500"));
        assert_eq!((order.ttl_seconds, order.heartbeat_seconds), (Some(30), Some(15)));
        assert_eq!(order.broker.as_deref(), Some("kafka://127.0.0.1:9092?envelope_topics=*&assignment=range"));
        assert_eq!((order.connection_count_max, order.message_bytes_max), (Some(1_000), Some(4_194_304)));
        // Its name is spelled so in Go, too.
        assert!(order.unused.contains("service.heath_check_addr"));
        let product = Document::parse(include_bytes!("../tests/vectors/consul-kv-product.json")).unwrap();
        assert_eq!(product.service.as_deref(), Some("go.micro.service.Product"));
        assert!(product.database.is_some() && product.broker.is_some() && product.registry.is_some());
    }

    #[test]
    fn the_go_services_document_is_read_as_it_is() {
        let document = Document::parse(GO.as_bytes()).unwrap();
        let expected = Document {
            service: Some("go.micro.service.Order".into()),
            version: Some("7.0.0".into()),
            listen: Some("0.0.0.0:9000".into()),
            log_level: Some("info".into()),
            connection_count_max: Some(1000),
            message_bytes_max: Some(4_194_304),
            database: Some("mysql://app:p%40ss%2Fw%3Ard@db:3306/orders".into()),
            database_connection_count_max: Some(50),
            registry: Some("consul://127.0.0.1:8500".into()),
            ttl_seconds: Some(30),
            heartbeat_seconds: Some(15),
            broker: Some("kafka://k1:9092,k2:9092?envelope_topics=*&assignment=range".into()),
            unused: ["broker.kafka.producer.max_retry", "consul.registry_addrs[1..]", "redis.addr", "service.qps"]
                .map(Into::into)
                .into(),
        };
        assert_eq!(document, expected);
    }

    #[test]
    fn what_a_document_leaves_out_stays_open() {
        for text in ["{}", r#"{"service": {"name": "", "max_conn": 0, "listen": null}, "broker": {"kafka": {}}}"#] {
            assert_eq!(Document::parse(text.as_bytes()).unwrap(), Document::default(), "{text}");
        }
    }

    #[test]
    fn data_source_names_become_urls() {
        for (dsn, url) in [
            ("root:@tcp(127.0.0.1:3306)/orders", "mysql://root@127.0.0.1:3306/orders"),
            ("root@tcp(db)/orders?loc=Local", "mysql://root@db/orders"),
            ("tcp(db:1)/a_b", "mysql://db:1/a_b"),
        ] {
            assert_eq!(database_url(dsn).unwrap(), url);
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_no_value_shown() {
        for (text, expected) in [
            ("canary", "expected a JSON object"),
            ("[\"canary\"]", "expected a JSON object"),
            ("{\"a\": canary}", "line=1"),
            (r#"{"service": {"name": 1}}"#, "key=service.name, expected=a text"),
            (r#"{"service": {"max_conn": "canary"}}"#, "key=service.max_conn"),
            (r#"{"broker": {"kafka": {"hosts": "canary"}}}"#, "key=broker.kafka.hosts"),
            (r#"{"database": {"dsn": "root:canary@unix(/s)/x"}}"#, "key=database.dsn"),
            (r#"{"database": {"dsn": "canary"}}"#, "key=database.dsn"),
            (r#"{"database": {"dsn": "root:canary@tcp(db)/"}}"#, "key=database.dsn"),
        ] {
            let error = Document::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            let text = format!("{} {error:?}", error.report());
            assert!(text.contains(expected) && !text.contains("canary"), "{text}");
        }
    }
}
