//! The settings of a service's program, from wherever they come.

use std::time::Duration;

use micro_core::{Error, ErrorKind, Result, consume::ConsumerConfig, registry::RegisterOptions};
use micro_grpc::{GoMicroConfig, GrpcServerConfig};
use micro_rs::backends::{advertised, scheme};
use micro_tx::SqlConfig;

use crate::{Document, Options, Program};

/// What the command line, the document and the defaults come to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// Where the instance is announced. May hold a secret.
    pub registry: String,
    /// Where events go. May hold a secret.
    pub broker: String,
    /// Where rows are kept.
    pub database: SqlConfig,
    /// What is logged where `RUST_LOG` says nothing.
    pub log_level: String,
    /// Creates missing Kafka topics with so many partitions.
    pub create_topics: Option<u32>,
    /// The options that were given.
    options: Options,
    document: Document,
}

impl Settings {
    /// Reads the document, where there is a Consul to read it from, and lays the options over it.
    ///
    /// # Errors
    ///
    /// Those of Consul, and of a document that cannot be read. `NotFound` where `CONSUL_HOST` names the
    /// Consul, no document is in it and no option says where data goes: a service that is found by its
    /// callers and works on empty data answers them wrongly.
    pub(crate) async fn of(program: Program, options: &Options) -> Result<Self> {
        let host = options.consul_host.as_ref().filter(|host| !host.is_empty());
        let said = options.registry.clone().or_else(|| options.go_micro.registry.clone());
        let registry = said.or_else(|| host.map(|host| format!("consul://{host}")));
        let prefix = options.consul_prefix.trim_start_matches('/');
        let key = format!("{prefix}{}", program.name);
        let says_where = options.broker.is_some() || options.go_micro.broker.is_some() || options.database.is_some();
        let document = match registry.as_deref().filter(|url| url.starts_with("consul")) {
            Some(url) => match document(url, &key).await? {
                None if host.is_some() && !says_where => return Err(missing(&key)),
                document => document.unwrap_or_default(),
            },
            None => Document::default(),
        };
        Ok(Self::laid(program, options, registry, document))
    }

    fn laid(program: Program, options: &Options, registry: Option<String>, document: Document) -> Self {
        let or = |option: &Option<String>, document: &Option<String>, default: &str| {
            option.clone().or_else(|| document.clone()).unwrap_or_else(|| default.to_owned())
        };
        let go_micro = &options.go_micro;
        let mut database = SqlConfig::new(or(&options.database, &document.database, program.database));
        if let Some(count) = document.database_connection_count_max {
            database.connection_count_max = Some(u32::try_from(count).unwrap_or(u32::MAX));
        }
        Self {
            registry: or(&registry, &document.registry, "memory:"),
            broker: or(&options.broker.clone().or_else(|| go_micro.broker.clone()), &document.broker, "memory:"),
            database,
            log_level: or(&go_micro.log_level, &document.log_level, "info"),
            create_topics: options.create_topics,
            options: options.clone(),
            document,
        }
    }

    /// Lays what they say of a service over its own settings.
    pub fn apply(
        &self,
        service: &mut String,
        version: &mut String,
        grpc: &mut GrpcServerConfig,
        go_micro: &mut GoMicroConfig,
        consumer: &mut ConsumerConfig,
    ) {
        let (options, document) = (&self.options, &self.document);
        let set = |setting: &mut String, value: &Option<String>| {
            if let Some(value) = value {
                setting.clone_from(value);
            }
        };
        for (setting, of_document, of_go_micro) in [
            (service, &document.service, &options.go_micro.name),
            (version, &document.version, &options.go_micro.version),
            (&mut grpc.address, &document.listen, &options.go_micro.listen),
        ] {
            set(setting, of_document);
            set(setting, of_go_micro);
        }
        set(&mut grpc.address, &options.listen);
        let advertise = options.advertise.clone().or_else(|| options.go_micro.advertise.clone());
        grpc.advertise = advertise.or_else(|| grpc.advertise.take());
        if grpc.advertise.is_none() {
            grpc.advertise = advertised(&grpc.address, &self.registry);
        }
        if options.go_micro.is_mucp {
            // Where calls are taken is mucp's then, and what callers are told of.
            let own = GrpcServerConfig::default().address;
            go_micro.mucp_address = Some(std::mem::replace(&mut grpc.address, own));
        }
        grpc.id = options.go_micro.id.clone().or_else(|| grpc.id.take());
        // As go-micro's servers say of themselves.
        for (port, url) in [("registry", &self.registry), ("broker", &self.broker)] {
            grpc.metadata.insert(port.to_owned(), scheme(url).to_owned());
        }
        grpc.metadata.extend(options.go_micro.metadata.clone());
        let count = |setting: &mut usize, value: Option<u64>| {
            if let Some(value) = value {
                *setting = usize::try_from(value).unwrap_or(usize::MAX);
            }
        };
        count(&mut grpc.connection_count_max, document.connection_count_max);
        count(&mut grpc.message_bytes_max, document.message_bytes_max);
        count(&mut consumer.lane_count, options.lanes.map(u64::from));
    }

