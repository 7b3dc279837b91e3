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
    site::patient,
    verdict,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const CALLER_COUNT: usize = 8;
/// How long the answer to a callback is waited for.
const CALLBACK_DEADLINE: Duration = Duration::from_secs(5);
const ORDER_COUNT: u32 = 20_000;
/// How long servers and services may take for what the stage waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
/// How long everything may take to settle: leases end, and DTM goes on with one saga after the other.
const SETTLE_PATIENCE: Duration = Duration::from_secs(240);
/// After that, how long what is left may stay as much as it is.
const STALL_MAX: Duration = Duration::from_secs(90);

/// How the order service of a stage has goods deducted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// By events through the outbox.
    Events,
    /// By a call within the callback.
    Grpc,
    /// By a saga of its own coordinator.
    Saga,
    /// By a saga of a DTM server, which keeps its data in MariaDB.
    #[cfg(feature = "tx-dtm")]
    Dtm,
}

impl Wire {
    /// Sagas find stock that is short by half of a test, so that they are carried back as well.
    const fn seed(self) -> Seed {
        let stock = match self {
            Self::Events | Self::Grpc => 200,
            _ => 5,
        };
        Seed { orders: ORDER_COUNT, skus: 40, stock }
    }
}

/// The chain at work: servers, two service processes, callers.
pub(crate) struct Stage {
    pub(crate) runtime: tokio::runtime::Runtime,
    orders: SqlDatabase,
    products: SqlDatabase,
    seed: Seed,
    calls: Calls,
    stop: CancellationToken,
    callers: TaskTracker,
    // Fields are dropped in this order: services before the servers they need.
    pub(crate) order: Service,
    pub(crate) product: Service,
    #[cfg(feature = "tx-dtm")]
    dtm: Option<Server>,
    pub(crate) kafka: Server,
    pub(crate) database: Server,
    pub(crate) consul: Server,
    _alone: MutexGuard<'static, ()>,
}

impl Stage {
    /// With the wire of events. `None` where the servers cannot be had.
    pub(crate) fn start(database_kind: Kind) -> Option<Self> {
        Self::start_on(Wire::Events, database_kind)
    }

    /// `None` where the servers cannot be had.
    pub(crate) fn start_on(wire: Wire, database_kind: Kind) -> Option<Self> {
        // Two stages at once would only wait for each other's processors.
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let kafka = server(Kind::Kafka)?;
        let consul = server(Kind::Consul)?;
        let database = server(database_kind)?;
        #[cfg(feature = "tx-dtm")]
        let dtm = if wire == Wire::Dtm { Some(server(Kind::DtmMysql)?) } else { None };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();

        let (orders_url, products_url) = runtime.block_on(create_databases(database_kind, database.url()));
        let service = |name: &'static str, database_url: &str, more: &[&str]| {
            // A name of its own, so that a member that is killed and comes back takes its
            // partitions over without waiting for the session to end.
            let broker = format!("{}?instance_id={name}", kafka.url());
            let arguments =
                ["--registry", consul.url(), "--broker", &broker, "--database", database_url, "--create-topics", "4"];
            Service::start(name, &arguments.iter().chain(more).map(|text| (*text).to_owned()).collect::<Vec<_>>())
        };
        let product = service("product", &products_url, &[]);
        let order = match wire {
            Wire::Events => service("order", &orders_url, &[]),
            Wire::Grpc => service("order", &orders_url, &["--wire", "grpc"]),
            Wire::Saga => service("order", &orders_url, &["--wire", "dtm"]),
            #[cfg(feature = "tx-dtm")]
            Wire::Dtm => {
                let (dtm, product) = (dtm.as_ref().unwrap().url(), format!("127.0.0.1:{}", product.port));
                service("order", &orders_url, &["--wire", "dtm", "--dtm", dtm, "--product", &product])
            }
        };

