//! Chooses what is plugged in: the one file of this program that names adapters.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use micro_rs::{
    backends,
    core::app::RunningApp,
    core::{
        broker::{Broker, MemoryBroker},
        consume::InboxService,
        registry::Registry,
        selector::RoundRobinSelector,
    },
    grpc::GrpcClient,
    prelude::*,
    tx::SqlDatabase,
};
use order::{bootstrap as order_service, config::OrderConfig};
use product::{bootstrap as product_service, config::ProductConfig};

use crate::{
    clock::Clock,
    mischief::{MischievousBroker, Poison},
    operations::{OperationLog, Seed},
    options::Options,
    seed,
};

/// SQLite has one writer: more lanes or partitions would only cut its transactions into smaller
/// ones, each of which waits for the disk.
const LANE_COUNT: usize = 1;
const PARTITION_COUNT: u32 = 2;
/// No more dead letters than this are read back.
const DEAD_LETTER_COUNT_MAX: usize = 1_000_000;

/// Both services running, and what the driver needs of them.
pub struct Chain {
    /// Calls the order service, found by its name.
    pub channel: GrpcClient,
    /// The order service's database.
    pub orders: SqlDatabase,
    /// The product service's database.
    pub products: SqlDatabase,
    /// The broker as the services see it.
    pub broker: Arc<MischievousBroker>,
    /// When callbacks were sent and orders settled.
    pub clock: Arc<Clock>,
    /// What callbacks were answered.
    pub log: Arc<OperationLog>,
    plain_broker: Arc<dyn Broker>,
    inboxes: Vec<(InboxService, SqlDatabase)>,
    apps: Vec<RunningApp>,
    // Removed when the chain is dropped, after the databases are closed.
    _folder: Folder,
}

impl Chain {
    /// Connects the backends, seeds the databases on their first use, starts both services.
    pub async fn start(options: &Options) -> Result<Self> {
        let seed = Seed { orders: options.orders, skus: options.skus, stock: options.stock };
        let folder = Folder::open(options.database.as_deref())?;
        let log = Arc::new(OperationLog::open(folder.path(), seed)?);
        let clock = Arc::new(Clock::new(options.orders));
        let order_config = order_config();
        let product_config = product_config();
        let registry = backends::registry(&options.registry).await?;
        let plain_broker = plain_broker(&options.broker, &order_config, &product_config).await?;
        let broker = Arc::new(MischievousBroker::new(plain_broker.clone(), clock.clone(), options.duplicate_percent));
        let orders = backends::database(&folder.database_url("orders")).await?;
        let products = backends::database(&folder.database_url("products")).await?;

        let order_plugs =
            order_service::Plugged { registry: registry.clone(), broker: broker.clone(), database: orders.clone() };
        let product_plugs =
            product_service::Plugged { registry: registry.clone(), broker: broker.clone(), database: products.clone() };
        let order = order_service::assemble(&order_config, &order_plugs).await?;
        let product = product_service::assemble(&product_config, &product_plugs).await?;
        seed::products(&products, seed).await?;
        seed::orders(&orders, seed).await?;

        let inboxes = vec![
            (order.inbox.clone(), orders.clone()),
            (order.audit.clone(), orders.clone()),
            (product.inbox.clone(), products.clone()),
        ];
        // Consumers first: the product service is there before the first payment is.
        let product = product.into_app(&product_plugs).start().await?;
        let order = match order.into_app(&order_plugs).start().await {
            Ok(order) => order,
            Err(error) => {
                product.stop().await?;
                return Err(error);
            }
        };
        let channel = order_channel(registry, &order_config).await?;
        Ok(Self {
            channel,
            orders,
            products,
            broker,
            clock,
            log,
            plain_broker,
            inboxes,
            apps: vec![order, product],
            _folder: folder,
        })
    }

    /// Stops both services in order and closes their databases.
    pub async fn stop(self) -> Result<()> {
        let mut outcome = Ok(());
        for app in self.apps {
            let stopped = app.stop().await;
            outcome = outcome.and(stopped);
        }
        self.orders.close().await;
        self.products.close().await;
        outcome
    }

