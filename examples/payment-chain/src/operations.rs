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
        let resumed = if path.exists() {
            cut_torn_line(&path).map_err(|error| io(&path, error))?;
            Some(read(&path, seed)?)
        } else {
            None
        };
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
    lines
        .map(|line| {
            let line = line.map_err(|error| io(path, error))?;
            line.parse().map_err(|error| {
                Error::new(ErrorKind::DataLoss, "operations.open", "a line is not the number of an order")
                    .with_context("file", path.display())
                    .with_source(error)
            })
        })
        .collect()
}

/// Removes what stands behind the last line break: a write that was cut off was not counted, and
/// half a number is another number.
fn cut_torn_line(path: &Path) -> std::io::Result<()> {
    let bytes = std::fs::read(path)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |index| index + 1);
    if whole < bytes.len() {
        OpenOptions::new().write(true).open(path)?.set_len(whole as u64)?;
    }
    Ok(())
}

fn io(path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Internal, "operations.open", "the operation log cannot be used")
        .with_context("file", path.display())
        .with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: Seed = Seed { orders: 200, skus: 1, stock: 1 };

    #[test]
    fn what_was_acknowledged_is_there_in_the_next_run_and_half_a_line_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let log = OperationLog::open(folder.path(), SEED).unwrap();
        assert_eq!(log.resumed(), None);
        for order_id in [7, 123] {
            log.acknowledged(order_id).unwrap();
        }
        let path = folder.path().join("callbacks.log");
        let length = std::fs::metadata(&path).unwrap().len();
        // Killed within the write of "123\n": order 12 must not be taken for acknowledged.
        OpenOptions::new().write(true).open(&path).unwrap().set_len(length - 2).unwrap();

        let log = OperationLog::open(folder.path(), SEED).unwrap();
        assert_eq!(log.resumed(), Some(&BTreeSet::from([7])));
        log.acknowledged(45).unwrap();
        assert_eq!(log.acknowledged_orders().unwrap(), BTreeSet::from([7, 45]));
    }

    #[test]
    fn a_file_that_is_no_log_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for (text, message) in [("", "not the seed"), ("nonsense\n", "not the seed")] {
            std::fs::write(folder.path().join("callbacks.log"), text).unwrap();
            let error = OperationLog::open(folder.path(), SEED).err().unwrap();
            assert!(error.report().contains(message), "{}", error.report());
        }
        let seed = serde_json::to_string(&SEED).unwrap();
        std::fs::write(folder.path().join("callbacks.log"), format!("{seed}\n1\nx\n")).unwrap();
        let error = OperationLog::open(folder.path(), SEED).err().unwrap();
        assert!(error.report().contains("not the number of an order"), "{}", error.report());
    }
}
