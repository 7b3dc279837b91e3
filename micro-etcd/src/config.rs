//! The settings of the etcd adapter: as data, from a URL, from the environment.

use std::{env, fmt, path::PathBuf, time::Duration};

use micro_core::{Error, ErrorKind, Result, millis};
use serde::{Deserialize, Serialize};
use url::form_urlencoded;

const DEFAULT_PORT: u16 = 2379;

/// The settings of an [`EtcdRegistry`](crate::EtcdRegistry). Durations are milliseconds when read
/// from a file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct EtcdConfig {
    /// The servers of one cluster, `host[:port]`; default `127.0.0.1:2379` alone. What one of them
    /// cannot do is asked of the next.
    pub servers: Vec<String>,
    /// The user to authenticate as; default none.
    pub user: Option<String>,
    /// The user's password, shown nowhere; default none.
    pub password: Option<String>,
    /// How instances stand in etcd; default as go-micro has them.
    pub layout: Layout,
    /// What the keys of the layout [`GoMicro`](Layout::GoMicro) begin with; default `/micro/registry`.
    pub prefix: String,
    /// Whether the servers speak TLS; default no. Needs the feature `tls`.
    pub tls: bool,
    /// The certificates to trust, a PEM file; default the system's.
    pub ca_file: Option<PathBuf>,
    /// The certificate to show to the servers, a PEM file with its chain; default none.
    pub cert_file: Option<PathBuf>,
    /// The key of `cert_file`, a PEM file.
    pub key_file: Option<PathBuf>,
    /// How long `connect` waits for a server that answers; default 5 s.
    #[serde(rename = "connect_timeout_ms", with = "millis")]
    pub connect_timeout: Duration,
    /// How long a request may take; default 5 s.
    #[serde(rename = "request_timeout_ms", with = "millis")]
    pub request_timeout: Duration,
    /// How often a watch also reads everything, for a watch of etcd's may hang or lose events;
    /// default 30 s.
    #[serde(rename = "relist_interval_ms", with = "millis")]
    pub relist_interval: Duration,
    /// A connection on which a watch or a request is open is asked whether it lives this often; default
    /// 10 s, not below etcd's own `--grpc-keepalive-min-time` of 5 s.
    #[serde(rename = "keepalive_interval_ms", with = "millis")]
    pub keepalive_interval: Duration,
    /// A connection that does not answer that is given up after this long; default 5 s.
    #[serde(rename = "keepalive_timeout_ms", with = "millis")]
    pub keepalive_timeout: Duration,
}

/// How instances stand in etcd: what other fleets of this etcd understand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Layout {
    /// `PREFIX/SERVICE/ID`, every `/` in service and id written as `-`; the value is go-micro's JSON
    /// of the service with that one instance.
    #[default]
    GoMicro,
    /// `SERVICE/LEASE`, the value `host:port`, as go-zero's discovery has it. Nothing else of an
    /// instance is kept: its id is that of its lease, and it has neither version nor metadata.
    GoZero,
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            servers: vec![format!("127.0.0.1:{DEFAULT_PORT}")],
            user: None,
            password: None,
            layout: Layout::default(),
            prefix: "/micro/registry".to_owned(),
            tls: false,
            ca_file: None,
            cert_file: None,
            key_file: None,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(5),
            relist_interval: Duration::from_secs(30),
            keepalive_interval: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(5),
        }
    }
}

