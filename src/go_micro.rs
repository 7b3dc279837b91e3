//! The settings that go-micro v4 users know: its environment variables and flags as settings here.
//!
//! A flag and its variable have one name, `--registry_address` and `MICRO_REGISTRY_ADDRESS`; the flag
//! counts for more. Lay the result over a program's defaults, beneath its own options.
//!
//! | go-micro | here |
//! |---|---|
//! | `registry` (`consul`, `etcd`, `memory`), `registry_address` | [`registry`](GoMicroSettings::registry), a URL of [`backends`](crate::backends); an address alone is Consul's |
//! | `broker` (`kafka`, `memory`), `broker_address` | [`broker`](GoMicroSettings::broker), likewise; Kafka as a fleet with Go in it needs it; an address alone is Kafka's |
//! | `server_name`, `server_version`, `server_id` | [`name`](GoMicroSettings::name), [`version`](GoMicroSettings::version), [`id`](GoMicroSettings::id) |
//! | `server_address`, `server_advertise` | [`listen`](GoMicroSettings::listen), [`advertise`](GoMicroSettings::advertise) |
//! | `server_metadata` (`key=value,…`) | [`metadata`](GoMicroSettings::metadata) |
//! | `register_ttl`, `register_interval` (seconds) | [`register`](GoMicroSettings::register) |
//! | `client_request_timeout` (`5s`, `500ms`), `client_retries` | [`request_timeout`](GoMicroSettings::request_timeout), [`retries`](GoMicroSettings::retries) |
//! | `MICRO_LOG_LEVEL` | [`log_level`](GoMicroSettings::log_level) |
//! | `server` (`grpc`, `mucp`) | [`is_mucp`](GoMicroSettings::is_mucp): what callers speak; where nothing is said, gRPC |
//! | `client`, `transport`, `selector` | nothing: accepted where they name what is here (`grpc`, `mucp` and its `http`, `registry`) |
//!
//! What go-micro has and is not here (`store`, `auth`, `tracer`, `profile`, `runtime`, a proxy, …) is
//! listed in [`unused`](GoMicroSettings::unused), so that a program can say so.

use std::{collections::BTreeMap, env, fmt, time::Duration};

use micro_core::{Error, ErrorKind, Result, registry::RegisterOptions};

/// What an environment and a command line of go-micro v4 say. `None` and empty: they say nothing.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GoMicroSettings {
    /// The registry's URL.
    pub registry: Option<String>,
    /// The broker's URL. For Kafka with go-micro's envelope on all topics and its way to spread
    /// partitions over a group.
    pub broker: Option<String>,
    /// The service's name.
    pub name: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// What makes the instance's id of the service's name: `<name>-<id>`.
    pub id: Option<String>,
    /// Whether its callers speak mucp, go-micro's own RPC. go-micro speaks it where nothing is said;
    /// here that is gRPC, which services with these settings have compiled in.
    pub is_mucp: bool,
    /// Where calls are taken, `host:port`; go-micro's `:8080` is `0.0.0.0:8080` here.
    pub listen: Option<String>,
    /// What callers are told, `host:port`.
    pub advertise: Option<String>,
    /// The instance's metadata.
    pub metadata: BTreeMap<String, String>,
    /// How an instance is kept alive, where either of the two is said.
    pub register: Option<RegisterOptions>,
    /// How long a call may take.
    pub request_timeout: Option<Duration>,
    /// How often a call is tried again.
    pub retries: Option<u32>,
    /// `trace`, `debug`, `info`, `warn` or `error`.
    pub log_level: Option<String>,
    /// Names of what was said and has no meaning here, as variables are named.
    pub unused: Vec<String>,
}

impl fmt::Debug for GoMicroSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // By destructuring, so that a new field is thought about here. URLs may hold secrets.
        let Self {
            registry,
            broker,
            name,
            version,
            id,
            is_mucp,
            listen,
            advertise,
            metadata,
            register,
            request_timeout,
            retries,
            log_level,
            unused,
        } = self;
        f.debug_struct("GoMicroSettings")
            .field("registry", &registry.as_deref().map(crate::backends::scheme))
            .field("broker", &broker.as_deref().map(crate::backends::scheme))
            .field("name", name)
            .field("version", version)
            .field("id", id)
            .field("is_mucp", is_mucp)
            .field("listen", listen)
            .field("advertise", advertise)
            .field("metadata", metadata)
            .field("register", register)
            .field("request_timeout", request_timeout)
            .field("retries", retries)
            .field("log_level", log_level)
            .field("unused", unused)
            .finish()
    }
}

