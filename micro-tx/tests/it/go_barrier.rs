//! One table for the barrier here and for that of DTM's own Go client: each honours the other's rows.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use micro_core::{
    ErrorKind,
    barrier::{BarrierStore as _, Prepared},
    branch::{Branch, Mode, Op},
};
use micro_testkit::unique;
use serde_json::{Value, json};

use crate::{
    barrier::{Bank, table_of_dtm},
    on_servers::site,
    server::{Server, Site},
};

/// DTM's client for Go on the test's database, which ends with this.
struct Go {
    process: Child,
    asked: ChildStdin,
    answered: BufReader<ChildStdout>,
}

impl Go {
    /// `None` after the reason is printed, where Go is missing.
    async fn start(site: &Site) -> Option<Self> {
        let (driver, source) = source(site);
        let program = program().await?;
        let mut process = Command::new(program)
            .args(["barrier", "--driver", driver, "--dsn", &source, "--table", "barrier"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (asked, answered) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        Some(Self { process, asked, answered })
    }

    /// Whether the branch's business was called, and the error, empty for none.
    fn call(&mut self, branch: &Branch) -> (bool, String) {
        let sign = if branch.op.origin().is_some() { '+' } else { '-' };
        let statement = format!("UPDATE accounts SET balance = balance {sign} 30 WHERE name = 'out'");
        self.ask(branch, "call", &statement)
    }

    fn ask(&mut self, branch: &Branch, what: &str, statement: &str) -> (bool, String) {
        let line = json!({
            "do": what, "trans_type": branch.mode.as_str(), "gid": branch.gid, "branch_id": branch.id,
            "op": branch.op.as_str(), "statement": statement,
        });
        writeln!(self.asked, "{line}").unwrap();
        let mut answer = String::new();
        self.answered.read_line(&mut answer).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{line}: {answer:?}"));
        (answer["called"].as_bool().unwrap(), answer["error"].as_str().unwrap().to_owned())
    }
}

/// DTM's client for Go; `None` after the reason is printed, where it is missing.
pub(crate) async fn program() -> Option<PathBuf> {
    let built = tokio::task::spawn_blocking(dev_servers::go_dtm).await.unwrap();
    built
        .inspect_err(|reason| {
            let is_required = std::env::var("MICRO_TEST_REQUIRE").is_ok_and(|value| value == "1");
            assert!(!is_required, "DTM's Go client is missing and required: {reason}");
            eprintln!("skipped, DTM's Go client is missing: {reason}");
        })
        .ok()
}

/// The test's database as Go writes it: driver and source.
pub(crate) fn source(site: &Site) -> (&'static str, String) {
    match site.server {
        Server::Mariadb => {
            let (user, address) = site.base().trim_start_matches("mysql://").split_once('@').unwrap();
            ("mysql", format!("{user}@tcp({address})/{}", site.name()))
        }
        Server::Postgres => ("postgres", format!("{}?sslmode=disable", site.url())),
    }
}

impl Drop for Go {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const DONE: (bool, String) = (true, String::new());
const SKIPPED: (bool, String) = (false, String::new());

fn branches<const N: usize>(mode: Mode, ops: [Op; N]) -> [Branch; N] {
    let gid = unique("gid");
    ops.map(|op| Branch::new(mode, &gid, if op == Op::Msg { "00" } else { "01" }, op).unwrap())
}

async fn each_honours_the_others_rows(server: Server, is_of_dtm: bool) {
    let Some(site) = site(server).await else { return };
    let database = site.database().await;
    if is_of_dtm {
        database.execute_script(table_of_dtm(server)).await.unwrap();
    }
    let go = Go::start(&site).await;
    let bank = Bank::new(database, Box::new(site)).await;
    let Some(mut go) = go else { return };

    // What the one did the other one does not do again, and undoes once.
    let [action, compensate] = branches(Mode::Saga, [Op::Action, Op::Compensate]);
    assert!(bank.call(&action).await.unwrap());
    assert_eq!(go.call(&action), SKIPPED);
    assert_eq!(go.call(&compensate), DONE);
    assert!(!bank.call(&compensate).await.unwrap());

    let [attempt, cancel] = branches(Mode::Tcc, [Op::Try, Op::Cancel]);
    assert_eq!(go.call(&attempt), DONE);
    assert!(!bank.call(&attempt).await.unwrap());
    assert!(bank.call(&cancel).await.unwrap());
    assert_eq!(go.call(&cancel), SKIPPED);

    // An undoing that came first stops what comes later.
    let [action, compensate] = branches(Mode::Saga, [Op::Action, Op::Compensate]);
    assert!(!bank.call(&compensate).await.unwrap());
    assert_eq!(go.call(&action), SKIPPED);
    let [action, rollback] = branches(Mode::Workflow, [Op::Action, Op::Rollback]);
    assert_eq!(go.call(&rollback), SKIPPED);
    assert!(!bank.call(&action).await.unwrap());
    assert_eq!(bank.balance().await, 100, "everything is undone or never came");

    // A message's local transaction, asked about before and after.
    let [message] = branches(Mode::Msg, [Op::Msg]);
    assert_eq!(go.call(&message), DONE);
    assert_eq!(bank.store.prepared(&message.gid).await.unwrap(), Prepared::Committed);
    let [message] = branches(Mode::Msg, [Op::Msg]);
    assert!(bank.call(&message).await.unwrap());
    assert_eq!(go.ask(&message, "prepared", ""), SKIPPED);
    assert_eq!(go.call(&message), (false, "DUPLICATED".to_owned()));
    let [message] = branches(Mode::Msg, [Op::Msg]);
    assert_eq!(bank.store.prepared(&message.gid).await.unwrap(), Prepared::RolledBack);
    assert_eq!(go.call(&message), (false, "DUPLICATED".to_owned()));
    let [message] = branches(Mode::Msg, [Op::Msg]);
    assert_eq!(go.ask(&message, "prepared", ""), (false, "FAILURE".to_owned()));
    assert_eq!(bank.call(&message).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(bank.balance().await, 40, "two messages took place");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dtms_go_client_and_this_one_honour_each_others_rows_in_one_table_of_mariadb() {
    each_honours_the_others_rows(Server::Mariadb, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dtms_go_client_and_this_one_honour_each_others_rows_in_one_table_of_postgres() {
    each_honours_the_others_rows(Server::Postgres, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_honour_each_others_rows_in_a_table_that_dtms_script_made_on_mariadb() {
    each_honours_the_others_rows(Server::Mariadb, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_honour_each_others_rows_in_a_table_that_dtms_script_made_on_postgres() {
    each_honours_the_others_rows(Server::Postgres, true).await;
}
