//! The judge is judged: databases that a clean run left are damaged by hand, one promise at a time.

use std::collections::{BTreeSet, HashSet};

use clap::Parser as _;
use micro_core::{
    Error, ErrorKind,
    broker::{Delivery, Message, header},
    parked::DeadLetter,
    transaction::TransactionManagerExt as _,
};
use micro_tx::SqlDatabase;
use payment_chain::{
    operations::Seed,
    options::{Options, WireName},
    report::Report,
    run, verdict,
};
use tokio_util::sync::CancellationToken;

/// Half of the orders find stock: 30 of SKUs 1 and 2 (in turn), 10 of them with two more units.
const SEED: Seed = Seed { orders: 30, skus: 2, stock: 10 };

/// The databases of a clean run.
struct Scene {
    orders: SqlDatabase,
    products: SqlDatabase,
    accepted: BTreeSet<i64>,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn clean() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let report = run(&options(folder.path()), WireName::Events, CancellationToken::new()).await.unwrap();
        assert!(report.clean && report.paid > 0 && report.refused > 0, "{report}");
        let open = async |name: &str| {
            SqlDatabase::connect_url(&format!("sqlite:{}", folder.path().join(name).display())).await.unwrap()
        };
        let (orders, products) = (open("orders.db").await, open("products.db").await);
        let scene = Self { orders, products, accepted: (1..=30).collect(), _folder: folder };
        assert_eq!(scene.judge().await.broken(), [""; 0]);
        scene
    }

    async fn judge(&self) -> Report {
        let mut report = Report::default();
        verdict::judge(&self.orders, &self.products, SEED, &self.accepted, &mut report).await.unwrap();
        report
    }

    /// Damages the orders' database; answers which promises the judge finds broken.
    async fn after_orders(self, damage: &str) -> Vec<String> {
        self.orders.execute_script(damage).await.unwrap();
        promises(&self.judge().await)
    }

    /// Damages the products' database; answers which promises the judge finds broken.
    async fn after_products(self, damage: &str) -> Vec<String> {
        self.products.execute_script(damage).await.unwrap();
        promises(&self.judge().await)
    }
}

fn options(folder: &std::path::Path) -> Options {
    let database = format!("sqlite:{}", folder.display());
    let numbers = ["--orders", "30", "--skus", "2", "--stock", "10", "--poison-percent", "10"];
    Options::parse_from(["payment-chain"].into_iter().chain(numbers).chain(["--database", &database]))
}