    /// How the instance is kept alive.
    pub fn register_options(&self) -> RegisterOptions {
        let mut options = RegisterOptions::default();
        if let Some(seconds) = self.document.ttl_seconds {
            options.ttl = Duration::from_secs(seconds);
            options.heartbeat = options.ttl / 3;
        }
        if let Some(seconds) = self.document.heartbeat_seconds {
            options.heartbeat = Duration::from_secs(seconds);
        }
        self.options.go_micro.register.clone().unwrap_or(options)
    }

    /// Says in the log what is easily overlooked.
    pub(crate) fn tell(&self) {
        for (port, url) in [("registry", &self.registry), ("broker", &self.broker)] {
            if url.starts_with("memory:") {
                tracing::warn!(port, "memory: reaches this process only; no other service sees what is in it");
            }
        }
        let go_micro = &self.options.go_micro;
        // These programs call nobody.
        let of_calls =
            [go_micro.request_timeout.map(|_| "client_request_timeout"), go_micro.retries.map(|_| "client_retries")];
        let unused: Vec<&str> =
            of_calls.into_iter().flatten().chain(go_micro.unused.iter().map(String::as_str)).collect();
        if !unused.is_empty() {
            let names = unused.join(" ");
            tracing::warn!(names, "settings of go-micro that say nothing here");
        }
        if !self.document.unused.is_empty() {
            let keys: Vec<&str> = self.document.unused.iter().map(String::as_str).collect();
            tracing::info!(keys = keys.join(" "), "the document in Consul has keys that say nothing here");
        }
    }
}

#[cfg(feature = "registry-consul")]
async fn document(url: &str, key: &str) -> Result<Option<Document>> {
    use micro_rs::registry::consul::{ConsulConfig, ConsulKv};

    use crate::tree::{merged, substitute};

    let store = ConsulKv::connect(ConsulConfig::from_url(url)?.with_env_token()).await?;
    let keys = store.list(key).await?;
    let tree = merged(key, keys.iter().map(|(key, text)| (key.as_str(), text.as_ref())))?;
    let Some(mut tree) = tree else { return Ok(None) };
    substitute(&mut tree, &|name| std::env::var(name).ok());
    Document::of(tree).map(Some).map_err(|error| error.with_context("document", key))
}

/// Without the feature the registry's URL is refused when it is connected.
#[cfg(not(feature = "registry-consul"))]
async fn document(_url: &str, _key: &str) -> Result<Option<Document>> {
    Ok(Some(Document::default()))
}

