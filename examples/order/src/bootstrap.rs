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
use micro_tx::SqlDatabase;

use crate::{
    application::{AuditStatuses, ConfirmPayments, FailPayments, FindOrder, PayNotify},
    config::OrderConfig,
    infrastructure::{
        dialect::Dialect,
        persistence::{SqlAuditTrails, SqlOrders},
    },
    interfaces::{
        consume::{AuditOnStatusChange, ConfirmOnDeduction, FailOnLostConfirmation, FailOnRefusal},
        grpc::OrderGrpc,
        publish::OutboxOrderEvents,
        wire::{DESCRIPTORS, service::order_server::OrderServer},
    },
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
        Arc::new(database.probe()),
        // Before the others starts and behind them stops what sends what they write.
        Arc::new(relay(plugged)),
        Arc::new(consumer(config, plugged, &inbox)),
    ];
    components.extend(audit.iter().map(|audit| Arc::new(consumer(config, plugged, audit)) as Arc<dyn Component>));
    components.push(Arc::new(server(config, database, events, &inbox)?));
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

fn server(
    config: &OrderConfig,
    database: &SqlDatabase,
    events: OutboxOrderEvents,
    inbox: &InboxService,
) -> Result<GrpcServer> {
    let orders = SqlOrders::new(database);
    let pay_notify = PayNotify::new(database.transactions(), orders.clone(), config.callback_retry);
    let calls = OrderGrpc::new(pay_notify, FindOrder::new(orders), events, config.callback_batches);
    let mut grpc = config.grpc.clone();
    grpc.version.clone_from(&config.version);
    GrpcServer::builder(config.service.as_str())
        .config(grpc)
        .go_micro(config.go_micro.clone())
        .add_service(OrderServer::new(calls))
        .reflection(DESCRIPTORS)
        .subscribed(inbox.topics().iter().map(|topic| &**topic))
        .build()
}