/// The flags of go-micro v4's `cmd` package; a variable has the same name in capitals after `MICRO_`.
const FLAGS: [&str; 38] = [
    "client",
    "client_request_timeout",
    "client_retries",
    "client_pool_size",
    "client_pool_ttl",
    "register_ttl",
    "register_interval",
    "server",
    "server_name",
    "server_version",
    "server_id",
    "server_address",
    "server_advertise",
    "server_metadata",
    "broker",
    "broker_address",
    "profile",
    "registry",
    "registry_address",
    "runtime",
    "runtime_source",
    "selector",
    "store",
    "store_address",
    "store_database",
    "store_table",
    "transport",
    "transport_address",
    "tracer",
    "tracer_address",
    "auth",
    "auth_id",
    "auth_secret",
    "auth_namespace",
    "auth_public_key",
    "auth_private_key",
    "config",
    "debug_profile",
];
/// Flags that a program may well have of its own: they are left to it.
const LEFT: [&str; 2] = ["config", "profile"];
/// Variables without a flag.
const VARIABLES: [&str; 4] = ["log_level", "proxy", "network", "network_address"];
const PREFIX: &str = "MICRO_";
const OPERATION: &str = "settings.go_micro";

impl GoMicroSettings {
    /// What this process's environment says.
    ///
    /// # Errors
    ///
    /// As [`from_variables`](Self::from_variables).
    pub fn from_env() -> Result<Self> {
        Self::from_variables(env::vars_os().filter_map(|(name, value)| {
            // What is not UTF-8 is none of go-micro's.
            Some((name.into_string().ok()?, value.into_string().ok()?))
        }))
    }

    /// What these variables say; those of other programs are passed over.
    ///
    /// # Errors
    ///
    /// `InvalidArgument`, with the variable's name and what was expected: a registry or broker that
    /// is not here, a number, a duration or metadata that are none.
    pub fn from_variables(variables: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        Said::default().variables(variables).settings()
    }

    /// What a command line and these variables say, and the arguments that are none of go-micro's, in
    /// their order: those are for the program's own parser. `arguments` begins after the program's
    /// name; flags are `--name value` or `--name=value`, with one dash or two.
    ///
    /// The program's own are also a `--registry` or `--broker` whose value is a URL, and `--config` and
    /// `--profile`, which mean something else in go-micro, and nothing here. Its other flags are taken,
    /// those that have no meaning here too: a program must not have one of that name.
    ///
    /// # Errors
    ///
    /// As [`from_variables`](Self::from_variables); `InvalidArgument` for a flag without its value.
    pub fn from_arguments(
        arguments: impl IntoIterator<Item = String>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Self, Vec<String>)> {
        let mut said = Said::default().variables(variables);
        let rest = said.arguments(arguments)?;
        Ok((said.settings()?, rest))
    }
}

#[cfg(feature = "grpc")]
impl GoMicroSettings {
    /// A server's settings as they are said: where it listens, by default at a free port of
    /// 127.0.0.1; what callers are told, at every address the one towards the registry; version, id
    /// and metadata. Where callers speak mucp, what is said of the address is
    /// [`go_micro`](Self::go_micro)'s.
    pub fn server(&self) -> micro_grpc::GrpcServerConfig {
        let mut config = micro_grpc::GrpcServerConfig::default();
        if let Some(listen) = self.listen.as_ref().filter(|_| !self.is_mucp) {
            config.address.clone_from(listen);
        }
        let listen = self.listen.as_ref().unwrap_or(&config.address);
        let towards = || crate::backends::advertised(listen, self.registry.as_deref()?);
        config.advertise = self.advertise.clone().or_else(towards);
        if let Some(version) = &self.version {
            config.version.clone_from(version);
        }
        config.id.clone_from(&self.id);
        config.metadata.clone_from(&self.metadata);
        for (port, url) in [("registry", &self.registry), ("broker", &self.broker)] {
            if let Some(url) = url {
                config.metadata.insert(port.to_owned(), crate::backends::scheme(url).to_owned());
            }
        }
        config
    }

