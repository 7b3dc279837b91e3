//! Chooses what is plugged in: the one file of this program that names adapters.

use std::{collections::HashSet, sync::Arc, time::Duration};

use micro_rs::{
    backends,
    core::{
        app::{AppConfig, RunningApp},
        broker::{Broker, MemoryBroker},
        consume::{ConsumerConfig, InboxService},
        registry::Registry,
        saga::{REGISTRY_SCHEME, SagaOptions},
        selector::RoundRobinSelector,
    },
    grpc::{GrpcClient, GrpcClientConfig},
    prelude::*,
    tx::SqlDatabase,
};
use order::{
    bootstrap as order_service,
    config::{OrderConfig, SagaWire, Wire},
    infrastructure::deduction::BranchAddresses,
};
use product::{bootstrap as product_service, config::ProductConfig};

use crate::{
    backlog::{Backlog, NoBacklog},
    clock::Clock,
    mischief::{MischievousBroker, Poison},
    operations::{OperationLog, Seed},
    options::{Options, WireName},
    seed,
    site::{STEP_TIMEOUT, Site, patient},
};

/// SQLite has one writer: more lanes or partitions would only cut its transactions into smaller
/// ones, each of which waits for the disk.
const LANE_COUNT_OF_FILES: usize = 1;
const PARTITION_COUNT_OF_FILES: u32 = 2;
/// A server commits what comes side by side together.
const LANE_COUNT: usize = 4;
const PARTITION_COUNT: u32 = 8;
/// How long Kafka keeps the records of a run.
#[cfg(feature = "broker-kafka")]
const RETENTION_MS: &str = "3600000";
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
    backlog: Box<dyn Backlog>,
    inboxes: Vec<(InboxService, SqlDatabase)>,
    apps: Vec<RunningApp>,
    site: Arc<Site>,
}

/// A broker, and what knows how far its groups are.
type Carrier = (Arc<dyn Broker>, Box<dyn Backlog>);

impl Chain {
    /// Connects the backends, seeds the databases on their first use, starts both services.
    pub async fn start(options: &Options, wire: WireName) -> Result<Self> {
        let site = Arc::new(Site::open(options).await?);
        match Self::start_on(site.clone(), options, wire).await {
            Ok(chain) => Ok(chain),
            Err(error) => {
                if let Err(left) = site.clean_up().await {
                    tracing::warn!(error = %left.report(), "databases of this run stay on the server");
                }
                Err(error)
            }
        }
    }

    async fn start_on(site: Arc<Site>, options: &Options, wire: WireName) -> Result<Self> {
        let seed = Seed { orders: options.orders, skus: options.skus, stock: options.stock };
        let log = Arc::new(OperationLog::open(site.folder(), seed)?);
        let clock = Arc::new(Clock::new(options.orders));
        let (mut order_config, mut product_config) = (order_config(options, &site), product_config(options, &site));
        if wire == WireName::Dtm && options.dtm.is_some() {
            // A server of DTM's knows no registry: it calls addresses.
            order_config.grpc.address = free_address()?;
            product_config.grpc.address = free_address()?;
        }
        order_config.wire = order_wire(options, wire, &order_config, &product_config);
        let registry = backends::registry(&options.registry).await?;
        let (plain_broker, backlog) = carrier(&options.broker, &site, &order_config, &product_config).await?;
        let broker = Arc::new(MischievousBroker::new(plain_broker.clone(), clock.clone(), options.duplicate_percent));
        let orders = backends::database_with(patient(&site.database_url("orders"))).await?;
        let products = backends::database_with(patient(&site.database_url("products"))).await?;

        let order_plugs =
            order_service::Plugged { registry: registry.clone(), broker: broker.clone(), database: orders.clone() };
        let product_plugs =
            product_service::Plugged { registry: registry.clone(), broker: broker.clone(), database: products.clone() };
        let order = order_service::assemble(&order_config, &order_plugs).await?;
        let product = product_service::assemble(&product_config, &product_plugs).await?;
        seed::products(&products, seed).await?;
        seed::orders(&orders, seed).await?;

        let mut inboxes = vec![(order.inbox.clone(), orders.clone()), (product.inbox.clone(), products.clone())];
        inboxes.extend(order.audit.iter().map(|audit| (audit.clone(), orders.clone())));
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
        let apps = vec![order, product];
        Ok(Self { channel, orders, products, broker, clock, log, plain_broker, backlog, inboxes, apps, site })
    }

    /// Stops both services in order, closes their databases, and drops those of this run alone.
    pub async fn stop(self) -> Result<()> {
        let mut outcome = Ok(());
        for app in self.apps {
            let stopped = app.stop().await;
            outcome = outcome.and(stopped);
        }
        self.orders.close().await;
        self.products.close().await;
        let cleaned_up = self.site.clean_up().await;
        outcome.and(cleaned_up)
    }

    /// What keeps this run apart from others on the same servers.
    pub fn name(&self) -> &str {
        self.site.name()
    }

