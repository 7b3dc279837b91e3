//! Chooses what is plugged in: the one file of this service that names adapters.

use std::sync::Arc;

#[cfg(not(feature = "tx-dtm"))]
use micro_core::{Error, ErrorKind};
use micro_core::{
    Result,
    app::{App, Component},
    broker::Broker,
    consume::{Consumer, InboxService, InboxStores, Router},
    outbox::{Outbox, Relay},
    registry::Registry,
    saga::{DiscoveredBranches, EmbeddedCoordinator, EmbeddedCoordinatorConfig, SagaRelay},
    selector::RandomSelector,
};
use micro_grpc::{GrpcBranchCaller, GrpcClient, GrpcServer};
use micro_rs::middleware::{
    ClientDeadlineLayer, MetricsLayer, RetryLayer, TraceLayer,
    stack::{consume_stack, publish_stack},
};
use micro_tx::SqlDatabase;
#[cfg(feature = "tx-dtm")]
use micro_tx::dtm::{DtmClient, DtmConfig};

use crate::{
    application::{AuditStatuses, ConfirmPayments, FailPayments, FindOrder, PayNotify, SettlePayments},
    config::{OrderConfig, SagaWire, Wire},
    infrastructure::{
        deduction::{DirectDeduction, SagaDeduction},
        dialect::Dialect,
        persistence::{SqlAuditTrails, SqlOrders},
    },
    interfaces::{
        consume::{AuditOnStatusChange, ConfirmOnDeduction, FailOnLostConfirmation, FailOnRefusal},
        grpc::OrderGrpc,
        publish::{OnBehalf, OutboxOrderEvents, WithDeduction},
        settlement::SettlementGrpc,
    },
    wire::{
        DESCRIPTORS,
        service::{order_server::OrderServer, settlement_server::SettlementServer},
    },
};

/// The first pause before a saga's call is made again.
pub const RETRY_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

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
pub struct OrderService {
    /// What an `App` runs, in this order.
    pub components: Vec<Arc<dyn Component>>,
    /// The inbox of the group that moves orders on, for its dead letters.
    pub inbox: InboxService,
    /// The inbox of the audit's group, where there is an audit.
    pub audit: Option<InboxService>,
    config: OrderConfig,
}

