//! A server of a test's own: killed, paused and restarted as the test likes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self as this, Child},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::{
    disk::{SmallDisk, unmount},
    dtm::drop_store,
    install::make_folder,
    kafka::SOON_TAKEN_BACK,
    kind::Kind,
    ports::free_port_for,
    process::{children, is_alive, is_running, kill, signal, wait_until, with_mark},
    servers::{Servers, with_other_ports},
    site::Site,
};

/// How long a backend that PostgreSQL forked as it was killed may outlive it, and what the next
/// server says meanwhile.
const ORPHAN_WAIT_MAX: Duration = Duration::from_secs(10);
const HELD_BY_AN_ORPHAN: &str = "pre-existing shared memory block";

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
    /// Where its data are, if it was to have one.
    disk: Option<SmallDisk>,
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
    /// or of Consul's HCL, `--name=value` of MariaDB and etcd, `-c name=value` of PostgreSQL, keys of DTM's
    /// YAML (`Store.Db`), `--name value` of Redis.
    ///
    /// In a value `${port}` stands for the server's port, `${folder}` for its folder and `${other}`
    /// for the port of Kafka's controller. `("format.add-scram", "SCRAM-SHA-256=[name=…,password=…]")`
    /// gives Kafka a user. DTM on MySQL has a database of its own in the shared MariaDB.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_with(kind: Kind, settings: &[(&str, &str)]) -> Result<Self, String> {
        Self::start_on(None, kind, settings)
    }

    /// Starts it [with settings](Self::start_with) and its data on a [disk](Self::disk) of so many
    /// MiB: MariaDB needs some 130 of them, PostgreSQL 70.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start), and a text that says why nothing can be mounted here.
    pub fn start_on_small_disk(kind: Kind, size_mib: u32, settings: &[(&str, &str)]) -> Result<Self, String> {
        Self::start_on(Some(size_mib), kind, settings)
    }

    fn start_on(disk_size_mib: Option<u32>, kind: Kind, settings: &[(&str, &str)]) -> Result<Self, String> {
        let servers = Servers::of_workspace();
        if let Some(reason) = servers.missing(kind) {
            return Err(reason);
        }
        let folder = own_folder(&servers, kind.name());
        make_folder(&folder)?;
        let mut site = Site::new(kind, servers.tools(), &folder, free_port_for(kind), true)?;
        site.settings = servers.settings(kind)?;
        if kind.needs().is_some() {
            site.settings.push(("Store.Db".to_owned(), format!("dtm_{}_{}", this::id(), site.port)));
        }
        if kind == Kind::Kafka {
            let (name, value) = SOON_TAKEN_BACK;
            site.settings.push((name.to_owned(), value.to_owned()));
        }
        site.settings.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let started = disk_size_mib.map(|size| SmallDisk::mount_at(site.data(), size)).transpose().and_then(|disk| {
            let child = with_other_ports(&mut site, |site| site.launch(|_| Ok(())))?;
            Ok((disk, child))
        });
        let (disk, child) = started.inspect_err(|_| {
            let _ = fs::remove_dir_all(&folder);
        })?;
        Ok(Self { url: kind.url(site.port), site, folder, child, disk })
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

    /// The disk that has its data, if it was [started on one](Self::start_on_small_disk).
    #[must_use]
    pub fn disk(&self) -> Option<&SmallDisk> {
        self.disk.as_ref()
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
        let mut launched = self.site.launch(|_| Ok(()));
        wait_until(ORPHAN_WAIT_MAX, || {
            let is_held = launched.as_ref().is_err_and(|error| error.contains(HELD_BY_AN_ORPHAN));
            if is_held {
                launched = self.site.launch(|_| Ok(()));
            }
            !is_held
        });
        self.child = launched?;
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
        if self.site.kind == Kind::DtmMysql {
            drop_store(&self.site.settings);
        }
        self.disk = None;
        let _ = fs::remove_dir_all(&self.site.folder);
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A folder for what a test of this process owns. Its name begins with the owner, so that [`sweep`]
/// knows whose it is.
pub(crate) fn own_folder(servers: &Servers, what: &str) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let name = format!("{}-{}-{what}", this::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    servers.runs().join(OWN).join(name)
}

/// Kills the servers of tests that ended without doing it, and removes their folders and disks.
pub(crate) fn sweep(runs: &Path) {
    for entry in fs::read_dir(runs.join(OWN)).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let mut parts = name.splitn(3, '-');
        let Some(owner) = parts.next().and_then(|owner| owner.parse().ok()) else { continue };
        if is_alive(owner) {
            continue;
        }
        if let Some(kind) = parts.nth(1).and_then(|kind| kind.parse().ok()) {
            // The site tells where the server of that folder really writes; its other fields do not count.
            let Ok(site) = Site::new(kind, Path::new(""), &entry.path(), 0, true) else { continue };
            for pid in with_mark(&site.mark()) {
                kill(pid);
            }
            unmount(&site.data());
            let _ = fs::remove_dir_all(&site.folder);
        } else {
            unmount(&entry.path());
        }
        let _ = fs::remove_dir_all(entry.path());
    }
}
