//! Who takes part, and how each one's two services are started.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::ValueEnum;
use micro_core::registry::Registry as _;
use micro_registry_consul::{ConsulConfig, ConsulRegistry};
use tokio::{net::TcpStream, process::Command};

use crate::{
    Result,
    process::Process,
    shop::{Settled, Shop},
};

/// The same tables for all.
const ORDER_TABLES: &str = include_str!("../../examples/order/src/infrastructure/schema/mysql.sql");
const PRODUCT_TABLES: &str = include_str!("../../examples/product/src/infrastructure/schema/mysql.sql");
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// How often a service is started that ends while it starts.
const START_COUNT_MAX: u32 = 5;
const START_PAUSE: Duration = Duration::from_secs(1);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
const TOPIC: &str = "OrderEvent";
const PRODUCT: &str = "go.micro.service.Product";
const CONFIRM_TOPIC: &str = "ProductEvent";

/// A chain: an order and a product service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Contestant {
    /// The examples on micro-rs, with outbox, inbox and confirmation.
    Ours,
    /// go-micro v4 with an asynchronous producer, without confirmation.
    Go,
    /// sqlx, rdkafka and tonic by hand, with the guarantees of ours.
    Raw,
    /// The order service on go-micro v4 and our product service, with confirmation.
    GoOrder,
    /// Our order service and the product service on go-micro v4, with confirmation.
    GoProduct,
    /// The examples on micro-rs, goods deducted by a call within the callback.
    OursGrpc,
    /// go-micro v4, goods deducted by a call within the callback.
    GoGrpc,
    /// The order service on go-micro v4 that calls our product service within the callback.
    GoOrderGrpc,
    /// Our order service that calls the product service on go-micro v4 within the callback.
    GoProductGrpc,
    /// The examples on micro-rs, goods deducted by sagas on the order service's own coordinator.
    OursSaga,
}

/// What a service is built on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Program {
    Ours,
    Go,
    Raw,
}

/// Where the servers are, `host:port` where nothing else is said.
#[derive(Clone, Debug)]
pub struct Servers {
    /// Kafka.
    pub kafka: String,
    /// Where services are announced, `consul://host:port` or `etcd://host:port`.
    pub registry: String,
    /// MariaDB.
    pub mariadb: String,
}

/// Where things lie.
#[derive(Clone, Debug)]
pub struct Files {
    /// The release binaries of the workspace.
    pub binaries: PathBuf,
    /// The Go program.
    pub go_chain: PathBuf,
    /// For the services' output.
    pub logs: PathBuf,
    /// How long every contestant's producer lets a batch fill.
    pub linger_ms: u32,
}

/// The two services of a contestant, running.
pub struct Services {
    /// Takes the callbacks.
    pub order: Process,
    /// Deducts.
    pub product: Process,
    /// Where the order service listens.
    pub address: String,
}

