//! The kinds of server, and what each must know of itself.

use std::{fmt, path::Path, process::Command, str::FromStr};

use crate::{
    consul::Consul,
    dtm::{Dtm, DtmMysql, http_port},
    etcd::Etcd,
    kafka::Kafka,
    mariadb::Mariadb,
    ports::is_free,
    postgres::Postgres,
    redis::Redis,
    site::Site,
};

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Apache Kafka 3.9, one KRaft node.
    Kafka,
    /// Consul 1.7 in its development mode: it keeps nothing over a restart.
    Consul,
    /// etcd, as the distribution has it.
    Etcd,
    /// MariaDB, as the distribution has it.
    Mariadb,
    /// PostgreSQL, as the distribution has it.
    Postgres,
    /// DTM 1.19, the coordinator of distributed transactions, with its data in a file.
    Dtm,
    /// As [`Dtm`](Self::Dtm), with its data in the [MariaDB](Self::Mariadb) that is shared.
    DtmMysql,
    /// Redis, as the distribution has it.
    Redis,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Kafka, Self::Consul, Self::Etcd, Self::Mariadb, Self::Postgres, Self::Dtm, Self::DtmMysql, Self::Redis];

    /// The kind's name: a key of `cargo xtask servers status --json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Consul => "consul",
            Self::Etcd => "etcd",
            Self::Mariadb => "mariadb",
            Self::Postgres => "postgres",
            Self::Dtm => "dtm",
            Self::DtmMysql => "dtm-mysql",
            Self::Redis => "redis",
        }
    }

    /// The environment variable by which a user names a server of their own.
    #[must_use]
    pub fn variable(self) -> &'static str {
        match self {
            Self::Kafka => "MICRO_TEST_KAFKA",
            Self::Consul => "MICRO_TEST_CONSUL",
            Self::Etcd => "MICRO_TEST_ETCD",
            Self::Mariadb => "MICRO_TEST_MARIADB",
            Self::Postgres => "MICRO_TEST_POSTGRES",
            Self::Dtm => "MICRO_TEST_DTM",
            Self::DtmMysql => "MICRO_TEST_DTM_MYSQL",
            Self::Redis => "MICRO_TEST_REDIS",
        }
    }

    /// The version that `compose.yaml` takes as well; for the distribution's packages the one of Debian 12.
    #[must_use]
    pub fn version(self) -> &'static str {
        match self {
            Self::Kafka => "3.9.1",
            Self::Consul => "1.7.3",
            Self::Etcd => "v3.4.23",
            Self::Mariadb => "10.11",
            Self::Postgres => "15",
            Self::Dtm | Self::DtmMysql => "1.19.0",
            Self::Redis => "7.0",
        }
    }

    /// The URL of such a server on a port of this machine; DTM's says the port of its HTTP API as well.
    #[must_use]
    pub fn url(self, port: u16) -> String {
        match self {
            Self::Kafka => format!("kafka://127.0.0.1:{port}"),
            Self::Consul => format!("consul://127.0.0.1:{port}"),
            Self::Etcd => format!("etcd://127.0.0.1:{port}"),
            Self::Mariadb => format!("mysql://root@127.0.0.1:{port}"),
            Self::Postgres => format!("postgres://postgres@127.0.0.1:{port}"),
            Self::Dtm | Self::DtmMysql => format!("dtm://127.0.0.1:{port}?http=127.0.0.1:{}", http_port(port)),
            Self::Redis => format!("redis://127.0.0.1:{port}"),
        }
    }

    /// The other server without which this one does nothing.
    pub(crate) fn needs(self) -> Option<Self> {
        (self == Self::DtmMysql).then_some(Self::Mariadb)
    }

    /// Whether all ports that it takes are free.
    pub(crate) fn finds_free(self, port: u16) -> bool {
        is_free(port) && (!matches!(self, Self::Dtm | Self::DtmMysql) || is_free(http_port(port)))
    }

    pub(crate) fn program(self) -> &'static dyn Program {
        match self {
            Self::Kafka => &Kafka,
            Self::Consul => &Consul,
            Self::Etcd => &Etcd,
            Self::Mariadb => &Mariadb,
            Self::Postgres => &Postgres,
            Self::Dtm => &Dtm,
            Self::DtmMysql => &DtmMysql,
            Self::Redis => &Redis,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| format!("`{name}` is no kind of server: one of {}", known()))
    }
}

/// How a kind of server is installed, started, asked and stopped.
pub(crate) trait Program: Sync {
    /// Why it cannot be started from `tools`, and how to get it.
    fn missing(&self, tools: &Path) -> Option<String>;

    /// The Debian packages that are not there and that it needs, to be installed or to run.
    fn debian_packages(&self) -> Vec<&'static str>;

    /// Puts into `tools` what no distribution's package has.
    fn install(&self, tools: &Path) -> Result<(), String>;

    /// Fills an empty data folder; called once for each.
    fn prepare(&self, site: &Site) -> Result<(), String>;

    /// The server itself, in the foreground, with a path inside the site's folder among its arguments.
    fn command(&self, site: &Site) -> Result<Command, String>;

    /// Whether it answers a request, and not only a connect.
    fn answers(&self, port: u16) -> bool;

    /// The signal on which it stops in good order.
    fn stop_signal(&self) -> &'static str {
        "TERM"
    }
}