    /// How it answers go-micro's clients: in gRPC, or in mucp at the address that is said.
    pub fn go_micro(&self) -> micro_grpc::GoMicroConfig {
        let config = micro_grpc::GoMicroConfig::default();
        match (self.is_mucp, &self.listen) {
            (false, _) => config,
            (true, Some(listen)) => config.with_mucp(listen),
            (true, None) => config.with_mucp("127.0.0.1:0"),
        }
    }
}

/// What was said, by the names of flags, and where.
#[derive(Default)]
struct Said(BTreeMap<&'static str, (String, String)>);

impl Said {
    fn variables(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        for (variable, value) in variables {
            let Some(name) = variable.strip_prefix(PREFIX).map(str::to_ascii_lowercase) else { continue };
            // As in go-micro, an empty variable says nothing.
            let known = FLAGS.into_iter().chain(VARIABLES).find(|known| *known == name && !value.is_empty());
            if let Some(known) = known {
                self.0.insert(known, (variable, value));
            }
        }
        self
    }

    /// Takes go-micro's flags out of a command line.
    fn arguments(&mut self, arguments: impl IntoIterator<Item = String>) -> Result<Vec<String>> {
        let mut rest = Vec::new();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            if argument == "--" {
                rest.push(argument);
                rest.extend(arguments);
                break;
            }
            // Go takes one dash as well; a letter alone is somebody else's.
            let flag = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'));
            let name = flag.map(|flag| flag.split_once('=').map_or(flag, |(name, _)| name));
            let known = FLAGS.into_iter().find(|flag| Some(*flag) == name && !LEFT.contains(flag));
            let Some(known) = known else {
                rest.push(argument);
                continue;
            };
            let (value, is_apart) = match argument.split_once('=') {
                Some((_, value)) => (value.to_owned(), false),
                None => (arguments.next().ok_or_else(|| refused(&argument, "expected a value after this flag"))?, true),
            };
            if matches!(known, "registry" | "broker") && value.contains(':') {
                rest.push(argument);
                rest.extend(is_apart.then_some(value));
                continue;
            }
            // As in go-micro, an empty one says nothing.
            if !value.is_empty() {
                self.0.insert(known, (format!("--{known}"), value));
            }
        }
        Ok(rest)
    }

    fn take(&mut self, name: &str) -> Option<(String, String)> {
        self.0.remove(name)
    }

    fn value(&mut self, name: &str) -> Option<String> {
        self.take(name).map(|(_, value)| value)
    }

    fn settings(mut self) -> Result<GoMicroSettings> {
        let is_mucp = self.0.get("server").is_some_and(|(_, value)| value == "mucp");
        for (name, known) in [
            ("client", &["grpc", "mucp"][..]),
            ("server", &["grpc", "mucp"]),
            ("transport", if is_mucp { &["http"] } else { &["grpc"] }),
            ("selector", &["registry"]),
        ] {
            if self.0.get(name).is_some_and(|(_, value)| known.contains(&&**value)) {
                self.0.remove(name);
            }
        }
        let register = match (self.seconds("register_ttl")?, self.seconds("register_interval")?) {
            (None, None) => None,
            (ttl, interval) => {
                let mut options = RegisterOptions::default();
                // go-micro's defaults for the one that is not said.
                options.ttl = ttl.unwrap_or(Duration::from_secs(60));
                options.heartbeat = interval.unwrap_or(options.ttl / 2);
                Some(options)
            }
        };
        Ok(GoMicroSettings {
            registry: self.backend("registry", &[("consul", "consul://"), ("etcd", "etcd://")], "127.0.0.1", "")?,
            broker: self.backend(
                "broker",
                &[("kafka", "kafka://")],
                "127.0.0.1:9092",
                "?envelope_topics=*&assignment=range",
            )?,
            name: self.value("server_name"),
            version: self.value("server_version"),
            id: self.value("server_id"),
            is_mucp,
            listen: self.value("server_address").map(with_host),
            advertise: self.value("server_advertise"),
            metadata: self.metadata()?,
            register,
            request_timeout: self.duration("client_request_timeout")?,
            retries: self.number("client_retries")?,
            log_level: self.log_level()?,
            unused: self.0.into_values().map(|(said, _)| said).collect(),
        })
    }

    /// The URL of what a name and addresses stand for.
    fn backend(
        &mut self,
        name: &'static str,
        schemes: &[(&str, &str)],
        default_address: &str,
        query: &str,
    ) -> Result<Option<String>> {
        let address = self.take(&format!("{name}_address"));
        let (said, backend) = match (self.take(name), &address) {
            (Some(backend), _) => backend,
            // A Go service has its plugins compiled in and is told their address alone.
            (None, Some((said, _))) => (said.clone(), schemes[0].0.to_owned()),
            (None, None) => return Ok(None),
        };
        if backend == "memory" {
            return Ok(Some("memory:".to_owned()));
        }
        if backend.contains(':') {
            // A URL of this framework's own, as its flag has it. It may hold a secret.
            return Ok(Some(backend));
        }
        let Some((_, scheme)) = schemes.iter().find(|(known, _)| *known == backend) else {
            let known: Vec<&str> = schemes.iter().map(|(known, _)| *known).chain(["memory"]).collect();
            return Err(refused(&said, "there is no such backend here").with_context("known", known.join(" ")));
        };
        let address = address.map_or_else(|| default_address.to_owned(), |(_, address)| address);
        let addresses: Vec<&str> = address.split(',').map(str::trim).filter(|address| !address.is_empty()).collect();
        // go-micro's Consul plugin asks the first that answers; here there is one agent, the local one.
        let addresses = if backend == "consul" { &addresses[..addresses.len().min(1)] } else { &addresses[..] };
        Ok(Some(format!("{scheme}{}{query}", addresses.join(","))))
    }

    fn metadata(&mut self) -> Result<BTreeMap<String, String>> {
        let Some((said, pairs)) = self.take("server_metadata") else { return Ok(BTreeMap::new()) };
        let pair = |text: &str| {
            let (key, value) = text.split_once('=').ok_or_else(|| refused(&said, "expected key=value,key=value"))?;
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        };
        pairs.split(',').filter(|text| !text.trim().is_empty()).map(pair).collect()
    }

    fn number(&mut self, name: &str) -> Result<Option<u32>> {
        let Some((said, value)) = self.take(name) else { return Ok(None) };
        value.trim().parse().map(Some).map_err(|_| refused(&said, "expected a whole number, 0 or more"))
    }

    fn seconds(&mut self, name: &str) -> Result<Option<Duration>> {
        Ok(self.number(name)?.filter(|seconds| *seconds > 0).map(|seconds| Duration::from_secs(u64::from(seconds))))
    }

    fn duration(&mut self, name: &str) -> Result<Option<Duration>> {
        let Some((said, value)) = self.take(name) else { return Ok(None) };
        let refusal = || refused(&said, "expected a duration such as 500ms, 5s or 1m30s");
        go_duration(value.trim()).ok_or_else(refusal).map(Some)
    }

    fn log_level(&mut self) -> Result<Option<String>> {
        let Some((said, value)) = self.take("log_level") else { return Ok(None) };
        match value.to_ascii_lowercase().as_str() {
            level @ ("trace" | "debug" | "info" | "warn" | "error") => Ok(Some(level.to_owned())),
            // go-micro ends the process after it; here nothing does.
            "fatal" => Ok(Some("error".to_owned())),
            _ => Err(refused(&said, "expected trace, debug, info, warn, error or fatal")),
        }
    }
}

