//! The servers that all tests of a checkout share.

use std::{
    env, fs,
    path::{Path, PathBuf},
    thread,
};

use serde::{Deserialize, Serialize};

use crate::{
    dtm::store_settings,
    install::{self, lock},
    kind::Kind,
    ports::{free_port_for, usual},
    probe::connect,
    process::{is_running, stop},
    server,
    site::Site,
};

/// How many ports are tried where somebody else is quicker to take one.
const PORT_TRIES_MAX: usize = 3;

/// The URL of the server of this kind that tests share: what the kind's
/// [variable](Kind::variable) says, else the one that `cargo xtask servers up` started.
///
/// # Errors
///
/// A text that says how to get the server where there is none.
pub fn shared(kind: Kind) -> Result<String, String> {
    if let Ok(url) = env::var(kind.variable()) {
        return Ok(url);
    }
    match Servers::of_workspace().running(kind).filter(|record| connect(record.port).is_ok()) {
        Some(record) => Ok(kind.url(record.port)),
        None => Err(format!(
            "no {kind} runs: `cargo xtask servers up {kind}` starts one, or name yours in {}, as in {}",
            kind.variable(),
            kind.url(usual(kind))
        )),
    }
}

/// The servers that all tests of a checkout share, and what was installed for them.
#[derive(Clone, Debug)]
pub struct Servers {
    tools: PathBuf,
    runs: PathBuf,
}

/// A shared server that runs and answers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shared {
    /// What it is.
    pub kind: Kind,
    /// Where it is.
    pub url: String,
    /// Whether a commit is on the disk before it is acknowledged.
    pub is_durable: bool,
    /// Its process.
    pub pid: u32,
    /// Its data, settings and log.
    pub folder: PathBuf,
}

impl Servers {
    /// The ones of this checkout: under its `target/servers/`, or where `MICRO_SERVERS_DIR` says.
    #[must_use]
    pub fn of_workspace() -> Self {
        let root = env::var_os("MICRO_SERVERS_DIR").map_or_else(
            || {
                let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
                workspace.expect("this crate's folder stands in the workspace's root").join("target/servers")
            },
            PathBuf::from,
        );
        Self { tools: root.join("tools"), runs: root.join("runs") }
    }

    /// Others in a folder of their own, from the same installation.
    #[must_use]
    pub fn in_folder(&self, runs: &Path) -> Self {
        Self { tools: self.tools.clone(), runs: runs.to_owned() }
    }

    /// Why a server of this kind cannot be started without installing something first.
    #[must_use]
    pub fn missing(&self, kind: Kind) -> Option<String> {
        kind.program().missing(&self.tools)
    }

    /// Installs what is missing, starts what does not run, and waits until all answer.
    ///
    /// What runs already is left alone, unless it is to be durable and is not.
    #[must_use]
    pub fn up(&self, kinds: &[Kind], is_durable: bool) -> Vec<(Kind, Result<Shared, String>)> {
        let held = match lock(&self.tools).and_then(|tools| Ok([tools, lock(&self.runs)?])) {
            Ok(held) => held,
            Err(error) => return kinds.iter().map(|kind| (*kind, Err(error.clone()))).collect(),
        };
        server::sweep(&self.runs);
        // A failed installation shows itself below, kind by kind, by what is still missing.
        let packages = install::debian_packages(kinds);
        // What needs another server comes after it.
        let (later, first): (Vec<Kind>, Vec<Kind>) = kinds.iter().partition(|kind| kind.needs().is_some());
        let mut all = self.up_at_once(&first, is_durable, &packages);
        all.extend(self.up_at_once(&later, is_durable, &packages));
        drop(held);
        all.sort_by_key(|(kind, _)| kinds.iter().position(|wanted| wanted == kind));
        all
    }

    fn up_at_once(
        &self,
        kinds: &[Kind],
        is_durable: bool,
        packages: &Result<(), String>,
    ) -> Vec<(Kind, Result<Shared, String>)> {
        thread::scope(|scope| {
            let threads: Vec<_> =
                kinds.iter().map(|kind| (*kind, scope.spawn(|| self.up_one(*kind, is_durable, packages)))).collect();
            threads.into_iter().map(|(kind, thread)| (kind, join(thread))).collect()
        })
    }

    fn up_one(&self, kind: Kind, is_durable: bool, packages: &Result<(), String>) -> Result<Shared, String> {
        if let Some(record) = self.running(kind) {
            if (record.is_durable || !is_durable) && kind.program().answers(record.port) {
                return Ok(record.into_shared(kind));
            }
            self.stop(kind, &record);
        }
        if let Some(needed) = kind.needs().filter(|needed| env::var_os(needed.variable()).is_none()) {
            self.up_one(needed, is_durable, packages).map_err(|reason| format!("it needs {needed}: {reason}"))?;
        }
        kind.program().install(&self.tools)?;
        if let Some(reason) = self.missing(kind) {
            let cause = packages.as_ref().err().map(|error| format!("\n{error}"));
            return Err(format!("{reason}{}", cause.unwrap_or_default()));
        }
        self.start(kind, is_durable)
    }

