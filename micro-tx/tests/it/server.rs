//! A database of one test on a shared server, and a look at it from outside.

use std::{future::Future, time::Duration};

use dev_servers::Kind;
use micro_testkit::{Missing, eventually, unique};
use micro_tx::{SqlConfig, SqlDatabase};
use sqlx::{
    Connection as _, Executor as _, MySqlConnection, PgConnection, mysql::MySqlPoolOptions, postgres::PgPoolOptions,
};
use tokio::sync::Mutex;

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    Mariadb,
    Postgres,
}

/// A database of its own with our tables and a table `orders`; dropped with it.
pub(crate) struct Site {
    pub(crate) server: Server,
    base: String,
    name: String,
}

impl Site {
    /// On the server that all tests share.
    pub(crate) async fn new(server: Server) -> Result<Self, Missing> {
        let base = dev_servers::shared(server.kind()).map_err(Missing::new)?;
        Ok(Self::at(server, base).await)
    }

    /// On the server at `base`.
    pub(crate) async fn at(server: Server, base: String) -> Self {
        let name = unique("t").replace('-', "_");
        server.administrate(&base, &format!("CREATE DATABASE {name}")).await.unwrap();
        Self { server, base, name }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}/{}", self.base, self.name)
    }

    pub(crate) fn config(&self) -> SqlConfig {
        let mut config = SqlConfig::new(self.url());
        config.connection_count_max = Some(4);
        // The server, or the machine, may stand still for a while.
        config.connect_timeout = Duration::from_secs(20);
        config.acquire_timeout = Duration::from_secs(30);
        config.lock_timeout = Duration::from_secs(25);
        config
    }

    pub(crate) async fn database(&self) -> SqlDatabase {
        self.database_with(self.config()).await
    }

    pub(crate) async fn database_with(&self, config: SqlConfig) -> SqlDatabase {
        let database = SqlDatabase::connect(config).await.unwrap();
        database.migrate().await.unwrap();
        let table = "CREATE TABLE IF NOT EXISTS orders \
                     (code VARCHAR(64) PRIMARY KEY, status VARCHAR(64) NOT NULL CHECK (status <> ''))";
        database.execute_script(table).await.unwrap();
        database
    }

    /// On a pool of somebody else with so many connections, to the server at `address`.
    pub(crate) async fn database_on_a_pool(&self, address: &str, connection_count_max: u32) -> SqlDatabase {
        let url = self.url().replace(self.address(), address);
        let patience = Duration::from_secs(30);
        let database = match self.server {
            Server::Mariadb => {
                let options = MySqlPoolOptions::new().max_connections(connection_count_max).acquire_timeout(patience);
                SqlDatabase::from_mysql_pool(options.connect(&url).await.unwrap())
            }
            Server::Postgres => {
                let options = PgPoolOptions::new().max_connections(connection_count_max).acquire_timeout(patience);
                SqlDatabase::from_postgres_pool(options.connect(&url).await.unwrap())
            }
        };
        database.migrate().await.unwrap();
        database
    }
}

impl Site {
    /// Host and port.
    pub(crate) fn address(&self) -> &str {
        self.base.rsplit_once('@').unwrap().1
    }

    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs a statement as the server's administrator.
    pub(crate) async fn administrate(&self, statement: &str) {
        self.try_administrate(statement).await.unwrap();
    }

    pub(crate) async fn try_administrate(&self, statement: &str) -> Result<(), sqlx::Error> {
        self.server.administrate(&self.base, statement).await
    }

    /// Waits until no transaction is open on this database: one that leaked stays open.
    pub(crate) async fn until_quiet(&self, what: &str) {
        eventually(Duration::from_secs(60), what, async || {
            self.is_quiet().await.then_some(()).ok_or(format!("a transaction is open on {:?}", self.server))
        })
        .await;
    }

    /// Whether no transaction is open on this database.
    pub(crate) async fn is_quiet(&self) -> bool {
        let name = &self.name;
        match self.server {
            Server::Mariadb => {
                let open = "SELECT count(*) FROM information_schema.innodb_trx t \
                            JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id WHERE p.db";
                fresh(self.numbers(&format!("{open} = '{name}'"))).await == [0]
            }
            Server::Postgres => {
                let mut connection = PgConnection::connect(&format!("{}/postgres", self.base)).await.unwrap();
                let open = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' AND datname";
                let open = format!("{open} = '{name}'");
                sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(open)).fetch_one(&mut connection).await.unwrap() == 0
            }
        }
    }

    /// The first column of what MariaDB answers.
    pub(crate) async fn numbers(&self, select: &str) -> Vec<i64> {
        let mut connection = MySqlConnection::connect(&self.base).await.unwrap();
        sqlx::query_scalar(sqlx::AssertSqlSafe(select)).fetch_all(&mut connection).await.unwrap()
    }
}

/// A question about MariaDB's `innodb_trx`, which is answered with what was found for whoever asked before,
/// until nobody has asked for 0.1 s.
pub(crate) async fn fresh<F: Future>(question: F) -> F::Output {
    static TURN: Mutex<()> = Mutex::const_new(());
    let _turn = TURN.lock().await;
    tokio::time::sleep(Duration::from_millis(110)).await;
    question.await
}

impl Drop for Site {
    fn drop(&mut self) {
        let (server, base, name) = (self.server, self.base.clone(), self.name.clone());
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let force = if server == Server::Postgres { " WITH (FORCE)" } else { "" };
            let statement = format!("DROP DATABASE {name}{force}");
            runtime.block_on(async {
                tokio::time::timeout(Duration::from_secs(10), server.administrate(&base, &statement)).await
            })
        });
        // A server that the test killed takes its databases along.
        let _ = dropping.join();
    }
}

impl Server {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Mariadb => Kind::Mariadb,
            Self::Postgres => Kind::Postgres,
        }
    }

    async fn administrate(self, base: &str, statement: &str) -> Result<(), sqlx::Error> {
        let statement = sqlx::raw_sql(sqlx::AssertSqlSafe(statement));
        match self {
            Self::Mariadb => MySqlConnection::connect(base).await?.execute(statement).await.map(drop),
            Self::Postgres => {
                PgConnection::connect(&format!("{base}/postgres")).await?.execute(statement).await.map(drop)
            }
        }
    }
}
