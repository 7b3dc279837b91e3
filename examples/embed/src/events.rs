//! What micro-rs adds: an outbox on the service's own pool, and a relay to the broker.

use std::{sync::Arc, time::Duration};

use micro_core::{
    Health, Result,
    app::{Component as _, ComponentExt as _},
    broker::Broker,
    flow::BrokerService,
    impl_event,
    outbox::{Outbox, Relay},
};
use micro_tx::SqlDatabase;
use sqlx::SqlitePool;

use crate::shop::OrderPlaced;

/// How long the broker may take at the end for what is still on its way; the rest stays in the
/// outbox and is sent after the next start.
const STOP_MAX: Duration = Duration::from_secs(30);

impl_event!(OrderPlaced, topic: "ShopEvent", event_type: "OrderPlaced", key: |event| event.order_id.to_string());

/// Events that are sent if and only if the transaction they belong to commits.
pub struct Events {
    /// Begins the transactions.
    pub database: SqlDatabase,
    /// Takes the events.
    pub outbox: Outbox,
    relay: Relay<BrokerService>,
}

impl Events {
    /// Puts the outbox into the pool's database, beside the service's own tables, and begins to
    /// send what it holds.
    pub async fn start(pool: &SqlitePool, broker: Arc<dyn Broker>) -> Result<Self> {
        let database = SqlDatabase::from_sqlite_pool(pool.clone());
        database.migrate().await?;
        let outbox = Outbox::new(database.outbox(), "embed", env!("CARGO_PKG_VERSION"));
        let relay = Relay::builder(database.outbox(), broker).build();
        relay.start(&Health::new()).await?;
        Ok(Self { database, outbox, relay })
    }

    /// Sends what is there and ends.
    pub async fn stop(&self) -> Result<()> {
        self.relay.stop(STOP_MAX).await
    }
}
