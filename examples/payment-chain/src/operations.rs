//! The operation log: what each callback was answered, kept in a file that outlives the process.
//!
//! A callback that was answered OK and is not settled in the end is a lost one, also when the
//! process was killed in between. So the answer is written down before it is counted.

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    sync::Mutex,
};

use micro_rs::prelude::*;
use serde::{Deserialize, Serialize};

/// What was seeded: a second run on the same files must know what stood there at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed {
    /// Orders 1 to this one.
    pub orders: u32,
    /// SKUs 1 to this one.
    pub skus: u32,
    /// Units of each SKU at first.
    pub stock: u32,
}

/// The log of one pair of databases.
pub struct OperationLog {
    path: PathBuf,
    file: Mutex<File>,
    seed: Seed,
    resumed: Option<BTreeSet<i64>>,
}

impl OperationLog {
    /// Opens the log in `folder`; an existing one is gone on with.
    ///
    /// # Errors
    ///
    /// `FailedPrecondition` when the folder was seeded with other numbers; `Internal` when the
    /// file cannot be read or written.
    pub fn open(folder: &Path, seed: Seed) -> Result<Self> {
        let path = folder.join("callbacks.log");
        let resumed = if path.exists() { Some(read(&path, seed)?) } else { None };
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(|error| io(&path, error))?;
        if resumed.is_none() {
            let line = serde_json::to_string(&seed).expect("three numbers are JSON");
            writeln!(file, "{line}").map_err(|error| io(&path, error))?;
        }
        Ok(Self { path, file: Mutex::new(file), seed, resumed })
    }

    /// What was seeded.
    pub fn seed(&self) -> Seed {
        self.seed
    }

    /// The orders whose callbacks an earlier run acknowledged; `None` in the first run.
    pub fn resumed(&self) -> Option<&BTreeSet<i64>> {
        self.resumed.as_ref()
    }

    /// Every order whose callback was acknowledged, in this run or an earlier one.
    pub fn acknowledged_orders(&self) -> Result<BTreeSet<i64>> {
        read(&self.path, self.seed)
    }

    /// Writes down that the callback of this order was answered OK.
    pub fn acknowledged(&self, order_id: i64) -> Result<()> {
        let mut file = self.file.lock().expect("no panic while it is held");
        // One write call a line: the page cache outlives a killed process.
        file.write_all(format!("{order_id}\n").as_bytes())
            .map_err(|error| Error::new(ErrorKind::Internal, "operations.append", "write failed").with_source(error))
    }
}

fn read(path: &Path, seed: Seed) -> Result<BTreeSet<i64>> {
    let mut lines = BufReader::new(File::open(path).map_err(|error| io(path, error))?).lines();
    let header = lines.next().transpose().map_err(|error| io(path, error))?.unwrap_or_default();
    let found: Seed = serde_json::from_str(&header).map_err(|error| {
        Error::new(
            ErrorKind::DataLoss,
            "operations.open",
            "the first line is not the seed; remove the folder to begin anew",
        )
        .with_context("file", path.display())
        .with_source(error)
    })?;
    if found != seed {
        return Err(Error::new(
            ErrorKind::FailedPrecondition,
            "operations.open",
            "the folder was seeded with other numbers: pass the same --orders, --skus and --stock, or another folder",
        )
        .with_context("found", header)
        .with_context("asked", serde_json::to_string(&seed).expect("three numbers are JSON")));
    }
    // The last line may be cut off where the process was killed; what does not parse was not acknowledged.
    Ok(lines.map_while(std::result::Result::ok).filter_map(|line| line.trim().parse().ok()).collect())
}

fn io(path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Internal, "operations.open", "the operation log cannot be used")
        .with_context("file", path.display())
        .with_source(error)
}
