//! The settings of the Consul adapter: as data, from a URL, from the environment.

use std::{env, fmt, path::PathBuf, time::Duration};

use micro_core::{Error, ErrorKind, Result, millis};
use reqwest::Url;
use serde::{Deserialize, Serialize};

const DEFAULT_PORT: u16 = 8500;

/// The settings of a [`ConsulRegistry`](crate::ConsulRegistry). Durations are milliseconds when
/// read from a file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ConsulConfig {
    /// The agent, `host[:port]`; default `127.0.0.1:8500`.
    pub address: String,
    /// Whether the agent speaks HTTPS; default no. Needs the feature `tls`.
    pub https: bool,
    /// The ACL token, sent in a header and shown nowhere; default none.
    pub token: Option<String>,
    /// The datacenter to read services and keys from; default the agent's own, which is also where
    /// instances are registered, whatever stands here.
    pub datacenter: Option<String>,
    /// How Consul finds out whether an instance lives; default by heartbeats.
    pub check: CheckKind,
    /// How long a check that Consul makes itself may take; default 1 s.
    #[serde(rename = "check_timeout_ms", with = "millis")]
    pub check_timeout: Duration,
    /// After this long in a critical state Consul forgets an instance; default 65 s, at least 60 s,
    /// and never less than the TTL and 5 s.
    #[serde(rename = "deregister_critical_after_ms", with = "millis")]
    pub deregister_critical_after: Duration,
    /// How long `connect` waits for an agent that knows its leader; default 5 s.
    #[serde(rename = "connect_timeout_ms", with = "millis")]
    pub connect_timeout: Duration,
    /// How long a request other than a blocking query may take; default 5 s.
    #[serde(rename = "request_timeout_ms", with = "millis")]
    pub request_timeout: Duration,
    /// How long Consul holds a blocking query back while nothing changes; default 55 s.
    #[serde(rename = "blocking_wait_ms", with = "millis")]
    pub blocking_wait: Duration,
    /// How long a blocking query may take; default 65 s. More than `blocking_wait` and a sixteenth
    /// of it, for Consul spreads its answers that far.
    #[serde(rename = "blocking_timeout_ms", with = "millis")]
    pub blocking_timeout: Duration,
    /// While a service changes all the time, how often a watch asks, two questions in advance;
    /// default 1 s. Longer spares the servers; shorter than the wait between withdrawing an instance
    /// and stopping it keeps callers from meeting a stopped one.
    #[serde(rename = "churn_interval_ms", with = "millis")]
    pub churn_interval: Duration,
    /// The certificates to trust, a PEM file; default the system's.
    pub ca_file: Option<PathBuf>,
    /// The certificate to show to the agent, a PEM file with its chain; default none.
    pub cert_file: Option<PathBuf>,
    /// The key of `cert_file`, a PEM file.
    pub key_file: Option<PathBuf>,
}

/// How Consul finds out whether an instance lives.
///
/// The checks that Consul makes itself run once per
/// [`heartbeat`](micro_core::registry::RegisterOptions), from the agent's host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum CheckKind {
    /// The instance sends heartbeats.
    #[default]
    Ttl,
    /// Consul opens a connection to the instance's address.
    Tcp,
    /// Consul asks `http://host:port/path` and expects a status of 2xx.
    Http {
        /// The path, beginning with `/`.
        path: String,
        /// The port; `None` is the instance's own.
        #[serde(default)]
        port: Option<u16>,
    },
    /// Consul asks `grpc.health.v1` at the instance's address, in plain text.
    Grpc {
        /// The gRPC service to ask for; empty is the server as a whole.
        #[serde(default)]
        service: String,
    },
}

impl Default for ConsulConfig {
    fn default() -> Self {
        Self {
            address: format!("127.0.0.1:{DEFAULT_PORT}"),
            https: false,
            token: None,
            datacenter: None,
            check: CheckKind::Ttl,
            check_timeout: Duration::from_secs(1),
            deregister_critical_after: Duration::from_secs(65),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(5),
            blocking_wait: Duration::from_secs(55),
            blocking_timeout: Duration::from_secs(65),
            churn_interval: Duration::from_secs(1),
            ca_file: None,
            cert_file: None,
            key_file: None,
        }
    }
}