        let seed = wire.seed();
        let (orders, products) = runtime.block_on(async {
            let orders = SqlDatabase::connect(patient(&orders_url)).await.unwrap();
            let products = SqlDatabase::connect(patient(&products_url)).await.unwrap();
            seed::products(&products, seed).await.unwrap();
            seed::orders(&orders, seed).await.unwrap();
            (orders, products)
        });
        let client = runtime.block_on(async {
            let registry = micro_rs::backends::registry(consul.url()).await.unwrap();
            GrpcClient::builder(registry).service("go.micro.service.Order").connect().await.unwrap()
        });
        let stage = Self {
            runtime,
            orders,
            products,
            seed,
            calls: Calls::new(OrderClient::new(client)),
            stop: CancellationToken::new(),
            callers: TaskTracker::new(),
            order,
            product,
            #[cfg(feature = "tx-dtm")]
            dtm,
            kafka,
            database,
            consul,
            _alone: alone,
        };
        stage.start_callers();
        Some(stage)
    }

    fn start_callers(&self) {
        for _ in 0..CALLER_COUNT {
            self.callers.spawn_on(self.calls.clone().pay_on(self.stop.clone()), self.runtime.handle());
        }
        self.callers.close();
    }

    /// Waits for so many more acknowledged callbacks.
    pub(crate) fn await_acknowledged(&self, more: usize, when: &str) {
        let wanted = self.acknowledged_count() + more;
        await_true(PATIENCE, || {
            let count = self.acknowledged_count();
            assert!(count < ORDER_COUNT as usize, "the orders ran out {when}");
            (count >= wanted).then_some(()).ok_or_else(|| format!("{when}: {count} of {wanted} acknowledged"))
        });
    }

    /// Waits until more orders were paid than there is stock for, however few kills there were.
    pub(crate) fn await_short_stock(&self) {
        let wanted = self.seed.skus as usize * self.seed.stock as usize * 3 / 2;
        self.await_acknowledged(wanted.saturating_sub(self.acknowledged_count()), "until the stock is short");
    }

    /// The DTM of [`Wire::Dtm`].
    #[cfg(feature = "tx-dtm")]
    pub(crate) fn dtm(&mut self) -> &mut Server {
        self.dtm.as_mut().expect("the wire has one")
    }

    /// Lets the callers rest, or go on.
    pub(crate) fn rest(&self, is_resting: bool) {
        self.calls.is_resting.store(is_resting, Ordering::Relaxed);
    }

    /// From now on a callback that fails is not sent again.
    pub(crate) fn give_up_at_once(&self) {
        self.calls.is_giving_up.store(true, Ordering::Relaxed);
    }

    /// Sends each callback that was not acknowledged until it is.
    pub(crate) fn pay_what_was_given_up(&self) {
        let sent = self.calls.next.load(Ordering::Relaxed).min(i64::from(ORDER_COUNT) + 1);
        self.calls.is_giving_up.store(false, Ordering::Relaxed);
        for order_id in 1..sent {
            if !self.calls.acknowledged.lock().unwrap().contains(&order_id) {
                let paid = self.calls.clone().pay(order_id);
                self.runtime.block_on(async { tokio::time::timeout(PATIENCE, paid).await.unwrap() });
            }
        }
    }

    fn acknowledged_count(&self) -> usize {
        self.calls.acknowledged.lock().unwrap().len()
    }

    /// Lets everything settle, then compares both databases with what was acknowledged.
    pub(crate) fn judge(self) -> Report {
        let report = self.report();
        assert!(report.broken().is_empty(), "{:?}\n{report}", report.broken());
        assert!(report.paid > 0, "{report}");
        report
    }

    /// Sends no further callback, lets everything settle, and says what the databases come to.
    pub(crate) fn report(&self) -> Report {
        self.stop.cancel();
        self.runtime.block_on(self.callers.wait());
        let accepted = self.calls.acknowledged.lock().unwrap().clone();
        self.settle(&accepted);
        let mut report = Report::default();
        let judged = verdict::judge(&self.orders, &self.products, self.seed, &accepted, &mut report);
        self.runtime.block_on(judged).unwrap();
        assert_eq!(report.accepted, accepted.len() as u64);
        report
    }

    /// Waits until nothing is under way, for as long as there is less and less of it.
    fn settle(&self, accepted: &BTreeSet<i64>) {
        let mut deadline = Instant::now() + SETTLE_PATIENCE;
        let mut least = u64::MAX;
        loop {
            let left = self.runtime.block_on(self.unsettled(accepted));
            let left = match left {
                Ok(left) if left.count == 0 => return,
                Ok(left) => left,
                Err(error) => Left { count: u64::MAX, what: vec![error] },
            };
            if left.count < least {
                least = left.count;
                deadline = deadline.max(Instant::now() + STALL_MAX);
            }
            assert!(Instant::now() < deadline, "not settled: {}", left.what.join(", "));
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// The orders whose goods were taken, and that nobody has paid.
    pub(crate) fn deducted_but_unpaid(&self) -> BTreeSet<i64> {
        let ids = async |database: &SqlDatabase, statement| -> BTreeSet<i64> {
            let rows = database.fetch_all(statement, &[]).await.unwrap();
            rows.iter().map(|row| row.get(0).unwrap()).collect()
        };
        self.runtime.block_on(async {
            let deducted = ids(&self.products, "SELECT DISTINCT order_id FROM inventory_stock_change_records").await;
            &deducted & &ids(&self.orders, "SELECT id FROM orders WHERE pay_status = 2").await
        })
    }

    /// What is still under way.
    async fn unsettled(&self, accepted: &BTreeSet<i64>) -> Result<Left, String> {
        let mut left = Left::default();
        let rows = self.orders.fetch_all("SELECT id FROM orders WHERE pay_status IN (4, 5)", &[]).await;
        let settled: BTreeSet<i64> =
            rows.map_err(|error| error.report())?.iter().map(|row| row.get(0).unwrap()).collect();
        let missing = accepted.difference(&settled).count() as u64;
        left.add(missing, || format!("{missing} orders, the first {:?}", accepted.difference(&settled).next()));
        for (name, database) in [("order", &self.orders), ("product", &self.products)] {
            let counts = database.outbox().counts().await.map_err(|error| error.report())?;
            left.add(counts.unsent + counts.parked, || format!("{name}'s outbox: {counts:?}"));
        }
        let sagas = self.orders.saga_log().counts().await.map_err(|error| error.report())?;
        left.add(sagas.unfinished, || format!("sagas: {sagas:?}"));
        for (group, database) in
            [("order-consumer", &self.orders), ("order-audit", &self.orders), ("product-consumer", &self.products)]
        {
            let parked = database.parked().count(group).await.map_err(|error| error.report())?;
            let letters = database.dead_letters().list(group, 5).await.map_err(|error| error.report())?;
            left.add(parked, || format!("{parked} parked of {group}"));
            assert!(letters.is_empty(), "dead letters of {group}: {letters:?}");
        }
        // The audit may be the last group to be back: of an order it may not have seen anything yet.
        let unseen = "SELECT COUNT(*) FROM orders o LEFT JOIN order_audit a ON a.order_id = o.id \
                      WHERE o.pay_status IN (4, 5) AND (a.order_id IS NULL OR a.applied_seq < 2)";
        let behind = self.orders.fetch_all(unseen, &[]).await;
        let behind: i64 = behind.map_err(|error| error.report())?[0].get(0).unwrap();
        left.add(behind.unsigned_abs(), || format!("{behind} audit trails"));
        Ok(left)
    }
}

/// What is still under way.
#[derive(Default)]
struct Left {
    count: u64,
    /// In words.
    what: Vec<String>,
}

impl Left {
    fn add(&mut self, count: u64, what: impl FnOnce() -> String) {
        if count > 0 {
            self.count += count;
            self.what.push(what());
        }
    }
}

/// The callbacks of the payment provider. Clones share them.
#[derive(Clone)]
struct Calls {
    client: OrderClient<GrpcClient>,
    next: Arc<AtomicI64>,
    acknowledged: Arc<Mutex<BTreeSet<i64>>>,
    is_resting: Arc<AtomicBool>,
    is_giving_up: Arc<AtomicBool>,
}

impl Calls {
    fn new(client: OrderClient<GrpcClient>) -> Self {
        Self {
            client,
            next: Arc::new(AtomicI64::new(1)),
            acknowledged: Arc::default(),
            is_resting: Arc::default(),
            is_giving_up: Arc::default(),
        }
    }

    /// Pays one order after the other until it is told to stop: what is begun is paid to its end.
    async fn pay_on(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let order_id = self.next.fetch_add(1, Ordering::Relaxed);
            if order_id > i64::from(ORDER_COUNT) {
                return;
            }
            self.clone().pay(order_id).await;
        }
    }

    /// Pays an order until it is acknowledged, or once where callers give up.
    async fn pay(mut self, order_id: i64) {
        loop {
            while self.is_resting.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let mut request = tonic::Request::new(PayNotifyRequest {
                out_trade_no: order_code(order_id),
                trade_no: format!("T{order_id}"),
                status_code: "0000".to_owned(),
            });
            request.set_timeout(CALLBACK_DEADLINE);
            let is_acknowledged =
                self.client.pay_notify(request).await.is_ok_and(|reply| reply.get_ref().status_code == "0000");
            // A provider waits before it repeats a callback; and a pace leaves orders for later kills.
            tokio::time::sleep(Duration::from_millis(20)).await;
            if is_acknowledged {
                self.acknowledged.lock().unwrap().insert(order_id);
            }
            if is_acknowledged || self.is_giving_up.load(Ordering::Relaxed) {
                return;
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

    /// Another process of the same service, which shares its group.
    pub(crate) fn twin(&self, instance_id: &str) -> Self {
        let arguments = &self.arguments[..self.arguments.len() - "--listen HOST:PORT".split(' ').count()];
        let own = format!("instance_id={}", self.name);
        let arguments: Vec<String> =
            arguments.iter().map(|argument| argument.replace(&own, &format!("instance_id={instance_id}"))).collect();
        Self::start(self.name, &arguments)
    }

    /// Stops the process where it stands, or lets it go on.
    pub(crate) fn freeze(&self, is_frozen: bool) {
        let signal = if is_frozen { "-STOP" } else { "-CONT" };
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success());
    }

    pub(crate) fn kill_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again after a kill.
    pub(crate) fn restart(&mut self) {
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

    /// A service ends with 1 where a server does not answer its start in time, and is started again, as a
    /// supervisor does. A panic ends it with 101, options that make no sense with 2: those are for the test to see.
    fn await_ready(&mut self) {
        await_true(PATIENCE, || {
            if let Some(status) = self.child.try_wait().unwrap() {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                let ended = format!("the {} service ended by itself: {status}\n{log}", self.name);
                assert!(status.code() == Some(1), "{ended}");
                self.child = spawn(self.name, &self.arguments, &self.log);
                return Err(ended);
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
    let server = SqlDatabase::connect(patient(&format!("{url}/{administration}"))).await.unwrap();
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
