//! What the command line asks for.

use std::path::PathBuf;

use clap::Parser;

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

impl Options {
    /// How many poison records to inject.
    pub fn poison_count(&self) -> u32 {
        // Both factors are bounded by their parsers: the product fits.
        (f64::from(self.orders) * self.poison_percent / 100.0).round() as u32
    }
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent),
        _ => Err(format!("expected a number from 0 to 100, not `{text}`")),
    }
}
