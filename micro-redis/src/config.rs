//! The settings of Redis: as data, from a URL.

use std::{fmt, path::PathBuf, time::Duration};

use micro_core::{Error, ErrorKind, Result, millis};
#[cfg(target_os = "linux")]
use redis::io::tcp::TcpSettings;
use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _};
use serde::{Deserialize, Serialize};

/// How long a barrier's key is kept by default. A branch that is undone later than that is taken for one that
/// was never done.
const BARRIER_TTL: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How much longer than a request a connection may be silent that has something to send.
#[cfg(target_os = "linux")]
const SILENCE_FACTOR: u32 = 2;

/// The settings of a [`RedisBarrier`](crate::RedisBarrier). Durations are milliseconds when read from a
/// file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RedisConfig {
    /// `redis://[user:password@]host[:port][/database]`, `rediss://…` with TLS (feature `tls`), or
    /// `redis+unix:///path`; shown without user and password. Default `redis://127.0.0.1:6379`. One server,
    /// or a proxy: a cluster's or a sentinel's lists are refused.
    pub url: String,
    /// A PEM file with the authorities that may have signed the server's certificate; default: the system's.
    pub ca_file: Option<PathBuf>,
    /// A PEM file with this client's certificate, where the server asks for one, and the authorities between
    /// it and the root.
    pub cert_file: Option<PathBuf>,
    /// A PEM file with the key of that certificate.
    pub key_file: Option<PathBuf>,
    /// How long making a connection may take; default 5 s.
    #[serde(rename = "connect_timeout_ms", with = "millis")]
    pub connect_timeout: Duration,
    /// How long a request may take; default 2 s, for DTM gives a branch 3 s.
    #[serde(rename = "request_timeout_ms", with = "millis")]
    pub request_timeout: Duration,
    /// How long a barrier's key is kept, in whole seconds, rounded up; default 30 days. A coordinator that
    /// calls a branch again later finds it new: at least as long as a transaction may last.
    #[serde(rename = "barrier_ttl_ms", with = "millis")]
    pub barrier_ttl: Duration,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            url: "redis://127.0.0.1:6379".to_owned(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(2),
            barrier_ttl: BARRIER_TTL,
        }
    }
}

impl RedisConfig {
    /// The settings with this URL.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for what is no such URL, without showing it: it may have a password.
    pub fn from_url(url: &str) -> Result<Self> {
        let config = Self { url: url.to_owned(), ..Self::default() };
        config.checked()?;
        Ok(config)
    }

    /// What connects, and the address for errors.
    pub(crate) fn client(&self) -> Result<(Client, String)> {
        let info = self.checked()?;
        // A host that is gone says nothing: its connection is given up, and a new one made.
        #[cfg(target_os = "linux")]
        let info = info.set_tcp_settings(
            TcpSettings::default().set_nodelay(true).set_user_timeout(SILENCE_FACTOR * self.request_timeout),
        );
        let address = info.addr().to_string();
        #[cfg(feature = "tls")]
        if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            return Ok((crate::tls::client(info, self)?, address));
        }
        // Its own error may show the URL.
        let client = Client::open(info).map_err(|_| refused(EXPECTED))?;
        Ok((client, address))
    }

    fn checked(&self) -> Result<ConnectionInfo> {
        let info = self.parsed()?;
        for (name, value) in [
            ("connect_timeout", self.connect_timeout),
            ("request_timeout", self.request_timeout),
            ("barrier_ttl", self.barrier_ttl),
        ] {
            if value.is_zero() {
                return Err(refused("a duration is zero, so that nothing could be done").with_context("setting", name));
            }
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            return Err(refused("a client's certificate and its key come together: cert_file and key_file"));
        }
        let has_files = self.ca_file.is_some() || self.cert_file.is_some();
        if has_files && !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            return Err(refused("certificates are for TLS: expected rediss://host:port"));
        }
        Ok(info)
    }

    fn parsed(&self) -> Result<ConnectionInfo> {
        let (scheme, rest) = self.url.split_once(':').unwrap_or_default();
        let hosts = rest.trim_start_matches('/').split('/').next().unwrap_or_default();
        let hosts = hosts.rsplit('@').next().unwrap_or_default();
        if scheme.contains("cluster") || scheme.contains("sentinel") || hosts.contains(',') {
            return Err(refused(ONE_SERVER));
        }
        // Its own error may show the URL.
        let info = self.url.as_str().into_connection_info().map_err(|_| refused(EXPECTED))?;
        match info.addr() {
            ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } if host.is_empty() => {
                Err(refused(EXPECTED))
            }
            ConnectionAddr::TcpTls { insecure: true, .. } => Err(refused(INSECURE)),
            ConnectionAddr::TcpTls { .. } if !cfg!(feature = "tls") => Err(refused(NO_TLS)),
            _ => Ok(info),
        }
    }

    /// For Redis, which counts to some 290 million years in milliseconds.
    pub(crate) fn barrier_ttl_seconds(&self) -> u64 {
        const SECONDS_MAX: u64 = 1_000 * 366 * 24 * 60 * 60;
        let seconds = self.barrier_ttl.as_secs() + u64::from(self.barrier_ttl.subsec_nanos() > 0);
        seconds.min(SECONDS_MAX)
    }
}

