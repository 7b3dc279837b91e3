//! The program as its users run it.

use std::{
    io::{BufRead as _, BufReader, Lines},
    process::{Child, ChildStdout, Command, Stdio},
};

use crate::http;

const PROGRAM: &str = env!("CARGO_BIN_EXE_embed");

/// A running shop, killed when the test ends, however it ends.
struct Running {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut process = Command::new(PROGRAM).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().unwrap().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Orders two of three, and looks at what the program prints.
fn sells(broker: &str) {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", folder.path().join("shop.db").display());
    let mut shop = Running::start(&["--address", "127.0.0.1:0", "--database", &database, "--broker", broker]);
    let line = shop.line();
    let address = line.strip_prefix("the shop is open at ").unwrap();

    assert_eq!(http::order(address, 3, "T-SHIRT-M").0, 201);
    assert_eq!(shop.line(), "order 1: 3 of T-SHIRT-M was placed");
    assert_eq!(http::order(address, 8, "T-SHIRT-M"), (409, "out of stock".to_owned()));
    assert_eq!(http::order(address, 7, "T-SHIRT-M").0, 201);
    assert_eq!(shop.line(), "order 2: 7 of T-SHIRT-M was placed");
    let found = http::request(address, "GET", "/orders/2", "");
    assert_eq!(found, (200, r#"{"id":2,"sku":"T-SHIRT-M","quantity":7}"#.to_owned()));
    assert_eq!(http::request(address, "GET", "/orders/3", "").0, 404);

    #[cfg(unix)]
    {
        let told = Command::new("kill").args(["-s", "INT", &shop.process.id().to_string()]).status().unwrap();
        assert!(told.success());
        assert_eq!(shop.line(), "the shop is closed, 0 events wait for the next start");
        assert!(shop.process.wait().unwrap().success());
    }
}

#[test]
fn the_shop_sells_and_tells_on_the_memory_broker() {
    sells("memory:");
}

#[cfg(feature = "broker-kafka")]
mod on_kafka {
    use std::time::Duration;

    use dev_servers::{Kind, Server};
    use micro_testkit::{Fixture, Missing, ready};
    use tokio::task::spawn_blocking;

    /// A server of its own: the topic's name is the event's, so a shared one may hold others' events.
    struct OwnKafka(Server);

    impl Fixture for OwnKafka {
        async fn start() -> Result<Self, Missing> {
            spawn_blocking(|| Server::start(Kind::Kafka)).await.unwrap().map(Self).map_err(Missing::new)
        }

        fn patience(&self) -> Duration {
            Duration::from_secs(60)
        }
    }

    #[tokio::test]
    async fn the_shop_sells_and_tells_on_kafka() {
        if let Some(kafka) = ready::<OwnKafka>().await {
            spawn_blocking(move || super::sells(kafka.0.url())).await.unwrap();
        }
    }
}

#[test]
fn a_broker_that_is_not_there_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", folder.path().join("shop.db").display());
    let output =
        Command::new(PROGRAM).args(["--database", &database, "--broker", "amqp://guest@rabbit"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no such broker: expected memory:"), "{output:?}");
}
