//! Asks the database whether it answers, for the health of an application.

use async_trait::async_trait;
use micro_core::{Result, app::Ping};
#[cfg(any(feature = "mysql", feature = "postgres"))]
use tokio::sync::Mutex;

#[cfg(any(feature = "mysql", feature = "postgres"))]
use crate::server::Lease;
use crate::{SqlDatabase, database::Connections};

/// A database that is asked, with the connection that is kept for it.
pub(crate) struct SqlPing {
    database: SqlDatabase,
    #[cfg(feature = "mysql")]
    mysql: Mutex<Option<Lease<sqlx::MySql>>>,
    #[cfg(feature = "postgres")]
    postgres: Mutex<Option<Lease<sqlx::Postgres>>>,
}

impl SqlPing {
    pub(crate) fn new(database: SqlDatabase) -> Self {
        Self {
            database,
            #[cfg(feature = "mysql")]
            mysql: Mutex::default(),
            #[cfg(feature = "postgres")]
            postgres: Mutex::default(),
        }
    }
}

#[async_trait]
impl Ping for SqlPing {
    async fn ping(&self) -> Result<()> {
        match self.database.connections() {
            #[cfg(feature = "sqlite")]
            Connections::Sqlite(connections) => connections.fetch_all("sql.ping", "SELECT 1", &[]).await.map(drop),
            #[cfg(feature = "mysql")]
            Connections::MySql(connections) => connections.ping(&mut *self.mysql.lock().await).await,
            #[cfg(feature = "postgres")]
            Connections::Postgres(connections) => connections.ping(&mut *self.postgres.lock().await).await,
        }
    }
}
