//! Tests on each server: a test by name on both, and what the files of such tests have in common.

use std::time::Duration;

use micro_core::broker::Message;
use micro_testkit::Missing;
use micro_tx::{SqlConfig, SqlDatabase};

use crate::server::{Server, Site, fresh};

pub(crate) const INSERT: &str = "INSERT INTO orders (code, status) VALUES (?, ?)";
pub(crate) const UPDATE: &str = "UPDATE orders SET status = ? WHERE code = ?";
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A test for each server, skipped where there is none.
macro_rules! on_each_server {
    ($($test:ident)+) => {
        mod mariadb {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    if let Some(site) = super::site(super::Server::Mariadb).await {
                        super::$test(site).await;
                    }
                }
            )+
        }

        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    if let Some(site) = super::site(super::Server::Postgres).await {
                        super::$test(site).await;
                    }
                }
            )+
        }
    };
}

pub(crate) use on_each_server;

pub(crate) async fn site(server: Server) -> Option<Site> {
    let required = std::env::var("MICRO_TEST_REQUIRE").is_ok_and(|value| value == "1");
    match Site::new(server).await {
        Ok(site) => Some(site),
        Err(missing) => {
            let missing: Missing = missing;
            assert!(!required, "{server:?} is missing and required: {missing:?}");
            eprintln!("skipped, {server:?} is missing: {missing:?}");
            None
        }
    }
}

pub(crate) async fn connected(config: SqlConfig) -> SqlDatabase {
    SqlDatabase::connect(config).await.unwrap()
}

pub(crate) fn messages(count: u8) -> Vec<Message> {
    (0..count).map(|number| Message::keyed("t", vec![number], vec![number])).collect()
}

/// How many of this database's transactions wait for a lock.
pub(crate) async fn waiting_count(site: &Site, database: &SqlDatabase) -> i64 {
    let count = match site.server {
        Server::Mariadb => {
            "SELECT count(*) FROM information_schema.innodb_trx t JOIN information_schema.processlist p \
             ON p.id = t.trx_mysql_thread_id WHERE t.trx_state = 'LOCK WAIT' AND p.db = DATABASE()"
        }
        Server::Postgres => {
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        }
    };
    let rows = database.fetch_all(count, &[]);
    let rows = if site.server == Server::Mariadb { fresh(rows).await } else { rows.await };
    rows.unwrap()[0].get(0).unwrap()
}

/// Ends the connections of this database that wait for a lock, and no other: an owner that ended would
/// let them go on.
pub(crate) async fn kill_waiting(site: &Site, database_name: &str) {
    match site.server {
        Server::Mariadb => {
            let select = format!(
                "SELECT p.id FROM information_schema.innodb_trx t JOIN information_schema.processlist p \
                 ON p.id = t.trx_mysql_thread_id WHERE t.trx_state = 'LOCK WAIT' AND p.db = '{database_name}'"
            );
            for id in fresh(site.numbers(&select)).await {
                site.administrate(&format!("KILL CONNECTION {id}")).await;
            }
        }
        Server::Postgres => {
            let kill =
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname";
            site.administrate(&format!("{kill} = '{database_name}'")).await;
        }
    }
}

/// Ends every other connection of this database.
pub(crate) async fn kill_connections(site: &Site, database_name: &str) {
    match site.server {
        Server::Mariadb => {
            let select = format!("SELECT id FROM information_schema.processlist WHERE db = '{database_name}'");
            for id in site.numbers(&select).await {
                // One that ends by itself meanwhile is as good.
                let _ = site.try_administrate(&format!("KILL CONNECTION {id}")).await;
            }
        }
        Server::Postgres => {
            let kill =
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname";
            site.administrate(&format!("{kill} = '{database_name}'")).await;
        }
    }
}
