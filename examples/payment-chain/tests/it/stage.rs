//! The chain on servers and in processes of its own, with callers that repeat a callback until it is
//! acknowledged, as a payment provider does.

use std::{
    collections::BTreeSet,
    fs::File,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use dev_servers::{Kind, Server};
use micro_rs::{grpc::GrpcClient, prelude::*, tx::SqlDatabase};
use order::proto::{PayNotifyRequest, order_client::OrderClient};
use payment_chain::{
    operations::Seed,
    report::Report,
    seed::{self, order_code},
    verdict,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const CALLER_COUNT: usize = 8;
/// Stock that is short for some SKUs, so that refusals are under way as well.
const SEED: Seed = Seed { orders: 20_000, skus: 40, stock: 200 };

/// The chain at work: servers, two service processes, callers.
pub(crate) struct Stage {
    pub(crate) runtime: tokio::runtime::Runtime,
    orders: SqlDatabase,
    products: SqlDatabase,
    acknowledged: Arc<Mutex<BTreeSet<i64>>>,
    is_resting: Arc<AtomicBool>,
    stop: CancellationToken,
    callers: TaskTracker,
    // Fields are dropped in this order: services before the servers they need.
    pub(crate) order: Service,
    pub(crate) product: Service,
    pub(crate) kafka: Server,
    pub(crate) database: Server,
    pub(crate) consul: Server,
    _alone: MutexGuard<'static, ()>,
}

impl Stage {
    /// `None` where the servers cannot be had.
    pub(crate) fn start(database_kind: Kind) -> Option<Self> {
        // Two stages at once would only wait for each other's processors.
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let kafka = server(Kind::Kafka)?;
        let consul = server(Kind::Consul)?;
        let database = server(database_kind)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();

        let (orders_url, products_url) = runtime.block_on(create_databases(database_kind, database.url()));
        let service = |name: &'static str, database_url: &str| {
            Service::start(
                name,
                &[
                    "--registry".to_owned(),
                    consul.url().to_owned(),
                    "--broker".to_owned(),
                    // A name of its own, so that a member that is killed and comes back takes its
                    // partitions over without waiting for the session to end.
                    format!("{}?instance_id={name}", kafka.url()),
                    "--database".to_owned(),
                    database_url.to_owned(),
                    "--create-topics".to_owned(),
                    "4".to_owned(),
                ],
            )
        };
        let product = service("product", &products_url);
        let order = service("order", &orders_url);

        let (orders, products) = runtime.block_on(async {
            let orders = SqlDatabase::connect_url(&orders_url).await.unwrap();
            let products = SqlDatabase::connect_url(&products_url).await.unwrap();
            seed::products(&products, SEED).await.unwrap();
            seed::orders(&orders, SEED).await.unwrap();
            (orders, products)
        });
        let stage = Self {
            runtime,
            orders,
            products,
            acknowledged: Arc::default(),
            is_resting: Arc::default(),
            stop: CancellationToken::new(),
            callers: TaskTracker::new(),
            order,
            product,
            kafka,
            database,
            consul,
            _alone: alone,
        };
        stage.start_callers();
        Some(stage)
    }

    fn start_callers(&self) {
        let client = self.runtime.block_on(async {
            let registry = micro_rs::backends::registry(self.consul.url()).await.unwrap();
            GrpcClient::builder(registry).service("go.micro.service.Order").connect().await.unwrap()
        });
        let next = Arc::new(AtomicI64::new(1));
        for _ in 0..CALLER_COUNT {
            let caller =
                pay(OrderClient::new(client.clone()), next.clone(), self.acknowledged.clone(), self.is_resting.clone());
            let stop = self.stop.clone();
            self.callers.spawn_on(async move { stop.run_until_cancelled(caller).await }, self.runtime.handle());
        }
        self.callers.close();
    }

    /// Waits for so many more acknowledged callbacks.
    pub(crate) fn await_acknowledged(&self, more: usize, when: &str) {
        let wanted = self.acknowledged_count() + more;
        await_true(Duration::from_secs(60), || {
            let count = self.acknowledged_count();
            assert!(count < SEED.orders as usize, "the orders ran out {when}");
            (count >= wanted).then_some(()).ok_or_else(|| format!("{when}: {count} of {wanted} acknowledged"))
        });
    }

    /// Lets the callers rest, or go on.
    pub(crate) fn rest(&self, is_resting: bool) {
        self.is_resting.store(is_resting, Ordering::Relaxed);
    }

    fn acknowledged_count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// Lets everything settle, then compares both databases with what was acknowledged.
    pub(crate) fn judge(self) {
        self.stop.cancel();
        self.runtime.block_on(self.callers.wait());
        let accepted = self.acknowledged.lock().unwrap().clone();
        await_true(Duration::from_secs(120), || {
            let left = self.runtime.block_on(self.unsettled(&accepted))?;
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
        let mut report = Report::default();
        self.runtime.block_on(verdict::judge(&self.orders, &self.products, SEED, &accepted, &mut report)).unwrap();
        assert!(report.broken().is_empty(), "{:?}\n{report}", report.broken());
        assert_eq!(report.accepted, accepted.len() as u64);
        assert!(report.paid > 0, "{report}");
    }

    /// What is still under way, in words.
    async fn unsettled(&self, accepted: &BTreeSet<i64>) -> Result<String, String> {
        let mut left = Vec::new();
        let rows = self.orders.fetch_all("SELECT id FROM orders WHERE pay_status IN (4, 5)", &[]).await;
        let settled: BTreeSet<i64> =
            rows.map_err(|error| error.report())?.iter().map(|row| row.get(0).unwrap()).collect();
        let missing = accepted.difference(&settled).count();
        if missing > 0 {
            left.push(format!("{missing} orders, the first {:?}", accepted.difference(&settled).next()));
        }
        for (name, database) in [("order", &self.orders), ("product", &self.products)] {
            let counts = database.outbox().counts().await.map_err(|error| error.report())?;
            if counts.unsent + counts.parked > 0 {
                left.push(format!("{name}'s outbox: {counts:?}"));
            }
        }
        for (group, database) in
            [("order-consumer", &self.orders), ("order-audit", &self.orders), ("product-consumer", &self.products)]
        {
            let parked = database.parked().count(group).await.map_err(|error| error.report())?;
            let letters = database.dead_letters().list(group, 5).await.map_err(|error| error.report())?;
            if parked > 0 {
                left.push(format!("{parked} parked of {group}"));
            }
            assert!(letters.is_empty(), "dead letters of {group}: {letters:?}");
        }
        // The audit may be the last group to be back: of an order it may not have seen anything yet.
        let unseen = "SELECT COUNT(*) FROM orders o LEFT JOIN order_audit a ON a.order_id = o.id \
                      WHERE o.pay_status IN (4, 5) AND (a.order_id IS NULL OR a.applied_seq < 2)";
        let behind = self.orders.fetch_all(unseen, &[]).await;
        let behind: i64 = behind.map_err(|error| error.report())?[0].get(0).unwrap();
        if behind > 0 {
            left.push(format!("{behind} audit trails"));
        }
        Ok(left.join(", "))
    }
}

/// Pays one order after the other, each until it is acknowledged.
async fn pay(
    mut client: OrderClient<GrpcClient>,
    next: Arc<AtomicI64>,
    acknowledged: Arc<Mutex<BTreeSet<i64>>>,
    is_resting: Arc<AtomicBool>,
) {
    loop {
        let order_id = next.fetch_add(1, Ordering::Relaxed);
        if order_id > i64::from(SEED.orders) {
            return;
        }
        loop {
            while is_resting.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let mut request = tonic::Request::new(PayNotifyRequest {
                out_trade_no: order_code(order_id),
                trade_no: format!("T{order_id}"),
                status_code: "0000".to_owned(),
            });
            request.set_timeout(Duration::from_secs(5));
            let is_acknowledged =
                client.pay_notify(request).await.is_ok_and(|reply| reply.get_ref().status_code == "0000");
            // A provider waits before it repeats a callback; and a pace leaves orders for later kills.
            tokio::time::sleep(Duration::from_millis(20)).await;
            if is_acknowledged {
                acknowledged.lock().unwrap().insert(order_id);
                break;
            }
        }
    }
}

/// A service as its own process.
pub(crate) struct Service {
    name: &'static str,
    arguments: Vec<String>,
    pub(crate) port: u16,
    log: PathBuf,
    child: Child,
}

impl Service {
    fn start(name: &'static str, arguments: &[String]) -> Self {
        let port = free_port();
        let listen = ["--listen".to_owned(), format!("127.0.0.1:{port}")];
        let arguments = [arguments, &listen].concat();
        let log = std::env::temp_dir().join(format!("payment-chain-{name}-{port}.log"));
        let child = spawn(name, &arguments, &log);
        let mut service = Self { name, arguments, port, log, child };
        service.await_ready();
        service
    }

    pub(crate) fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(self.name, &self.arguments, &self.log);
        self.await_ready();
    }

    /// Lines logged so far, of level `warn` and above.
    pub(crate) fn log_line_count(&self) -> usize {
        std::fs::read_to_string(&self.log).unwrap().lines().count()
    }

    /// Processor time used so far.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // After the name in brackets, the 12th and 13th field: user and system time in ticks, which
        // are a hundredth of a second on Linux.
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    fn await_ready(&mut self) {
        await_true(Duration::from_secs(60), || {
            if let Some(status) = self.child.try_wait().unwrap() {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                panic!("the {} service ended by itself: {status}\n{log}", self.name);
            }
            TcpStream::connect(("127.0.0.1", self.port)).map(drop).map_err(|error| error.to_string())
        });
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("the {} service's log is in {}", self.name, self.log.display());
        } else {
            std::fs::remove_file(&self.log).ok();
        }
    }
}

fn spawn(name: &str, arguments: &[String], log: &Path) -> Child {
    let log = File::options().create(true).append(true).open(log).unwrap();
    let program = program(name);
    Command::new(&program)
        .args(arguments)
        .env("RUST_LOG", "warn")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| {
            panic!("{}: {error}: build it with `cargo build --workspace --all-features`", program.display())
        })
}

