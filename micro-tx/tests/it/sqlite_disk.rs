//! SQLite on a disk that fails: what is said of a commit is true after a crash too.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use micro_core::{ErrorKind, TransactionManager as _};
use micro_tx::SqlTxExt as _;

use crate::{
    faults::{blocking, or_skip},
    on_servers::connected,
    sqlite,
};

const INSERT: &str = "INSERT INTO orders (code, status) VALUES (?, '2')";

/// The variable by which the process that is traced knows that it is one.
const IS_TRACED: &str = "MICRO_TEST_SQLITE_IS_TRACED";

/// SQLite undoes the transaction in its memory; in the file it is whole, and who opens the file has
/// it: the next process after a crash, or a reader here when the writer's connection is closed.
///
/// In this test binary, which runs [`the_process_that_is_traced`] alone: the tests beside this one are not
/// stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_of_sqlite_whose_fsync_fails_may_be_done() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "sqlite_disk::the_process_that_is_traced", "--nocapture"]).env(IS_TRACED, "1");
    let output = blocking(move || command.output()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let ran = String::from_utf8_lossy(&output.stdout);
    assert!(ran.contains("1 passed"), "{ran}");
    eprint!("{said}");
}

/// Does nothing where nobody started it to be traced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_that_is_traced() {
    if std::env::var(IS_TRACED).is_err() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("orders.db");
    let database = connected(sqlite::config(&format!("sqlite:{}", file.display()))).await;
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
        let found = connected(sqlite::config(&url)).await;
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
