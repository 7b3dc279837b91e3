//! The health of an application whose database goes away and comes back.

use std::time::{Duration, Instant};

use micro_core::{
    Health, HealthStatus,
    app::{App, Component as _, ProbeConfig},
};
use micro_testkit::eventually;

use crate::{
    faults::{blocking, own},
    server::{Server, Site},
    sqlite::File,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// How long it takes until it is seen: two questions, a second apart, an answer's five seconds for each,
/// and what a busy machine needs.
const SEEN: Duration = Duration::from_secs(40);

fn waiting(timeout: Duration) -> ProbeConfig {
    let mut config = ProbeConfig::default();
    config.timeout = timeout;
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_follows_a_mariadb_that_is_killed_and_frozen() {
    if let Some(server) = own(Server::Mariadb).await {
        health_follows(Server::Mariadb, server).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_follows_a_postgres_that_is_killed_and_frozen() {
    if let Some(server) = own(Server::Postgres).await {
        health_follows(Server::Postgres, server).await;
    }
}

async fn health_follows(kind: Server, mut server: dev_servers::Server) {
    let site = Site::at(kind, server.url().to_owned()).await;
    let database = site.database().await;
    let app = App::builder("orders").component(database.probe().config(waiting(Duration::from_secs(5)))).build();
    let running = app.start().await.unwrap();
    let health = running.health().clone();
    assert!(health.is_serving());
    let mut changes = health.watch();

    server = blocking(move || {
        server.kill();
        server
    })
    .await;
    becomes(&health, false, SEEN).await;
    server = blocking(move || {
        server.restart().expect("the server starts again");
        server
    })
    .await;
    becomes(&health, true, SEEN).await;

    server.pause();
    becomes(&health, false, SEEN).await;
    let told = changes.borrow_and_update()["database"].clone();
    assert!(matches!(told, HealthStatus::NotServing(_)), "{told:?}");
    let frozen = Instant::now();
    eventually(PATIENCE, "it is frozen for five seconds", || async { frozen.elapsed() > Duration::from_secs(5) }).await;
    assert!(!changes.has_changed().unwrap(), "what goes on is told once");
    server.resume();
    becomes(&health, true, SEEN).await;
    running.stop().await.unwrap();
    database.close().await;
}

async fn becomes(health: &Health, is_serving: bool, limit: Duration) {
    eventually(limit, &format!("serving is {is_serving}"), || async {
        if health.is_serving() == is_serving { Ok(()) } else { Err(format!("{:?}", health.parts())) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_needs_no_connection_of_a_pool_that_is_busy() {
    use micro_core::TransactionManager as _;

    let Some(site) = micro_testkit::ready::<OnMariadb>().await else { return };
    let mut config = site.0.config();
    config.connection_count_max = Some(1);
    let database = site.0.database_with(config).await;
    let busy = database.begin().await.unwrap();
    let probe = database.probe().config(waiting(Duration::from_secs(10)));
    probe.start(&Health::new()).await.unwrap();
    probe.close().await.unwrap();
    busy.rollback().await.unwrap();
    database.close().await;
}

struct OnMariadb(Site);

impl micro_testkit::Fixture for OnMariadb {
    async fn start() -> Result<Self, micro_testkit::Missing> {
        Site::new(Server::Mariadb).await.map(Self)
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

#[tokio::test]
async fn sqlite_answers() {
    let file = File::new();
    let database = file.database().await;
    let health = Health::new();
    let probe = database.probe().config(waiting(Duration::from_secs(10)));
    probe.start(&health).await.unwrap();
    assert_eq!(health.parts()["database"], HealthStatus::Serving);
    probe.close().await.unwrap();
}
