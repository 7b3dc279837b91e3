//! A SQLite file of one test, and a look at it from outside.

use std::time::Duration;

use micro_tx::{SqlConfig, SqlDatabase};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

/// The settings for a file, on a machine that may stand still for a while.
pub(crate) fn config(url: &str) -> SqlConfig {
    let mut config = SqlConfig::new(url);
    config.acquire_timeout = Duration::from_secs(30);
    config.write_acquire_timeout = Duration::from_secs(30);
    config.busy_timeout = Duration::from_secs(30);
    config
}

/// A file with our tables and a table `orders`; gone at the drop.
pub(crate) struct File {
    folder: tempfile::TempDir,
}

impl File {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn url(&self) -> String {
        format!("sqlite:{}", self.folder.path().join("orders.db").display())
    }

    pub(crate) async fn database(&self) -> SqlDatabase {
        let mut config = config(&self.url());
        // A power loss is not part of a test, and waiting for the disk takes its time.
        config.synchronous = micro_tx::Synchronous::Normal;
        let database = SqlDatabase::connect(config).await.unwrap();
        database.migrate().await.unwrap();
        let table =
            "CREATE TABLE IF NOT EXISTS orders (code TEXT PRIMARY KEY, status TEXT NOT NULL CHECK (status <> ''))";
        database.execute_script(table).await.unwrap();
        database
    }

    /// A connection of somebody else, which gives up at once where the file is locked.
    pub(crate) async fn outsider(&self) -> SqliteConnection {
        let options: SqliteConnectOptions = self.url().parse().unwrap();
        options.busy_timeout(Duration::ZERO).connect().await.unwrap()
    }
}

/// Whether nobody holds the write lock of the file.
pub(crate) async fn is_unlocked(outsider: &mut SqliteConnection) -> bool {
    match outsider.begin_with("BEGIN IMMEDIATE").await {
        Ok(transaction) => transaction.rollback().await.is_ok(),
        Err(_) => false,
    }
}
