//! One round of one contestant: fresh databases, topics and processes, warm-up, load, judgement.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::{
    Result,
    contestant::{Contestant, Files, Servers, Services},
    load::{Calls, Generator},
    process::{cpu_time, listening_on, resident_kib_max},
    shop::{Seed, Shop},
    topics,
};

/// How a round is driven.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Orders that are measured.
    pub order_count: u32,
    /// Orders before that: connections, caches and statements are then as they stay.
    pub warm_up_count: u32,
    /// How the calls come.
    pub arrival: Arrival,
    /// HTTP/2 connections of the generator.
    pub connection_count: usize,
    /// SKUs over which the orders spread.
    pub sku_count: u32,
}

/// How calls come.
#[derive(Clone, Copy, Debug)]
pub enum Arrival {
    /// So many callers, each with one call at a time.
    Closed {
        /// Callers.
        caller_count: u32,
    },
    /// One after the other at this rate, whatever the answers do.
    Open {
        /// Calls a second.
        per_second: f64,
    },
}

/// The processes whose time is counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// The order service.
    pub order: Duration,
    /// The product service.
    pub product: Duration,
    /// Kafka.
    pub kafka: Duration,
    /// MariaDB.
    pub mariadb: Duration,
    /// Consul.
    pub consul: Duration,
    /// The load generator.
    pub generator: Duration,
}

/// What a round came to.
pub struct Outcome {
    /// Callbacks answered a second.
    pub calls_per_second: f64,
    /// Orders settled a second, from the first call to the last order's end.
    pub settled_per_second: f64,
    /// Microseconds a callback took.
    pub latency_micros: Histogram<u64>,
    /// The longest time that a call was sent late.
    pub lag_max: Duration,
    /// Processor time of each, for all orders measured.
    pub cost: Cost,
    /// The most memory the order and the product service had resident, in KiB.
    pub resident_kib: [u64; 2],
    /// Statements that MariaDB ran meanwhile, by kind, the polls of the generator among them.
    pub statements: Vec<(String, u64)>,
    /// Orders measured.
    pub order_count: u32,
}

/// Runs one round; fails when it ends wrong.
pub async fn run(contestant: Contestant, servers: &Servers, files: &Files, plan: Plan) -> Result<Outcome> {
    topics::renew(&servers.kafka).await?;
    let mariadb = format!("mysql://root@{}", servers.mariadb);
    let mut shop = Shop::create(&mariadb, "bench_orders", "bench_products").await?;
    contestant.prepare(&mut shop).await?;
    let services = contestant.start(servers, files, &shop).await?;
    let order_count = plan.warm_up_count + plan.order_count;
    let seed = Seed { order_count, sku_count: plan.sku_count, stock: order_count };
    shop.seed(seed).await?;

    let outcome = drive(contestant, servers, &services, &mut shop, plan).await.map_err(|error| {
        format!("{}: {error}; the services' output is in {}", contestant.name(), files.logs.display())
    })?;
    shop.verify(contestant.settled(), seed).await?;
    services.order.stop().await?;
    services.product.stop().await?;
    shop.drop_databases().await?;
    Ok(outcome)
}

async fn drive(
    contestant: Contestant,
    servers: &Servers,
    services: &Services,
    shop: &mut Shop,
    plan: Plan,
) -> Result<Outcome> {
    let first = plan.warm_up_count + 1;
    let last = plan.warm_up_count + plan.order_count;
    let generator = Generator::connect(&services.address, plan.connection_count).await?;
    let closed = |count| generator.closed_loop(1..count, 32);
    closed(first).await?;
    shop.settled(contestant.settled(), plan.warm_up_count).await?;

    let processes = Processes::find(servers, services)?;
    let statements_before = shop.statement_counts().await?;
    let before = processes.cost()?;
    let calls: Calls = match plan.arrival {
        Arrival::Closed { caller_count } => generator.closed_loop(first..last + 1, caller_count).await?,
        Arrival::Open { per_second } => generator.open_loop(first..last + 1, per_second).await?,
    };
    let settled = shop.settled(contestant.settled(), last).await? - calls.began;
    let after = processes.cost()?;
    let statements_after = shop.statement_counts().await?;
    Ok(Outcome {
        calls_per_second: f64::from(plan.order_count) / calls.elapsed.as_secs_f64(),
        settled_per_second: f64::from(plan.order_count) / settled.as_secs_f64(),
        latency_micros: calls.latency_micros,
        lag_max: calls.lag_max,
        cost: after.since(before),
        resident_kib: [resident_kib_max(services.order.id())?, resident_kib_max(services.product.id())?],
        statements: difference(&statements_before, &statements_after),
        order_count: plan.order_count,
    })
}

struct Processes {
    order: u32,
    product: u32,
    kafka: u32,
    mariadb: u32,
    registry: u32,
}

impl Processes {
    fn find(servers: &Servers, services: &Services) -> Result<Self> {
        Ok(Self {
            order: services.order.id(),
            product: services.product.id(),
            kafka: listening_on(port(&servers.kafka)?)?,
            mariadb: listening_on(port(&servers.mariadb)?)?,
            registry: listening_on(port(&servers.registry)?)?,
        })
    }

    fn cost(&self) -> Result<Cost> {
        Ok(Cost {
            order: cpu_time(self.order)?,
            product: cpu_time(self.product)?,
            kafka: cpu_time(self.kafka)?,
            mariadb: cpu_time(self.mariadb)?,
            consul: cpu_time(self.registry)?,
            generator: cpu_time(std::process::id())?,
        })
    }
}

impl Cost {
    fn since(self, before: Self) -> Self {
        Self {
            order: self.order - before.order,
            product: self.product - before.product,
            kafka: self.kafka - before.kafka,
            mariadb: self.mariadb - before.mariadb,
            consul: self.consul - before.consul,
            generator: self.generator - before.generator,
        }
    }

    /// Of both services.
    pub fn services(&self) -> Duration {
        self.order + self.product
    }

    /// Of Kafka, MariaDB and Consul.
    pub fn servers(&self) -> Duration {
        self.kafka + self.mariadb + self.consul
    }
}

impl Outcome {
    /// Microseconds of this an order.
    pub fn micros_per_order(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e6 / f64::from(self.order_count)
    }

    /// Milliseconds that this part of the callbacks stayed below.
    pub fn latency_ms(&self, quantile: f64) -> f64 {
        self.latency_micros.value_at_quantile(quantile) as f64 / 1e3
    }

    /// Requests that MariaDB answered, prepared statements and the generator's polls among them.
    pub fn statements_per_order(&self) -> f64 {
        self.statements_of("Questions")
    }

    /// As [`statements_per_order`](Self::statements_per_order), of one kind as MariaDB names it.
    pub fn statements_of(&self, kind: &str) -> f64 {
        let count = self.statements.iter().find(|(name, _)| name == kind).map_or(0, |(_, count)| *count);
        count as f64 / f64::from(self.order_count)
    }
}

fn difference(before: &[(String, u64)], after: &[(String, u64)]) -> Vec<(String, u64)> {
    let grown = after.iter().map(|(name, count)| {
        let earlier = before.iter().find(|(other, _)| other == name).map_or(0, |(_, count)| *count);
        (name.clone(), count.saturating_sub(earlier))
    });
    grown.filter(|(_, count)| *count > 0).collect()
}

fn port(address: &str) -> Result<u16> {
    let port = address.rsplit(':').next().and_then(|port| port.parse().ok());
    port.ok_or_else(|| format!("no port in {address}").into())
}
