//! DTM, a client of it and participants, as a test finds them.

use std::{future::Future, panic::AssertUnwindSafe, time::Duration};

use bytes::Bytes;
use dev_servers::{Kind, Server, shared};
use futures_util::FutureExt as _;
use micro_core::saga::{Outcome, Saga, SagaCoordinator as _, SagaOptions, Step};
use micro_testkit::{Missing, eventually};
use micro_tx::dtm::{DtmClient, DtmConfig, StoreLimits, TransactionOptions, TransactionStatus, TwoPhaseMessage};
use prost::Message as _;

use super::branches::{Branches, JSON_RPC_PATH};

/// How long a test waits for what must happen: DTM makes the calls that are due one after the other, for
/// all tests, and the machine may be compiling beside it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// How long a branch may take where its test is not about that: a machine, or a database, may stand still for
/// longer than DTM's own three seconds.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a call may take that is held until its test has seen what it wants to see.
pub(crate) const HELD_TIMEOUT: Duration = Duration::from_secs(60);

/// By which of its APIs DTM is spoken to; the participants speak the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Grpc,
    Http,
    JsonRpc,
}

/// A test over gRPC and HTTP at the same time, for most of it is waiting, with the DTM that tests share;
/// skipped where there is none.
macro_rules! on_each_wire {
    ($($test:ident)+) => {
        mod on_each_wire {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    $crate::dtm::stage::on_both(super::$test).await;
                }
            )+
        }
    };
}

pub(crate) use on_each_wire;

/// As [`on_each_wire`], over JSON-RPC too.
macro_rules! on_all_wires {
    ($($test:ident)+) => {
        mod on_all_wires {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    tokio::join!(
                        $crate::dtm::stage::on_both(super::$test),
                        $crate::dtm::stage::on(super::$test, $crate::dtm::stage::Wire::JsonRpc),
                    );
                }
            )+
        }
    };
}

pub(crate) use on_all_wires;

/// Runs a test over both; which one fails stands before its panic's text.
pub(crate) async fn on_both<F>(test: fn(Stage) -> F)
where
    F: Future<Output = ()>,
{
    tokio::join!(on(test, Wire::Grpc), on(test, Wire::Http));
}

pub(crate) async fn on<F>(test: fn(Stage) -> F, wire: Wire)
where
    F: Future<Output = ()>,
{
    let Some(stage) = Stage::shared(wire).await else { return };
    if let Err(panic) = AssertUnwindSafe(test(stage)).catch_unwind().await {
        eprintln!("over {wire:?}");
        std::panic::resume_unwind(panic);
    }
}

pub(crate) struct Stage {
    pub(crate) wire: Wire,
    pub(crate) dtm: DtmClient,
    pub(crate) branches: Branches,
}

/// What is there, or `None` after saying why the test is skipped; one that is required fails.
pub(crate) fn there<T>(outcome: Result<T, Missing>) -> Option<T> {
    let required = std::env::var("MICRO_TEST_REQUIRE").is_ok_and(|value| value == "1");
    match outcome {
        Ok(found) => Some(found),
        Err(missing) => {
            assert!(!required, "DTM is missing and required: {missing:?}");
            eprintln!("skipped, DTM is missing: {missing:?}");
            None
        }
    }
}

pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// The settings for a DTM at this URL by this wire; what becomes of transactions is known by either.
pub(crate) fn config(url: &str, wire: Wire) -> DtmConfig {
    let mut config = DtmConfig::from_url(url).unwrap();
    if wire != Wire::Grpc {
        config.grpc = None;
    }
    config.is_json_rpc = wire == Wire::JsonRpc;
    patient(config)
}

/// Settings with which a DTM is waited for that stands still for a while.
pub(crate) fn patient(mut config: DtmConfig) -> DtmConfig {
    config.connect_timeout = 10 * SECOND;
    config.request_timeout = 30 * SECOND;
    config.wait_timeout = 60 * SECOND;
    config
}

/// Where the DTM is that tests share.
pub(crate) async fn shared_url(kind: Kind) -> Option<String> {
    there(blocking(move || shared(kind)).await.map_err(Missing::new))
}

/// A DTM of a test's own, with its data in MariaDB: it may be killed, and whatever is done to all its
/// transactions is done to no other test's.
pub(crate) async fn own() -> Option<Server> {
    there(blocking(|| Server::start(Kind::DtmMysql)).await.map_err(Missing::new))
}

impl Stage {
    /// On the DTM that tests share, with its data in a file.
    pub(crate) async fn shared(wire: Wire) -> Option<Self> {
        Self::on(Kind::Dtm, wire).await
    }

    pub(crate) async fn on(kind: Kind, wire: Wire) -> Option<Self> {
        let url = shared_url(kind).await?;
        Some(Self::at(&url, wire).await)
    }

    pub(crate) async fn at(url: &str, wire: Wire) -> Self {
        let dtm = DtmClient::connect(config(url, wire)).await.unwrap();
        Self { wire, dtm, branches: Branches::serve().await }
    }

