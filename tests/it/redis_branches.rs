//! Participants whose work is an integer of Redis, called by the real DTM: DTM's own tests of the names
//! that stand there.

use std::{collections::HashMap, io::Write as _, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Path, Query, State},
    http::StatusCode,
};
use dev_servers::{Kind, shared};
use micro_rs::{
    core::{
        Error, ErrorKind,
        barrier::{Barrier, Prepared},
        branch::{Branch, BranchAnswer, BranchError, HttpAnswer, Mode, Op},
        saga::{BranchCaller as _, BranchRequest, Outcome, Saga, SagaCoordinator as _, SagaOptions, Step},
    },
    redis::{RedisBarrier, RedisConfig},
    tx::dtm::{
        BranchRegistration, DtmClient, DtmConfig, Tcc, TransactionOptions,
        TransactionStatus::{self, Failed, Succeeded},
        TwoPhaseMessage,
    },
};
use micro_testkit::{eventually, unique};

/// DTM makes the calls that are due one after the other, for all tests.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long DTM, Redis and a branch may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Two integers of 100 and who moves them; DTM.
struct Bank {
    dtm: DtmClient,
    teller: Arc<Teller>,
    address: String,
}

struct Teller {
    barrier: RedisBarrier,
    out: String,
    into: String,
}

impl Teller {
    async fn call(&self, branch: &Branch, method: &str, amount: &str) -> Result<(), BranchError> {
        if branch.op == Op::Msg {
            return self.barrier.prepared(&branch.gid).await?.answer();
        }
        let amount: i64 = amount.parse().unwrap();
        let (key, amount) = if method.contains("Out") { (&self.out, -amount) } else { (&self.into, amount) };
        let amount = if branch.op.origin().is_some() { -amount } else { amount };
        self.barrier.adjust(&mut Barrier::new(branch.clone()), key, amount).await.map(drop)
    }

    async fn accounts(&self) -> [i64; 2] {
        let read = async |key: &str| self.barrier.adjust(&mut Barrier::default(), key, 0).await.unwrap().unwrap();
        [read(&self.out).await, read(&self.into).await]
    }
}

async fn serve(
    State(teller): State<Arc<Teller>>,
    Path(method): Path<String>,
    Query(parts): Query<HashMap<String, String>>,
    amount: String,
) -> (StatusCode, String) {
    let branch = Branch::read(|name| parts.get(name).cloned()).unwrap().unwrap();
    let answer = HttpAnswer::of(&method, Some(&branch), teller.call(&branch, &method, &amount).await);
    (StatusCode::from_u16(answer.status).unwrap(), answer.body)
}

/// Where a server is; `None` after saying why the test is skipped, unless it is required.
async fn url(kind: Kind) -> Option<String> {
    let found = tokio::task::spawn_blocking(move || shared(kind)).await.unwrap();
    let missing = match found {
        Ok(url) => return Some(url),
        Err(missing) => missing,
    };
    let required = std::env::var("MICRO_TEST_REQUIRE").is_ok_and(|value| value == "1");
    assert!(!required, "{kind} is missing and required: {missing}");
    eprintln!("skipped, {kind} is missing: {missing}");
    None
}

