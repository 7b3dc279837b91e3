//! The settings of the DTM client: as data, and from a URL.

use std::time::Duration;

use micro_core::{Error, ErrorKind, Result, millis};
use reqwest::Url;
use serde::{Deserialize, Serialize};

/// Where the HTTP API stands on its port.
pub(crate) const BASE_PATH: &str = "/api/dtmsvr";

/// The settings of a [`DtmClient`](super::DtmClient). Durations are milliseconds when read from a file.
///
/// DTM has neither TLS nor authentication: it belongs into a network of one's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct DtmConfig {
    /// The gRPC API, `HOST:PORT`; default `127.0.0.1:36790`. Where it is named, transactions go there;
    /// `None`: to the HTTP API.
    pub grpc: Option<String>,
    /// The HTTP API, `http://HOST:PORT/api/dtmsvr`; default none. Beside gRPC it is asked what became of
    /// a transaction, which gRPC does not tell.
    pub http: Option<String>,
    /// Whether transactions go to the JSON-RPC API, which stands on the port of the HTTP API: `http` names
    /// that, and `grpc` nothing. Then DTM calls participants in JSON-RPC where their URLs say so
    /// (`http://HOST:PORT/PATH?method=NAME`), the others by HTTP. Default no.
    #[serde(rename = "json_rpc")]
    pub is_json_rpc: bool,
    /// For a connection to be made; default 1 s.
    #[serde(rename = "connect_timeout_ms", with = "millis")]
    pub connect_timeout: Duration,
    /// How long a request may take; default 5 s.
    #[serde(rename = "request_timeout_ms", with = "millis")]
    pub request_timeout: Duration,
    /// How long a request may take that waits for the outcome of its transaction; default 30 s. DTM
    /// answers within its own limit of a branch's call (3 s) and 5 s more.
    #[serde(rename = "wait_timeout_ms", with = "millis")]
    pub wait_timeout: Duration,
    /// How many times a request that may be sent twice is sent again where DTM cannot be reached or the
    /// connection breaks; default 2.
    pub resend_count_max: u32,
    /// The pause before that; default 100 ms, doubled each time.
    #[serde(rename = "resend_pause_ms", with = "millis")]
    pub resend_pause: Duration,
    /// What DTM's store can keep, checked before anything is sent; default [`StoreLimits::Sql`].
    pub store_limits: StoreLimits,
}

/// What DTM's store can keep of a transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StoreLimits {
    /// MySQL, MariaDB, PostgreSQL: URLs, options, custom data and reasons of 1024
    /// characters each, payloads of 65,535 bytes. What is longer fails in the middle of a transaction.
    #[default]
    Sql,
    /// boltdb and Redis: only the 4 MiB of a request. An id has 128 bytes at most there too: participants
    /// refuse a longer one.
    None,
}

impl Default for DtmConfig {
    fn default() -> Self {
        Self {
            grpc: Some("127.0.0.1:36790".to_owned()),
            http: None,
            is_json_rpc: false,
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(5),
            wait_timeout: Duration::from_secs(30),
            resend_count_max: 2,
            resend_pause: Duration::from_millis(100),
            store_limits: StoreLimits::Sql,
        }
    }
}

impl DtmConfig {
    /// The settings that stand in a URL, the defaults for the others: `dtm://HOST:PORT` is the gRPC API,
    /// with `?http=HOST:PORT` also the HTTP API; `http://HOST:PORT` is the HTTP API alone,
    /// `jsonrpc://HOST:PORT` the JSON-RPC API, with the HTTP API beside it on the same port.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for anything else.
    pub fn from_url(url: &str) -> Result<Self> {
        let expected =
            "expected dtm://HOST:PORT, dtm://HOST:PORT?http=HOST:PORT, http://HOST:PORT or jsonrpc://HOST:PORT";
        let refused =
            || Error::new(ErrorKind::InvalidArgument, "dtm.connect", expected).with_context("url", shown(url));
        let parsed = Url::parse(url).map_err(|cause| refused().with_source(cause))?;
        let has_account = !parsed.username().is_empty() || parsed.password().is_some();
        let (Some(host), "" | "/" | BASE_PATH, false) = (parsed.host_str(), parsed.path(), has_account) else {
            return Err(refused());
        };
        if parsed.scheme() == "http" {
            let base = format!("http://{host}:{}{BASE_PATH}", parsed.port().unwrap_or(80));
            let config = Self { grpc: None, http: Some(base), ..Self::default() };
            return if parsed.query().is_none() { Ok(config) } else { Err(refused()) };
        }
        let Some(port) = parsed.port() else { return Err(refused()) };
        if parsed.scheme() == "jsonrpc" && parsed.query().is_none() {
            let http = Some(format!("http://{host}:{port}{BASE_PATH}"));
            let config = Self { grpc: None, http, is_json_rpc: true, ..Self::default() };
            return config.checked().map(|()| config).map_err(|_| refused());
        }
        if parsed.scheme() != "dtm" {
            return Err(refused());
        }
        let mut config = Self { grpc: Some(format!("{host}:{port}")), ..Self::default() };
        for (name, value) in parsed.query_pairs() {
            match &*name {
                "http" => config.http = Some(format!("http://{value}{BASE_PATH}")),
                _ => return Err(refused().with_context("unknown", name.escape_debug())),
            }
        }
        config.checked().map_err(|_| refused())?;
        Ok(config)
    }

