//! A server, or what it allows, that changes while a service runs: a failover, another password, a right that is
//! taken. None of it says anything about an order, and none of it lasts.

use micro_core::{
    Error, ErrorKind, Result, TransactionManager as _, TransactionManagerExt as _,
    barrier::{Barrier, BarrierExt as _},
    branch::{Branch, BranchError, Mode, Op},
};
use micro_testkit::unique;
use micro_tx::{SqlBarrier, SqlConfig, SqlDatabase, SqlTxExt as _};

use crate::{
    faults::own,
    on_servers::{INSERT, connected, on_each_server, site},
    server::{Server, Site},
};

on_each_server! {
    a_login_that_is_refused_meanwhile_is_not_told_as_the_callers_fault
    a_right_that_is_missing_is_not_told_as_the_callers_fault
}

const CODES: &str = "SELECT code FROM orders ORDER BY code";

/// The primary is made a standby's, and another connection may lead to the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mariadb_that_becomes_read_only_is_unavailable_and_its_connection_is_left() {
    let Some(server) = own(Server::Mariadb).await else { return };
    let site = Site::at(Server::Mariadb, server.url().to_owned()).await;
    let owner = site.database().await;
    owner.barrier_with("barrier").unwrap().create_table().await.unwrap();
    owner.close().await;
    let user = User::new(&site).await;
    site.administrate(&format!("GRANT ALL ON {}.* TO {}", site.name(), user.quoted)).await;
    let database = connected(user.config(&site)).await;
    let store = database.barrier_with("barrier").unwrap();
    pay(&database, "A-1").await.unwrap();
    let before = connection(&site, &database).await;
    let mut open = database.begin().await.unwrap();
    open.sql().unwrap().execute(INSERT, &["A-2".into(), "2".into()]).await.unwrap();

    site.administrate("SET GLOBAL read_only = 1").await;
    let refused = open.commit().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "nothing of it is done: {}", refused.report());
    is_refused_for_now(&database, &store).await;
    site.administrate("SET GLOBAL read_only = 0").await;

    pay(&database, "A-3").await.unwrap();
    assert_ne!(connection(&site, &database).await, before, "a connection to the old primary is used on");
    assert_eq!(codes(&database).await, ["A-1", "A-3"]);
}

/// What a cloud does of a full disk, and what a session keeps that began meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_of_postgres_that_is_read_only_is_unavailable_and_left() {
    let Some(site) = site(Server::Postgres).await else { return };
    let owner = site.database().await;
    owner.barrier_with("barrier").unwrap().create_table().await.unwrap();
    let set = format!("ALTER DATABASE {} SET default_transaction_read_only = on", site.name());
    site.administrate(&set).await;
    let database = connected(site.config()).await;
    let store = database.barrier_with("barrier").unwrap();
    let before = connection(&site, &database).await;
    is_refused_for_now(&database, &store).await;
    site.administrate(&format!("ALTER DATABASE {} RESET default_transaction_read_only", site.name())).await;

    // One that began before the reset may be left.
    let _ = pay(&database, "A-1").await;
    pay(&database, "A-2").await.unwrap();
    assert_ne!(connection(&site, &database).await, before, "a read-only session is used on");
    assert!(codes(&owner).await.contains(&"A-2".to_owned()));
}

/// Alone, in a transaction, and as a branch, which is not decided by it.
async fn is_refused_for_now(database: &SqlDatabase, store: &SqlBarrier) {
    for _ in 0..2 {
        let alone = database.execute(INSERT, &["B-1".into(), "2".into()]).await.unwrap_err();
        let within = pay(database, "B-2").await.unwrap_err();
        let branch = Branch::new(Mode::Saga, unique("gid"), "01", Op::Action).unwrap();
        let mut barrier = Barrier::new(branch.clone());
        let acted = database.run_with_barrier(store, &mut barrier, async |tx| {
            tx.sql()?.execute(INSERT, &["B-3".into(), "2".into()]).await?;
            Ok::<_, Error>(())
        });
        let acted = acted.await.unwrap_err();
        for error in [&alone, &within, &acted] {
            assert!(error.kind() == ErrorKind::Unavailable && error.is_retryable(), "{}", error.report());
            assert!(error.report().contains("read-only"), "{}", error.report());
        }
        let decided = BranchError::from(acted).decided("shop.Product/Deduct", Some(&branch));
        assert!(matches!(decided, BranchError::Other(_)), "{decided}");
    }
}