/// The services' programs lie beside this package's own.
fn program(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_payment-chain")).with_file_name(name)
}

fn server(kind: Kind) -> Option<Server> {
    match Server::start(kind) {
        Ok(server) => Some(server),
        Err(reason) if std::env::var("MICRO_TEST_REQUIRE").is_ok_and(|value| value == "1") => {
            panic!("{kind:?} is missing and required: {reason}")
        }
        Err(reason) => {
            eprintln!("skipped, {kind:?} is missing: {reason}");
            None
        }
    }
}

async fn create_databases(kind: Kind, url: &str) -> (String, String) {
    let administration = if matches!(kind, Kind::Postgres) { "postgres" } else { "mysql" };
    let server = SqlDatabase::connect_url(&format!("{url}/{administration}")).await.unwrap();
    for name in ["orders", "products"] {
        server.execute(&format!("CREATE DATABASE {name}"), &[]).await.unwrap();
    }
    server.close().await;
    (format!("{url}/orders"), format!("{url}/products"))
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Polls until `ready`, with what was missing last in the panic.
pub(crate) fn await_true(patience: Duration, mut ready: impl FnMut() -> Result<(), String>) {
    let deadline = Instant::now() + patience;
    while let Err(missing) = ready() {
        assert!(Instant::now() < deadline, "after {patience:?}: {missing}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}
