//! The settings of a database.

use std::{fmt, time::Duration};

use micro_core::{Error, ErrorKind, Result, millis};
use serde::{Deserialize, Serialize};

/// How many statements a connection keeps prepared: the framework's and a service's in each of
/// their widths.
pub(crate) const PREPARED_COUNT_MAX: usize = 512;

/// The settings of a [`SqlDatabase`](crate::SqlDatabase). Durations are milliseconds when read
/// from a file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SqlConfig {
    /// Which database: `sqlite:orders.db`, `mysql://USER:PASSWORD@HOST:PORT/DATABASE` (also
    /// `mariadb:`), `postgres://USER:PASSWORD@HOST:PORT/DATABASE`. No default.
    pub url: String,
    /// How many connections there are at most. Of SQLite, how many read, default 4, and one more
    /// writes; of a server, for transactions and reads alike, default 16, and one more relays.
    pub connection_count_max: Option<u32>,
    /// How long a read waits for a connection, and on a server a transaction too; default 1 s.
    #[serde(rename = "acquire_timeout_ms", with = "millis")]
    pub acquire_timeout: Duration,
    /// SQLite: how long a transaction waits for the writer's connection; default 5 s.
    #[serde(rename = "write_acquire_timeout_ms", with = "millis")]
    pub write_acquire_timeout: Duration,
    /// SQLite: how long it waits for the lock of another process; default 5 s.
    #[serde(rename = "busy_timeout_ms", with = "millis")]
    pub busy_timeout: Duration,
    /// SQLite: what a commit waits for; default full. A server has its own setting.
    pub synchronous: Synchronous,
    /// A server: how long connecting, and BEGIN, may take; default 2 s.
    #[serde(rename = "connect_timeout_ms", with = "millis")]
    pub connect_timeout: Duration,
    /// A server: how long a statement may take; default 30 s. PostgreSQL then ends it; MariaDB ends
    /// what begins with SELECT, but no write and no commit; MySQL ends nothing. Whatever is not
    /// answered a second later is given up and its connection closed; on MariaDB and MySQL a write
    /// can go on in the server and be done.
    #[serde(rename = "statement_timeout_ms", with = "millis")]
    pub statement_timeout: Duration,
    /// A server: how long a statement waits for a lock, whole seconds on MySQL; default 5 s.
    #[serde(rename = "lock_timeout_ms", with = "millis")]
    pub lock_timeout: Duration,
    /// A server: how old a connection may become; default 30 min, give or take a tenth.
    #[serde(rename = "connection_lifetime_ms", with = "millis")]
    pub connection_lifetime: Duration,
    /// A server: how many shards its outbox has, 1 to 16, each relayed by one process; default 1.
    pub outbox_shard_count: u16,
    /// A server: how long a process that relays an outbox may be silent before the server takes the
    /// outbox's locks from it and another process gets them, as after a loss of power or a cut
    /// network; default 30 s, at least 2 s, whole seconds on MySQL. The process says something each
    /// sixth of it. PostgreSQL knows it from version 14 on; with earlier ones it is TCP that notices.
    #[serde(rename = "outbox_owner_timeout_ms", with = "millis")]
    pub outbox_owner_timeout: Duration,
    /// What the names of the framework's tables begin with: letters, digits and `_`, at most 32;
    /// default `micro_`.
    pub table_prefix: String,
}

/// What a commit waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Synchronous {
    /// Until the disk has it: a commit survives a power loss.
    #[default]
    Full,
    /// Until the operating system has it: a commit survives the end of the process; a power loss
    /// can take the last ones, and leaves the file whole.
    Normal,
}

impl Default for SqlConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            connection_count_max: None,
            acquire_timeout: Duration::from_secs(1),
            write_acquire_timeout: Duration::from_secs(5),
            busy_timeout: Duration::from_secs(5),
            synchronous: Synchronous::Full,
            connect_timeout: Duration::from_secs(2),
            statement_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(5),
            connection_lifetime: Duration::from_secs(30 * 60),
            outbox_shard_count: 1,
            outbox_owner_timeout: Duration::from_secs(30),
            table_prefix: "micro_".to_owned(),
        }
    }
}

impl SqlConfig {
    /// The defaults for the database at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), ..Self::default() }
    }
}

