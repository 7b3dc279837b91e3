//! The processes of a round: started, ended, and what they cost by what Linux tells of them.

use std::{
    fs::{self, File},
    io,
    path::Path,
    process::Stdio,
    time::Duration,
};

use tokio::process::{Child, Command};

use crate::Result;

/// Linux counts processor time for user space in hundredths of a second, whatever the machine.
const TICKS_PER_SECOND: u64 = 100;
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// A process that this one started; dropped, it is killed.
pub struct Process {
    /// Its name in reports.
    pub name: &'static str,
    child: Child,
    id: u32,
}

impl Process {
    /// Starts it, its output in `log`.
    pub fn start(name: &'static str, command: &mut Command, log: &Path) -> Result<Self> {
        Self::spawn(name, command, File::create(log), log)
    }

    /// Starts it again once it ended, its output behind what is in `log`.
    pub fn start_again(&mut self, command: &mut Command, log: &Path) -> Result<()> {
        *self = Self::spawn(self.name, command, File::options().append(true).open(log), log)?;
        Ok(())
    }

    fn spawn(name: &'static str, command: &mut Command, output: io::Result<File>, log: &Path) -> Result<Self> {
        let output = output.map_err(|error| format!("{}: {error}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{name} does not start: {error}"))?;
        let id = child.id().ok_or("a child just started has an id")?;
        Ok(Self { name, child, id })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Fails when it ended.
    pub fn expect_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => Err(format!("{} ended: {status}", self.name).into()),
            None => Ok(()),
        }
    }

    /// Asks it to end and waits.
    pub async fn stop(mut self) -> Result<()> {
        Command::new("kill").args(["-TERM", &self.id.to_string()]).status().await?;
        match tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await {
            Ok(status) => {
                status?;
                Ok(())
            }
            Err(_) => {
                self.child.kill().await?;
                Err(format!("{} did not end within {STOP_TIMEOUT:?} of SIGTERM", self.name).into())
            }
        }
    }
}

/// Processor time that the process took since it began, all threads, user and system.
pub fn cpu_time(id: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).map_err(|error| format!("process {id}: {error}"))?;
    // The name in parentheses may hold anything; the fields after it are numbers.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok());
    match (ticks(11), ticks(12)) {
        (Some(user), Some(system)) => Ok(Duration::from_millis((user + system) * 1_000 / TICKS_PER_SECOND)),
        _ => Err(format!("process {id}: /proc/{id}/stat has no processor times").into()),
    }
}

/// The most memory it ever had resident, in KiB.
pub fn resident_kib_max(id: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).map_err(|error| format!("process {id}: {error}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok());
    kib.ok_or_else(|| format!("process {id}: /proc/{id}/status has no VmHWM").into())
}

/// The process that listens on this TCP port of 127.0.0.1 or of all addresses.
pub fn listening_on(port: u16) -> Result<u32> {
    let sockets = listening_sockets(port)?;
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let files = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        let mut links = files.filter_map(|file| fs::read_link(file.path()).ok());
        if links.any(|link| link.to_str().is_some_and(|link| sockets.iter().any(|socket| link == socket))) {
            return Ok(id);
        }
    }
    Err(format!("no process of this machine that may be looked at listens on port {port}").into())
}

fn listening_sockets(port: u16) -> Result<Vec<String>> {
    const LISTEN: &str = "0A";
    let mut sockets = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, local, _, state, _, _, _, _, _, inode, ..] = fields.as_slice() else { continue };
            let of_port = local.rsplit(':').next().and_then(|port| u16::from_str_radix(port, 16).ok());
            if *state == LISTEN && of_port == Some(port) {
                sockets.push(format!("socket:[{inode}]"));
            }
        }
    }
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_that_listens_is_found_with_its_cost() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let id = listening_on(listener.local_addr().unwrap().port()).unwrap();
        assert_eq!(id, std::process::id());
        assert!(cpu_time(id).unwrap() < Duration::from_secs(3_600));
        assert!(resident_kib_max(id).unwrap() > 100);
        assert!(listening_on(1).is_err());
    }
}