impl EtcdConfig {
    /// The settings that stand in a URL, the defaults for the others:
    /// `etcd://[user:password@]host:port[,host:port…]?layout=go-zero&prefix=…`, or `etcd+tls://` with
    /// `ca_file`, `cert_file` and `key_file` besides. User and password are percent-encoded.
    ///
    /// A URL is seen by whoever lists the processes, so a password is better kept in the environment:
    /// see [`with_env_user`](Self::with_env_user).
    ///
    /// # Errors
    ///
    /// `InvalidArgument`, without showing the user part or values of the query.
    pub fn from_url(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("", ""));
        let tls = match scheme {
            "etcd" => false,
            "etcd+tls" => true,
            _ => return Err(expected()),
        };
        let (authority, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (account, servers) = match authority.rsplit_once('@') {
            Some((account, servers)) => (Some(account), servers),
            None => (None, authority),
        };
        let servers = servers.trim_end_matches('/').split(',').map(with_port).collect::<Result<_>>()?;
        let mut config = Self { servers, tls, ..Self::default() };
        if let Some(account) = account {
            let (user, password) = account.split_once(':').ok_or_else(expected)?;
            (config.user, config.password) = (Some(percent_decoded(user)?), Some(percent_decoded(password)?));
        }
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let value = value.into_owned();
            match &*name {
                "layout" if value == "go-micro" => config.layout = Layout::GoMicro,
                "layout" if value == "go-zero" => config.layout = Layout::GoZero,
                "prefix" => config.prefix = value,
                "ca_file" => config.ca_file = Some(value.into()),
                "cert_file" => config.cert_file = Some(value.into()),
                "key_file" => config.key_file = Some(value.into()),
                _ => return Err(expected().with_context("option", name.escape_debug())),
            }
        }
        config.check()?;
        Ok(config)
    }

    /// With the user of `ETCD_USERNAME` and the password of `ETCD_PASSWORD`, unless there is a user
    /// already.
    #[must_use]
    pub fn with_env_user(self) -> Self {
        self.with_user_from(|name| env::var(name).ok())
    }

    fn with_user_from(mut self, variable: impl Fn(&str) -> Option<String>) -> Self {
        if self.user.is_none() {
            self.user = variable("ETCD_USERNAME").filter(|user| !user.is_empty());
            self.password = self.user.as_ref().and_then(|_| variable("ETCD_PASSWORD"));
        }
        self
    }

    /// The servers for errors and logs.
    pub(crate) fn shown_servers(&self) -> String {
        self.servers.join(",")
    }

    /// # Errors
    ///
    /// `InvalidArgument` when the settings contradict each other.
    pub(crate) fn check(&self) -> Result<()> {
        let refused = |what: &'static str| Err(Error::new(ErrorKind::InvalidArgument, "registry.connect", what));
        if self.servers.is_empty() {
            return refused("there are no servers: expected host:port, one or more");
        }
        for server in &self.servers {
            with_port(server)?;
        }
        if self.user.is_none() && self.password.is_some() {
            return refused("there is a password and no user");
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            return refused("cert_file and key_file go together");
        }
        if !self.tls && (self.ca_file.is_some() || self.cert_file.is_some()) {
            return refused("ca_file, cert_file and key_file are for TLS: expected etcd+tls://…");
        }
        if self.tls && cfg!(not(feature = "tls")) {
            return refused("TLS is not compiled in: turn on the feature tls of micro-etcd");
        }
        if self.layout == Layout::GoMicro && self.prefix.trim_matches('/').is_empty() {
            return refused("the prefix is empty: expected what the keys begin with, such as /micro/registry");
        }
        let waits = [self.connect_timeout, self.request_timeout, self.relist_interval];
        if waits.iter().chain([&self.keepalive_interval, &self.keepalive_timeout]).any(Duration::is_zero) {
            return refused("the timeouts and intervals must be more than zero");
        }
        Ok(())
    }
}

/// `host[:port]`, an IPv6 host in brackets, as `host:port`.
fn with_port(server: &str) -> Result<String> {
    let has_port = server.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    let address = if has_port { server.to_owned() } else { format!("{server}:{DEFAULT_PORT}") };
    let (host, port) = address.rsplit_once(':').expect("it has a port");
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || ":/[]@?#".contains(c)),
    };
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
    if is_host && is_port { Ok(address) } else { Err(expected()) }
}

fn percent_decoded(text: &str) -> Result<String> {
    // Decoded as a value of a query is, but for the `+`, which there stands for a space.
    let query = format!("x={}", text.replace('+', "%2B").replace('&', "%26"));
    let decoded = form_urlencoded::parse(query.as_bytes()).next().map(|(_, value)| value.into_owned());
    decoded.filter(|text| !text.is_empty() && !text.contains('\u{fffd}')).ok_or_else(expected)
}

