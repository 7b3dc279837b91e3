//! A place where one server runs: folder, port, settings; starting it there and waiting for it.

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use crate::{
    install::{last_lines, make_folder, once},
    kind::Kind,
    postgres,
    process::{self, wait_until},
};

/// How long a server may take until it answers, on a machine that compiles at the same time.
const START_MAX: Duration = Duration::from_secs(120);

/// Where one server runs, and how.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) kind: Kind,
    /// What [`Program::install`](crate::kind::Program::install) filled.
    pub(crate) tools: PathBuf,
    /// All that the server writes.
    pub(crate) folder: PathBuf,
    pub(crate) port: u16,
    /// Whether a commit is on the disk before it is acknowledged.
    pub(crate) is_durable: bool,
    /// Further settings, which win over ours.
    pub(crate) settings: Vec<(String, String)>,
}

impl Site {
    /// A site in `folder`, or beside it where the server's user may not go there.
    pub(crate) fn new(kind: Kind, tools: &Path, folder: &Path, port: u16, is_durable: bool) -> Result<Self, String> {
        let folder = if kind == Kind::Postgres { postgres::reachable(folder)? } else { folder.to_owned() };
        Ok(Self { kind, tools: tools.to_owned(), folder, port, is_durable, settings: Vec::new() })
    }

    /// Where the server keeps its data.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// What stands in the server's command line and in no other's.
    pub(crate) fn mark(&self) -> String {
        format!("{}/", self.folder.display())
    }

    /// Starts the server and waits until it answers. `started` hears of the process before that.
    pub(crate) fn launch(&self, started: impl FnOnce(&Child) -> Result<(), String>) -> Result<Child, String> {
        let program = self.kind.program();
        make_folder(&self.folder)?;
        once(&self.data(), "", || program.prepare(self))?;
        let log = self.log();
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(|error| format!("{} cannot be opened ({error})", log.display()))?;
        let errors = output.try_clone().map_err(|error| format!("{} cannot be shared ({error})", log.display()))?;
        let mut command = program.command(self)?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        process::detach(&mut command);
        let mut child = command.spawn().map_err(|error| format!("{} does not start ({error})", self.kind))?;
        let outcome = started(&child).and_then(|()| self.wait(&mut child));
        if outcome.is_err() {
            process::kill(child.id());
            let _ = child.wait();
        }
        outcome.map(|()| child)
    }

    fn wait(&self, child: &mut Child) -> Result<(), String> {
        let mut end = None;
        let answers = wait_until(START_MAX, || {
            end = child.try_wait().ok().flatten();
            end.is_some() || self.kind.program().answers(self.port)
        });
        let reason = match end {
            Some(status) => format!("{} ended while it started, {status}", self.kind),
            None if !answers => format!("{} did not answer within {} s", self.kind, START_MAX.as_secs()),
            None => return Ok(()),
        };
        Err(format!("{reason}; the last lines of {}:\n{}", self.log().display(), self.last_log_lines()))
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    pub(crate) fn last_log_lines(&self) -> String {
        // A log need not be UTF-8 to its last byte.
        last_lines(&String::from_utf8_lossy(&fs::read(self.log()).unwrap_or_default()))
    }

    /// The further settings with the names in them filled in: `${port}` and `${folder}`, and
    /// `${other}` a further port.
    pub(crate) fn settings(&self, other: u16) -> impl Iterator<Item = (String, String)> {
        self.settings.iter().map(move |(name, value)| {
            let value = value
                .replace("${port}", &self.port.to_string())
                .replace("${other}", &other.to_string())
                .replace("${folder}", &self.folder.display().to_string());
            (name.clone(), value)
        })
    }
}