/// A duration as Go's `time.ParseDuration` reads it, without a sign.
fn go_duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 8] =
        [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("μs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() || text.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?);
        let (unit, tail) = tail.split_at(tail.find(|letter: char| letter.is_ascii_digit()).unwrap_or(tail.len()));
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
        seconds += number.parse::<f64>().ok()? * factor;
        rest = tail;
    }
    Duration::try_from_secs_f64(seconds).ok()
}

/// Go listens on every address where none is named.
fn with_host(address: String) -> String {
    if address.starts_with(':') { format!("0.0.0.0{address}") } else { address }
}

fn refused(said: &str, message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidArgument, OPERATION, message).with_context("setting", said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn settings(pairs: &[(&str, &str)]) -> GoMicroSettings {
        GoMicroSettings::from_variables(variables(pairs)).unwrap()
    }

    #[test]
    fn the_variables_of_go_micro_are_settings_here() {
        let settings = settings(&[
            ("PATH", "/bin"),
            ("MICRO_REGISTRY", "consul"),
            ("MICRO_REGISTRY_ADDRESS", "10.0.0.1:8500,10.0.0.2:8500"),
            ("MICRO_BROKER", "kafka"),
            ("MICRO_BROKER_ADDRESS", "k1:9092, k2:9092"),
            ("MICRO_SERVER_NAME", "go.micro.service.order"),
            ("MICRO_SERVER_VERSION", "7.0.0"),
            ("MICRO_SERVER_ID", "a-1"),
            ("MICRO_SERVER_ADDRESS", ":9000"),
            ("MICRO_SERVER_ADVERTISE", "10.1.1.1:9000"),
            ("MICRO_SERVER_METADATA", "region=cn-east, zone = b"),
            ("MICRO_REGISTER_TTL", "60"),
            ("MICRO_REGISTER_INTERVAL", "30"),
            ("MICRO_CLIENT_REQUEST_TIMEOUT", "1m30.5s"),
            ("MICRO_CLIENT_RETRIES", "3"),
            ("MICRO_LOG_LEVEL", "WARN"),
            ("MICRO_TRANSPORT", "grpc"),
            ("MICRO_STORE", "mysql"),
            ("MICRO_AUTH_SECRET", "canary-4711"),
            ("MICRO_SELECTOR", ""),
        ]);
        let mut register = RegisterOptions::default();
        register.ttl = Duration::from_secs(60);
        register.heartbeat = Duration::from_secs(30);
        assert_eq!(settings.registry.as_deref(), Some("consul://10.0.0.1:8500"));
        assert_eq!(settings.broker.as_deref(), Some("kafka://k1:9092,k2:9092?envelope_topics=*&assignment=range"));
        assert_eq!(settings.name.as_deref(), Some("go.micro.service.order"));
        assert_eq!((settings.version.as_deref(), settings.id.as_deref()), (Some("7.0.0"), Some("a-1")));
        assert_eq!(settings.listen.as_deref(), Some("0.0.0.0:9000"));
        assert_eq!(settings.advertise.as_deref(), Some("10.1.1.1:9000"));
        assert_eq!(settings.metadata, [("region", "cn-east"), ("zone", "b")].map(|(k, v)| (k.into(), v.into())).into());
        assert_eq!(settings.register, Some(register));
        assert_eq!(settings.request_timeout, Some(Duration::from_millis(90_500)));
        assert_eq!((settings.retries, settings.log_level.as_deref()), (Some(3), Some("warn")));
        assert_eq!(settings.unused, ["MICRO_AUTH_SECRET", "MICRO_STORE"]);
        assert!(!format!("{settings:?}").contains("canary-4711"));
        assert_eq!(GoMicroSettings::from_variables([]).unwrap(), GoMicroSettings::default());
    }

    #[cfg(feature = "grpc")]
    #[test]
    fn a_server_is_set_up_as_it_is_said() {
        let said = settings(&[
            ("MICRO_REGISTRY_ADDRESS", "127.0.0.1:8500"),
            ("MICRO_SERVER_ADDRESS", ":9000"),
            ("MICRO_SERVER_VERSION", "7.0.0"),
            ("MICRO_SERVER_ID", "a-1"),
            ("MICRO_SERVER_METADATA", "region=north"),
        ]);
        let config = said.server();
        assert_eq!((&*config.address, config.advertise.as_deref()), ("0.0.0.0:9000", Some("127.0.0.1:9000")));
        assert_eq!((&*config.version, config.id.as_deref()), ("7.0.0", Some("a-1")));
        let metadata = [("region", "north"), ("registry", "consul")];
        assert_eq!(config.metadata, metadata.map(|(name, value)| (name.into(), value.into())).into());
    }

    #[cfg(feature = "grpc")]
    #[test]
    fn a_server_of_mucp_takes_its_calls_at_the_address_that_is_said() {
        let said = settings(&[
            ("MICRO_SERVER", "mucp"),
            ("MICRO_CLIENT", "mucp"),
            ("MICRO_TRANSPORT", "http"),
            ("MICRO_SERVER_ADDRESS", ":9000"),
            ("MICRO_REGISTRY_ADDRESS", "127.0.0.1:8500"),
        ]);
        assert!(said.is_mucp && said.unused.is_empty(), "{said:?}");
        assert_eq!(said.go_micro().mucp_address.as_deref(), Some("0.0.0.0:9000"));
        let server = said.server();
        assert_eq!((&*server.address, server.advertise.as_deref()), ("127.0.0.1:0", Some("127.0.0.1:9000")));
        let (flags, _) = GoMicroSettings::from_arguments(["--server".to_owned(), "mucp".to_owned()], []).unwrap();
        assert_eq!(flags.go_micro().mucp_address.as_deref(), Some("127.0.0.1:0"));
        let grpc = settings(&[("MICRO_SERVER", "grpc"), ("MICRO_TRANSPORT", "http")]);
        assert_eq!((grpc.go_micro().mucp_address, grpc.unused), (None, vec!["MICRO_TRANSPORT".to_owned()]));
        let other = settings(&[("MICRO_SERVER", "http"), ("MICRO_CLIENT", "http")]);
        assert_eq!((other.is_mucp, other.unused), (false, vec!["MICRO_CLIENT".to_owned(), "MICRO_SERVER".to_owned()]));
    }

    #[test]
    fn an_address_alone_is_that_of_the_usual_plugin_and_a_url_is_taken_as_it_is() {
        let alone = settings(&[("MICRO_REGISTRY_ADDRESS", "c:8500"), ("MICRO_BROKER_ADDRESS", "k:9092")]);
        assert_eq!(alone.registry.as_deref(), Some("consul://c:8500"));
        assert_eq!(alone.broker.as_deref(), Some("kafka://k:9092?envelope_topics=*&assignment=range"));
        let url = settings(&[("MICRO_REGISTRY", "etcd://user:canary-4711@e:2379")]);
        assert_eq!(url.registry.as_deref(), Some("etcd://user:canary-4711@e:2379"));
        assert!(!format!("{url:?}").contains("canary-4711"), "{url:?}");
        let error = GoMicroSettings::from_variables(variables(&[("MICRO_BROKER", "canary-4711")])).unwrap_err();
        assert!(!error.report().contains("canary-4711"), "{}", error.report());
    }

    #[test]
    fn flags_count_for_more_and_the_rest_is_the_programs() {
        let arguments = [
            "--registry",
            "etcd",
            "--registry_address=e1:2379,e2:2379",
            "--workers",
            "2",
            "--broker",
            "memory:",
            "--database=sqlite:a.db",
            "--config",
            "own.json",
            "-profile=release",
            "--store=mysql",
            "-server_name=b",
            "--server_id=",
            "--",
            "--server_name",
        ]
        .map(str::to_owned);
        let said =
            variables(&[("MICRO_SERVER_NAME", "a"), ("MICRO_SERVER_VERSION", "1"), ("MICRO_REGISTRY", "consul")]);
        let (settings, rest) = GoMicroSettings::from_arguments(arguments, said).unwrap();
        assert_eq!(settings.registry.as_deref(), Some("etcd://e1:2379,e2:2379"));
        assert_eq!((settings.name.as_deref(), settings.version.as_deref()), (Some("b"), Some("1")));
        assert_eq!(settings.broker, None, "a URL is the program's own");
        assert_eq!(settings.id, None, "nothing is said");
        assert_eq!(settings.unused, ["--store"]);
        let own = ["--workers", "2", "--broker", "memory:", "--database=sqlite:a.db", "--config", "own.json"];
        assert_eq!(rest, [&own[..], &["-profile=release", "--", "--server_name"]].concat());
    }

    #[test]
    fn what_makes_no_sense_is_named_with_what_was_expected() {
        for (said, expected) in [
            (&[("MICRO_REGISTRY", "mdns")][..], "known=consul etcd memory"),
            (&[("MICRO_BROKER", "http")], "known=kafka memory"),
            (&[("MICRO_REGISTER_TTL", "1m")], "expected a whole number"),
            (&[("MICRO_CLIENT_RETRIES", "-1")], "expected a whole number"),
            (&[("MICRO_CLIENT_REQUEST_TIMEOUT", "5")], "expected a duration"),
            (&[("MICRO_SERVER_METADATA", "a")], "expected key=value"),
            (&[("MICRO_LOG_LEVEL", "loud")], "expected trace"),
        ] {
            let error = GoMicroSettings::from_variables(variables(said)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            let text = error.report();
            assert!(text.contains(expected) && text.contains(said[0].0), "{text}");
        }
        let error = GoMicroSettings::from_arguments(["--server_id".to_owned()], []).unwrap_err();
        assert!(error.report().contains("--server_id"), "{error:?}");
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, millis) in [("0", 0), ("300ms", 300), ("1.5h", 5_400_000), ("2h45m", 9_900_000), ("1s10ms", 1_010)] {
            assert_eq!(go_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "s", "1 s", "-1s", "1.2.3s", "1e9s", "999999999999999999999h"] {
            assert_eq!(go_duration(text), None, "{text}");
        }
    }
}
