//! Compares the chains.

use std::{path::PathBuf, process::ExitCode};

use bench::{
    Result,
    contestant::{Contestant, Files, Servers},
    round::{self, Arrival, Outcome, Plan},
};
use clap::Parser;

/// Compares the payment chain's contestants on the same servers, in turn.
#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    kafka: String,
    #[arg(long)]
    consul: String,
    #[arg(long)]
    mariadb: String,
    #[arg(long)]
    binaries: PathBuf,
    #[arg(long)]
    go_chain: PathBuf,
    #[arg(long)]
    logs: PathBuf,
    #[arg(long, default_value_t = 6_000)]
    orders: u32,
    #[arg(long, default_value_t = 3)]
    pairs: u32,
    #[arg(long, value_delimiter = ',', default_value = "go,raw")]
    who: Vec<Contestant>,
    #[arg(long, default_value_t = 32)]
    callers: u32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    let servers = Servers {
        kafka: arguments.kafka.clone(),
        consul: arguments.consul.clone(),
        mariadb: arguments.mariadb.clone(),
    };
    let files = Files {
        binaries: arguments.binaries.clone(),
        go_chain: arguments.go_chain.clone(),
        logs: arguments.logs.clone(),
    };
    std::fs::create_dir_all(&files.logs)?;
    let plan = Plan {
        order_count: arguments.orders,
        warm_up_count: 1000,
        arrival: Arrival::Closed { caller_count: arguments.callers },
        connection_count: 4,
        sku_count: 200,
    };
    for _ in 0..arguments.pairs {
        for who in &arguments.who {
            show(*who, &round::run(*who, &servers, &files, plan).await?);
        }
    }
    Ok(())
}

fn show(who: Contestant, outcome: &Outcome) {
    let cost = &outcome.cost;
    let micros = |time| outcome.micros_per_order(time);
    let at = |quantile| outcome.latency_micros.value_at_quantile(quantile) as f64 / 1e3;
    println!(
        "{:9} calls/s {:6.0} settled/s {:6.0} p50 {:.1} p95 {:.1} p99 {:.1} | cpu/order services {:.0} (order {:.0} product {:.0}) servers {:.0} (kafka {:.0} mariadb {:.0} consul {:.0}) generator {:.0} | rss {} {} KiB",
        who.name(),
        outcome.calls_per_second,
        outcome.settled_per_second,
        at(0.5),
        at(0.95),
        at(0.99),
        micros(cost.services()),
        micros(cost.order),
        micros(cost.product),
        micros(cost.servers()),
        micros(cost.kafka),
        micros(cost.mariadb),
        micros(cost.consul),
        micros(cost.generator),
        outcome.resident_kib[0],
        outcome.resident_kib[1],
    );
    let per_order: Vec<String> = outcome
        .statements
        .iter()
        .filter(|(_, count)| *count * 50 > u64::from(outcome.order_count))
        .map(|(name, count)| format!("{name} {:.2}", *count as f64 / f64::from(outcome.order_count)))
        .collect();
    println!("          {}", per_order.join(", "));
}