impl OrderService {
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
pub async fn assemble(config: &OrderConfig, plugged: &Plugged) -> Result<OrderService> {
    let database = &plugged.database;
    database.migrate().await?;
    database.execute_script(Dialect::of(database).schema()).await?;
    database.barrier_with(&config.barrier_table)?.create_table().await?;
    let outbox = Outbox::new(database.outbox(), config.service.as_str(), config.version.as_str());
    let events = OutboxOrderEvents::new(outbox.clone(), config.has_audit);
    let inbox = InboxService::new(
        config.group.as_str(),
        stores(database, &outbox),
        router(database, &events),
        // What cannot be confirmed for good must reach the product service, which gives it back.
        config.delivery.clone().with_copy_to_dead_letter_topic(true),
    )?;
    let audit = if config.has_audit { Some(audit(config, database, &outbox)?) } else { None };
    let mut components: Vec<Arc<dyn Component>> = vec![
        // The service is not serving while its database is away.
        Arc::new(database.probe().config(config.probe.clone())),
        // Before the others starts and behind them stops what sends what they write.
        Arc::new(relay(plugged)),
        Arc::new(consumer(config, plugged, &inbox)),
    ];
    components.extend(audit.iter().map(|audit| Arc::new(consumer(config, plugged, audit)) as Arc<dyn Component>));
    let server = match &config.wire {
        Wire::Events => server(config, database, events, &inbox)?,
        Wire::Grpc { product } => {
            let deduction = calls(config, plugged, product).await?;
            server(config, database, WithDeduction::new(events, deduction), &inbox)?
        }
        Wire::Saga(wire) => {
            let (coordinator, deduction) = sagas(wire, plugged).await?;
            components.push(coordinator);
            server(config, database, WithDeduction::new(events, deduction), &inbox)?
        }
    };
    components.push(Arc::new(server));
    Ok(OrderService { components, inbox, audit, config: config.clone() })
}

fn audit(config: &OrderConfig, database: &SqlDatabase, outbox: &Outbox) -> Result<InboxService> {
    let audit = AuditOnStatusChange(AuditStatuses::new(SqlAuditTrails::new(database)));
    let router = Router::new().on_batch(audit);
    InboxService::new(config.audit_group.as_str(), stores(database, outbox), router, config.delivery.clone())
}

fn relay(plugged: &Plugged) -> impl Component {
    Relay::builder(plugged.database.outbox(), plugged.broker.clone())
        .stack(|_| publish_stack(plugged.broker.clone()))
        .build()
}

fn stores(database: &SqlDatabase, outbox: &Outbox) -> InboxStores {
    InboxStores {
        transactions: database.transactions(),
        inbox: database.inbox(),
        parked: database.parked(),
        dead_letters: database.dead_letters(),
        outbox: Some(outbox.clone()),
    }
}

fn router(database: &SqlDatabase, events: &OutboxOrderEvents) -> Router {
    let orders = SqlOrders::new(database);
    Router::new()
        .on_batch(ConfirmOnDeduction(ConfirmPayments::new(orders.clone()), events.clone()))
        .on_batch(FailOnRefusal(FailPayments::new(orders.clone()), events.clone()))
        .on_batch(FailOnLostConfirmation(FailPayments::new(orders), events.clone()))
}

fn consumer(config: &OrderConfig, plugged: &Plugged, inbox: &InboxService) -> impl Component {
    Consumer::builder(plugged.broker.clone(), inbox.clone())
        .config(config.consumer.clone())
        .stack(consume_stack)
        .build()
}

/// What calls the product service of this name.
async fn calls(config: &OrderConfig, plugged: &Plugged, product: &str) -> Result<DirectDeduction> {
    let client = GrpcClient::builder(plugged.registry.clone())
        .service(product)
        .config(config.product_client.clone())
        // The layers that calls usually have, with a limit of its own; outside of it, trace and
        // metrics see a call that ends there for what it is.
        .stack(TraceLayer::outgoing())
        .layer(MetricsLayer::outgoing())
        .layer(ClientDeadlineLayer::new(config.deduction_timeout))
        .layer(RetryLayer::default());
    Ok(DirectDeduction::new(client.connect().await?))
}

/// What carries sagas out, or hands them on to who does, and what begins them.
async fn sagas(wire: &SagaWire, plugged: &Plugged) -> Result<(Arc<dyn Component>, SagaDeduction)> {
    let (database, registry) = (&plugged.database, plugged.registry.clone());
    let deduction = |sagas| SagaDeduction::new(sagas, wire.addresses.clone(), wire.options.clone());
    let branches = DiscoveredBranches::new(registry, RandomSelector, GrpcBranchCaller::default());
    let mut patience = EmbeddedCoordinatorConfig::default();
    patience.retry_interval = RETRY_INTERVAL;
    if let Some(url) = &wire.dtm {
        let relay = handing_over(url, database).await?;
        return Ok((relay.clone(), deduction(relay)));
    }
    let coordinator = EmbeddedCoordinator::builder(database.transactions(), database.saga_log(), Arc::new(branches))
        .config(patience)
        .build();
    Ok((Arc::new(coordinator.clone()), deduction(Arc::new(coordinator))))
}

/// Hands sagas to a DTM server once their payments committed.
#[cfg(feature = "tx-dtm")]
async fn handing_over(url: &str, database: &SqlDatabase) -> Result<Arc<SagaRelay>> {
    let dtm = DtmClient::connect(DtmConfig::from_url(url)?).await?;
    Ok(Arc::new(SagaRelay::builder(database.saga_log(), Arc::new(dtm.coordinator())).build()))
}

#[cfg(not(feature = "tx-dtm"))]
async fn handing_over(_: &str, _: &SqlDatabase) -> Result<Arc<SagaRelay>> {
    let message = "DTM's client is not compiled in: turn the feature tx-dtm on";
    Err(Error::new(ErrorKind::Unimplemented, "order.sagas", message))
}

fn server<E: OnBehalf + Clone>(
    config: &OrderConfig,
    database: &SqlDatabase,
    events: E,
    inbox: &InboxService,
) -> Result<GrpcServer> {
    let orders = SqlOrders::new(database);
    let pay_notify = PayNotify::new(database.transactions(), orders.clone(), config.callback_retry);
    // What a saga's coordinator calls is there, and announced, where there are sagas.
    let settlement = match &config.wire {
        Wire::Saga(_) => Some(settlement(config, database, events.clone())?),
        Wire::Events | Wire::Grpc { .. } => None,
    };
    let calls = OrderGrpc::new(pay_notify, FindOrder::new(orders), events, config.callback_batches);
    let mut grpc = config.grpc.clone();
    grpc.version.clone_from(&config.version);
    let mut server = GrpcServer::builder(config.service.as_str())
        .config(grpc)
        .go_micro(config.go_micro.clone())
        .add_service(OrderServer::new(calls));
    if let Some(settlement) = settlement {
        server = server.add_service(SettlementServer::new(settlement));
    }
    server.reflection(DESCRIPTORS).subscribed(inbox.topics().iter().map(|topic| &**topic)).build()
}

fn settlement<E: OnBehalf + Clone>(
    config: &OrderConfig,
    database: &SqlDatabase,
    events: E,
) -> Result<SettlementGrpc<SqlOrders, E>> {
    let barriers = Arc::new(database.barrier_with(&config.barrier_table)?);
    let orders = SqlOrders::new(database);
    let settle = SettlePayments::new(database.transactions(), barriers, orders, config.callback_retry);
    Ok(SettlementGrpc::new(settle, events, config.callback_batches))
}
