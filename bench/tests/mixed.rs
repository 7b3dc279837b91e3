//! A Go service is replaced by ours, or ours by a Go one, and nobody notices: the same topics, names
//! and groups, every order settled, stock exact; and the programs on the wires without events.

use std::{path::PathBuf, process::Command};

use bench::{
    contestant::{Contestant, Files, Servers},
    round::{self, Arrival, Plan},
};
use dev_servers::Kind;
use tokio::sync::Mutex;

/// Orders of a test, unless `MICRO_TEST_ORDERS` says otherwise.
const ORDER_COUNT: u32 = 1_000;

fn address(kind: Kind) -> Result<String, String> {
    let url = dev_servers::shared(kind)?;
    let address = url.split_once("://").map_or(&*url, |(_, rest)| rest);
    Ok(address.rsplit('@').next().unwrap_or(address).to_owned())
}

fn world() -> Result<(Servers, Files), String> {
    let servers = Servers {
        kafka: address(Kind::Kafka)?,
        registry: dev_servers::shared(Kind::Consul)?,
        mariadb: address(Kind::Mariadb)?,
    };
    // target/<profile>/deps/<this test>
    let here = std::env::current_exe().map_err(|error| error.to_string())?;
    let binaries: PathBuf = here.parent().and_then(|deps| deps.parent()).ok_or("no target folder")?.into();
    for name in ["order", "product"] {
        if !binaries.join(name).exists() {
            return Err(format!("{name} is not built: cargo build --workspace --all-features"));
        }
    }
    let logs = binaries.join("mixed-logs");
    std::fs::create_dir_all(&logs).map_err(|error| format!("{}: {error}", logs.display()))?;
    Ok((servers, Files { binaries, go_chain: dev_servers::go_chain()?, logs, linger_ms: 5 }))
}

/// etcd, where the programs are built with it.
fn etcd(files: &Files) -> Result<String, String> {
    let mut order = Command::new(files.binaries.join("order"));
    let said = order.args(["--registry", "etcd://127.0.0.1:1"]).output().map_err(|error| error.to_string())?;
    if String::from_utf8_lossy(&said.stderr).contains("not compiled in") {
        return Err("order is built without etcd: cargo build --workspace --all-features".to_owned());
    }
    dev_servers::shared(Kind::Etcd)
}

fn skipped(missing: &str) {
    assert!(std::env::var_os("MICRO_TEST_REQUIRE").is_none(), "{missing}");
    eprintln!("skipped: {missing}");
}

/// One chain at a time: names and topics are the same.
static CHAIN: Mutex<()> = Mutex::const_new(());

/// Either service in Go, on Consul and on etcd.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_go_service_in_the_place_of_either_of_ours_settles_every_order_and_keeps_stock_exact() {
    let (servers, files) = match world() {
        Ok(world) => world,
        Err(missing) => return skipped(&missing),
    };
    let mixed = [Contestant::GoOrder, Contestant::GoProduct];
    settle(&mixed, &servers, &files).await;
    match etcd(&files) {
        Ok(registry) => settle(&mixed, &Servers { registry, ..servers }, &files).await,
        Err(missing) => skipped(&missing),
    }
}

/// As the first of the Go services had them, either of them in Go; and by ours alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn goods_deducted_by_a_call_settle_every_order_whichever_service_is_in_go() {
    match world() {
        Ok((servers, files)) => {
            let wires = [Contestant::GoOrderGrpc, Contestant::GoProductGrpc, Contestant::GoGrpc, Contestant::OursGrpc];
            settle(&wires, &servers, &files).await;
        }
        Err(missing) => skipped(&missing),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn goods_deducted_by_sagas_of_the_program_settle_every_order() {
    match world() {
        Ok((servers, files)) => settle(&[Contestant::OursSaga], &servers, &files).await,
        Err(missing) => skipped(&missing),
    }
}

async fn settle(contestants: &[Contestant], servers: &Servers, files: &Files) {
    let _alone = CHAIN.lock().await;
    let order_count = std::env::var("MICRO_TEST_ORDERS").map_or(ORDER_COUNT, |count| count.parse().expect("a number"));
    let plan = Plan {
        order_count,
        warm_up_count: 100,
        arrival: Arrival::Closed { caller_count: 16 },
        connection_count: 4,
        sku_count: 200,
    };
    for contestant in contestants {
        // The round fails unless each order is paid, has its row and took exactly its unit.
        let outcome = round::run(*contestant, servers, files, plan).await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(outcome.order_count, order_count);
        let (name, rate) = (contestant.name(), outcome.settled_per_second);
        println!("{name} on {}: {rate:.0} settled orders a second", servers.registry);
    }
}