/// The numbers of the broken promises, with how often each is broken: `I1 1`.
fn promises(report: &Report) -> Vec<String> {
    assert!(report.to_string().contains("verdict: BROKEN") != report.broken().is_empty(), "{report}");
    let number = |line: &String| {
        let (promise, count) = (line.split(' ').next().unwrap(), line.rsplit(' ').next().unwrap());
        format!("{promise} {count}")
    };
    report.broken().iter().map(number).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_hangs_is_lost() {
    let hangs = "UPDATE orders SET pay_status = 3 WHERE id = (SELECT MIN(id) FROM orders WHERE pay_status = 5)";
    assert_eq!(Scene::clean().await.after_orders(hangs).await, ["I1 1"]);
    let forgotten = "UPDATE orders SET pay_status = 2 WHERE id = (SELECT MIN(id) FROM orders WHERE pay_status = 5)";
    assert_eq!(Scene::clean().await.after_orders(forgotten).await, ["I1 1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_is_gone_is_lost() {
    let gone = "DELETE FROM orders WHERE id = (SELECT MIN(id) FROM orders WHERE pay_status = 5)";
    assert_eq!(Scene::clean().await.after_orders(gone).await, ["I1 1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_settlement_is_a_loss() {
    for damage in [
        "UPDATE orders SET pay_error = '' WHERE id = (SELECT MIN(id) FROM orders WHERE pay_status = 5)",
        "UPDATE orders SET ship_status = 2 WHERE id = (SELECT MIN(id) FROM orders WHERE pay_status = 5)",
        "UPDATE orders SET ship_status = 1 WHERE id = (SELECT MIN(id) FROM orders WHERE pay_status = 4)",
        "UPDATE orders SET pay_time = NULL WHERE id = (SELECT MIN(id) FROM orders WHERE pay_status = 4)",
    ] {
        assert_eq!(Scene::clean().await.after_orders(damage).await, ["I1 1"], "{damage}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_row_that_is_gone_is_a_loss_and_stock_that_nobody_took() {
    let damage = "DELETE FROM inventory_stock_change_records \
                  WHERE id = (SELECT MIN(id) FROM inventory_stock_change_records)";
    assert_eq!(Scene::clean().await.after_products(damage).await, ["I1 1", "I3 1"]);
}

/// The table's own rules forbid it: they are switched off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_deduction_is_seen_though_the_stock_fits_it() {
    let again = "CREATE TABLE one AS SELECT * FROM inventory_stock_change_records LIMIT 1; \
                 CREATE TABLE copy AS SELECT * FROM inventory_stock_change_records; \
                 DROP TABLE inventory_stock_change_records; \
                 ALTER TABLE copy RENAME TO inventory_stock_change_records; \
                 INSERT INTO inventory_stock_change_records SELECT * FROM one";
    let twice_as_much = "CREATE TABLE one AS SELECT * FROM inventory_stock_change_records LIMIT 1; \
                         UPDATE inventory_stock_change_records SET quantity = 2 * quantity \
                         WHERE id = (SELECT id FROM one)";
    let stock = "UPDATE product_skus SET stock = stock - (SELECT quantity FROM one), \
                 sales = sales + (SELECT quantity FROM one) WHERE id = (SELECT sku_id FROM one)";
    for damage in [again, twice_as_much] {
        let damage = format!("PRAGMA ignore_check_constraints = ON; {damage}; {stock}");
        let broken = Scene::clean().await.after_products(&damage).await;
        assert!(broken.contains(&"I1 1".to_owned()) && broken.contains(&"I2 1".to_owned()), "{damage}: {broken:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stock_that_differs_from_the_ledger_is_seen() {
    for (damage, broken) in [
        ("UPDATE product_skus SET stock = stock + 1 WHERE id = 1", "I3 1"),
        ("UPDATE product_skus SET sales = sales - 1", "I3 2"),
        ("DELETE FROM product_skus WHERE id = 2", "I3 2"),
        ("UPDATE inventory_stock_change_records SET sku_id = 9 WHERE id = 1", "I3 2"),
    ] {
        let found = Scene::clean().await.after_products(damage).await;
        assert!(found.contains(&broken.to_owned()), "{damage}: {found:?}");
    }
    // More than there was: every figure fits the others, and yet there is less than nothing.
    let scene = Scene::clean().await;
    let id = "(SELECT MIN(id) FROM inventory_stock_change_records WHERE sku_id = 1)";
    let oversold = format!(
        "PRAGMA ignore_check_constraints = ON; \
         UPDATE inventory_stock_change_records SET quantity = quantity + 100 WHERE id = {id}; \
         UPDATE product_skus SET stock = stock - 100, sales = sales + 100 WHERE id = 1"
    );
    let found = scene.after_products(&oversold).await;
    assert!(found.contains(&"I3 1".to_owned()), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deduction_that_nobody_paid_is_a_ghost() {
    let mut scene = Scene::clean().await;
    // Its callback was answered with a failure, and its status says so; its goods are gone.
    let ids = "SELECT MIN(id) FROM orders WHERE pay_status = 4";
    let id: i64 = scene.orders.fetch_all(ids, &[]).await.unwrap()[0].get(0).unwrap();
    scene.accepted.remove(&id);
    let unpaid = format!("UPDATE orders SET pay_status = 2, ship_status = 1, pay_time = NULL WHERE id = {id}");
    assert_eq!(scene.after_orders(&unpaid).await, ["I4 1"]);
    let of_no_order = "UPDATE inventory_stock_change_records SET order_id = 31 WHERE id = 1";
    assert_eq!(Scene::clean().await.after_products(of_no_order).await, ["I1 1", "I4 1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callback_whose_answer_was_lost_has_its_whole_effect_or_none() {
    let mut scene = Scene::clean().await;
    scene.accepted.clear();
    assert_eq!(scene.judge().await.broken(), [""; 0], "settled without an answer is no fault");
    let half = "UPDATE orders SET pay_time = NULL WHERE id = (SELECT MIN(id) FROM orders WHERE pay_status = 4)";
    assert_eq!(scene.after_orders(half).await, ["I6 1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_without_need_is_a_loss() {
    let scene = Scene::clean().await;
    let record = "SELECT order_id, sku_id, quantity FROM inventory_stock_change_records LIMIT 1";
    let row = scene.products.fetch_all(record, &[]).await.unwrap().remove(0);
    let (order_id, sku_id, units): (i64, i64, i64) = (row.get(0).unwrap(), row.get(1).unwrap(), row.get(2).unwrap());
    let undo = format!(
        "DELETE FROM inventory_stock_change_records WHERE order_id = {order_id}; \
         UPDATE product_skus SET stock = stock + {units}, sales = sales - {units} WHERE id = {sku_id}"
    );
    scene.products.execute_script(&undo).await.unwrap();
    let refused = format!(
        "UPDATE orders SET pay_status = 5, ship_status = 1, pay_time = NULL, pay_error = 'no' WHERE id = {order_id}"
    );
    scene.orders.execute_script(&refused).await.unwrap();
    let report = scene.judge().await;
    assert!(report.needless_refusals >= 1 && report.lost == 0 && report.stock_mismatches == 0, "{report}");
    assert_eq!(promises(&report).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transitions_out_of_order_or_missing_are_seen() {
    for damage in [
        "UPDATE order_audit SET out_of_order = 1 WHERE order_id = 3",
        "UPDATE order_audit SET applied_seq = 1 WHERE order_id = 3",
        "DELETE FROM order_audit WHERE order_id = 3",
    ] {
        assert_eq!(Scene::clean().await.after_orders(damage).await, ["I5 1"], "{damage}");
    }
}

#[test]
fn dead_letters_are_the_poison_and_nothing_else() {
    let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<HashSet<String>>();
    let judge = |letters: &[&str], poison: &[&str]| {
        let mut report = Report::default();
        let letters: Vec<String> = letters.iter().map(|id| (*id).to_owned()).collect();
        verdict::judge_dead_letters(&letters, &ids(poison), &mut report);
        (report.poison, report.dead_letters, report.dead_letter_mismatches, promises(&report))
    };
    assert_eq!(judge(&["poison-1", "poison-2"], &["poison-1", "poison-2"]), (2, 2, 0, vec![]));
    assert_eq!(judge(&["poison-0", "poison-1"], &["poison-1"]), (1, 1, 0, vec![]), "poison of an earlier run");
    assert_eq!(judge(&["poison-1"], &["poison-1", "poison-2"]), (2, 1, 1, vec!["I7 1".to_owned()]));
    assert_eq!(judge(&["poison-1", "poison-1"], &["poison-1"]), (1, 2, 1, vec!["I7 1".to_owned()]));
    assert_eq!(judge(&["a real event"], &[]), (0, 1, 1, vec!["I7 1".to_owned()]));
    assert_eq!(judge(&["a real event"], &["poison-1"]), (1, 1, 2, vec!["I7 2".to_owned()]));
}

/// A second run on the same files finds what happened to them in between, and says so by its exit
/// code.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_promise_is_exit_code_1() {
    let scene = Scene::clean().await;
    let folder = scene._folder.path().to_owned();
    assert_eq!(run_program(&folder), (Some(0), Vec::new(), true));

    let message = Message::keyed("OrderEvent", "1", "x").with_header(header::EVENT_ID, "a-real-event");
    let delivery = Delivery { message, partition: 0, offset: 0, timestamp: std::time::SystemTime::now() };
    let error = Error::new(ErrorKind::Internal, "test", "gave up");
    let letter = DeadLetter::new("product-consumer", &delivery, &error, 1);
    let letters = scene.products.dead_letters();
    scene.products.transactions().run(async |tx| letters.add(tx, &letter).await).await.unwrap();
    let dead_letter = "I7 dead letters: they are not the injected poison: 1".to_owned();
    assert_eq!(run_program(&folder), (Some(1), vec![dead_letter.clone()], false));

    scene.products.execute("UPDATE product_skus SET stock = stock + 1 WHERE id = 1", &[]).await.unwrap();
    let stock = "I3 conservation: SKUs whose stock differs from the ledger, or is negative: 1".to_owned();
    let (code, broken, is_clean) = run_program(&folder);
    assert!(code == Some(1) && broken.contains(&stock) && broken.contains(&dead_letter) && !is_clean, "{broken:?}");
}

/// The exit code, the lines below `verdict: BROKEN`, and what the JSON says.
fn run_program(folder: &std::path::Path) -> (Option<i32>, Vec<String>, bool) {
    let database = format!("sqlite:{}", folder.display());
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_payment-chain"))
        .args(["--orders", "30", "--skus", "2", "--stock", "10", "--poison-percent", "0", "--json"])
        .args(["--database", &database])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let json: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let broken = text.lines().skip_while(|line| *line != "verdict: BROKEN").skip(1);
    let broken = broken.filter(|line| line.starts_with("  ")).map(|line| line.trim().to_owned()).collect();
    (output.status.code(), broken, json["clean"].as_bool().unwrap())
}
