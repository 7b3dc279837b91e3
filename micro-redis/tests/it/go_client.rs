//! The rows of DTM's own Go client and those here: each honours the other's.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use micro_core::{
    ErrorKind,
    barrier::{Barrier, Prepared},
    branch::{Branch, BranchError, Mode, Op},
};
use micro_testkit::unique;
use redis::AsyncCommands as _;

use crate::server::{blocking, connected, outsider, shared_url, there};

/// DTM's client for Go on the Redis that tests share, which ends with this.
struct Go {
    process: Child,
    asked: ChildStdin,
    answered: BufReader<ChildStdout>,
    key: String,
}

impl Go {
    async fn start(url: &str, key: &str) -> Option<Self> {
        let program = there(blocking(dev_servers::go_dtm).await)?;
        let mut process = Command::new(program)
            .args(["redis", "--address", url.trim_start_matches("redis://")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (asked, answered) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        Some(Self { process, asked, answered, key: key.to_owned() })
    }

    /// What a call comes to, in the client's own words; empty for a success.
    fn ask(&mut self, what: &str, branch: &Branch) -> String {
        let (mode, gid, id, op) = (branch.mode.as_str(), &branch.gid, &branch.id, &branch.op);
        let (key, amount) = (&self.key, amount(op));
        writeln!(
            self.asked,
            r#"{{"do":"{what}","trans_type":"{mode}","gid":"{gid}","branch_id":"{id}","op":"{op}","key":"{key}","amount":{amount}}}"#
        )
        .unwrap();
        let mut line = String::new();
        self.answered.read_line(&mut line).unwrap();
        let text = line.trim().strip_prefix(r#"{"error":""#).and_then(|rest| rest.strip_suffix(r#""}"#));
        text.unwrap_or_else(|| panic!("{line:?}")).to_owned()
    }

    fn adjust(&mut self, branch: &Branch) -> String {
        self.ask("adjust", branch)
    }
}

impl Drop for Go {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn amount(op: &Op) -> i64 {
    if op.origin().is_some() { 30 } else { -30 }
}

fn branches<const N: usize>(mode: Mode, ops: [Op; N]) -> [Branch; N] {
    let gid = unique("gid");
    ops.map(|op| Branch::new(mode, &gid, if op == Op::Msg { "00" } else { "01" }, op).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dtms_go_client_and_this_one_honour_each_others_rows() {
    let Some(url) = shared_url().await else { return };
    let key = unique("stock");
    let Some(mut go) = Go::start(&url, &key).await else { return };
    let mut connection = outsider(&url).await;
    let _: () = connection.set(&key, 100).await.unwrap();
    let barrier = connected(&url).await;
    let adjust =
        async |branch: &Branch| barrier.adjust(&mut Barrier::new(branch.clone()), &key, amount(&branch.op)).await;

    // What the one did the other one does not do again, and undoes once.
    let [action, compensate] = branches(Mode::Saga, [Op::Action, Op::Compensate]);
    assert_eq!(adjust(&action).await.unwrap(), Some(70));
    assert_eq!(go.adjust(&action), "");
    assert_eq!(connection.get::<_, i64>(&key).await.unwrap(), 70);
    assert_eq!(go.adjust(&compensate), "");
    assert_eq!(connection.get::<_, i64>(&key).await.unwrap(), 100);
    assert_eq!(adjust(&compensate).await.unwrap(), None);

    let [attempt, cancel] = branches(Mode::Tcc, [Op::Try, Op::Cancel]);
    assert_eq!(go.adjust(&attempt), "");
    assert_eq!(adjust(&attempt).await.unwrap(), None);
    assert_eq!(adjust(&cancel).await.unwrap(), Some(100));
    assert_eq!(go.adjust(&cancel), "");

    // An undoing that came first stops what comes later.
    let [action, compensate] = branches(Mode::Saga, [Op::Action, Op::Compensate]);
    assert_eq!(adjust(&compensate).await.unwrap(), None);
    assert_eq!(go.adjust(&action), "");
    let [attempt, cancel] = branches(Mode::Tcc, [Op::Try, Op::Cancel]);
    assert_eq!(go.adjust(&cancel), "");
    assert_eq!(adjust(&attempt).await.unwrap(), None);
    assert_eq!(connection.get::<_, i64>(&key).await.unwrap(), 100, "everything is undone or never came");

    // A message's local part, asked about before and after.
    let [message] = branches(Mode::Msg, [Op::Msg]);
    assert_eq!(go.adjust(&message), "");
    assert_eq!(barrier.prepared(&message.gid).await.unwrap(), Prepared::Committed);
    let [message] = branches(Mode::Msg, [Op::Msg]);
    assert_eq!(adjust(&message).await.unwrap(), Some(40));
    assert_eq!((go.ask("prepared", &message), go.adjust(&message)), (String::new(), "DUPLICATED".to_owned()));
    let [message] = branches(Mode::Msg, [Op::Msg]);
    assert_eq!(barrier.prepared(&message.gid).await.unwrap(), Prepared::RolledBack);
    assert_eq!(go.adjust(&message), "DUPLICATED");
    let [message] = branches(Mode::Msg, [Op::Msg]);
    assert_eq!(go.ask("prepared", &message), "FAILURE");
    let Err(BranchError::Other(error)) = adjust(&message).await else { panic!("it was forbidden") };
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(connection.get::<_, i64>(&key).await.unwrap(), 40);
}
