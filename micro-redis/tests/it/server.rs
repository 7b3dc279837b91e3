//! The Redis that the tests share, and one of a test's own.

use std::time::Duration;

use dev_servers::{Kind, Server, shared};
use micro_redis::{RedisBarrier, RedisConfig};
use micro_testkit::Missing;
use redis::{AsyncConnectionConfig, aio::MultiplexedConnection};

/// How long a test waits for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What is there, or `None` after saying why the test is skipped; one that is required fails.
pub(crate) fn there<T>(outcome: Result<T, String>) -> Option<T> {
    let required = std::env::var("MICRO_TEST_REQUIRE").is_ok_and(|value| value == "1");
    match outcome.map_err(Missing::new) {
        Ok(found) => Some(found),
        Err(missing) => {
            assert!(!required, "Redis is missing and required: {missing:?}");
            eprintln!("skipped, Redis is missing: {missing:?}");
            None
        }
    }
}

/// Where the Redis is that tests share.
pub(crate) async fn shared_url() -> Option<String> {
    there(blocking(|| shared(Kind::Redis)).await)
}

/// A Redis of a test's own, with these settings.
pub(crate) async fn own(settings: &'static [(&'static str, &'static str)]) -> Option<Server> {
    there(blocking(move || Server::start_with(Kind::Redis, settings)).await)
}

/// A Redis of a test's own, with settings that the test makes.
pub(crate) async fn own_with(settings: Vec<(&'static str, String)>) -> Option<Server> {
    let start = move || {
        let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Server::start_with(Kind::Redis, &settings)
    };
    there(blocking(start).await)
}

pub(crate) async fn connected(url: &str) -> RedisBarrier {
    RedisBarrier::connect(patient(url)).await.unwrap()
}

/// The settings with this URL, and time for what must happen.
pub(crate) fn patient(url: &str) -> RedisConfig {
    let mut config = RedisConfig::from_url(url).unwrap();
    (config.connect_timeout, config.request_timeout) = (PATIENCE, PATIENCE);
    config
}

/// Redis's own client, as anybody has it.
pub(crate) async fn outsider(url: &str) -> MultiplexedConnection {
    let config =
        AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE)).set_connection_timeout(Some(PATIENCE));
    redis::Client::open(url).unwrap().get_multiplexed_async_connection_with_config(&config).await.unwrap()
}

/// Runs what blocks beside the runtime.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}
