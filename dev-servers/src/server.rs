//! A server of a test's own: killed, paused and restarted as the test likes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self as this, Child},
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    install::make_folder,
    kind::Kind,
    ports::free_port,
    process::{children, is_alive, is_running, kill, signal, with_mark},
    servers::{Servers, with_other_ports},
    site::Site,
};

/// The folder for the servers of tests, in that of the shared ones.
const OWN: &str = "own";

/// A server of one's own: a free port, a data folder of its own, durable.
///
/// Its drop kills it and removes the folder. Where the process ends without that, the next
/// `cargo xtask servers up` or `down` does it.
#[derive(Debug)]
pub struct Server {
    site: Site,
    /// Named by its owner; empty where the server's user had to be given another one.
    folder: PathBuf,
    url: String,
    child: Child,
}

impl Server {
    /// Starts it and waits until it answers.
    ///
    /// # Errors
    ///
    /// A text that says what is not installed, or the last lines of the server's log.
    pub fn start(kind: Kind) -> Result<Self, String> {
        Self::start_with(kind, &[])
    }

    /// Starts it with further settings, which win over ours: lines of Kafka's `server.properties`
    /// or of Consul's HCL, `--name=value` of MariaDB, `-c name=value` of PostgreSQL.
    ///
    /// In a value `${port}` stands for the server's port, `${folder}` for its folder and `${other}`
    /// for the port of Kafka's controller. `("format.add-scram", "SCRAM-SHA-256=[name=…,password=…]")`
    /// gives Kafka a user.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_with(kind: Kind, settings: &[(&str, &str)]) -> Result<Self, String> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let servers = Servers::of_workspace();
        if let Some(reason) = servers.missing(kind) {
            return Err(reason);
        }
        // The name begins with the owner, so that `sweep` knows whose it is.
        let name = format!("{}-{}-{kind}", this::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = servers.runs().join(OWN).join(name);
        make_folder(&folder)?;
        let mut site = Site::new(kind, servers.tools(), &folder, free_port(), true)?;
        site.settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let child = with_other_ports(&mut site, |site| site.launch(|_| Ok(()))).inspect_err(|_| {
            let _ = fs::remove_dir_all(&folder);
        })?;
        Ok(Self { url: kind.url(site.port), site, folder, child })
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its port on loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.site.port
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its data, settings and log.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.site.folder
    }

    /// Kills it and its children at once (SIGKILL), and waits until they are gone.
    pub fn kill(&mut self) {
        if is_running(self.pid(), &self.site.mark()) {
            kill(self.pid());
        }
        // Fails only where it was waited for before.
        let _ = self.child.wait();
    }

    /// Starts it again on the same port with the same data, and waits until it answers; one that
    /// runs is killed first.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn restart(&mut self) -> Result<(), String> {
        self.kill();
        self.child = self.site.launch(|_| Ok(()))?;
        Ok(())
    }

    /// Freezes it (SIGSTOP): connections stay open and nothing answers.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets it go on after [`pause`](Self::pause).
    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        signal(self.pid(), name);
        for child in children(self.pid()) {
            signal(child, name);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.site.folder);
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Kills the servers of tests that ended without doing it, and removes their folders.
pub(crate) fn sweep(runs: &Path) {
    for entry in fs::read_dir(runs.join(OWN)).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let mut parts = name.split('-');
        let owner = parts.next().and_then(|owner| owner.parse().ok());
        let kind = parts.next_back().and_then(|kind| kind.parse().ok());
        let (Some(owner), Some(kind)) = (owner, kind) else { continue };
        if is_alive(owner) {
            continue;
        }
        // The site tells where the server of that folder really writes; its other fields do not count.
        let Ok(site) = Site::new(kind, Path::new(""), &entry.path(), 0, true) else { continue };
        for pid in with_mark(&site.mark()) {
            kill(pid);
        }
        let _ = fs::remove_dir_all(&site.folder);
        let _ = fs::remove_dir_all(entry.path());
    }
}