    /// What is still under way: orders in status 3, outbox rows, parked deliveries, poison that is
    /// no dead letter yet.
    pub async fn unsettled(&self, poison: &HashSet<String>) -> Result<u64> {
        let processing = self.orders.fetch_all("SELECT COUNT(*) FROM orders WHERE pay_status = 3", &[]).await?;
        let mut unsettled = processing[0].get::<i64>(0)?.unsigned_abs();
        for database in [&self.orders, &self.products] {
            let counts = database.outbox().counts().await?;
            unsettled += counts.unsent + counts.parked;
        }
        for (inbox, database) in &self.inboxes {
            unsettled += database.parked().count(inbox.group()).await?;
        }
        if unsettled == 0 {
            let letters: HashSet<String> = self.dead_letter_ids().await?.into_iter().collect();
            unsettled = poison.iter().filter(|id| !letters.contains(*id)).count() as u64;
        }
        Ok(unsettled)
    }

    /// The event ids of all dead letters of both services' groups.
    pub async fn dead_letter_ids(&self) -> Result<Vec<String>> {
        let mut ids = Vec::new();
        for (inbox, _) in &self.inboxes {
            let letters = inbox.dead_letters().list(DEAD_LETTER_COUNT_MAX).await?;
            ids.extend(letters.into_iter().map(|letter| letter.delivery.event_id()));
        }
        Ok(ids)
    }

    /// What injects poison behind the services' backs.
    pub fn poisoner(&self) -> Poison {
        Poison::new(self.plain_broker.clone())
    }
}

fn order_config() -> OrderConfig {
    let mut config = OrderConfig::default();
    // Nobody outside this process has seen the instances: no wait for callers to notice.
    config.app.withdraw_wait = Duration::ZERO;
    config.consumer.lane_count = LANE_COUNT;
    config
}

fn product_config() -> ProductConfig {
    let mut config = ProductConfig::default();
    config.app.withdraw_wait = Duration::ZERO;
    config.consumer.lane_count = LANE_COUNT;
    config
}

/// The broker of the URL. The one in memory is told who will come: a receipt then waits for them,
/// so that a killed process finds in its outbox what they had not handled.
async fn plain_broker(url: &str, order: &OrderConfig, product: &ProductConfig) -> Result<Arc<dyn Broker>> {
    if url != "memory:" {
        return backends::broker(url).await;
    }
    let broker = MemoryBroker::new().with_partition_count(PARTITION_COUNT);
    for topic in [order::PRODUCT_TOPIC, "OrderEventDLQ", "ProductEventDLQ"] {
        broker.declare_group(topic, order.group.as_str());
    }
    for topic in [order::ORDER_TOPIC, "ProductEventDLQ"] {
        broker.declare_group(topic, product.group.as_str());
    }
    broker.declare_group("OrderStatus", order.audit_group.as_str());
    Ok(Arc::new(broker))
}

async fn order_channel(registry: Arc<dyn Registry>, order: &OrderConfig) -> Result<GrpcClient> {
    GrpcClient::builder(registry)
        .service(order.service.as_str())
        .selector(RoundRobinSelector::default())
        .connect()
        .await
}

/// Where the databases and the operation log are.
enum Folder {
    Kept(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Folder {
    fn open(url: Option<&str>) -> Result<Self> {
        let Some(url) = url else {
            return tempfile::tempdir().map(Self::Temporary).map_err(|error| {
                Error::new(ErrorKind::Internal, "bootstrap.folder", "no temporary folder").with_source(error)
            });
        };
        let path = url.strip_prefix("sqlite:").filter(|path| !path.is_empty()).ok_or_else(|| {
            // The scheme alone: the rest may hold a password.
            let message = "this version has no such database: expected sqlite:FOLDER";
            Error::new(ErrorKind::InvalidArgument, "bootstrap.database", message)
                .with_context("scheme", backends::scheme(url))
        })?;
        let path = PathBuf::from(path);
        std::fs::create_dir_all(&path).map_err(|error| {
            Error::new(ErrorKind::InvalidArgument, "bootstrap.database", "the folder cannot be made")
                .with_context("folder", path.display())
                .with_source(error)
        })?;
        Ok(Self::Kept(path))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }

    fn database_url(&self, name: &str) -> String {
        format!("sqlite:{}", self.path().join(format!("{name}.db")).display())
    }
}
