//! URL → adapter: which backend serves a port is chosen at run time, among those compiled in.
//!
//! | URL | registry | broker | database |
//! |---|---|---|---|
//! | `memory:` | this process only | this process only | |
//! | `static:product=127.0.0.1:9000,…` | a fixed list | | |
//! | `consul://HOST:PORT?token=…&dc=…`, `consul+https://…` | feature `registry-consul` | | |
//! | `etcd://[user:password@]host:port[,host:port]?layout=…`, `etcd+tls://…` | feature `registry-etcd` | | |
//! | `kafka://host:9092,…?option=value` | | feature `broker-kafka` | |
//! | `sqlite:path/to/file.db` | | | feature `tx-sqlite` |
//! | `mysql://user:password@host:port/database`, `mariadb://…` | | | feature `tx-mysql` |
//! | `postgres://user:password@host:port/database`, `postgresql://…` | | | feature `tx-postgres` |
//!
//! A URL that stands for the wrong port, or for a backend that is not compiled in, is an error that
//! says what there is. Errors never show the user part of a URL.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
};

use micro_core::{
    Error, ErrorKind, Result,
    broker::{Broker, MemoryBroker},
    registry::{MemoryRegistry, Registry, StaticRegistry},
};

/// The registry that `url` names. Each `memory:` is a registry of its own: clone the `Arc` to share it.
///
/// # Errors
///
/// `InvalidArgument` for a URL that names no registry, or none that is compiled in; `Unavailable`
/// when a server cannot be reached.
pub async fn registry(url: &str) -> Result<Arc<dyn Registry>> {
    match scheme(url) {
        "memory" => Ok(Arc::new(MemoryRegistry::new())),
        "static" => Ok(Arc::new(url.parse::<StaticRegistry>()?)),
        #[cfg(feature = "registry-consul")]
        "consul" | "consul+https" => {
            use micro_registry_consul::{ConsulConfig, ConsulRegistry};

            let config = ConsulConfig::from_url(url)?.with_env_token();
            Ok(Arc::new(ConsulRegistry::connect(config).await?))
        }
        #[cfg(feature = "registry-etcd")]
        "etcd" | "etcd+tls" => {
            use micro_etcd::{EtcdConfig, EtcdRegistry};

            let config = EtcdConfig::from_url(url)?.with_env_user();
            Ok(Arc::new(EtcdRegistry::connect(config).await?))
        }
        _ => {
            let known = "memory: static:NAME=HOST:PORT consul://HOST:PORT etcd://HOST:PORT";
            Err(unknown(url, "backends.registry", known))
        }
    }
}

/// The broker that `url` names. Each `memory:` is a broker of its own: clone the `Arc` to share it.
///
/// # Errors
///
/// As [`registry`]; `Unavailable` or `Unauthenticated` when no connection can be made in time.
pub async fn broker(url: &str) -> Result<Arc<dyn Broker>> {
    match scheme(url) {
        "memory" => Ok(Arc::new(MemoryBroker::new())),
        #[cfg(feature = "broker-kafka")]
        "kafka" | "kafka+tls" => Ok(Arc::new(micro_broker_kafka::KafkaBroker::connect_url(url).await?)),
        _ => Err(unknown(url, "backends.broker", "memory: kafka://HOST:PORT")),
    }
}

/// The database that `url` names, connected and with this framework's tables.
///
/// # Errors
///
/// As [`registry`]; `Unavailable` when it cannot be reached.
#[cfg(any(feature = "tx-sqlite", feature = "tx-mysql", feature = "tx-postgres"))]
pub async fn database(url: &str) -> Result<micro_tx::SqlDatabase> {
    database_with(micro_tx::SqlConfig::new(url)).await
}

/// As [`database`], with more settings than its URL.
///
/// # Errors
///
/// As [`database`].
#[cfg(any(feature = "tx-sqlite", feature = "tx-mysql", feature = "tx-postgres"))]
pub async fn database_with(config: micro_tx::SqlConfig) -> Result<micro_tx::SqlDatabase> {
    let url = config.url.as_str();
    let compiled_in = [
        ("sqlite", cfg!(feature = "tx-sqlite")),
        ("mysql", cfg!(feature = "tx-mysql")),
        ("mariadb", cfg!(feature = "tx-mysql")),
        ("postgres", cfg!(feature = "tx-postgres")),
        ("postgresql", cfg!(feature = "tx-postgres")),
    ];
    if !compiled_in.contains(&(scheme(url), true)) {
        let known = "sqlite:FILE mysql://USER:PASSWORD@HOST/DATABASE postgres://USER:PASSWORD@HOST/DATABASE";
        return Err(unknown(url, "backends.database", known));
    }
    let database = micro_tx::SqlDatabase::connect(config).await?;
    database.migrate().await?;
    Ok(database)
}

/// The scheme of a URL: what of it can be shown in an error. Empty for text that has none, such as
/// a connection string of other kinds, whose beginning may be a secret.
pub fn scheme(url: &str) -> &str {
    let is_scheme = |scheme: &&str| {
        scheme.starts_with(|letter: char| letter.is_ascii_alphabetic())
            && scheme.chars().all(|letter| letter.is_ascii_alphanumeric() || "+-.".contains(letter))
    };
    url.split_once(':').map(|(scheme, _)| scheme).filter(is_scheme).unwrap_or_default()
}