fn missing(key: &str) -> Error {
    let said = "no document in Consul: put one there, set CONSUL_PREFIX to what stands before its name, or say \
                --broker or --database";
    Error::new(ErrorKind::NotFound, "launch.document", said).with_context("key", key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: Program = Program { name: "order", database: "sqlite:orders.db" };

    fn document() -> Document {
        Document::parse(
            br#"{"service": {"name": "shop.Order", "listen": ":9000", "max_msg_size": 1000},
                "database": {"dsn": "root@tcp(db)/orders", "max_open_conns": 7},
                "consul": {"registry_addrs": ["127.0.0.1:1"], "register_ttl": 30},
                "broker": {"kafka": {"hosts": ["k:1"]}}}"#,
        )
        .unwrap()
    }

    #[test]
    fn without_options_and_document_everything_is_in_this_process() {
        let settings = Settings::laid(PROGRAM, &Options::default(), None, Document::default());
        assert_eq!((settings.registry.as_str(), settings.broker.as_str()), ("memory:", "memory:"));
        assert_eq!((settings.database, settings.log_level.as_str()), (SqlConfig::new("sqlite:orders.db"), "info"));
    }

    #[test]
    fn the_document_is_laid_over_the_defaults_and_the_options_over_it() {
        let settings = Settings::laid(PROGRAM, &Options::default(), None, document());
        assert_eq!(settings.registry, "consul://127.0.0.1:1");
        assert_eq!(settings.broker, "kafka://k:1?envelope_topics=*&assignment=range");
        assert_eq!(settings.database.url, "mysql://root@db/orders");
        assert_eq!(settings.database.connection_count_max, Some(7));
        assert_eq!(settings.register_options().ttl, Duration::from_secs(30));
        assert_eq!(settings.register_options().heartbeat, Duration::from_secs(10));
        let (mut service, mut version) = ("go.micro.service.Order".to_owned(), "1".to_owned());
        let (mut grpc, mut consumer) = (GrpcServerConfig::default(), ConsumerConfig::default());
        let mut go_micro = GoMicroConfig::default();
        settings.apply(&mut service, &mut version, &mut grpc, &mut go_micro, &mut consumer);
        assert_eq!((service.as_str(), version.as_str(), grpc.address.as_str()), ("shop.Order", "1", "0.0.0.0:9000"));
        assert_eq!(grpc.message_bytes_max, 1000);

        let options = Options {
            broker: Some("memory:".into()),
            database: Some("sqlite:x.db".into()),
            listen: Some("127.0.0.1:1".into()),
            advertise: Some("me:1".into()),
            lanes: Some(9),
            ..Options::default()
        };
        let settings = Settings::laid(PROGRAM, &options, Some("consul://b:2".into()), document());
        assert_eq!((settings.registry.as_str(), settings.broker.as_str()), ("consul://b:2", "memory:"));
        assert_eq!(settings.database.url, "sqlite:x.db");
        let (mut grpc, mut consumer) = (GrpcServerConfig::default(), ConsumerConfig::default());
        let mut go_micro = GoMicroConfig::default();
        settings.apply(&mut service, &mut version, &mut grpc, &mut go_micro, &mut consumer);
        assert_eq!((grpc.address.as_str(), grpc.advertise.as_deref()), ("127.0.0.1:1", Some("me:1")));
        assert_eq!(consumer.lane_count, 9);
    }

    #[test]
    fn what_go_micro_says_is_laid_over_the_document_and_the_options_over_it() {
        let said = [
            ("MICRO_REGISTRY", "consul"),
            ("MICRO_REGISTRY_ADDRESS", "c:8500"),
            ("MICRO_BROKER", "kafka"),
            ("MICRO_BROKER_ADDRESS", "k2:2"),
            ("MICRO_SERVER_NAME", "mine"),
            ("MICRO_SERVER_ID", "a-1"),
            ("MICRO_SERVER_METADATA", "region=north"),
            ("MICRO_SERVER_ADDRESS", ":7000"),
            ("MICRO_REGISTER_TTL", "60"),
            ("MICRO_LOG_LEVEL", "debug"),
        ];
        let said = said.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let go_micro = micro_rs::go_micro::GoMicroSettings::from_variables(said).unwrap();
        let options = Options { go_micro, ..Options::default() };
        let registry = options.go_micro.registry.clone();
        let settings = Settings::laid(PROGRAM, &options, registry, document());
        assert_eq!(settings.registry, "consul://c:8500");
        assert_eq!(settings.broker, "kafka://k2:2?envelope_topics=*&assignment=range");
        assert_eq!(settings.log_level, "debug");
        assert_eq!(settings.register_options().ttl, Duration::from_secs(60));
        assert_eq!(settings.register_options().heartbeat, Duration::from_secs(30));
        let (mut service, mut version) = (String::new(), "1".to_owned());
        let (mut grpc, mut consumer) = (GrpcServerConfig::default(), ConsumerConfig::default());
        let mut go_micro = GoMicroConfig::default();
        settings.apply(&mut service, &mut version, &mut grpc, &mut go_micro, &mut consumer);
        assert_eq!((service.as_str(), version.as_str(), grpc.address.as_str()), ("mine", "1", "0.0.0.0:7000"));
        assert_eq!(grpc.id.as_deref(), Some("a-1"));
        let metadata = [("broker", "kafka"), ("region", "north"), ("registry", "consul")];
        assert_eq!(grpc.metadata, metadata.map(|(name, value)| (name.into(), value.into())).into());
        let options = Options { listen: Some("127.0.0.1:1".into()), ..options };
        let settings = Settings::laid(PROGRAM, &options, None, document());
        settings.apply(&mut service, &mut version, &mut grpc, &mut go_micro, &mut consumer);
        assert_eq!((grpc.address.as_str(), go_micro.mucp_address.as_deref()), ("127.0.0.1:1", None));
    }

    #[test]
    fn a_service_in_mucp_takes_its_calls_where_it_listens() {
        let said = [("MICRO_SERVER", "mucp"), ("MICRO_SERVER_ADDRESS", "127.0.0.1:7000")];
        let said = said.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let go_micro = micro_rs::go_micro::GoMicroSettings::from_variables(said).unwrap();
        let settings = Settings::laid(PROGRAM, &Options { go_micro, ..Options::default() }, None, Document::default());
        let (mut service, mut version) = (String::new(), String::new());
        let (mut grpc, mut consumer) = (GrpcServerConfig::default(), ConsumerConfig::default());
        let mut go_micro = GoMicroConfig::default();
        settings.apply(&mut service, &mut version, &mut grpc, &mut go_micro, &mut consumer);
        assert_eq!((grpc.address.as_str(), go_micro.mucp_address.as_deref()), ("127.0.0.1:0", Some("127.0.0.1:7000")));
    }
}
