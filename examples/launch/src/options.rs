//! The command line.

use std::env;

use clap::{Args, Parser};
use micro_rs::go_micro::GoMicroSettings;

/// The options of a service's program. What is not given comes from the document in Consul, or is
/// a default.
#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    /// Where the instance is announced: `memory:` (this process only), `static:NAME=HOST:PORT`,
    /// `consul://HOST:PORT?token=…&dc=…`, `etcd://HOST:PORT,…` (feature `registry-etcd`). Default: the Consul of CONSUL_HOST, or else `memory:`.
    #[arg(long, value_name = "URL")]
    pub registry: Option<String>,
    /// Where events go: `memory:` (this process only), `kafka://HOST:PORT,…?option=value`.
    /// Default: `memory:`.
    #[arg(long, value_name = "URL")]
    pub broker: Option<String>,
    /// Where rows are kept: `sqlite:FILE`, `mysql://USER:PASSWORD@HOST:PORT/NAME`, `postgres://…`.
    /// Default: an SQLite file in this folder.
    #[arg(long, value_name = "URL")]
    pub database: Option<String>,
    /// Where calls are taken, `host:port`; port 0 takes a free one. Default: `127.0.0.1:0`.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// The `host:port` that callers are told. Default: the one listened on; where that is every
    /// address, the one that this host has towards its registry.
    #[arg(long, value_name = "ADDRESS")]
    pub advertise: Option<String>,
    /// Threads that run the service. Default: one for each core.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,
    /// Deliveries of one partition that are handled side by side; those of one key never are.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub lanes: Option<u16>,
    /// Creates the Kafka topics that are missing, with so many partitions.
    #[arg(long, value_name = "PARTITIONS", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub create_topics: Option<u32>,
    /// The Consul that `--registry` is by default, `host[:port]`.
    #[arg(long, value_name = "HOST", env = "CONSUL_HOST", hide = true)]
    pub consul_host: Option<String>,
    /// What stands before a service's key, and the keys below it, in Consul's key/value store.
    #[arg(long, value_name = "PREFIX", env = "CONSUL_PREFIX", default_value = "/micro/", hide_env_values = true)]
    pub consul_prefix: String,
    /// What the variables and flags of go-micro say; the options above count for more.
    #[arg(skip)]
    pub go_micro: GoMicroSettings,
}

/// The program's command line, and beside it what go-micro's flags and variables say. What makes no
/// sense ends the program with one line on standard error and the exit code 2, as clap does.
pub fn parse<P: Parser>() -> (P, GoMicroSettings) {
    let mut arguments = env::args_os();
    let program = arguments.next().unwrap_or_default();
    let texts = arguments.map(|argument| argument.to_string_lossy().into_owned());
    let variables =
        env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    match GoMicroSettings::from_arguments(texts, variables) {
        Ok((settings, rest)) => {
            (P::parse_from(std::iter::once(program).chain(rest.into_iter().map(Into::into))), settings)
        }
        Err(error) => P::command().error(clap::error::ErrorKind::InvalidValue, error.report()).exit(),
    }
}