impl Contestant {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Go => "go-micro",
            Self::Raw => "by hand",
            Self::GoOrder => "Go order",
            Self::GoProduct => "Go product",
            Self::OursGrpc => "ours, grpc",
            Self::GoGrpc => "go-micro, grpc",
            Self::GoOrderGrpc => "Go order, grpc",
            Self::GoProductGrpc => "Go product, grpc",
            Self::OursSaga => "ours, sagas",
        }
    }

    /// When an order of this chain is done.
    pub fn settled(self) -> Settled {
        match self {
            Self::Go => Settled::Deducted,
            _ => Settled::Confirmed,
        }
    }

    /// What `service` is built on.
    fn program(self, service: Service) -> Program {
        use Contestant as C;
        match (self, service) {
            (C::Ours | C::OursGrpc | C::OursSaga, _)
            | (C::GoOrder | C::GoOrderGrpc, Service::Product)
            | (C::GoProduct | C::GoProductGrpc, Service::Order) => Program::Ours,
            (C::Go | C::GoGrpc, _)
            | (C::GoOrder | C::GoOrderGrpc, Service::Order)
            | (C::GoProduct | C::GoProductGrpc, Service::Product) => Program::Go,
            (C::Raw, _) => Program::Raw,
        }
    }

    /// Whether events go between a service of ours and one in Go.
    fn is_mixed(self) -> bool {
        matches!(self, Self::GoOrder | Self::GoProduct)
    }

    /// The option of the order service, and of both in Go, by which goods are deducted.
    fn wire(self) -> Option<&'static str> {
        match self {
            Self::OursGrpc | Self::GoGrpc | Self::GoOrderGrpc | Self::GoProductGrpc => Some("grpc"),
            Self::OursSaga => Some("dtm"),
            Self::Ours | Self::Go | Self::Raw | Self::GoOrder | Self::GoProduct => None,
        }
    }

    /// Creates the tables that its services do not create themselves.
    pub async fn prepare(self, shop: &mut Shop) -> Result<()> {
        for (service, database, tables) in [
            (Service::Order, shop.orders.clone(), ORDER_TABLES),
            (Service::Product, shop.products.clone(), PRODUCT_TABLES),
        ] {
            let program = self.program(service);
            if program != Program::Ours {
                shop.run_script(&database, tables).await?;
            }
            if program == Program::Raw {
                shop.run_script(&database, include_str!("schema/outbox.sql")).await?;
            }
        }
        Ok(())
    }

    /// Starts both services and waits until the order service takes connections.
    pub async fn start(self, servers: &Servers, files: &Files, shop: &Shop) -> Result<Services> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        let log = |service: &str| files.logs.join(format!("{}-{service}.log", self.name().replace([' ', ','], "-")));
        let told = |error| format!("{}: {error}, see {}", self.name(), files.logs.display());
        let command = self.command(Service::Product, servers, files, &shop.products);
        let mut product = Starting::begin("product", command, log("product"))?;
        if self.wire().is_some() {
            announced(PRODUCT, &servers.registry, &mut product).await.map_err(told)?;
        }
        let mut command = self.command(Service::Order, servers, files, &shop.orders);
        command.args(["--listen", &address]);
        let mut order = Starting::begin("order", command, log("order"))?;
        let began = Instant::now();
        while TcpStream::connect(&address).await.is_err() {
            for service in [&mut order, &mut product] {
                service.go_on().await.map_err(told)?;
            }
            if began.elapsed() > START_TIMEOUT {
                return Err(format!("{}: order does not listen after {START_TIMEOUT:?}", self.name()).into());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(Services { order: order.process, product: product.process, address })
    }

    fn command(self, service: Service, servers: &Servers, files: &Files, database: &str) -> Command {
        let Servers { kafka, registry, mariadb } = servers;
        let mut command;
        match self.program(service) {
            Program::Ours => {
                // A fleet with Go in it: its envelope, its way to spread partitions.
                let fleet = if self.is_mixed() { "&envelope_topics=*&assignment=range" } else { "" };
                command = binary(&files.binaries, service.name());
                command.args([
                    "--registry",
                    registry,
                    "--broker",
                    &format!("kafka://{kafka}?linger_ms={}{fleet}", files.linger_ms),
                ]);
                command.args(["--database", &format!("mysql://root@{mariadb}/{database}")]).env("RUST_LOG", "warn");
                // The audit is the examples' own: neither of the others has anything like it.
                if matches!(service, Service::Order) {
                    command.arg("--no-audit");
                    command.args(self.wire().iter().flat_map(|wire| ["--wire", wire]));
                }
            }
            Program::Raw => {
                command = binary(&files.binaries, "raw-chain");
                command.args([service.name(), "--kafka", kafka, "--linger-ms", &files.linger_ms.to_string()]);
                command.args(["--mysql", &format!("mysql://root@{mariadb}/{database}")]);
            }
            Program::Go => {
                command = Command::new(&files.go_chain);
                command.args([service.name(), "--registry", registry, "--kafka", kafka, "--topic", TOPIC]);
                command.args(["--mysql", &format!("root@tcp({mariadb})/{database}"), "--group", service.group()]);
                command.args(["--linger", &format!("{}ms", files.linger_ms)]);
                if self.is_mixed() {
                    command.args(["--confirm", CONFIRM_TOPIC]);
                }
                command.args(self.wire().iter().flat_map(|wire| ["--wire", wire]));
            }
        }
        // As docs/guide/deploying.md says; Go has an allocator of its own.
        command.env("MALLOC_ARENA_MAX", "1");
        command
    }
}

/// A service that does not serve yet. It ends where a server does not answer it in time, and is started again,
/// as a supervisor does.
struct Starting {
    process: Process,
    command: Command,
    log: PathBuf,
    start_count: u32,
}

impl Starting {
    fn begin(name: &'static str, mut command: Command, log: PathBuf) -> Result<Self> {
        let process = Process::start(name, &mut command, &log)?;
        Ok(Self { process, command, log, start_count: 1 })
    }

    /// Starts it again where it ended, and says so: what is measured then had a start that others had not.
    async fn go_on(&mut self) -> Result<()> {
        let Err(ended) = self.process.expect_running() else { return Ok(()) };
        if self.start_count >= START_COUNT_MAX {
            return Err(ended);
        }
        self.start_count += 1;
        eprintln!("bench: {ended}, see {}: start {} of {START_COUNT_MAX}", self.log.display(), self.start_count);
        tokio::time::sleep(START_PAUSE).await;
        self.process.start_again(&mut self.command, &self.log)
    }
}

/// Waits until a service is found: what is called must be there, while events wait for who consumes them.
async fn announced(name: &str, registry: &str, service: &mut Starting) -> Result<()> {
    let registry = ConsulRegistry::connect(ConsulConfig::from_url(registry)?).await?;
    let began = Instant::now();
    loop {
        // Where it does not answer in time, Consul is asked again.
        let missing = match registry.instances(name).await {
            Ok(instances) if !instances.is_empty() => return Ok(()),
            Ok(_) => "is not announced".to_owned(),
            Err(error) => format!("is not seen: {}", error.report()),
        };
        service.go_on().await?;
        if began.elapsed() > START_TIMEOUT {
            return Err(format!("{name} {missing} after {START_TIMEOUT:?}").into());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

#[derive(Clone, Copy)]
enum Service {
    Order,
    Product,
}

impl Service {
    fn name(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Product => "product",
        }
    }

    /// The group it consumes in.
    fn group(self) -> &'static str {
        match self {
            Self::Order => "order-consumer",
            Self::Product => "product-consumer",
        }
    }
}

fn binary(folder: &Path, name: &str) -> Command {
    Command::new(folder.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_service_that_ends_while_it_starts_is_started_again() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut command = Command::new("sh");
        // The first one finds no mark, leaves one and ends.
        command.args(["-c", "echo started; mkdir mark && exit 1; sleep 60"]).current_dir(folder.path());
        let mut service = Starting::begin("a service", command, log.clone()).unwrap();
        while std::fs::read_to_string(&log).unwrap().lines().filter(|line| *line == "started").count() < 2 {
            service.go_on().await.unwrap();
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        assert_eq!(service.start_count, 2);
        service.process.expect_running().unwrap();
    }
}
