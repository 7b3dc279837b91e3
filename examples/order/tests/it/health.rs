//! What callers are told of a service whose database goes away: `grpc.health.v1`.

use std::{sync::Arc, time::Duration};

use dev_servers::{Kind, Server};
use micro_core::{
    broker::MemoryBroker,
    registry::{MemoryRegistry, Registry as _},
};
use micro_testkit::{Fixture, Missing, ready};
use order::{
    bootstrap::{Plugged, assemble},
    config::OrderConfig,
};
use tonic::transport::Endpoint;
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    databases::{Databases, PATIENCE},
    shop::patient,
};

/// Two questions of the probe and what a busy machine needs.
const TOLD_WITHIN: Duration = Duration::from_secs(90);

/// A MariaDB that the test kills.
struct Killable(Server);

impl Fixture for Killable {
    async fn start() -> Result<Self, Missing> {
        blocking(|| Server::start(Kind::Mariadb)).await.map(Self).map_err(Missing::new)
    }

    fn patience(&self) -> Duration {
        TOLD_WITHIN
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_are_told_once_that_the_database_is_away_and_once_that_it_is_back() {
    let Some(Killable(mut server)) = ready::<Killable>().await else { return };
    let test = Databases::Server(server.url().to_owned()).create("orders").await;
    let registry = Arc::new(MemoryRegistry::new());
    let mut config = OrderConfig::default();
    config.probe.timeout = PATIENCE;
    config.app = patient();
    let plugged =
        Plugged { registry: registry.clone(), broker: Arc::new(MemoryBroker::new()), database: test.database.clone() };
    let running = assemble(&config, &plugged).await.unwrap().into_app(&plugged).start().await.unwrap();
    let address = registry.instances(&config.service).await.unwrap()[0].address.clone();
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel);
    let mut told = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    let mut next = async || tokio::time::timeout(TOLD_WITHIN, told.message()).await;
    assert_eq!(status(next().await.unwrap().unwrap()), ServingStatus::Serving);

    for _ in 0..2 {
        server = blocking(move || {
            server.kill();
            server
        })
        .await;
        assert_eq!(status(next().await.expect("told in time").unwrap()), ServingStatus::NotServing);
        server = blocking(move || {
            server.restart().expect("the server starts again");
            server
        })
        .await;
        assert_eq!(status(next().await.expect("told in time").unwrap()), ServingStatus::Serving);
    }
    running.stop().await.unwrap();
    drop(test);
}

fn status(answer: Option<HealthCheckResponse>) -> ServingStatus {
    answer.expect("the watch goes on").status()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("it does not panic")
}