    /// A client that knows the wire's own API alone.
    pub(crate) fn without_queries(&self, url: &str) -> DtmClient {
        let mut config = config(url, self.wire);
        if self.wire == Wire::Grpc {
            config.http = None;
        }
        config.store_limits = StoreLimits::None;
        DtmClient::new(config).unwrap()
    }

    /// Where a participant is called.
    pub(crate) fn url(&self, method: &str) -> String {
        match self.wire {
            Wire::Grpc => self.grpc_url(method),
            Wire::Http => self.http_url(method),
            Wire::JsonRpc => format!("http://{}{JSON_RPC_PATH}?method={method}", self.branches.http),
        }
    }

    pub(crate) fn grpc_url(&self, method: &str) -> String {
        format!("{}/busi.Busi/{method}", self.branches.grpc)
    }

    pub(crate) fn http_url(&self, method: &str) -> String {
        format!("http://{}/api/{method}", self.branches.http)
    }

    pub(crate) fn payload(&self, text: &str) -> Bytes {
        match self.wire {
            Wire::Grpc => text.to_owned().encode_to_vec().into(),
            Wire::Http => format!("{text:?}").into(),
            Wire::JsonRpc => serde_json::json!({ "name": text }).to_string().into(),
        }
    }

    pub(crate) fn step(&self, name: &str) -> Step {
        Step::new(self.url(name)).compensation(self.url(&format!("{name}Revert"))).payload(self.payload(name))
    }

    /// TransOut, then TransIn.
    pub(crate) fn saga(&self, mut options: SagaOptions) -> Saga {
        options.request_timeout.get_or_insert(CALL_TIMEOUT);
        Saga::new().step(self.step("TransOut")).step(self.step("TransIn")).options(options)
    }

    pub(crate) fn message(&self) -> TwoPhaseMessage {
        TwoPhaseMessage::new()
            .options(options())
            .call(self.url("TransOut"), self.payload("TransOut"))
            .call(self.url("TransIn"), self.payload("TransIn"))
            .query_prepared(self.query_url())
    }

    /// Where DTM asks about a message, which it cannot in JSON-RPC.
    pub(crate) fn query_url(&self) -> String {
        match self.wire {
            Wire::Grpc => self.grpc_url("QueryPrepared"),
            Wire::Http | Wire::JsonRpc => self.http_url("QueryPrepared"),
        }
    }

    pub(crate) async fn submit(&self, saga: &Saga) -> Outcome {
        self.dtm.coordinator().submit(saga.clone()).await.unwrap()
    }

    pub(crate) async fn status(&self, gid: &str) -> TransactionStatus {
        self.dtm.query(gid).await.unwrap().expect("DTM knows it").transaction.status
    }

    /// Waits until a transaction is in this state.
    pub(crate) async fn until(&self, gid: &str, status: TransactionStatus) {
        eventually(PATIENCE, "the state", async || {
            let current = self.status(gid).await;
            (current == status).then_some(()).ok_or(format!("{current}, not {status}"))
        })
        .await;
    }

    /// Waits until the participants were called so often.
    pub(crate) async fn until_called(&self, gid: &str, count: usize) {
        eventually(PATIENCE, "the calls", async || {
            let calls = self.branches.calls(gid);
            (calls.len() >= count).then_some(()).ok_or(format!("{calls:?}"))
        })
        .await;
    }

    /// Waits until the participants were called for this: `01/action`.
    pub(crate) async fn until_seen(&self, gid: &str, name: &str) {
        eventually(PATIENCE, name, async || {
            let calls = self.branches.calls(gid);
            calls.iter().any(|call| call == name).then_some(()).ok_or(format!("{calls:?}"))
        })
        .await;
    }

    /// The states of the branches, in the order in which DTM keeps them.
    pub(crate) async fn states(&self, gid: &str) -> Vec<String> {
        let details = self.dtm.query(gid).await.unwrap().expect("DTM knows it");
        details.branches.into_iter().map(|branch| branch.status).collect()
    }

    pub(crate) async fn reason(&self, gid: &str) -> String {
        self.dtm.query(gid).await.unwrap().expect("DTM knows it").transaction.rollback_reason
    }
}

pub(crate) fn waiting() -> SagaOptions {
    let mut options = SagaOptions::default();
    options.is_waited_for = true;
    options
}

/// Looks again after a second.
pub(crate) fn impatient() -> SagaOptions {
    let mut options = SagaOptions::default();
    options.retry_interval = Some(SECOND);
    options
}

/// Looks again after four seconds: until then the test sees what the first look left.
pub(crate) fn unhurried() -> SagaOptions {
    let mut options = SagaOptions::default();
    options.retry_interval = Some(4 * SECOND);
    options
}

/// Those of a transaction whose branches have time.
pub(crate) fn options() -> TransactionOptions {
    let mut options = TransactionOptions::default();
    options.request_timeout = Some(CALL_TIMEOUT);
    options
}