const EXPECTED: &str = "not a URL of Redis: expected redis://[user:password@]host[:port][/database]";
const ONE_SERVER: &str = "clusters and sentinels are not understood: expected redis://host:port of one server, the one \
                          that has the keys' slot, or of a proxy";
const INSECURE: &str = "TLS with whoever answers protects nothing: expected rediss:// without #insecure, and the \
                        server's authority in ca_file";
const NO_TLS: &str = "TLS is not compiled in: turn micro-redis's feature tls on, or expected redis://host:port, through a \
                      tunnel say";

fn refused(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidArgument, "redis.connect", message)
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("address", &self.parsed().map_or_else(|_| "not a URL".to_owned(), |info| info.addr().to_string()))
            .field("ca_file", &self.ca_file)
            .field("cert_file", &self.cert_file)
            .field("key_file", &self.key_file)
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("barrier_ttl", &self.barrier_ttl)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_redis_is_and_the_password_is_shown_nowhere() {
        let config = RedisConfig::from_url("redis://user:canary@10.0.0.7:6380/2").unwrap();
        assert_eq!(config.client().unwrap().1, "10.0.0.7:6380");
        let shown = format!("{config:?}");
        assert!(shown.contains("10.0.0.7:6380") && !shown.contains("canary"), "{shown}");
    }

    #[test]
    fn what_is_no_url_of_redis_is_refused_without_being_shown() {
        for (url, told) in [
            ("", "expected redis://"),
            ("127.0.0.1:6379", "expected redis://"),
            ("http://:canary@127.0.0.1", "expected redis://"),
            ("redis://:canary@127.0.0.1/no-number", "expected redis://"),
            ("rediss://:canary@127.0.0.1/#insecure", "expected rediss:// without #insecure"),
            ("redis://:canary@10.0.0.7:6379,10.0.0.8:6379", "clusters and sentinels are not understood"),
            ("redis-cluster://:canary@10.0.0.7:6379", "expected redis://host:port of one server"),
            ("redis+cluster://:canary@10.0.0.7:6379", "expected redis://host:port of one server"),
            ("redis-sentinel://:canary@10.0.0.7:26379/master", "or of a proxy"),
            #[cfg(not(feature = "tls"))]
            ("rediss://:canary@127.0.0.1", "feature tls"),
        ] {
            let error = RedisConfig::from_url(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{url}");
            assert!(error.report().contains(told), "{url}: {}", error.report());
            assert!(!error.report().contains("canary"), "{}", error.report());
        }
    }

    #[test]
    fn a_password_may_have_a_comma() {
        let config = RedisConfig::from_url("redis://user:a,canary@10.0.0.7").unwrap();
        assert_eq!(config.client().unwrap().1, "10.0.0.7:6379");
    }

    #[test]
    fn certificates_are_for_tls_and_come_with_their_key() {
        let mut config = RedisConfig { ca_file: Some("ca.pem".into()), ..RedisConfig::default() };
        assert!(config.checked().unwrap_err().to_string().contains("expected rediss://"));
        config.cert_file = Some("client.pem".into());
        assert!(config.checked().unwrap_err().to_string().contains("cert_file and key_file"));
    }

    #[test]
    fn a_key_is_kept_for_whole_seconds_rounded_up() {
        let mut config = RedisConfig::default();
        for (ttl, seconds) in [(1, 1), (1_000, 1), (1_001, 2), (u64::MAX, 31_622_400_000)] {
            config.barrier_ttl = Duration::from_millis(ttl);
            assert_eq!(config.barrier_ttl_seconds(), seconds);
        }
        config.barrier_ttl = Duration::ZERO;
        assert!(config.checked().unwrap_err().to_string().contains("setting=barrier_ttl"));
    }
}
