//! What the command line asks for.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use serde::Serialize;

/// Drives payment callbacks through the order and product services and judges the outcome.
///
/// Without options everything runs in this process: registry and broker in memory, two SQLite
/// files in a temporary folder, real gRPC on loopback.
#[derive(Clone, Debug, Parser)]
#[command(name = "payment-chain", version)]
pub struct Options {
    /// How many orders to seed and pay.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub orders: u32,
    /// How many callbacks are under way at once.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub concurrency: u32,
    /// How many SKUs the orders are spread over.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub skus: u32,
    /// Units in stock of each SKU. The default is short, so that some orders are refused.
    #[arg(long, default_value_t = 160, value_parser = clap::value_parser!(u32).range(0..=1_000_000_000))]
    pub stock: u32,
    /// Percent of the callbacks sent twice, and of the records published again with the same id.
    #[arg(long, default_value_t = 5.0, value_parser = percent)]
    pub duplicate_percent: f64,
    /// Poison records (bad bytes, unknown types) on top, in percent of the orders.
    #[arg(long, default_value_t = 1.0, value_parser = percent)]
    pub poison_percent: f64,
    /// How the order service has goods deducted: by a call within the callback (grpc), by a saga with
    /// compensations (dtm), by events through the outbox (events), or by each in turn, side by side (all).
    #[arg(long, value_enum, default_value_t = WireOption::Events)]
    pub wire: WireOption,
    /// The coordinator of the sagas: dtm://HOST:PORT, the gRPC port of a DTM server. Default: the order
    /// service's own, embedded.
    #[arg(long, value_name = "URL")]
    pub dtm: Option<String>,
    /// Where the services announce themselves and are found: memory: or consul://HOST:PORT.
    #[arg(long, value_name = "URL", default_value = "memory:")]
    pub registry: String,
    /// What carries their events: memory: or kafka://HOST:PORT. On Kafka the run has topics and
    /// groups of its own, which Kafka forgets after an hour.
    #[arg(long, value_name = "URL", default_value = "memory:")]
    pub broker: String,
    /// Where the two databases are. sqlite:FOLDER keeps orders.db and products.db there;
    /// mysql://HOST:PORT/NAME and postgres://… keep NAME_orders and NAME_products on a server, and
    /// without a NAME make two of their own and drop them in the end. A second run on what was kept
    /// goes on where the first one ended. Default: a temporary folder.
    #[arg(long, value_name = "URL")]
    pub database: Option<String>,
    /// Where the operation log is kept. Default: the folder of the databases, or a temporary one.
    #[arg(long, value_name = "FOLDER")]
    pub operations: Option<PathBuf>,
    /// Keeps databases that would be dropped in the end.
    #[arg(long)]
    pub keep: bool,
    /// Prints one JSON object as the last line.
    #[arg(long)]
    pub json: bool,
    /// How often each order's callback is sent at the same time, over and above duplicates.
    #[arg(long, default_value_t = 1, hide = true, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub callbacks_per_order: u32,
}

/// What `--wire` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WireOption {
    /// A call within the callback.
    Grpc,
    /// A saga.
    Dtm,
    /// Events through the outbox.
    Events,
    /// Each of them in turn.
    All,
}

/// How the order service has goods deducted in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WireName {
    /// A call within the callback.
    Grpc,
    /// A saga.
    Dtm,
    /// Events through the outbox.
    #[default]
    Events,
}

impl WireName {
    /// As it stands on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Dtm => "dtm",
            Self::Events => "events",
        }
    }

    /// What holds when a process dies, in a line.
    pub const fn promise(self) -> &'static str {
        match self {
            Self::Grpc => "goods may stay deducted for an unpaid order until its callback is sent again",
            Self::Dtm => "the saga goes on, or back: nothing is lost",
            Self::Events => "the event waits in the outbox: nothing is lost",
        }
    }
}

impl Options {
    /// The wires to run, one after the other.
    pub fn wires(&self) -> Vec<WireName> {
        match self.wire {
            WireOption::Grpc => vec![WireName::Grpc],
            WireOption::Dtm => vec![WireName::Dtm],
            WireOption::Events => vec![WireName::Events],
            WireOption::All => vec![WireName::Grpc, WireName::Dtm, WireName::Events],
        }
    }

    /// The options of one of several runs: what is kept of it has a place of its own.
    #[must_use]
    pub fn of_one(&self, wire: WireName) -> Self {
        let name = wire.as_str();
        let mut options = self.clone();
        options.operations = self.operations.as_ref().map(|folder| folder.join(name));
        options.database = self.database.as_ref().map(|url| match url.strip_prefix("sqlite:") {
            Some(folder) => format!("sqlite:{folder}/{name}"),
            None => with_suffix(url, name),
        });
        options
    }

    /// How many poison records to inject.
    pub fn poison_count(&self, wire: WireName) -> u32 {
        if wire != WireName::Events {
            // The topics carry no payments.
            return 0;
        }
        // Both factors are bounded by their parsers: the product fits.
        (f64::from(self.orders) * self.poison_percent / 100.0).round() as u32
    }
}

/// A server's URL with the suffix behind the name of its database; one without a name stays as it is.
fn with_suffix(url: &str, suffix: &str) -> String {
    let (address, query) = url.find('?').map_or((url, ""), |position| url.split_at(position));
    let host = address.find("://").map_or(0, |position| position + 3);
    match address[host..].rsplit_once('/') {
        Some((_, name)) if !name.is_empty() => format!("{address}_{suffix}{query}"),
        _ => url.to_owned(),
    }
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent),
        _ => Err(format!("expected a number from 0 to 100, not `{text}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_several_runs_keeps_its_rows_apart() {
        let database = |url: &str| {
            let options = Options::parse_from(["payment-chain", "--wire", "all", "--database", url]);
            options.of_one(WireName::Dtm).database.unwrap()
        };
        assert_eq!(database("sqlite:rows"), "sqlite:rows/dtm");
        assert_eq!(database("mysql://root:a/b@h:1/shop?x=y"), "mysql://root:a/b@h:1/shop_dtm?x=y");
        assert_eq!(database("postgres://h"), "postgres://h");
        assert_eq!(database("postgres://h/"), "postgres://h/");
    }

    #[test]
    fn poison_is_for_the_wire_that_reads_topics() {
        let options = Options::parse_from(["payment-chain", "--orders", "200"]);
        assert_eq!(options.poison_count(WireName::Events), 2);
        assert_eq!(options.poison_count(WireName::Grpc), 0);
        assert_eq!(options.wires(), [WireName::Events]);
    }
}