    /// What is still under way: orders in status 3, outbox rows, parked deliveries, records that no
    /// group took yet, poison that is no dead letter yet.
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
            unsettled = self.backlog.count().await?;
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

fn order_config(options: &Options, site: &Site) -> OrderConfig {
    let mut config = OrderConfig::default();
    config.product_client = client_config();
    config.deduction_timeout = STEP_TIMEOUT;
    config.probe.timeout = STEP_TIMEOUT;
    config.app = app_config();
    of_this_run(&mut config.service, options, site);
    set_lanes(&mut config.consumer, site);
    config
}

fn app_config() -> AppConfig {
    let mut config = AppConfig::default();
    // Nobody outside this process has seen the instances: no wait for callers to notice.
    config.withdraw_wait = Duration::ZERO;
    config.drain_timeout = 2 * STEP_TIMEOUT;
    config.flush_timeout = STEP_TIMEOUT;
    config.close_timeout = STEP_TIMEOUT;
    config
}

fn client_config() -> GrpcClientConfig {
    let mut config = GrpcClientConfig::default();
    config.connect_timeout = STEP_TIMEOUT;
    config
}

fn order_wire(options: &Options, wire: WireName, order: &OrderConfig, product: &ProductConfig) -> Wire {
    let named = |service: &str| format!("{REGISTRY_SCHEME}{service}");
    match wire {
        WireName::Events => Wire::Events,
        WireName::Grpc => Wire::Grpc { product: product.service.clone() },
        WireName::Dtm => {
            let addresses = match &options.dtm {
                None => BranchAddresses { order: named(&order.service), product: named(&product.service) },
                Some(_) => BranchAddresses { order: order.grpc.address.clone(), product: product.grpc.address.clone() },
            };
            let mut patience = SagaOptions::default();
            patience.retry_interval = Some(Duration::from_secs(1));
            Wire::Saga(SagaWire { dtm: options.dtm.clone(), addresses, options: patience })
        }
    }
}

/// An address that nobody else listens on, known before the server does.
fn free_address() -> Result<String> {
    let address = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let no_port = "no port is free on the loopback interface";
    address
        .map(|address| address.to_string())
        .map_err(|error| Error::new(ErrorKind::Unavailable, "payment_chain.address", no_port).with_source(error))
}

fn product_config(options: &Options, site: &Site) -> ProductConfig {
    let mut config = ProductConfig::default();
    config.probe.timeout = STEP_TIMEOUT;
    config.app = app_config();
    of_this_run(&mut config.service, options, site);
    set_lanes(&mut config.consumer, site);
    config
}

/// In a registry that others use too, the services of this run are found by a name of their own.
fn of_this_run(service: &mut String, options: &Options, site: &Site) {
    if options.registry != "memory:" {
        *service = format!("{service}-{}", site.name().replace('_', "-"));
    }
}

fn set_lanes(consumer: &mut ConsumerConfig, site: &Site) {
    consumer.lane_count = if site.has_one_writer() { LANE_COUNT_OF_FILES } else { LANE_COUNT };
}

fn partition_count(site: &Site) -> u32 {
    if site.has_one_writer() { PARTITION_COUNT_OF_FILES } else { PARTITION_COUNT }
}

/// The topics that each group of the services reads.
fn groups(order: &OrderConfig, product: &ProductConfig) -> [(String, &'static [&'static str]); 3] {
    [
        (order.group.clone(), &[order::PRODUCT_TOPIC, "OrderEventDLQ", "ProductEventDLQ"]),
        (product.group.clone(), &[order::ORDER_TOPIC, "ProductEventDLQ"]),
        (order.audit_group.clone(), &["OrderStatus"]),
    ]
}

async fn carrier(url: &str, site: &Site, order: &OrderConfig, product: &ProductConfig) -> Result<Carrier> {
    match backends::scheme(url) {
        "memory" => Ok((Arc::new(memory_broker(site, order, product)), Box::new(NoBacklog))),
        #[cfg(feature = "broker-kafka")]
        "kafka" | "kafka+tls" => kafka_broker(url, site, order, product).await,
        _ => Ok((backends::broker(url).await?, Box::new(NoBacklog))),
    }
}

/// The broker in memory is told who will come: a receipt then waits for them, so that a killed
/// process finds in its outbox what they had not handled.
fn memory_broker(site: &Site, order: &OrderConfig, product: &ProductConfig) -> MemoryBroker {
    let broker = MemoryBroker::new().with_partition_count(partition_count(site));
    for (group, topics) in groups(order, product) {
        for topic in topics {
            broker.declare_group(*topic, group.as_str());
        }
    }
    broker
}

/// Kafka with topics and groups that are this run's own: two runs do not see each other.
#[cfg(feature = "broker-kafka")]
async fn kafka_broker(url: &str, site: &Site, order: &OrderConfig, product: &ProductConfig) -> Result<Carrier> {
    use micro_rs::broker::kafka::{KafkaBroker, TopicSpec};

    use crate::{
        backlog::KafkaBacklog,
        prefix::{PrefixedBroker, prefixed},
    };

    let prefix = format!("{}.", site.name());
    let broker = KafkaBroker::connect_url(url).await?;
    let topics = order::TOPICS.map(|topic| {
        TopicSpec::new(&*prefixed(&prefix, topic), partition_count(site)).with_setting("retention.ms", RETENTION_MS)
    });
    broker.create_topics(&topics).await?;
    let named = |name: &str| prefixed(&prefix, name).to_string();
    let groups = groups(order, product)
        .map(|(group, topics)| (named(&group), topics.iter().map(|topic| named(topic)).collect()));
    let backlog = KafkaBacklog::new(broker.clone(), groups.into());
    Ok((Arc::new(PrefixedBroker::new(Arc::new(broker), prefix)), Box::new(backlog)))
}

async fn order_channel(registry: Arc<dyn Registry>, order: &OrderConfig) -> Result<GrpcClient> {
    GrpcClient::builder(registry)
        .service(order.service.as_str())
        .selector(RoundRobinSelector::default())
        .config(client_config())
        .connect()
        .await
}
