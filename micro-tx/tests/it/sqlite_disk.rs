//! SQLite on a disk that fails: what is said of a commit is true after a crash too.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use micro_core::{ErrorKind, TransactionManager as _};
use micro_tx::{SqlDatabase, SqlTxExt as _};

use crate::faults::{blocking, or_skip};

const INSERT: &str = "INSERT INTO orders (code, status) VALUES (?, '2')";

/// SQLite undoes the transaction in its memory; in the file it is whole, and who opens the file has
/// it: the next process after a crash, or a reader here when the writer's connection is closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_of_sqlite_whose_fsync_fails_may_be_done() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("orders.db");
    let database = SqlDatabase::connect_url(&format!("sqlite:{}", file.display())).await.unwrap();
    database.migrate().await.unwrap();
    database.execute_script("CREATE TABLE orders (code TEXT PRIMARY KEY, status TEXT NOT NULL)").await.unwrap();
    for is_single in [false, true] {
        let code = format!("is-single-{is_single}");
        let log = folder.path().join("orders.db-wal");
        // A container may forbid it: no server is missing then.
        let failing = match or_skip("strace", blocking(move || FailingSync::of(&log)).await) {
            Some(Some(failing)) => failing,
            Some(None) => return eprintln!("skipped: this process may not be traced"),
            None => return,
        };
        let error = if is_single {
            database.execute(INSERT, &[(&code).into()]).await.unwrap_err()
        } else {
            let mut tx = database.begin().await.unwrap();
            tx.sql().unwrap().execute(INSERT, &[(&code).into()]).await.unwrap();
            tx.commit().await.unwrap_err()
        };
        let crashed = tempfile::tempdir().unwrap();
        for name in ["orders.db", "orders.db-wal"] {
            std::fs::copy(folder.path().join(name), crashed.path().join(name)).unwrap();
        }
        blocking(move || drop(failing)).await;
        assert_eq!(error.kind(), ErrorKind::Unknown, "{}", error.report());
        assert!(!error.is_retryable() && error.report().contains("may be done"), "{}", error.report());

        let select = "SELECT code FROM orders WHERE code = ?";
        let url = format!("sqlite:{}", crashed.path().join("orders.db").display());
        let found = SqlDatabase::connect_url(&url).await.unwrap();
        assert_eq!(found.fetch_all(select, &[(&code).into()]).await.unwrap().len(), 1, "a crash brings it back");
        found.close().await;
        let next = format!("{code}, next");
        database.execute(INSERT, &[(&next).into()]).await.unwrap();
        assert_eq!(database.fetch_all(select, &[(&next).into()]).await.unwrap().len(), 1, "it goes on");
    }
}

/// While it lives, this process cannot sync one of its files.
struct FailingSync {
    strace: Child,
}

impl FailingSync {
    /// `None` where the system does not let it be traced.
    fn of(file: &Path) -> Result<Option<Self>, String> {
        if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
            dev_servers::install_packages(&["strace"])?;
        }
        let mut command = Command::new("strace");
        command.args(["-f", "-p", &std::process::id().to_string(), "-P"]).arg(file);
        command.args(["-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO"]);
        let mut strace = command.stderr(Stdio::piped()).spawn().map_err(|error| error.to_string())?;
        let mut said = BufReader::new(strace.stderr.take().expect("it is piped"));
        let mut line = String::new();
        said.read_line(&mut line).map_err(|error| error.to_string())?;
        // It says so of all threads at once. What it says later must find a reader.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        if line.contains("attached") {
            return Ok(Some(Self { strace }));
        }
        let _ = strace.wait();
        eprintln!("strace: {}", line.trim());
        Ok(None)
    }
}

impl Drop for FailingSync {
    fn drop(&mut self) {
        // Killed outright it could leave a call half-way.
        let _ = Command::new("kill").args(["-INT", &self.strace.id().to_string()]).status();
        let _ = self.strace.wait();
    }
}