/// A password that is changed, say. The pool opens a connection then, in the middle of a call.
async fn a_login_that_is_refused_meanwhile_is_not_told_as_the_callers_fault(site: Site) {
    let user = User::new(&site).await;
    if site.server == Server::Mariadb {
        site.administrate(&format!("GRANT SELECT ON {}.* TO {}", site.name(), user.quoted)).await;
    }
    let database = connected(user.config(&site)).await;
    let _first = database.begin().await.unwrap();
    user.lock(&site).await;
    let error = database.begin().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal, "{}", error.report());
    assert!(
        error.to_string().contains("refused user or password") && error.to_string().contains("address="),
        "{error}"
    );
    let error = SqlDatabase::connect(user.config(&site)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "who starts is told so: {}", error.report());
    database.close().await;
    user.drop(&site, &site.database().await).await;
}

async fn a_right_that_is_missing_is_not_told_as_the_callers_fault(site: Site) {
    let owner = site.database().await;
    let user = User::new(&site).await;
    owner.execute_script(&format!("GRANT SELECT ON orders TO {}", user.quoted)).await.unwrap();
    let database = connected(user.config(&site)).await;
    assert!(codes(&database).await.is_empty());
    for error in [
        pay(&database, "A-1").await.unwrap_err(),
        database.execute(INSERT, &["A-1".into(), "2".into()]).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Internal, "{}", error.report());
        assert!(error.report().contains("the database refused the access"), "{}", error.report());
    }
    let error = database.migrate().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "who starts is told so: {}", error.report());
    owner.execute_script(&format!("GRANT INSERT ON orders TO {}", user.quoted)).await.unwrap();
    pay(&database, "A-1").await.unwrap();
    database.close().await;
    user.drop(&site, &owner).await;
}

async fn pay(database: &SqlDatabase, code: &str) -> Result<()> {
    database
        .run(async |tx| {
            tx.sql()?.execute(INSERT, &[code.into(), "2".into()]).await?;
            Ok(())
        })
        .await
}

async fn codes(database: &SqlDatabase) -> Vec<String> {
    database.fetch_all(CODES, &[]).await.unwrap().iter().map(|row| row.get(0).unwrap()).collect()
}

/// Which connection is the next one.
async fn connection(site: &Site, database: &SqlDatabase) -> i64 {
    let id = match site.server {
        Server::Mariadb => "SELECT connection_id()",
        Server::Postgres => "SELECT pg_backend_pid()",
    };
    database.fetch_all(id, &[]).await.unwrap()[0].get(0).unwrap()
}

/// A user of the server with no rights but those that everybody has.
struct User {
    name: String,
    quoted: String,
}

impl User {
    async fn new(site: &Site) -> Self {
        let name = format!("u{}", site.name().chars().rev().take(20).collect::<String>());
        let (quoted, create) = match site.server {
            Server::Mariadb => (format!("'{name}'@'%'"), format!("CREATE USER '{name}'@'%' IDENTIFIED BY 'small'")),
            Server::Postgres => (name.clone(), format!("CREATE ROLE {name} LOGIN PASSWORD 'small'")),
        };
        site.administrate(&create).await;
        Self { name, quoted }
    }

    fn config(&self, site: &Site) -> SqlConfig {
        let mut config = site.config();
        let scheme = config.url.split_once(':').unwrap().0.to_owned();
        config.url = format!("{scheme}://{}:small@{}/{}", self.name, site.address(), site.name());
        config
    }

    async fn lock(&self, site: &Site) {
        let lock = match site.server {
            Server::Mariadb => format!("ALTER USER {} IDENTIFIED BY 'another'", self.quoted),
            Server::Postgres => format!("ALTER ROLE {} NOLOGIN", self.quoted),
        };
        site.administrate(&lock).await;
    }

    async fn drop(&self, site: &Site, owner: &SqlDatabase) {
        if site.server == Server::Postgres {
            owner.execute_script(&format!("DROP OWNED BY {}", self.quoted)).await.unwrap();
        }
        let kind = if site.server == Server::Mariadb { "USER" } else { "ROLE" };
        site.administrate(&format!("DROP {kind} {}", self.quoted)).await;
    }
}
