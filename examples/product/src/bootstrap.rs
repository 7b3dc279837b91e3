//! Chooses what is plugged in: the one file of this service that names adapters.

use std::sync::Arc;

use micro_core::{
    Result,
    app::{App, Component},
    broker::Broker,
    consume::{Consumer, InboxService, InboxStores, Router},
    outbox::{Outbox, Relay},
    registry::Registry,
};
use micro_grpc::GrpcServer;
use micro_rs::middleware::stack::{consume_stack, publish_stack};
use micro_tx::{SqlBarrier, SqlDatabase};

use crate::{
    application::{
        AddProduct, ApplyForRestock, CountSales, DeductNow, DeductStock, FindRestock, FindSkus, FindSuppliers,
        ReturnStock,
    },
    config::ProductConfig,
    infrastructure::{
        dialect::Dialect,
        persistence::{SqlCatalogue, SqlLedger, SqlQueries, SqlRestocks, SqlStocks},
    },
    interfaces::{
        consume::{DeductOnPayment, ReturnOnLostConfirmation},
        deductions::DeductionCalls,
        grpc::ProductGrpc,
        publish::OutboxProductEvents,
    },
    wire::{DESCRIPTORS, service::product_server::ProductServer},
};

/// The adapters that the service is plugged into. Two services of one process may share registry
/// and broker; each has a database of its own.
#[derive(Clone)]
pub struct Plugged {
    /// Where its instance is announced.
    pub registry: Arc<dyn Registry>,
    /// Where its events go and come from.
    pub broker: Arc<dyn Broker>,
    /// Where its rows are.
    pub database: SqlDatabase,
}

/// The service's parts, ready to start.
pub struct ProductService {
    /// What an `App` runs, in this order.
    pub components: Vec<Arc<dyn Component>>,
    /// The inbox of its group, for its dead letters.
    pub inbox: InboxService,
    config: ProductConfig,
}

impl ProductService {
    /// An application of these parts that is announced in the registry.
    pub fn into_app(self, plugged: &Plugged) -> App {
        let mut app = App::builder(self.config.service)
            .config(self.config.app)
            .registry(plugged.registry.clone(), self.config.register);
        for component in self.components {
            app = app.shared_component(component);
        }
        app.build()
    }
}

/// Puts the service together and creates the tables that are missing.
///
/// # Errors
///
/// Those of the database, and `InvalidArgument` for settings that cannot be.
pub async fn assemble(config: &ProductConfig, plugged: &Plugged) -> Result<ProductService> {
    let database = &plugged.database;
    database.migrate().await?;
    database.execute_script(Dialect::of(database).schema()).await?;
    let barriers = database.barrier_with(&config.barrier_table)?;
    barriers.create_table().await?;
    let outbox = Outbox::new(database.outbox(), config.service.as_str(), config.version.as_str());
    let stores = InboxStores {
        transactions: database.transactions(),
        inbox: database.inbox(),
        parked: database.parked(),
        dead_letters: database.dead_letters(),
        outbox: Some(outbox.clone()),
    };
    let inbox = InboxService::new(config.group.as_str(), stores, router(database, &outbox), config.delivery.clone())?;
    let consumer = Consumer::builder(plugged.broker.clone(), inbox.clone())
        .config(config.consumer.clone())
        .stack(consume_stack)
        .build();
    let components: Vec<Arc<dyn Component>> = vec![
        // The service is not serving while its database is away.
        Arc::new(database.probe().config(config.probe.clone())),
        // Before the others starts and behind them stops what sends what they write.
        Arc::new(relay(plugged)),
        Arc::new(consumer),
        Arc::new(server(config, database, &inbox, barriers)?),
    ];
    Ok(ProductService { components, inbox, config: config.clone() })
}

fn relay(plugged: &Plugged) -> impl Component {
    Relay::builder(plugged.database.outbox(), plugged.broker.clone())
        .stack(|_| publish_stack(plugged.broker.clone()))
        .build()
}

fn router(database: &SqlDatabase, outbox: &Outbox) -> Router {
    let stocks = SqlStocks::new(database);
    let events = OutboxProductEvents::new(outbox.clone());
    Router::new()
        .on_batch(DeductOnPayment(DeductStock::new(stocks, SqlLedger), events))
        .on(ReturnOnLostConfirmation(ReturnStock::new(stocks, SqlLedger)))
}

fn server(
    config: &ProductConfig,
    database: &SqlDatabase,
    inbox: &InboxService,
    barriers: SqlBarrier,
) -> Result<GrpcServer> {
    let stocks = SqlStocks::new(database);
    let deduct_now = DeductNow::new(
        database.transactions(),
        Arc::new(barriers),
        DeductStock::new(stocks, SqlLedger),
        ReturnStock::new(stocks, SqlLedger),
        config.deduction_retry,
    );
    let (transactions, queries) = (database.transactions(), SqlQueries::new(database.clone()));
    let calls = ProductGrpc {
        add_product: AddProduct::new(transactions.clone(), SqlCatalogue::new(database)),
        find_skus: FindSkus::new(queries.clone()),
        apply_for_restock: ApplyForRestock::new(transactions, queries.clone(), SqlRestocks),
        find_restock: FindRestock::new(queries.clone()),
        count_sales: CountSales::new(queries.clone()),
        find_suppliers: FindSuppliers::new(queries),
        deductions: DeductionCalls::new(deduct_now, config.deduction_batches),
    };
    let mut grpc = config.grpc.clone();
    grpc.version.clone_from(&config.version);
    GrpcServer::builder(config.service.as_str())
        .config(grpc)
        .go_micro(config.go_micro.clone())
        .add_service(ProductServer::new(calls))
        .reflection(DESCRIPTORS)
        .subscribed(inbox.topics().iter().map(|topic| &**topic))
        .build()
}