/// Where callers find a service that takes calls at every address of its host (`0.0.0.0:9000`): the
/// address that the host has towards its registry, by a URL with `host:port`. `None` where there is
/// nothing to find out, or no way to. It looks up a route and sends nothing.
pub fn advertised(listen: &str, registry: &str) -> Option<String> {
    let listen: SocketAddr = listen.parse().ok().filter(|listen: &SocketAddr| listen.port() != 0)?;
    let (_, rest) = registry.split_once("://").filter(|_| listen.ip().is_unspecified())?;
    let servers = rest.split(['/', '?']).next()?;
    // The first of several, without who asks it.
    let server = servers.rsplit('@').next()?.split(',').next()?;
    // Nothing is sent: the system only looks up its route.
    let socket = UdpSocket::bind(SocketAddr::new(listen.ip(), 0)).ok()?;
    socket.connect(server).ok()?;
    Some(SocketAddr::new(socket.local_addr().ok()?.ip(), listen.port()).to_string())
}

fn unknown(url: &str, operation: &'static str, known: &'static str) -> Error {
    let message = match scheme(url) {
        "" => "not a URL: expected scheme:…",
        "sqlite" if cfg!(not(feature = "tx-sqlite")) => {
            "this backend is not compiled in: turn on the feature tx-sqlite"
        }
        "kafka" | "kafka+tls" if cfg!(not(feature = "broker-kafka")) => {
            "this backend is not compiled in: turn on the feature broker-kafka"
        }
        "mysql" | "mariadb" if cfg!(not(feature = "tx-mysql")) => {
            "this backend is not compiled in: turn on the feature tx-mysql"
        }
        "postgres" | "postgresql" if cfg!(not(feature = "tx-postgres")) => {
            "this backend is not compiled in: turn on the feature tx-postgres"
        }
        "consul" | "consul+https" if cfg!(not(feature = "registry-consul")) => {
            "this backend is not compiled in: turn on the feature registry-consul"
        }
        "etcd" | "etcd+tls" if cfg!(not(feature = "registry-etcd")) => {
            "this backend is not compiled in: turn on the feature registry-etcd"
        }
        _ => "this version has no such backend for this port",
    };
    let scheme = scheme(url).to_owned();
    Error::new(ErrorKind::InvalidArgument, operation, message)
        .with_context("scheme", scheme)
        .with_context("known", known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_at_every_address_is_found_where_its_registry_sees_it() {
        for registry in [
            "consul://127.0.0.1:8500",
            "consul://127.0.0.1:8500/?dc=a",
            "consul://127.0.0.1:8500?token=x",
            "etcd://user:secret@127.0.0.1:2379,10.0.0.1:2379?layout=go-zero",
        ] {
            assert_eq!(advertised("0.0.0.0:9000", registry).as_deref(), Some("127.0.0.1:9000"));
        }
        for (listen, registry) in [
            ("127.0.0.1:9000", "consul://127.0.0.1:8500"),
            ("0.0.0.0:0", "consul://127.0.0.1:8500"),
            ("0.0.0.0:9000", "memory:"),
            ("nonsense", "consul://127.0.0.1:8500"),
        ] {
            assert_eq!(advertised(listen, registry), None, "{listen} {registry}");
        }
    }

    #[tokio::test]
    async fn a_backend_that_is_not_there_is_named_with_those_that_are() {
        let error = broker("amqp://user:canary-4711@127.0.0.1:5672").await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        let text = error.report();
        assert!(text.contains("scheme=amqp") && text.contains("known=memory:"), "{text}");
        assert!(!text.contains("canary-4711"), "{text}");
    }

    #[cfg(not(feature = "broker-kafka"))]
    #[tokio::test]
    async fn a_backend_that_is_not_compiled_in_is_named_with_its_feature() {
        let error = broker("kafka://user:canary-4711@127.0.0.1:9092").await.err().unwrap();
        let text = error.report();
        assert!(text.contains("feature broker-kafka") && !text.contains("canary-4711"), "{text}");
    }

    #[cfg(feature = "broker-kafka")]
    #[tokio::test]
    async fn a_kafka_that_is_away_is_one_line_with_address_and_cause_within_the_timeout() {
        let url = "kafka://user:canary-4711@127.0.0.1:1?connect_timeout_ms=5000";
        let error = tokio::time::timeout(std::time::Duration::from_secs(60), broker(url)).await.unwrap().err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let text = error.report();
        assert!(text.contains("Kafka") && text.contains("127.0.0.1:1") && text.contains("refused"), "{text}");
        assert!(!text.contains("canary-4711") && !text.contains('\n'), "{text}");
    }

    #[cfg(feature = "registry-consul")]
    #[tokio::test]
    async fn an_agent_that_is_not_there_is_one_line_without_its_token() {
        let error = registry("consul://127.0.0.1:1?token=canary-4711").await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let text = error.report();
        assert!(text.contains("backend=consul") && text.contains("address=127.0.0.1:1"), "{text}");
        assert!(!text.contains("canary-4711") && !text.contains('\n'), "{text}");
    }

    #[cfg(feature = "registry-etcd")]
    #[tokio::test]
    async fn an_etcd_that_is_not_there_is_one_line_with_address_and_cause_and_without_its_password() {
        let error = registry("etcd://user:canary-4711@127.0.0.1:1").await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let text = error.report();
        assert!(text.contains("backend=etcd") && text.contains("address=127.0.0.1:1"), "{text}");
        assert!(text.contains("refused") && text.contains("start one"), "{text}");
        assert!(!text.contains("canary-4711") && !text.contains('\n'), "{text}");
    }

    #[test]
    fn what_stands_before_a_colon_is_not_always_a_scheme() {
        assert_eq!(scheme("etcd+https://a"), "etcd+https");
        for text in ["", "canary", ":canary", "password=canary host=a:1", "4711:canary", "/canary:1", "ca nary:"] {
            assert_eq!(scheme(text), "", "{text}");
        }
    }

    #[tokio::test]
    async fn text_without_a_scheme_is_said_to_be_none() {
        let error = registry("consul").await.err().unwrap();
        assert!(error.report().contains("not a URL"), "{error:?}");
    }
}
