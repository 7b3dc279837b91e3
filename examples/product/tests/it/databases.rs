//! A database of its own for each test, on every kind of database that is there.

use std::time::Duration;

#[cfg(any(feature = "tx-mysql", feature = "tx-postgres"))]
use dev_servers::Kind;
use micro_testkit::{Fixture, Missing, unique};
use micro_tx::{SqlConfig, SqlDatabase};

/// How long a server, a service and its callers may take for what they do at once on a machine that is not busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Where tests make their databases.
#[derive(Clone, Debug)]
pub(crate) enum Databases {
    /// Files in a folder of their own.
    Sqlite,
    /// On the server at this URL.
    #[cfg_attr(not(any(feature = "tx-mysql", feature = "tx-postgres")), expect(dead_code))]
    Server(String),
}

/// A database that is dropped at the end of its test.
pub(crate) struct TestDatabase {
    pub(crate) database: SqlDatabase,
    remains: Remains,
}

enum Remains {
    Folder { _folder: tempfile::TempDir },
    OnServer { server: String, name: String },
}

impl Databases {
    /// A new database, connected, without tables.
    pub(crate) async fn create(&self, name: &str) -> TestDatabase {
        match self {
            Self::Sqlite => {
                let folder = tempfile::tempdir().unwrap();
                let url = format!("sqlite:{}", folder.path().join(format!("{name}.db")).display());
                let database = connect(&url).await;
                TestDatabase { database, remains: Remains::Folder { _folder: folder } }
            }
            Self::Server(server) => {
                let name = unique(name).replace('-', "_");
                execute(server, &format!("CREATE DATABASE {name}")).await;
                let remains = Remains::OnServer { server: server.clone(), name: name.clone() };
                let database = connect(&format!("{server}/{name}")).await;
                TestDatabase { database, remains }
            }
        }
    }
}

impl TestDatabase {
    /// Its name on its server; empty for a file.
    #[allow(dead_code, reason = "for the tests of one of the services")]
    pub(crate) fn name(&self) -> &str {
        match &self.remains {
            Remains::Folder { .. } => "",
            Remains::OnServer { name, .. } => name,
        }
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        let Self::OnServer { server, name } = self else { return };
        // `WITH (FORCE)` is PostgreSQL's: the pool of the test may still be connected.
        let force = if server.starts_with("postgres") { " WITH (FORCE)" } else { "" };
        let (server, statement) = (server.clone(), format!("DROP DATABASE {name}{force}"));
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(execute(&server, &statement));
        });
        let _ = dropping.join();
    }
}

async fn connect(url: &str) -> SqlDatabase {
    let mut config = SqlConfig::new(url);
    config.connect_timeout = PATIENCE;
    config.acquire_timeout = PATIENCE;
    config.write_acquire_timeout = PATIENCE;
    SqlDatabase::connect(config).await.unwrap()
}

async fn execute(server: &str, statement: &str) {
    let database = connect(server).await;
    database.execute(statement, &[]).await.unwrap();
    database.close().await;
}

#[cfg(any(feature = "tx-mysql", feature = "tx-postgres"))]
async fn server(kind: Kind) -> Result<Databases, Missing> {
    let url = tokio::task::spawn_blocking(move || dev_servers::shared(kind)).await.expect("no panic");
    url.map(Databases::Server).map_err(Missing::new)
}

macro_rules! fixture {
    ($name:ident, $doc:literal, $start:expr) => {
        #[doc = $doc]
        pub(crate) struct $name(pub(crate) Databases);

        impl Fixture for $name {
            async fn start() -> Result<Self, Missing> {
                $start.await.map(Self)
            }

            fn patience(&self) -> Duration {
                PATIENCE
            }
        }
    };
}

fixture!(Sqlite, "SQLite, compiled in.", async { Ok(Databases::Sqlite) });
#[cfg(feature = "tx-mysql")]
fixture!(Mariadb, "The shared MariaDB.", server(Kind::Mariadb));
#[cfg(feature = "tx-postgres")]
fixture!(Postgres, "The shared PostgreSQL.", server(Kind::Postgres));

/// Makes of each `async fn name(databases: Databases)` of this module a test on every kind of
/// database that is compiled in; a server that is not there is printed as skipped.
macro_rules! on_every_database {
    ($($name:ident),* $(,)?) => {
        $crate::databases::on_one_database!(on_sqlite, Sqlite, $($name),*);
        #[cfg(feature = "tx-mysql")]
        $crate::databases::on_one_database!(on_mariadb, Mariadb, $($name),*);
        #[cfg(feature = "tx-postgres")]
        $crate::databases::on_one_database!(on_postgres, Postgres, $($name),*);
    };
}

macro_rules! on_one_database {
    ($module:ident, $fixture:ident, $($name:ident),*) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    if let Some(fixture) = micro_testkit::ready::<crate::databases::$fixture>().await {
                        super::$name(fixture.0).await;
                    }
                }
            )*
        }
    };
}

pub(crate) use {on_every_database, on_one_database};
