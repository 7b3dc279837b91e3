//! The settings of Redis: as data, from a URL.

use std::{fmt, time::Duration};

use micro_core::{Error, ErrorKind, Result};
use redis::{Client, ConnectionAddr};
use serde::{Deserialize, Serialize};

/// How long a barrier's key is kept by default: as long as DTM keeps a transaction that is not over.
const BARRIER_TTL: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The settings of a [`RedisBarrier`](crate::RedisBarrier). Durations are milliseconds when read from a
/// file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RedisConfig {
    /// `redis://[user:password@]host[:port][/database]`, or `redis+unix:///path`; shown without user and
    /// password. Default `redis://127.0.0.1:6379`. TLS (`rediss://`) is not spoken.
    pub url: String,
    /// How long making a connection may take; default 5 s.
    #[serde(rename = "connect_timeout_ms", with = "millis")]
    pub connect_timeout: Duration,
    /// How long a request may take; default 2 s, for DTM gives a branch 3 s.
    #[serde(rename = "request_timeout_ms", with = "millis")]
    pub request_timeout: Duration,
    /// How long a barrier's key is kept, in whole seconds, rounded up; default 7 days. A coordinator that
    /// calls a branch again later finds it new: at least as long as a transaction may last.
    #[serde(rename = "barrier_ttl_ms", with = "millis")]
    pub barrier_ttl: Duration,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            url: "redis://127.0.0.1:6379".to_owned(),
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
    pub(crate) fn checked(&self) -> Result<(Client, String)> {
        let refused = |message: &'static str| Error::new(ErrorKind::InvalidArgument, "redis.connect", message);
        if self.url.starts_with("rediss:") {
            return Err(refused("TLS to Redis is not compiled in: expected redis://host:port, through a tunnel say"));
        }
        // Its own error may show the URL.
        let client = Client::open(self.url.as_str()).map_err(|_| refused(EXPECTED))?;
        let address = match client.get_connection_info().addr() {
            ConnectionAddr::Tcp(host, _) if host.is_empty() => return Err(refused(EXPECTED)),
            address => address.to_string(),
        };
        for (name, value) in [
            ("connect_timeout", self.connect_timeout),
            ("request_timeout", self.request_timeout),
            ("barrier_ttl", self.barrier_ttl),
        ] {
            if value.is_zero() {
                return Err(refused("a duration is zero, so that nothing could be done").with_context("setting", name));
            }
        }
        Ok((client, address))
    }

    /// For Redis, which counts to some 290 million years in milliseconds.
    pub(crate) fn barrier_ttl_seconds(&self) -> u64 {
        const SECONDS_MAX: u64 = 1_000 * 366 * 24 * 60 * 60;
        let seconds = self.barrier_ttl.as_secs() + u64::from(self.barrier_ttl.subsec_nanos() > 0);
        seconds.min(SECONDS_MAX)
    }
}

const EXPECTED: &str = "not a URL of Redis: expected redis://[user:password@]host[:port][/database]";

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("address", &self.checked().map_or_else(|_| "not a URL".to_owned(), |(_, address)| address))
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("barrier_ttl", &self.barrier_ttl)
            .finish_non_exhaustive()
    }
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_redis_is_and_the_password_is_shown_nowhere() {
        let config = RedisConfig::from_url("redis://user:canary@10.0.0.7:6380/2").unwrap();
        assert_eq!(config.checked().unwrap().1, "10.0.0.7:6380");
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
            ("rediss://:canary@127.0.0.1", "TLS"),
        ] {
            let error = RedisConfig::from_url(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{url}");
            assert!(error.report().contains(told), "{url}: {}", error.report());
            assert!(!error.report().contains("canary"), "{}", error.report());
        }
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
