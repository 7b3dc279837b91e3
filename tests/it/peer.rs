//! The programs of `interop`: go-micro v4 and go-zero beside a test.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tokio::{sync::mpsc, time::timeout};

/// How long a line may take: the machine may be compiling beside it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A subcommand that runs; killed with its drop.
pub(crate) struct Peer {
    child: Child,
    input: Option<ChildStdin>,
    lines: mpsc::Receiver<Value>,
}

impl Peer {
    pub(crate) fn start(program: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program runs");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, lines) = mpsc::channel(1_000);
        std::thread::spawn(move || {
            let told = output.lines().map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok());
            // Until nobody listens any more.
            told.map(|value| sender.blocking_send(value)).take_while(Result::is_ok).for_each(drop);
        });
        Self { input: child.stdin.take(), child, lines }
    }

    /// The next thing it tells.
    pub(crate) async fn told(&mut self) -> Value {
        self.told_if_it_goes_on().await.expect("the program goes on")
    }

    /// The next thing it tells, unless it ends.
    pub(crate) async fn told_if_it_goes_on(&mut self) -> Option<Value> {
        timeout(PATIENCE, self.lines.recv()).await.expect("the program tells something in time")
    }

    pub(crate) fn tell(&mut self, value: &Value) {
        let input = self.input.as_mut().expect("its input is open");
        writeln!(input, "{value}").expect("it reads");
    }

    /// Ends its input.
    pub(crate) fn end(&mut self) {
        self.input = None;
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
    }
}
