//! SIGTERM while callbacks come in, as the process that runs in production gets it.
#![cfg(unix)]

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use micro_core::{
    event::BaseEvent, outbox::SHARD_COUNT, registry::StaticRegistry, transaction::TransactionManagerExt as _,
};
use micro_grpc::GrpcClient;
use micro_tx::SqlDatabase;
use order::{
    domain::{Money, Order, OrderLine, Orders as _, PayStatus, ShipStatus},
    infrastructure::{dialect::Dialect, persistence::SqlOrders},
    proto::{PayNotifyRequest, order_client::OrderClient},
};
use prost::Message as _;
use tokio::task::JoinSet;
use tonic::{Code, Request};

const ORDER_COUNT: i64 = 20_000;
const CALLER_COUNT: usize = 32;
/// How long the answer to a call is waited for.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// The program's own limits, 30 s together, and what a busy machine adds to them.
const STOPPED_WITHIN: Duration = Duration::from_secs(120);
const ACCEPTED_BEFORE_SIGNAL_MIN: usize = 200;

/// The program, killed when the test ends, however it ends.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_answers_every_accepted_request_and_keeps_its_events() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("orders.db").display());
    place_orders(&url).await;
    let (mut program, address) = start(&url);
    let client = connect(&address).await;

    let next = Arc::new(AtomicI64::new(1));
    let (accepted_one, mut accepted_ones) = tokio::sync::mpsc::channel(CALLER_COUNT);
    let mut callers = JoinSet::new();
    for _ in 0..CALLER_COUNT {
        callers.spawn(call_until_refused(client.clone(), next.clone(), accepted_one.clone()));
    }
    drop(accepted_one);
    let mut accepted = BTreeSet::new();
    while accepted.len() < ACCEPTED_BEFORE_SIGNAL_MIN {
        accepted.insert(accepted_ones.recv().await.expect("the callers call"));
    }
    let told = Instant::now();
    assert!(Command::new("kill").args(["-TERM", &program.0.id().to_string()]).status().unwrap().success());
    while let Some(order_id) = accepted_ones.recv().await {
        accepted.insert(order_id);
    }
    for (code, message) in callers.join_all().await.into_iter().flatten() {
        assert_eq!(code, Code::Unavailable, "after the listener closed, and nothing else: {message}");
    }
    let status = tokio::task::spawn_blocking(move || program.0.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
    assert!(told.elapsed() < STOPPED_WITHIN, "took {:?}", told.elapsed());
    assert!(accepted.len() < ORDER_COUNT as usize, "the load lasted until the signal");
    check_rows(&url, &accepted).await;
}

/// Each accepted order is in status 3, and so is no other but one whose answer was lost; its
/// transition waits in the outbox or was sent, which the audit in the same process saw.
async fn check_rows(url: &str, accepted: &BTreeSet<i64>) {
    let database = SqlDatabase::connect_url(url).await.unwrap();
    let ids = async |statement: &str| -> BTreeSet<i64> {
        let rows = database.fetch_all(statement, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0).unwrap()).collect()
    };
    let processing = ids("SELECT id FROM orders WHERE pay_status = 3").await;
    assert_eq!(processing, *accepted, "every accepted callback is there, and none that was refused");
    let mut told = ids("SELECT order_id FROM order_audit").await;
    let store = database.outbox();
    for shard in 0..SHARD_COUNT {
        let Some(mut shard) = store.own(shard).await.unwrap() else { continue };
        for row in shard
            .unsent(&[], &[], 100_000)
            .await
            .unwrap()
            .into_iter()
            .filter(|row| &*row.message.topic == "OrderStatus")
        {
            assert!(BaseEvent::decode(row.message.body.clone()).is_ok());
            told.insert(std::str::from_utf8(row.message.key.as_deref().unwrap()).unwrap().parse().unwrap());
        }
    }
    assert_eq!(told, *accepted);
    database.close().await;
}

/// Calls back for one order after the other until a call fails; answers how it failed.
async fn call_until_refused(
    mut client: OrderClient<GrpcClient>,
    next: Arc<AtomicI64>,
    accepted: tokio::sync::mpsc::Sender<i64>,
) -> Option<(Code, String)> {
    loop {
        let order_id = next.fetch_add(1, Ordering::Relaxed);
        if order_id > ORDER_COUNT {
            return None;
        }
        let mut request = Request::new(PayNotifyRequest {
            out_trade_no: format!("OC{order_id}"),
            trade_no: "T".into(),
            status_code: "0000".into(),
        });
        request.set_timeout(CALL_TIMEOUT);
        match client.pay_notify(request).await {
            Ok(reply) => {
                assert_eq!(reply.into_inner().status_code, "0000");
                accepted.send(order_id).await.expect("the test reads until the callers end");
            }
            Err(status) => return Some((status.code(), status.message().to_owned())),
        }
    }
}

async fn place_orders(url: &str) {
    let database = SqlDatabase::connect_url(url).await.unwrap();
    database.migrate().await.unwrap();
    database.execute_script(Dialect::Sqlite.schema()).await.unwrap();
    let line = OrderLine { id: 0, product_id: 100, sku_id: 1, quantity: 1, unit_price: Money::from_cents(1000) };
    let orders: Vec<Order> = (1..=ORDER_COUNT)
        .map(|id| Order {
            id,
            code: format!("OC{id}"),
            user_id: 7,
            pay_status: PayStatus::Unpaid,
            ship_status: ShipStatus::Initial,
            pay_error: String::new(),
            price: Money::from_cents(1000),
            lines: vec![line.clone()],
        })
        .collect();
    let store = SqlOrders::new(&database);
    database.run(async |tx| store.add(tx, &orders).await).await.unwrap();
    database.close().await;
}

/// The program and the address that its log names.
fn start(url: &str) -> (Program, String) {
    let mut program = Program(
        Command::new(env!("CARGO_BIN_EXE_order"))
            .args(["--database", url])
            .env("RUST_LOG", "info")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(program.0.stdout.take().unwrap()).lines();
    let mut warned = Vec::new();
    let address = lines
        .by_ref()
        .map_while(Result::ok)
        .inspect(|line| warned.extend(line.contains("memory: reaches this process only").then(|| line.clone())))
        .find_map(|line| Some(line.split_once("serving gRPC")?.1.split_once("address=")?.1.trim().to_owned()))
        .expect("the log says where it serves");
    let is_said_of = |port: &str| warned.iter().any(|line| line.contains(&format!("port=\"{port}\"")));
    assert!(is_said_of("registry") && is_said_of("broker"), "what memory: is, is said of each: {warned:?}");
    // Read on, so that the program never waits for a full pipe.
    std::thread::spawn(move || lines.for_each(drop));
    (program, address)
}

async fn connect(address: &str) -> OrderClient<GrpcClient> {
    let registry: StaticRegistry = format!("static:go.micro.service.Order={address}").parse().unwrap();
    let client = GrpcClient::builder(Arc::new(registry)).service("go.micro.service.Order").connect().await.unwrap();
    let client = OrderClient::new(client);
    let unknown = PayNotifyRequest { out_trade_no: "OC0".into(), trade_no: "T".into(), status_code: "0000".into() };
    micro_testkit::eventually(CALL_TIMEOUT, "the service to answer", || {
        let (mut client, unknown) = (client.clone(), unknown.clone());
        async move { client.pay_notify(unknown).await.is_err_and(|status| status.code() == Code::NotFound) }
    })
    .await;
    client
}