impl fmt::Debug for SqlConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlConfig")
            .field("url", &redacted(&self.url))
            .field("connection_count_max", &self.connection_count_max)
            .field("acquire_timeout", &self.acquire_timeout)
            .field("write_acquire_timeout", &self.write_acquire_timeout)
            .field("busy_timeout", &self.busy_timeout)
            .field("synchronous", &self.synchronous)
            .field("connect_timeout", &self.connect_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .field("lock_timeout", &self.lock_timeout)
            .field("connection_lifetime", &self.connection_lifetime)
            .field("outbox_shard_count", &self.outbox_shard_count)
            .field("outbox_owner_timeout", &self.outbox_owner_timeout)
            .field("table_prefix", &self.table_prefix)
            .finish()
    }
}

/// A prefix that can stand in a statement as it is.
pub(crate) fn checked_prefix(prefix: &str) -> Result<&str> {
    let is_word = prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let is_number = prefix.starts_with(|first: char| first.is_ascii_digit());
    if is_word && !is_number && prefix.len() <= 32 {
        return Ok(prefix);
    }
    Err(Error::new(
        ErrorKind::InvalidArgument,
        "sql.connect",
        "a table prefix has letters, digits and _, at most 32, and no digit first",
    )
    .with_context("table_prefix", prefix.escape_debug()))
}

/// The URL without its password and without the values of its query that look like one.
pub(crate) fn redacted(url: &str) -> String {
    let (address, query) = url.split_once('?').map_or((url, None), |(address, query)| (address, Some(query)));
    // A password with a bare ? cuts the URL in the middle of itself: nothing of it can be shown.
    if query.is_some_and(|query| query.contains('@')) {
        return format!("{}:***", url.split(':').next().unwrap_or_default());
    }
    let mut text = redacted_address(address);
    for (index, pair) in query.into_iter().flat_map(|query| query.split('&')).enumerate() {
        text.push(if index == 0 { '?' } else { '&' });
        match pair.split_once('=') {
            Some((name, _)) if !is_harmless(name) => text.push_str(&format!("{name}=***")),
            Some(_) => text.push_str(pair),
            None => text.push_str("***"),
        }
    }
    text
}

/// `scheme://user:password@host`; the password may hold `@` and `:`, so the last `@` counts.
fn redacted_address(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once(':') else { return address.to_owned() };
    let Some((account, host)) = rest.rsplit_once('@') else { return address.to_owned() };
    let user = account.trim_start_matches('/').split(':').next().unwrap_or_default();
    let slashes = &account[..account.len() - account.trim_start_matches('/').len()];
    format!("{scheme}:{slashes}{user}:***@{host}")
}

/// Whether a parameter of the query is known to hold no secret.
fn is_harmless(name: &str) -> bool {
    matches!(
        name,
        "mode" | "cache" | "immutable" | "vfs" | "sslmode" | "ssl-mode" | "charset" | "collation" | "application_name"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_password() {
        for url in [
            "mysql://order:canary@db:3306/orders",
            "mysql://order:ca:n@canary@db:3306/orders",
            "mysql://order:a@canary?canary@db/orders",
            "sqlite:orders.db?canary",
            "sqlite:orders.db?password=canary",
            "sqlite:orders.db?mode=rwc&key=canary",
            "postgres://order:canary@db/orders?sslmode=require",
        ] {
            let text = format!("{:?}", SqlConfig::new(url));
            assert!(!text.contains("canary"), "{text}");
        }
        assert!(format!("{:?}", SqlConfig::new("sqlite:orders.db?mode=rwc")).contains("sqlite:orders.db?mode=rwc"));
    }

    #[test]
    fn a_file_states_milliseconds_and_typing_errors_are_found() {
        let config: SqlConfig = serde_json::from_str(r#"{"url":"sqlite:a.db","acquire_timeout_ms":250}"#).unwrap();
        assert_eq!(config.acquire_timeout, Duration::from_millis(250));
        assert_eq!(config.table_prefix, "micro_");
        assert!(serde_json::from_str::<SqlConfig>(r#"{"uri":"sqlite:a.db"}"#).is_err());
    }

    #[test]
    fn a_prefix_is_a_word() {
        assert!(checked_prefix("").is_ok() && checked_prefix("shop_2_").is_ok());
        for prefix in ["2_", "a b", "x;DROP TABLE orders;--", "é"] {
            assert_eq!(checked_prefix(prefix).unwrap_err().kind(), ErrorKind::InvalidArgument, "{prefix}");
        }
    }
}