impl ConsulConfig {
    /// The settings that stand in a URL, the defaults for the others:
    /// `consul://HOST:PORT?token=…&dc=…`, or `consul+https://` with `ca_file`, `cert_file` and
    /// `key_file` besides.
    ///
    /// A URL is seen by whoever lists the processes, so a token is better kept in the environment:
    /// see [`with_env_token`](Self::with_env_token).
    ///
    /// # Errors
    ///
    /// `InvalidArgument`, without showing values of the query.
    pub fn from_url(url: &str) -> Result<Self> {
        let expected =
            "expected consul://HOST:PORT?token=…&dc=…, or consul+https://… with ca_file, cert_file, key_file";
        let refused = || Error::new(ErrorKind::InvalidArgument, "registry.connect", expected);
        let parsed = Url::parse(url).map_err(|cause| refused().with_source(cause))?;
        let https = match parsed.scheme() {
            "consul" => false,
            "consul+https" => true,
            _ => return Err(refused()),
        };
        let has_account = !parsed.username().is_empty() || parsed.password().is_some();
        let has_more = !matches!(parsed.path(), "" | "/") || parsed.fragment().is_some();
        let host =
            parsed.host_str().filter(|host| !host.is_empty() && !has_account && !has_more).ok_or_else(refused)?;
        let address = format!("{host}:{}", parsed.port().unwrap_or(DEFAULT_PORT));
        let mut config = Self { address, https, ..Self::default() };
        for (name, value) in parsed.query_pairs() {
            let value = Some(value.into_owned()).filter(|value| !value.is_empty());
            match &*name {
                "token" => config.token = value,
                "dc" => config.datacenter = value,
                "ca_file" => config.ca_file = value.map(PathBuf::from),
                "cert_file" => config.cert_file = value.map(PathBuf::from),
                "key_file" => config.key_file = value.map(PathBuf::from),
                _ => return Err(refused().with_context("unknown", name.escape_debug())),
            }
        }
        Ok(config)
    }

    /// The settings that the environment names, the defaults for the others: `CONSUL_HOST`
    /// (`host[:port]`) and `CONSUL_HTTP_TOKEN`.
    pub fn from_env() -> Self {
        Self::from_variables(|name| env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let address = variable("CONSUL_HOST").filter(|host| !host.is_empty());
        let default = Self::default();
        Self { address: address.unwrap_or(default.address), ..default }.with_token_from(variable)
    }

    /// With the token of `CONSUL_HTTP_TOKEN`, unless there is one already.
    #[must_use]
    pub fn with_env_token(self) -> Self {
        self.with_token_from(|name| env::var(name).ok())
    }

    fn with_token_from(mut self, variable: impl Fn(&str) -> Option<String>) -> Self {
        self.token = self.token.or_else(|| variable("CONSUL_HTTP_TOKEN").filter(|token| !token.is_empty()));
        self
    }

    /// The agent's URL.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` when the settings contradict each other or Consul.
    pub(crate) fn checked_base(&self) -> Result<Url> {
        let refused = |what: &'static str| Err(Error::new(ErrorKind::InvalidArgument, "registry.connect", what));
        if self.blocking_timeout <= self.blocking_wait + self.blocking_wait / 16 {
            return refused("blocking_timeout must be more than blocking_wait and a sixteenth of it");
        }
        if self.blocking_wait.is_zero() || self.churn_interval.is_zero() {
            return refused("blocking_wait and churn_interval must be more than zero");
        }
        if self.deregister_critical_after < Duration::from_secs(60) {
            return refused("deregister_critical_after must be at least a minute, which is Consul's own minimum");
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            return refused("cert_file and key_file go together");
        }
        let has_tls_settings = self.ca_file.is_some() || self.cert_file.is_some();
        if has_tls_settings && !self.https {
            return refused("ca_file, cert_file and key_file are for https: expected consul+https://…");
        }
        if self.https && cfg!(not(feature = "tls")) {
            return refused("https is not compiled in: turn on the feature tls of micro-registry-consul");
        }
        let scheme = if self.https { "https" } else { "http" };
        let is_address = |base: &Url| {
            base.path() == "/" && base.username().is_empty() && base.query().is_none() && base.fragment().is_none()
        };
        match Url::parse(&format!("{scheme}://{}", self.address)).ok().filter(is_address) {
            Some(mut base) => {
                // A URL without a port stands for 80 or 443, an address for Consul's.
                if base.port().is_none() && !self.address.ends_with(":80") && !self.address.ends_with(":443") {
                    base.set_port(Some(DEFAULT_PORT)).expect("http has ports");
                }
                Ok(base)
            }
            None => refused("the address is not host[:port], an IPv6 host in brackets"),
        }
    }
}

impl fmt::Debug for ConsulConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsulConfig")
            .field("address", &self.address.rsplit('@').next().unwrap_or_default())
            .field("https", &self.https)
            .field("token", &self.token.as_ref().map(|_| "***"))
            .field("datacenter", &self.datacenter)
            .field("check", &self.check)
            .field("check_timeout", &self.check_timeout)
            .field("deregister_critical_after", &self.deregister_critical_after)
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("blocking_wait", &self.blocking_wait)
            .field("blocking_timeout", &self.blocking_timeout)
            .field("churn_interval", &self.churn_interval)
            .field("ca_file", &self.ca_file)
            .field("cert_file", &self.cert_file)
            .field("key_file", &self.key_file)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_address_token_and_datacenter() {
        let config = ConsulConfig::from_url("consul://consul.internal:8501?token=canary&dc=fra1").unwrap();
        assert_eq!(config.address, "consul.internal:8501");
        assert_eq!((config.token.as_deref(), config.datacenter.as_deref()), (Some("canary"), Some("fra1")));
        assert!(!config.https);
        assert_eq!(ConsulConfig::from_url("consul://[::1]").unwrap().address, "[::1]:8500");

        let config = ConsulConfig::from_url("consul+https://a:8501?ca_file=ca.pem&cert_file=c.pem&key_file=k.pem");
        let config = config.unwrap();
        assert!(config.https);
        assert_eq!(config.ca_file, Some(PathBuf::from("ca.pem")));
    }

