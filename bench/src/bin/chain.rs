//! `cargo xtask bench chain`: two chains in turn on the same servers, and what each one does and costs.

use std::{path::PathBuf, process::ExitCode};

use bench::{
    Result,
    contestant::{Contestant, Files, Servers},
    report::Comparison,
    round::{self, Arrival, Outcome, Plan},
    shop,
};
use clap::Parser;
use dev_servers::Kind;

/// Which parts of the first chain's and of the second chain's settled rate the open loop is run at.
const LOADS: [f64; 2] = [0.5, 0.8];

/// Compares the payment chain of the examples with another one on the same servers, in turn.
#[derive(Parser)]
struct Arguments {
    /// What ours is compared with.
    #[arg(long, value_enum, default_value_t = Contestant::Go)]
    against: Contestant,
    /// Who is compared.
    #[arg(long, value_enum, default_value_t = Contestant::Ours)]
    subject: Contestant,
    /// Orders of a round.
    #[arg(long, default_value_t = 6_000)]
    orders: u32,
    /// Rounds of each, in the order A B B A.
    #[arg(long, default_value_t = 10)]
    pairs: u32,
    /// Callers of the closed loop, each with one call at a time.
    #[arg(long, default_value_t = 32)]
    callers: u32,
    /// Leaves out the rounds with calls at fixed times.
    #[arg(long)]
    closed_only: bool,
    /// Ends with the figures as one JSON object in one line.
    #[arg(long)]
    json: bool,
    /// How long every contestant's producer lets a batch fill, in milliseconds.
    #[arg(long, default_value_t = 10)]
    linger_ms: u32,
    /// Folder of the release binaries; that of this program by default.
    #[arg(long)]
    binaries: Option<PathBuf>,
    /// The chain on go-micro; `go-chain` beside the release binaries by default.
    #[arg(long)]
    go_chain: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
    let servers = Servers {
        kafka: address(Kind::Kafka)?,
        registry: dev_servers::shared(Kind::Consul)?,
        mariadb: address(Kind::Mariadb)?,
    };
    let files = files(arguments)?;
    let plan = Plan {
        order_count: arguments.orders,
        warm_up_count: 1_000,
        arrival: Arrival::Closed { caller_count: arguments.callers },
        connection_count: 4,
        sku_count: 200,
    };
    let setting = format!(
        "{} orders a round after {} to warm up, {} callers on {} connections, {} SKUs, {} partitions, acks=all, linger {} ms, MALLOC_ARENA_MAX=1; MariaDB {}",
        plan.order_count,
        plan.warm_up_count,
        arguments.callers,
        plan.connection_count,
        plan.sku_count,
        bench::topics::PARTITION_COUNT,
        arguments.linger_ms,
        shop::durability(&servers.mariadb).await?,
    );
    eprintln!("{setting}");
    let mut comparison = Comparison::new(arguments.subject.name(), arguments.against.name(), setting);
    for pair in 0..arguments.pairs {
        // A B B A: what changes with time falls on both alike.
        let mut order = [arguments.subject, arguments.against];
        if pair % 2 == 1 {
            order.reverse();
        }
        let mut outcomes = Vec::new();
        for contestant in order {
            let outcome = round::run(contestant, &servers, &files, plan).await?;
            tell(pair, contestant, &outcome);
            outcomes.push(outcome);
        }
        if pair % 2 == 1 {
            outcomes.reverse();
        }
        comparison.add_pair(outcomes.remove(0), outcomes.remove(0));
    }
    if !arguments.closed_only {
        let [subject_rate, against_rate] = comparison.settled_rates();
        for load in LOADS {
            for (contestant, rate) in [
                (arguments.subject, against_rate),
                (arguments.against, against_rate),
                (arguments.subject, subject_rate),
            ] {
                let arrival = Arrival::Open { per_second: rate * load };
                let outcome = round::run(contestant, &servers, &files, Plan { arrival, ..plan }).await?;
                tell(0, contestant, &outcome);
                comparison.add_open(contestant.name(), rate * load, outcome);
            }
        }
    }
    print!("{}", comparison.table());
    if arguments.json {
        println!("{}", comparison.json());
    }
    Ok(())
}

fn files(arguments: &Arguments) -> Result<Files> {
    let beside = || -> Result<PathBuf> {
        let program = std::env::current_exe()?;
        Ok(program.parent().ok_or("a program is in a folder")?.to_owned())
    };
    let binaries = arguments.binaries.clone().map_or_else(beside, Ok)?;
    let go_chain = arguments.go_chain.clone().unwrap_or_else(|| binaries.join("go-chain"));
    let logs = binaries.join("bench-logs");
    std::fs::create_dir_all(&logs)?;
    Ok(Files { binaries, go_chain, logs, linger_ms: arguments.linger_ms })
}

fn address(kind: Kind) -> Result<String> {
    let url = dev_servers::shared(kind)?;
    let address = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
    Ok(address.rsplit('@').next().unwrap_or(address).to_owned())
}

fn tell(pair: u32, contestant: Contestant, outcome: &Outcome) {
    let micros = |time| outcome.micros_per_order(time);
    let cost = &outcome.cost;
    eprintln!(
        "{:2} {:8} {:5.0} callbacks/s {:5.0} settled/s, p99 {:5.1} ms, µs an order: order {:.0} product {:.0} \
         kafka {:.0} mariadb {:.0} generator {:.0}, {:.1} statements",
        pair + 1,
        contestant.name(),
        outcome.calls_per_second,
        outcome.settled_per_second,
        outcome.latency_micros.value_at_quantile(0.99) as f64 / 1e3,
        micros(cost.order),
        micros(cost.product),
        micros(cost.kafka),
        micros(cost.mariadb),
        micros(cost.generator),
        outcome.statements_per_order(),
    );
}