    fn start(&self, kind: Kind, is_durable: bool) -> Result<Shared, String> {
        let before = self.record(kind).map(|record| record.port);
        let candidates = [before, Some(usual(kind))].into_iter().flatten();
        let port = candidates.into_iter().find(|port| kind.finds_free(*port)).unwrap_or_else(|| free_port_for(kind));
        let mut site = Site::new(kind, &self.tools, &self.folder(kind), port, is_durable)?;
        site.settings = self.settings(kind)?;
        let mut record = None;
        with_other_ports(&mut site, |site| {
            // Written before the server answers: if this process ends in between, the next finds it.
            site.launch(|child| {
                let started = Record { pid: child.id(), port: site.port, is_durable, folder: site.folder.clone() };
                self.write_record(kind, &started)?;
                record = Some(started);
                Ok(())
            })
        })?;
        Ok(record.expect("a launch that succeeds has called back").into_shared(kind))
    }

    /// What a server is told of the one that it needs.
    pub(crate) fn settings(&self, kind: Kind) -> Result<Vec<(String, String)>, String> {
        let Some(needed) = kind.needs() else { return Ok(Vec::new()) };
        let url = env::var(needed.variable()).ok();
        let url = url.or_else(|| self.running(needed).map(|record| needed.url(record.port)));
        store_settings(&url.ok_or_else(|| {
            format!("{kind} keeps its data in {needed}, and none runs: `cargo xtask servers up {needed}` starts one")
        })?)
    }

    /// Stops those of these kinds that run, and what tests that were killed left running; their data stay.
    ///
    /// # Errors
    ///
    /// When another process that starts or stops them does not come to its end.
    pub fn down(&self, kinds: &[Kind]) -> Result<(), String> {
        let _held = lock(&self.runs)?;
        server::sweep(&self.runs);
        thread::scope(|scope| {
            for kind in kinds {
                if let Some(record) = self.running(*kind) {
                    scope.spawn(move || self.stop(*kind, &record));
                }
            }
        });
        Ok(())
    }

    fn stop(&self, kind: Kind, record: &Record) {
        stop(record.pid, &record.mark(), kind.program().stop_signal());
    }

    /// Those that run and answer.
    #[must_use]
    pub fn status(&self) -> Vec<Shared> {
        let answers = |kind: Kind| self.running(kind).filter(|record| kind.program().answers(record.port));
        Kind::ALL.into_iter().filter_map(|kind| Some(answers(kind)?.into_shared(kind))).collect()
    }

    /// What is written of a server whose process is still there.
    fn running(&self, kind: Kind) -> Option<Record> {
        self.record(kind).filter(|record| is_running(record.pid, &record.mark()))
    }

    fn record(&self, kind: Kind) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.record_path(kind)).ok()?).ok()
    }

    fn write_record(&self, kind: Kind, record: &Record) -> Result<(), String> {
        let text = serde_json::to_string(record).map_err(|error| error.to_string())?;
        install::write(&self.record_path(kind), &text)
    }

    fn record_path(&self, kind: Kind) -> PathBuf {
        self.runs.join(format!("{kind}.json"))
    }

    fn folder(&self, kind: Kind) -> PathBuf {
        self.runs.join(kind.name())
    }

    pub(crate) fn tools(&self) -> &Path {
        &self.tools
    }

    pub(crate) fn runs(&self) -> &Path {
        &self.runs
    }
}

/// Starts a server, and again on another port where somebody took its port since it was chosen.
pub(crate) fn with_other_ports<T>(
    site: &mut Site,
    mut launch: impl FnMut(&Site) -> Result<T, String>,
) -> Result<T, String> {
    for _ in 1..PORT_TRIES_MAX {
        match launch(site) {
            Err(_) if !site.kind.finds_free(site.port) => site.port = free_port_for(site.kind),
            outcome => return outcome,
        }
    }
    launch(site)
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, Result<T, String>>) -> Result<T, String> {
    thread.join().unwrap_or_else(|_| Err("the thread that starts it panicked".to_owned()))
}

/// What is written of a started server.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    pid: u32,
    port: u16,
    is_durable: bool,
    folder: PathBuf,
}

impl Record {
    fn mark(&self) -> String {
        format!("{}/", self.folder.display())
    }

    fn into_shared(self, kind: Kind) -> Shared {
        Shared { kind, url: kind.url(self.port), is_durable: self.is_durable, pid: self.pid, folder: self.folder }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_installed_is_told_with_the_way_to_get_it() {
        let empty = tempfile::tempdir().unwrap();
        let servers = Servers { tools: empty.path().join("tools"), runs: empty.path().join("runs") };
        for kind in [Kind::Kafka, Kind::Consul, Kind::Dtm] {
            let reason = servers.missing(kind).unwrap();
            let way = format!("`cargo xtask servers up {kind}`");
            assert!(reason.contains(&way) || reason.starts_with("java is not installed"), "{reason}");
        }
    }
}
