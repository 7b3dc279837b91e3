//! The main job on real servers: Kafka and Consul, with MariaDB and with PostgreSQL.

use std::time::Duration;

use dev_servers::Kind;
use micro_testkit::{Fixture, Missing, unique};
use micro_tx::SqlDatabase;
use payment_chain::site::patient;

use crate::{assert_clean, run};

/// The servers that a run needs.
struct Servers {
    registry: String,
    broker: String,
    database: String,
}

impl Servers {
    async fn with(database: Kind) -> Result<Self, Missing> {
        let shared = move || {
            let url = |kind| dev_servers::shared(kind).map_err(Missing::new);
            Ok(Self { registry: url(Kind::Consul)?, broker: url(Kind::Kafka)?, database: url(database)? })
        };
        tokio::task::spawn_blocking(shared).await.expect("no panic")
    }

    fn arguments<'a>(&'a self, numbers: &[&'a str]) -> Vec<&'a str> {
        let servers = ["--registry", &self.registry, "--broker", &self.broker];
        numbers.iter().copied().chain(servers).collect()
    }

    /// A run with databases of its own.
    fn run(&self, numbers: &[&str]) -> (serde_json::Value, bool) {
        let mut arguments = self.arguments(numbers);
        arguments.extend(["--database", &self.database]);
        run(&arguments)
    }

    /// The databases of runs on these servers that are there now.
    async fn databases(&self) -> Vec<String> {
        let (url, statement) = match self.database.starts_with("postgres") {
            true => (format!("{}/postgres", self.database), "SELECT CONCAT(datname, '') FROM pg_database"),
            false => (self.database.clone(), "SELECT schema_name FROM information_schema.schemata"),
        };
        let server = SqlDatabase::connect(patient(&url)).await.unwrap();
        let rows = server.fetch_all(statement, &[]).await.unwrap();
        server.close().await;
        rows.iter().map(|row| row.get::<String>(0).unwrap()).collect()
    }
}

macro_rules! fixture {
    ($name:ident, $kind:expr) => {
        struct $name(Servers);

        impl Fixture for $name {
            async fn start() -> Result<Self, Missing> {
                Servers::with($kind).await.map(Self)
            }

            fn patience(&self) -> Duration {
                Duration::from_secs(60)
            }
        }
    };
}

fixture!(OnMariadb, Kind::Mariadb);
fixture!(OnPostgres, Kind::Postgres);

macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod on_mariadb {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(fixture) = micro_testkit::ready::<super::OnMariadb>().await {
                    super::$name(fixture.0).await;
                }
            })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(fixture) = micro_testkit::ready::<super::OnPostgres>().await {
                    super::$name(fixture.0).await;
                }
            })*
        }
    };
}

on_both!(
    ten_thousand_orders_with_duplicates_and_poison_are_clean,
    two_runs_on_the_same_servers_do_not_see_each_other,
    a_second_run_goes_on_where_the_first_one_ended,
    one_core_settles_every_order_on_each_of_three_wires,
);

async fn one_core_settles_every_order_on_each_of_three_wires(servers: Servers) {
    let mut arguments = servers.arguments(&["--orders", "200", "--skus", "4", "--stock", "60"]);
    arguments.extend(["--database", &servers.database]);
    crate::assert_every_wire_is_clean(&arguments);
}

/// The same saga, carried out by DTM's own server: a setting.
#[cfg(feature = "tx-dtm")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saga_moves_to_a_dtm_server_by_a_setting() {
    let Some(servers) = micro_testkit::ready::<OnMariadb>().await else { return };
    let dtm = tokio::task::spawn_blocking(|| dev_servers::shared(Kind::Dtm)).await.unwrap().expect("MariaDB was there");
    let (report, is_success) =
        servers.0.run(&["--orders", "60", "--skus", "1", "--stock", "40", "--wire", "dtm", "--dtm", &dtm]);
    assert_clean(&report, is_success);
    assert_eq!((&report["paid"], &report["refused"]), (&40.into(), &20.into()), "{report}");
}

/// All three, the saga on DTM's own server.
#[cfg(feature = "tx-dtm")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wire_is_clean_with_a_dtm_server() {
    let Some(servers) = micro_testkit::ready::<OnMariadb>().await else { return };
    let dtm =
        tokio::task::spawn_blocking(|| dev_servers::shared(Kind::DtmMysql)).await.unwrap().expect("MariaDB was there");
    let numbers = ["--orders", "100", "--skus", "4", "--stock", "30", "--dtm", &dtm];
    let arguments: Vec<&str> =
        servers.0.arguments(&numbers).into_iter().chain(["--database", &servers.0.database]).collect();
    crate::assert_every_wire_is_clean(&arguments);
}

async fn ten_thousand_orders_with_duplicates_and_poison_are_clean(servers: Servers) {
    let numbers = ["--orders", "10000", "--skus", "40", "--stock", "230"];
    let shares = ["--duplicate-percent", "5", "--poison-percent", "1"];
    let (report, is_success) = servers.run(&[&numbers[..], &shares].concat());
    assert_clean(&report, is_success);
    assert_eq!(report["accepted"], 10_000);
    assert_eq!((&report["poison"], &report["dead_letters"]), (&100.into(), &100.into()));
    assert!(report["duplicate_records"].as_u64().unwrap() > 500, "{report}");
    assert!(report["paid"].as_u64().unwrap() > 0 && report["refused"].as_u64().unwrap() > 0, "{report}");
    let name = report["run"].as_str().unwrap();
    assert!(name.starts_with("payment_chain_"), "{report}");
    let left: Vec<String> = servers.databases().await.into_iter().filter(|left| left.starts_with(name)).collect();
    assert_eq!(left, [""; 0], "the run's databases are gone");
}

async fn two_runs_on_the_same_servers_do_not_see_each_other(servers: Servers) {
    let numbers = ["--orders", "100", "--skus", "2", "--stock", "1000", "--poison-percent", "2"];
    std::thread::scope(|scope| {
        for one in [scope.spawn(|| servers.run(&numbers)), scope.spawn(|| servers.run(&numbers))] {
            let (report, is_success) = one.join().unwrap();
            assert_clean(&report, is_success);
            assert_eq!((&report["paid"], &report["dead_letters"]), (&100.into(), &2.into()), "{report}");
        }
    });
}

async fn a_second_run_goes_on_where_the_first_one_ended(servers: Servers) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let name = unique("chain").replace('-', "_");
    let name = &name[..name.len().min(40)];
    let database = format!("{}/{name}", servers.database);
    let numbers = ["--orders", "60", "--skus", "1", "--stock", "40", "--database", &database, "--operations", folder];
    for is_resumed in [false, true] {
        let (report, is_success) = run(&servers.arguments(&numbers));
        assert_clean(&report, is_success);
        assert_eq!((&report["paid"], &report["refused"]), (&40.into(), &20.into()), "{report}");
        assert_eq!(report["resumed"], is_resumed, "{report}");
    }
    let names = servers.databases().await;
    for suffix in ["orders", "products"] {
        assert!(names.contains(&format!("{name}_{suffix}")), "what has a name is kept");
    }
    let url = if servers.database.starts_with("postgres") {
        format!("{}/postgres", servers.database)
    } else {
        servers.database.clone()
    };
    let server = SqlDatabase::connect(patient(&url)).await.unwrap();
    for suffix in ["orders", "products"] {
        server.execute(&format!("DROP DATABASE {name}_{suffix}"), &[]).await.unwrap();
    }
    server.close().await;
}
