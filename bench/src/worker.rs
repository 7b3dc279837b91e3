//! A process that is measured by turns: it does a turn for each line of its input and says what it
//! came to; between turns it waits.

use std::{fs::File, path::Path, process::Stdio, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::Result;

/// Registration and the first connection included.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Beyond a turn's own length.
const TURN_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// What is asked of a worker: so much at a time, for so long.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Turn {
    /// Callers, or messages that wait for their receipts.
    pub width: usize,
    /// For how long new ones are begun, in milliseconds.
    pub millis: u64,
}

/// What a turn came to.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Done {
    /// Answers or receipts.
    pub count: u64,
    /// From the turn's begin until the last of them.
    pub seconds: f64,
}

/// A worker, running; dropped, it is killed.
pub struct Worker {
    name: &'static str,
    child: Child,
    id: u32,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// Starts it, what it logs in `log`, and waits until it is ready; gives what it says then.
    pub async fn start(name: &'static str, command: &mut Command, log: &Path) -> Result<(Self, Value)> {
        let log = File::create(log).map_err(|error| format!("{}: {error}", log.display()))?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{name} does not start: {error}"))?;
        let id = child.id().ok_or("a child just started has an id")?;
        let input = child.stdin.take().ok_or("its input is a pipe")?;
        let output = BufReader::new(child.stdout.take().ok_or("its output is a pipe")?).lines();
        let mut worker = Self { name, child, id, input, output };
        let said = worker.said(READY_TIMEOUT).await?;
        match said.get("ready") {
            Some(ready) => Ok((worker, ready.clone())),
            None => Err(format!("{name} is not ready: {said}").into()),
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Has it do a turn.
    pub async fn turn(&mut self, turn: Turn) -> Result<Done> {
        let line = serde_json::to_string(&turn)? + "\n";
        self.input.write_all(line.as_bytes()).await.map_err(|error| format!("{}: {error}", self.name))?;
        let said = self.said(Duration::from_millis(turn.millis) + TURN_TIMEOUT).await?;
        let done: Done = serde_json::from_value(said.clone()).map_err(|_| format!("{}: {said}", self.name))?;
        if done.count == 0 {
            return Err(format!("{}: nothing was done in {} ms", self.name, turn.millis).into());
        }
        Ok(done)
    }

    async fn said(&mut self, patience: Duration) -> Result<Value> {
        let line = timeout(patience, self.output.next_line()).await;
        let line = line.map_err(|_| format!("{} says nothing for {patience:?}", self.name))??;
        let line = line.ok_or_else(|| format!("{} ended", self.name))?;
        Ok(serde_json::from_str(&line).map_err(|error| format!("{} says {line:?}: {error}", self.name))?)
    }

    /// Asks it to end and waits.
    pub async fn stop(mut self) -> Result<()> {
        Command::new("kill").args(["-TERM", &self.id.to_string()]).status().await?;
        let status = timeout(STOP_TIMEOUT, self.child.wait()).await;
        status.map_err(|_| format!("{} did not end within {STOP_TIMEOUT:?} of SIGTERM", self.name))??;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell that plays a worker.
    async fn shell(script: &str) -> Result<(Worker, Value)> {
        let folder = tempfile::tempdir().unwrap();
        Worker::start("shell", Command::new("sh").args(["-c", script]), &folder.path().join("log")).await
    }

    const TURN: Turn = Turn { width: 1, millis: 1 };

    #[tokio::test]
    async fn it_is_ready_does_turns_and_ends() {
        let script = r#"echo '{"ready":{"address":"a"}}'; while read line; do echo '{"count":3,"seconds":0.5}'; done"#;
        let (mut worker, ready) = shell(script).await.unwrap();
        assert_eq!(ready["address"], "a");
        for _ in 0..2 {
            let done = worker.turn(TURN).await.unwrap();
            assert_eq!((done.count, done.seconds), (3, 0.5));
        }
        worker.stop().await.unwrap();
    }

    #[tokio::test]
    async fn what_it_says_instead_is_told() {
        let failed = shell(r#"echo '{"failure":"no registry"}'"#).await.err().unwrap().to_string();
        assert!(failed.contains("no registry"), "{failed}");
        assert_eq!(shell("true").await.err().unwrap().to_string(), "shell ended");
        let (mut worker, _) = shell(r#"echo '{"ready":true}'; read line; echo '{"failure":"no node"}'"#).await.unwrap();
        let failed = worker.turn(TURN).await.unwrap_err().to_string();
        assert!(failed.contains("no node"), "{failed}");
        let idle = r#"echo '{"ready":true}'; read line; echo '{"count":0,"seconds":1}'"#;
        let (mut worker, _) = shell(idle).await.unwrap();
        assert!(worker.turn(TURN).await.unwrap_err().to_string().contains("nothing was done"));
    }
}