impl Bank {
    async fn open() -> Option<Self> {
        let redis = url(Kind::Redis).await?;
        let mut config = DtmConfig::from_url(&url(Kind::Dtm).await?).unwrap();
        config.grpc = None;
        (config.connect_timeout, config.request_timeout) = (ANSWER_MAX, ANSWER_MAX);
        config.wait_timeout = PATIENCE;
        let dtm = DtmClient::connect(config).await.unwrap();
        let [out, into] = ["out", "in"].map(unique);
        let address = redis.trim_start_matches("redis://").to_owned();
        let commands = format!("SET {out} 100\r\nSET {into} 100\r\n");
        std::net::TcpStream::connect(address).unwrap().write_all(commands.as_bytes()).unwrap();
        let mut config = RedisConfig::from_url(&redis).unwrap();
        (config.connect_timeout, config.request_timeout) = (ANSWER_MAX, ANSWER_MAX);
        let barrier = RedisBarrier::connect(config).await.unwrap();
        let teller = Arc::new(Teller { barrier, out, into });
        eventually(PATIENCE, "the accounts are there", || {
            let teller = teller.clone();
            async move { teller.barrier.adjust(&mut Barrier::default(), &teller.into, 0).await.is_ok() }
        })
        .await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = Router::new().route("/api/{method}", axum::routing::any(serve)).with_state(teller.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Some(Self { dtm, teller, address })
    }

    fn url(&self, method: &str) -> String {
        format!("http://{}/api/{method}", self.address)
    }

    fn transfer(&self, method: &str, amount: i64) -> Step {
        Step::new(self.url(method)).compensation(self.url(&format!("{method}Revert"))).payload(amount.to_string())
    }

    async fn carried_out(&self, steps: [Step; 2]) -> Outcome {
        let [first, second] = steps;
        let mut options = SagaOptions::default();
        options.is_waited_for = true;
        let saga = Saga::new().step(first).step(second).options(options);
        let (coordinator, gid) = (self.dtm.coordinator(), saga.gid.clone());
        let outcome = coordinator.submit(saga).await.unwrap();
        if outcome != Outcome::StillRunning {
            return outcome;
        }
        eventually(PATIENCE, "the outcome", async || match coordinator.outcome(&gid).await {
            Ok(Some(outcome)) if outcome != Outcome::StillRunning => Ok(outcome),
            other => Err(other),
        })
        .await
    }

    /// A message that moves to the one account what its local part takes from the other one.
    fn message(&self) -> TwoPhaseMessage {
        TwoPhaseMessage::new().call(self.url("TransIn"), "30").query_prepared(self.url("QueryPrepared"))
    }

    async fn take(&self, barrier: &mut Barrier, amount: i64) -> Result<Option<i64>, BranchError> {
        self.teller.barrier.adjust(barrier, &self.teller.out, -amount).await
    }

    async fn until(&self, gid: &str, status: TransactionStatus) {
        eventually(PATIENCE, "the state", async || {
            let found = self.dtm.query(gid).await.map_err(|error| error.report())?;
            let current = found.expect("DTM knows it").transaction.status;
            if current == status { Ok(()) } else { Err(format!("{current}, not {status}")) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_41_saga_barrier_redis_normal() {
    let Some(bank) = Bank::open().await else { return };
    let outcome = bank.carried_out([bank.transfer("TransOut", 30), bank.transfer("TransIn", 30)]).await;
    assert_eq!((outcome, bank.teller.accounts().await), (Outcome::Succeeded, [70, 130]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_41_saga_barrier_redis_rollback() {
    let Some(bank) = Bank::open().await else { return };
    let outcome = bank.carried_out([bank.transfer("TransIn", 130), bank.transfer("TransOut", 130)]).await;
    let Outcome::RolledBack { reason } = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("100, and -130 to add"), "{reason}");
    assert_eq!(bank.teller.accounts().await, [100, 100]);
}

/// The cancelling comes three times at once, from DTM and twice from here, and the reservation after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_51_tcc_barrier_disorder_redis() {
    let Some(bank) = Bank::open().await else { return };
    let mut options = TransactionOptions::default();
    options.is_waited_for = true;
    let tcc = Tcc::new().options(options);
    let [cancel, late] = [Op::Cancel, Op::Try].map(|op| Branch::new(Mode::Tcc, &tcc.gid, "01", op).unwrap());
    let (cancel_url, try_url) = (bank.url("TransOutCancel"), bank.url("TransOutTry"));
    let call = async |url: &str, branch: &Branch| {
        let request = BranchRequest::new(url, branch).payload("30".into()).timeout(ANSWER_MAX);
        bank.dtm.caller().call(request).await.unwrap()
    };
    let given_up = bank.dtm.tcc(&tcc, async |_| {
        let registration = BranchRegistration::new(Mode::Tcc, &tcc.gid, "01")
            .data("confirm", bank.url("TransOutConfirm"))
            .data("cancel", &cancel_url)
            .payload("30");
        bank.dtm.register_branch(&registration).await?;
        Err::<(), _>(Error::new(ErrorKind::Unavailable, "transfer", "the try did not come back"))
    });
    let (given_up, first, second) = tokio::join!(given_up, call(&cancel_url, &cancel), call(&cancel_url, &cancel));
    given_up.unwrap_err();
    assert_eq!((first, second), (BranchAnswer::Succeeded, BranchAnswer::Succeeded));
    bank.until(&tcc.gid, Failed).await;
    assert_eq!(call(&try_url, &late).await, BranchAnswer::Succeeded, "it is done with");
    assert_eq!(bank.teller.accounts().await, [100, 100]);
    let branches = bank.dtm.query(&tcc.gid).await.unwrap().unwrap().branches;
    assert_eq!(branches.iter().map(|branch| branch.status.as_str()).collect::<Vec<_>>(), ["succeed", "prepared"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_69_msg_redis_do_and_submit() {
    let Some(bank) = Bank::open().await else { return };
    let message = bank.message();
    let done = bank.dtm.do_and_submit(&message, async |mut barrier| bank.take(&mut barrier, 30).await).await;
    assert_eq!(done.unwrap(), Some(70));
    bank.until(&message.gid, Succeeded).await;
    assert_eq!(bank.teller.accounts().await, [70, 130], "moved once");
    assert_eq!(bank.teller.barrier.prepared(&message.gid).await.unwrap(), Prepared::Committed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_69_msg_redis_busi_failed() {
    let Some(bank) = Bank::open().await else { return };
    let message = bank.message();
    let done = bank.dtm.do_and_submit(&message, async |mut barrier| bank.take(&mut barrier, 130).await).await;
    assert!(matches!(done, Err(BranchError::Failed(_))), "{done:?}");
    bank.until(&message.gid, Failed).await;
    assert_eq!(bank.teller.accounts().await, [100, 100]);
}

/// DTM asked before the local part began, which forbids it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_69_msg_redis_busi_later() {
    let Some(bank) = Bank::open().await else { return };
    let message = bank.message();
    assert_eq!(bank.teller.barrier.prepared(&message.gid).await.unwrap(), Prepared::RolledBack);
    let done = bank.dtm.do_and_submit(&message, async |mut barrier| bank.take(&mut barrier, 30).await).await;
    let Err(BranchError::Other(error)) = done else { panic!("{done:?}") };
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    bank.until(&message.gid, Failed).await;
    assert_eq!(bank.teller.accounts().await, [100, 100]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_69_msg_redis_prepare_failed() {
    let Some(bank) = Bank::open().await else { return };
    let nobody = DtmClient::new(DtmConfig::from_url("http://127.0.0.1:1").unwrap()).unwrap();
    let done = nobody.do_and_submit(&bank.message(), async |mut barrier| bank.take(&mut barrier, 30).await).await;
    let Err(BranchError::Other(error)) = done else { panic!("{done:?}") };
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(bank.teller.accounts().await, [100, 100], "the local part is not run");
}

/// The request to Redis did not get there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_69_msg_redis_commit_failed() {
    let Some(bank) = Bank::open().await else { return };
    let message = bank.message();
    let lost = Error::new(ErrorKind::Unavailable, "barrier.adjust", "no Redis answers");
    let done = bank.dtm.do_and_submit(&message, async |_| Err::<Option<()>, _>(lost)).await;
    assert_eq!(done.unwrap_err().kind(), ErrorKind::Unavailable);
    bank.until(&message.gid, Failed).await;
    assert_eq!(bank.teller.accounts().await, [100, 100]);
}

/// Redis did it, and its answer was lost: the message is sent, and the error is returned.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_69_msg_redis_commit_after_failed() {
    let Some(bank) = Bank::open().await else { return };
    let message = bank.message();
    let done = bank.dtm.do_and_submit(&message, async |mut barrier| {
        bank.take(&mut barrier, 30).await?;
        let lost = Error::new(ErrorKind::DeadlineExceeded, "barrier.adjust", "Redis did not answer in time");
        Err::<Option<()>, BranchError>(lost.into())
    });
    done.await.unwrap_err();
    bank.until(&message.gid, Succeeded).await;
    assert_eq!(bank.teller.accounts().await, [70, 130]);
}
