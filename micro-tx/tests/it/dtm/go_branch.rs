//! One saga over a participant in Go, with DTM's own client, and one in Rust: each moves money on its
//! account, both keep their barriers in one table of MariaDB.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, ChildStdout, Command, Stdio},
};

use micro_core::saga::{Outcome, Step};
use serde_json::{Value, json};

use super::{
    stage::{Wire, blocking},
    tellers::Counter,
};
use crate::{
    barrier::Bank,
    go_barrier::{program, source},
    on_servers::site,
    server::Server,
};

/// The participant in Go, which ends with this.
struct Go {
    process: Child,
    told: BufReader<ChildStdout>,
    address: String,
}

impl Go {
    /// `None` after the reason is printed, where Go is missing.
    async fn start(source: String) -> Option<Self> {
        let program = program().await?;
        let started = blocking(move || {
            let mut process = Command::new(program)
                .args(["serve", "--dsn", &source, "--table", "barrier"])
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let told = BufReader::new(process.stdout.take().unwrap());
            let mut go = Self { process, told, address: String::new() };
            let line = go.line();
            line["ready"]["address"].as_str().unwrap_or_else(|| panic!("{line}")).clone_into(&mut go.address);
            go
        });
        Some(started.await)
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.told.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}"))
    }

    /// As [`Counter::transfer`].
    fn transfer(&self, counter: &Counter, name: &str, amount: i64) -> Step {
        let url = |name: &str| format!("{}/busi.Busi/{name}", self.address);
        let step = Step::new(url(name)).compensation(url(&format!("{name}Revert")));
        step.payload(counter.payload(&amount.to_string()))
    }
}

impl Drop for Go {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the participant in Go tells of a call.
fn call(branch: &str, op: &str, called: bool, done: bool) -> Value {
    json!({"branch": branch, "op": op, "called": called, "done": done})
}

async fn both() -> Option<(Go, Counter)> {
    let site = site(Server::Mariadb).await?;
    let (_, source) = source(&site);
    let bank = Bank::new(site.database().await, Box::new(site)).await;
    let go = Go::start(source).await?;
    Some((go, Counter::open(Wire::Grpc, bank).await?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saga_over_go_and_rust_takes_effect_in_both() {
    let Some((mut go, counter)) = both().await else { return };
    let steps = [go.transfer(&counter, "TransOut", 30), counter.transfer("TransIn", 30)];
    let (outcome, gid) = counter.carried_out(steps).await;
    assert_eq!(outcome, Outcome::Succeeded);
    assert_eq!(counter.teller.accounts().await, ["70+0", "130+0"]);
    assert_eq!(go.line(), call("01", "action", true, true));
    assert_eq!(counter.branches.calls(&gid), ["02/action"]);
    assert_eq!(counter.teller.bank.rows_of(&gid).await, ["action/01/action", "action/01/action"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_go_did_is_undone_where_rust_refuses() {
    let Some((mut go, counter)) = both().await else { return };
    let steps = [go.transfer(&counter, "TransIn", 130), counter.transfer("TransOut", 130)];
    let (outcome, gid) = counter.carried_out(steps).await;
    let Outcome::RolledBack { reason } = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("Insufficient balance"), "{reason}");
    assert_eq!(counter.teller.accounts().await, ["100+0", "100+0"]);
    assert_eq!(go.line(), call("01", "action", true, true));
    assert_eq!(go.line(), call("01", "compensate", true, true));
    assert_eq!(counter.branches.calls(&gid), ["02/action", "02/compensate"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_rust_did_is_undone_where_go_refuses() {
    let Some((mut go, counter)) = both().await else { return };
    let steps = [counter.transfer("TransIn", 130), go.transfer(&counter, "TransOut", 130)];
    let (outcome, gid) = counter.carried_out(steps).await;
    let Outcome::RolledBack { reason } = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("Insufficient balance"), "{reason}");
    assert_eq!(counter.teller.accounts().await, ["100+0", "100+0"]);
    assert_eq!(go.line(), call("02", "action", true, false));
    // It is asked to undo what it did not do, and finds that out.
    assert_eq!(go.line(), call("02", "compensate", false, true));
    assert_eq!(counter.branches.calls(&gid), ["01/action", "01/compensate"]);
    let rows = ["action/01/action", "action/01/compensate", "compensate/01/compensate", "compensate/01/compensate"];
    assert_eq!(counter.teller.bank.rows_of(&gid).await, rows);
}