    /// These settings.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` where they name no API, or one that is none.
    pub(crate) fn checked(&self) -> Result<()> {
        let refused = |message: &'static str| Error::new(ErrorKind::InvalidArgument, "dtm.connect", message);
        if self.grpc.is_none() && self.http.is_none() {
            return Err(refused("neither `grpc` nor `http` says where DTM is"));
        }
        if self.is_json_rpc && (self.grpc.is_some() || self.http.is_none()) {
            return Err(refused("`json_rpc` is an API beside that of `http`: name `http`, and set `grpc` to null"));
        }
        if let Some(address) = &self.grpc {
            let is_address = Url::parse(&format!("grpc://{address}"))
                .is_ok_and(|url| url.port().is_some() && url.path().is_empty() && url.username().is_empty());
            if !is_address {
                return Err(refused("`grpc` is not HOST:PORT").with_context("grpc", shown(address)));
            }
        }
        if let Some(base) = &self.http {
            let is_base = Url::parse(base).is_ok_and(|url| {
                url.scheme() == "http" && url.has_host() && url.path() == BASE_PATH && url.query().is_none()
            });
            if !is_base {
                let error = refused("`http` is not http://HOST:PORT/api/dtmsvr");
                return Err(error.with_context("http", shown(base)));
            }
        }
        Ok(())
    }
}

/// An address as it may be told: where it has an account there may be a password.
fn shown(address: &str) -> String {
    if address.contains('@') {
        "*** (it has an account, and DTM knows none)".to_owned()
    } else {
        address.escape_debug().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_one_api_or_both() {
        let config = DtmConfig::from_url("dtm://dtm.internal:36790").unwrap();
        assert_eq!((config.grpc.as_deref(), config.http), (Some("dtm.internal:36790"), None));
        let config = DtmConfig::from_url("dtm://[::1]:36790?http=127.0.0.1:36789").unwrap();
        assert_eq!(config.grpc.as_deref(), Some("[::1]:36790"));
        assert_eq!(config.http.as_deref(), Some("http://127.0.0.1:36789/api/dtmsvr"));
        for url in ["http://127.0.0.1:36789", "http://127.0.0.1:36789/", "http://127.0.0.1:36789/api/dtmsvr"] {
            let config = DtmConfig::from_url(url).unwrap();
            assert_eq!((config.grpc, config.http.as_deref()), (None, Some("http://127.0.0.1:36789/api/dtmsvr")));
            assert!(!config.is_json_rpc);
        }
        let config = DtmConfig::from_url("jsonrpc://127.0.0.1:36789").unwrap();
        assert_eq!((config.grpc, config.http.as_deref()), (None, Some("http://127.0.0.1:36789/api/dtmsvr")));
        assert!(config.is_json_rpc);
    }

    #[test]
    fn a_wrong_url_says_what_is_expected() {
        for url in [
            "dtm:",
            "dtm://",
            "dtm://a",
            "dtm://a:1?htp=b:2",
            "dtm://a:1?http=b:2/admin",
            "dtm://a:1/admin",
            "https://a:1",
            "http://a:1/admin",
            "dtm://me:secret@a:1",
            "dtm://:secret@a:1",
            "dtm://a:1?http=me:secret@b:2/x",
            "http://me:secret@a:1",
            "jsonrpc://a",
            "jsonrpc://a:1?http=b:2",
            "jsonrpc://a:1/api/json-rpc",
            "jsonrpc://me:secret@a:1",
        ] {
            let error = DtmConfig::from_url(url).expect_err(url);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{url}");
            assert!(error.to_string().contains("dtm://HOST:PORT"), "{error}");
            assert!(!error.report().contains("secret"), "{}", error.report());
        }
    }

    #[test]
    fn settings_that_name_nowhere_are_refused() {
        let none = DtmConfig { grpc: None, http: None, ..DtmConfig::default() };
        let grpc = DtmConfig { grpc: Some("a:1/b.C/D".to_owned()), ..DtmConfig::default() };
        let http = DtmConfig { http: Some("http://a:1/admin".to_owned()), ..DtmConfig::default() };
        let no_http = DtmConfig { grpc: None, http: None, is_json_rpc: true, ..DtmConfig::default() };
        let both = DtmConfig { is_json_rpc: true, ..DtmConfig::from_url("dtm://a:1?http=b:2").unwrap() };
        for config in [none, grpc, http, no_http, both] {
            assert_eq!(config.checked().unwrap_err().kind(), ErrorKind::InvalidArgument, "{config:?}");
        }
        DtmConfig::default().checked().unwrap();
    }

    #[test]
    fn a_file_states_milliseconds_and_the_kind_of_store() {
        let text = r#"{"grpc":"a:1","request_timeout_ms":700,"store_limits":"none"}"#;
        let config: DtmConfig = serde_json::from_str(text).unwrap();
        assert_eq!((config.request_timeout, config.store_limits), (Duration::from_millis(700), StoreLimits::None));
        assert!(serde_json::from_str::<DtmConfig>(r#"{"gprc":"a:1"}"#).is_err());
    }
}