    #[test]
    fn a_wrong_url_says_what_is_expected_and_shows_no_secret() {
        for url in [
            "consul:",
            "consul://",
            "http://a:1",
            "consul://canary@a:1",
            "consul://a:1/path",
            "consul://a:1?tokn=canary",
            "consul://a:99999?token=canary",
            "consul://a:1#canary",
        ] {
            let error = ConsulConfig::from_url(url).expect_err(url);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{url}");
            assert!(error.report().contains("consul://HOST:PORT"), "{error:?}");
            assert!(!error.report().contains("canary"), "{error:?}");
        }
    }

    #[test]
    fn the_environment_names_host_and_token() {
        let config = ConsulConfig::from_variables(|_| None);
        assert_eq!(config, ConsulConfig::default());
        let config = ConsulConfig::from_variables(|name| match name {
            "CONSUL_HOST" => Some("consul.internal".to_owned()),
            "CONSUL_HTTP_TOKEN" => Some("canary".to_owned()),
            _ => None,
        });
        assert_eq!(config.checked_base().unwrap().as_str(), "http://consul.internal:8500/");
        assert_eq!(config.token.as_deref(), Some("canary"));
        let named = ConsulConfig { token: Some("of the URL".to_owned()), ..ConsulConfig::default() };
        assert_eq!(named.with_token_from(|_| Some("x".to_owned())).token.as_deref(), Some("of the URL"));
    }

    #[test]
    fn an_address_without_a_port_has_that_of_consul() {
        for (address, base) in [
            ("consul.internal", "http://consul.internal:8500/"),
            ("consul.internal:8600", "http://consul.internal:8600/"),
            ("[::1]", "http://[::1]:8500/"),
            ("10.0.0.1:80", "http://10.0.0.1/"),
        ] {
            let config = ConsulConfig { address: address.to_owned(), ..ConsulConfig::default() };
            assert_eq!(config.checked_base().unwrap().as_str(), base);
        }
    }

    #[test]
    fn settings_that_cannot_be_are_refused() {
        let with = |change: fn(&mut ConsulConfig)| {
            let mut config = ConsulConfig::default();
            change(&mut config);
            config.checked_base().unwrap_err()
        };
        for error in [
            with(|config| config.blocking_timeout = Duration::from_secs(58)),
            with(|config| config.blocking_wait = Duration::ZERO),
            with(|config| config.deregister_critical_after = Duration::from_secs(59)),
            with(|config| config.cert_file = Some("a".into())),
            with(|config| config.ca_file = Some("a".into())),
            with(|config| config.address = "user:canary@a:1".to_owned()),
            with(|config| config.address = "a:1/canary".to_owned()),
            with(|config| config.address = String::new()),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(!error.report().contains("canary"), "{error:?}");
        }
    }

    #[test]
    fn debug_shows_no_token() {
        let config = ConsulConfig {
            token: Some("canary".to_owned()),
            address: "canary@a:1".to_owned(),
            ..ConsulConfig::default()
        };
        let text = format!("{config:?}");
        assert!(!text.contains("canary") && text.contains("a:1"), "{text}");
    }

    #[test]
    fn a_file_states_milliseconds_and_the_kind_of_check() {
        let text = r#"{"address":"a:1","blocking_wait_ms":1000,"check":{"http":{"path":"/healthz","port":8080}}}"#;
        let config: ConsulConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.blocking_wait, Duration::from_secs(1));
        assert_eq!(config.check, CheckKind::Http { path: "/healthz".to_owned(), port: Some(8080) });
        assert_eq!(serde_json::from_str::<ConsulConfig>(r#"{"check":"tcp"}"#).unwrap().check, CheckKind::Tcp);
        assert!(serde_json::from_str::<ConsulConfig>(r#"{"adress":"a:1"}"#).is_err());
    }
}