fn expected() -> Error {
    let expected = "expected etcd://[user:password@]host:port[,host:port]?layout=…&prefix=…, \
                    or etcd+tls://… with ca_file, cert_file, key_file";
    Error::new(ErrorKind::InvalidArgument, "registry.connect", expected)
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("servers", &self.servers)
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("layout", &self.layout)
            .field("prefix", &self.prefix)
            .field("tls", &self.tls)
            .field("ca_file", &self.ca_file)
            .field("cert_file", &self.cert_file)
            .field("key_file", &self.key_file)
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("relist_interval", &self.relist_interval)
            .field("keepalive_interval", &self.keepalive_interval)
            .field("keepalive_timeout", &self.keepalive_timeout)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_servers_user_layout_and_prefix() {
        let config = EtcdConfig::from_url("etcd://a,b:2380,[::1]:1").unwrap();
        assert_eq!(config.servers, ["a:2379", "b:2380", "[::1]:1"]);
        assert_eq!(config.user, None);
        assert_eq!(EtcdConfig::from_url("etcd://[::1]/").unwrap().servers, ["[::1]:2379"]);

        let config = EtcdConfig::from_url("etcd://us%40er:c+a%26n%25ary%2F@a:1?layout=go-zero&prefix=%2Fa").unwrap();
        assert_eq!((config.user.as_deref(), config.password.as_deref()), (Some("us@er"), Some("c+a&n%ary/")));
        assert_eq!((config.layout, &*config.prefix), (Layout::GoZero, "/a"));
    }

    #[test]
    fn a_wrong_url_says_what_is_expected_and_shows_no_secret() {
        for url in [
            "etcd:",
            "etcd://",
            "http://a:1",
            "etcd://canary@a:1",
            "etcd://user:canary@",
            "etcd://user:canary@a:1/path",
            "etcd://user:canary%FF@a:1",
            "etcd://user:canary@a:99999",
            "etcd://a:1,,b:1",
            "etcd://a:1?pasword=canary",
            "etcd://a:1?layout=canary",
        ] {
            let error = EtcdConfig::from_url(url).expect_err(url);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{url}");
            assert!(error.report().contains("host:port[,host:port]"), "{error:?}");
            assert!(!error.report().contains("canary"), "{error:?}");
        }
    }

    #[test]
    fn the_environment_names_a_user_unless_the_url_does() {
        let variable = |name: &str| (name == "ETCD_USERNAME").then_some("root").or(Some("canary")).map(str::to_owned);
        let config = EtcdConfig::default().with_user_from(variable);
        assert_eq!((config.user.as_deref(), config.password.as_deref()), (Some("root"), Some("canary")));
        let named = EtcdConfig::from_url("etcd://a:b@c:1").unwrap().with_user_from(variable);
        assert_eq!((named.user.as_deref(), named.password.as_deref()), (Some("a"), Some("b")));
        let nobody = EtcdConfig::default().with_user_from(|name| (name == "ETCD_PASSWORD").then(|| "x".to_owned()));
        assert_eq!((nobody.user, nobody.password), (None, None));
    }

    #[test]
    fn settings_that_cannot_be_are_refused() {
        let with = |change: fn(&mut EtcdConfig)| {
            let mut config = EtcdConfig::default();
            change(&mut config);
            config.check().unwrap_err()
        };
        for error in [
            with(|config| config.servers.clear()),
            with(|config| config.servers[0] = "canary@a:1".to_owned()),
            with(|config| config.password = Some("canary".to_owned())),
            with(|config| config.cert_file = Some("a".into())),
            with(|config| config.ca_file = Some("a".into())),
            with(|config| config.prefix = "/".to_owned()),
            with(|config| config.relist_interval = Duration::ZERO),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(!error.report().contains("canary"), "{error:?}");
        }
        assert_eq!(EtcdConfig::from_url("etcd+tls://a:1").is_ok(), cfg!(feature = "tls"));
    }

    #[test]
    fn debug_shows_no_password() {
        let text = format!("{:?}", EtcdConfig::from_url("etcd://user:canary@a:1").unwrap());
        assert!(!text.contains("canary") && text.contains("a:1"), "{text}");
    }

    #[test]
    fn a_file_states_milliseconds_and_the_layout() {
        let text = r#"{"servers":["a:1"],"relist_interval_ms":1000,"layout":"go-zero"}"#;
        let config: EtcdConfig = serde_json::from_str(text).unwrap();
        assert_eq!((config.relist_interval, config.layout), (Duration::from_secs(1), Layout::GoZero));
        assert!(serde_json::from_str::<EtcdConfig>(r#"{"server":"a:1"}"#).is_err());
    }
}
