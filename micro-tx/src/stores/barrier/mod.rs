//! The barrier on a table that clients of DTM in other languages may share.

mod table;

use std::time::Duration;

use async_trait::async_trait;
use micro_core::{
    Error, ErrorKind, Result, Tx,
    barrier::{BarrierCall, BarrierStore, Passage, Prepared},
    branch::{Branch, Mode, Op},
};

use self::table::Table;
use super::limit;
use crate::{database::SqlDatabase, dialect::Dialect, row::Row, transaction::SqlTx, value::Value};

/// The barrier of global transactions' branches, on a table of this database:
/// [`SqlDatabase::barrier`], [`SqlDatabase::barrier_with`]. Cheap to clone.
///
/// Columns, widths and the unique key are those of DTM's own table, and so is the algorithm: services
/// in Go, Java, PHP and other languages may use the same table at the same time, and one of them may
/// undo what another one did. All that use it need the same name for it.
///
/// An operation that undoes nothing costs one statement more within its transaction, an undoing two, and
/// on MySQL and MariaDB a third one, which looks whose action it was.
/// Two in one would be told apart by nothing but the number of rows, and of one row nobody would know
/// whose it is once the other one was purged.
///
/// # Limits
///
/// - `gid` and branch id at most 128 characters, operation at most 45: longer ones are refused, for
///   MySQL would cut them.
/// - On MySQL and MariaDB a table that DTM's script made takes ids for the same that differ in case or
///   accents alone. The later one of the two is `Internal`, its undoing too, and never done for the other
///   one: give the columns a binary collation, as [`create_table`](Self::create_table) does.
/// - Ages are whole seconds, by the clock of the database. On MySQL and MariaDB the table keeps the time
///   of the session that wrote the row, here UTC: rows of clients in another time zone seem so many hours
///   older or younger.
/// - In a table that DTM's script made on PostgreSQL only rows from here have a time, and only they are
///   purged. `ALTER TABLE … ALTER create_time SET DEFAULT now()` makes it those of others too.
/// - In one schema of PostgreSQL only the first table can be shared with DTM's Go client, which names the
///   table's unique key, and such names are unique there.
/// - On MySQL and MariaDB two that wait for the same branch, which is rolled back, can meet in a deadlock;
///   one of them then fails with `Aborted` and comes again.
///
/// # Examples
///
/// ```
/// use micro_core::{Error, barrier::{Barrier, BarrierExt as _}, branch::{Branch, Mode, Op}};
/// use micro_tx::{SqlDatabase, SqlTxExt as _};
///
/// # tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
/// # let folder = tempfile::tempdir().unwrap();
/// # let url = format!("sqlite:{}", folder.path().join("stock.db").display());
/// let database = SqlDatabase::connect_url(&url).await?;
/// let store = database.barrier();
/// store.create_table().await?;
/// # database.execute_script("CREATE TABLE stock (sku TEXT PRIMARY KEY, count INTEGER)").await?;
/// # database.execute("INSERT INTO stock VALUES ('A-17', 5)", &[]).await?;
///
/// // The coordinator calls twice; the second call finds that the first one took effect.
/// for expected in [Some(()), None] {
///     let mut barrier = Barrier::new(Branch::new(Mode::Saga, "order-1", "01", Op::Action)?);
///     let done = database
///         .run_with_barrier(&store, &mut barrier, async |tx| {
///             tx.sql()?.execute("UPDATE stock SET count = count - 1 WHERE sku = ?", &["A-17".into()]).await?;
///             Ok::<_, Error>(())
///         })
///         .await?;
///     assert_eq!(done, expected);
/// }
/// # let row = database.fetch_optional("SELECT count FROM stock", &[]).await?;
/// # assert_eq!(row.unwrap().get::<i64>(0)?, 4);
/// # database.close().await;
/// # Ok::<_, Error>(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct SqlBarrier {
    database: SqlDatabase,
    table: Table,
    insert: String,
    find: String,
    purge: String,
}

impl SqlBarrier {
    pub(crate) fn new(database: SqlDatabase, table: &str) -> Result<Self> {
        let table = Table::new(database.dialect(), table)?;
        let find = "SELECT gid, branch_id, op, reason FROM";
        Ok(Self {
            insert: insert(database.dialect(), table.quoted()),
            find: format!("{find} {} WHERE gid = ? AND branch_id = ? AND op = ? AND barrier_id = ?", table.quoted()),
            purge: purge(database.dialect(), table.quoted()),
            database,
            table,
        })
    }

    /// The table of DTM's Go client; in SQLite, which has no schemas, that of its other clients.
    pub(crate) fn of_dtm(database: SqlDatabase) -> Self {
        let table = match database.dialect() {
            Dialect::Sqlite => "barrier",
            Dialect::MySql | Dialect::Postgres => "dtm_barrier.barrier",
        };
        Self::new(database, table).expect("the names are words")
    }

    /// Creates the table, and the schema (on MySQL the database) that its name begins with, where they are
    /// missing. A table that is there is left as it is.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` where it is missing and may not be created: create it by hand, or name one in
    /// the service's own schema; `FailedPrecondition` for a MySQL table without the unique key, in which
    /// everything would proceed every time.
    pub async fn create_table(&self) -> Result<()> {
        self.table.create(&self.database).await
    }

    /// The database whose table it is.
    #[cfg(all(feature = "dtm", any(feature = "mysql", feature = "postgres")))]
    pub(crate) fn database(&self) -> &SqlDatabase {
        &self.database
    }

    /// Stops the action of a branch of XA that was rolled back. Waits for one that is under way, and is
    /// `Aborted` where that is prepared meanwhile: it is to be rolled back again.
    #[cfg(all(feature = "dtm", any(feature = "mysql", feature = "postgres")))]
    pub(crate) async fn forbid_action(&self, branch: &Branch) -> Result<()> {
        let call = BarrierCall::new(branch, 1);
        checked(&call)?;
        let values = values_of(&call, &Op::Action, &branch.op);
        self.database.repeat_as("barrier.forbid", &self.insert, &values).await.map(drop)
    }

    /// That a branch of XA took effect which is not prepared any more: its own row is committed with it.
    /// A server that answers a commit with success may have done nothing (MariaDB, of what another client
    /// prepared on a connection that is being closed), and one that does not know the branch may have lost it.
    ///
    /// # Errors
    ///
    /// `DataLoss` where the row is not there.
    #[cfg(all(feature = "dtm", any(feature = "mysql", feature = "postgres")))]
    pub(crate) async fn check_done(&self, branch: &Branch) -> Result<()> {
        let call = BarrierCall::new(branch, 1);
        let rows = self.database.fetch_all_as("xa.commit", &self.find, &id_of(&call, &Op::Action)).await?;
        let reason = rows.first().map(|row| reason_of(row, branch)).transpose()?;
        if reason.as_deref() == Some(Op::Action.as_str()) {
            return Ok(());
        }
        let message = "the database knows this branch neither as prepared nor as done, and it is asked again: what \
                       MariaDB has lost sight of it knows again after a restart; where the barrier's row was purged \
                       meanwhile, stop the transaction by force";
        Err(Error::new(ErrorKind::DataLoss, "xa.commit", message)
            .with_context("gid", &branch.gid)
            .with_context("branch", &branch.id))
    }

    /// Adds a row where there is none, and says whether it did.
    async fn note(&self, sql: &mut SqlTx, call: &BarrierCall<'_>, op: &Op) -> Result<bool> {
        Ok(sql.execute_as("barrier.enter", &self.insert, &values_of(call, op, &call.branch.op)).await? > 0)
    }

    /// Checks that the row of what is undone is this transaction's, where a table may take two ids for the
    /// same: else what another one did would be undone. As the row is now, whatever was read before.
    async fn check_owner(&self, sql: &mut SqlTx, call: &BarrierCall<'_>, origin: &Op) -> Result<()> {
        if self.database.dialect() != Dialect::MySql {
            return Ok(());
        }
        let find = format!("{} LOCK IN SHARE MODE", self.find);
        let rows = sql.fetch_all_as("barrier.enter", &find, &id_of(call, origin)).await?;
        rows.first().map_or(Ok(()), |row| reason_of(row, call.branch).map(drop))
    }

    /// What a call meets whose row was there before.
    async fn met(&self, sql: &mut SqlTx, call: &BarrierCall<'_>) -> Result<Passage> {
        let rows = sql.fetch_all_as("barrier.enter", &self.find, &id_of(call, &call.branch.op)).await?;
        let reason = rows.first().map(|row| reason_of(row, call.branch)).transpose()?;
        Ok(match reason {
            Some(reason) if reason != call.branch.op.as_str() => Passage::Overtaken,
            _ => Passage::Duplicate,
        })
    }
}

#[async_trait]
impl BarrierStore for SqlBarrier {
    /// What is undone comes first, as in DTM's clients: all take their rows in this order.
    async fn enter(&self, tx: &mut Tx, call: &BarrierCall<'_>) -> Result<Passage> {
        let sql = self.database.opened(tx, "barrier.enter")?;
        checked(call)?;
        let is_empty = match call.branch.op.origin() {
            Some(origin) => self.note(sql, call, &origin).await?,
            None => false,
        };
        let is_new = self.note(sql, call, &call.branch.op).await?;
        if let Some(origin) = call.branch.op.origin().filter(|_| !is_empty && is_new) {
            self.check_owner(sql, call, &origin).await?;
        }
        match (is_empty, is_new) {
            (true, _) => Ok(Passage::Empty),
            (false, true) => Ok(Passage::Proceed),
            (false, false) => self.met(sql, call).await,
        }
    }

    /// Outside of a transaction: the answer holds once it is given.
    async fn prepared(&self, gid: &str) -> Result<Prepared> {
        let branch = Branch::new(Mode::Msg, gid, "00", Op::Msg)?;
        let call = BarrierCall::new(&branch, 1);
        let values = values_of(&call, &Op::Msg, &Op::Rollback);
        if self.database.repeat_as("barrier.prepared", &self.insert, &values).await? > 0 {
            return Ok(Prepared::RolledBack);
        }
        let rows = self.database.fetch_all_as("barrier.prepared", &self.find, &id_of(&call, &Op::Msg)).await?;
        let Some(row) = rows.first() else {
            let message = "the row of this message's local transaction was purged this moment: ask again";
            return Err(Error::new(ErrorKind::Aborted, "barrier.prepared", message).with_context("gid", gid));
        };
        let is_forbidden = reason_of(row, &branch)? == Op::Rollback.as_str();
        Ok(if is_forbidden { Prepared::RolledBack } else { Prepared::Committed })
    }

    async fn purge(&self, older_than: Duration, count_max: usize) -> Result<u64> {
        // Whole seconds, rounded up: nothing is forgotten before its time.
        let seconds = older_than.as_secs() + u64::from(older_than.subsec_nanos() > 0);
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX).min(SECONDS_MAX);
        self.database.repeat_as("barrier.purge", &self.purge, &[seconds.into(), limit(count_max)]).await
    }
}

/// A thousand years: what is further away no database can count back to.
const SECONDS_MAX: i64 = 1_000 * 366 * 24 * 60 * 60;

/// The widths of the columns, in characters.
const ID_CHARS_MAX: usize = 128;
const WORD_CHARS_MAX: usize = 45;

/// Refuses what MySQL would cut: INSERT IGNORE makes an error of a warning.
fn checked(call: &BarrierCall<'_>) -> Result<()> {
    let branch = call.branch;
    for (name, value, chars_max) in [
        ("gid", branch.gid.as_str(), ID_CHARS_MAX),
        ("branch_id", &branch.id, ID_CHARS_MAX),
        ("op", branch.op.as_str(), WORD_CHARS_MAX),
        ("barrier_id", &call.barrier_id, WORD_CHARS_MAX),
    ] {
        let chars = value.chars().count();
        if chars == 0 || chars > chars_max {
            let message = "a part of the branch is empty, or too long for the barrier's table";
            return Err(Error::new(ErrorKind::InvalidArgument, "barrier.enter", message)
                .with_context("part", name)
                .with_context("chars", chars)
                .with_context("chars_max", chars_max));
        }
    }
    Ok(())
}

/// `trans_type, gid, branch_id, op, barrier_id, reason`.
fn values_of(call: &BarrierCall<'_>, op: &Op, reason: &Op) -> [Value; 6] {
    let [gid, branch_id, op, barrier_id] = id_of(call, op);
    [call.branch.mode.as_str().into(), gid, branch_id, op, barrier_id, reason.as_str().into()]
}

fn id_of(call: &BarrierCall<'_>, op: &Op) -> [Value; 4] {
    [&call.branch.gid, &call.branch.id, op.as_str(), &call.barrier_id].map(Value::from)
}

/// Why the row is there.
///
/// # Errors
///
/// `Internal` where it is another transaction's: the collation of a table on MySQL, as DTM's script
/// makes it, compares without case, and to pass over a call for another one's sake would lose it.
fn reason_of(row: &Row, branch: &Branch) -> Result<String> {
    for (column, expected) in [("gid", &branch.gid), ("branch_id", &branch.id)] {
        let found: String = row.get(column)?;
        if found != *expected {
            let message = "the barrier's table takes two ids for the same: give its columns a binary collation";
            return Err(Error::new(ErrorKind::Internal, "barrier.enter", message)
                .with_context("asked_for", expected)
                .with_context("found", found));
        }
    }
    row.get("reason")
}

/// With times of our own only where DTM's script gives the column no default.
fn insert(dialect: Dialect, table: &str) -> String {
    const COLUMNS: &str = "trans_type, gid, branch_id, op, barrier_id, reason";
    const VALUES: &str = "?, ?, ?, ?, ?, ?";
    const CONFLICT: &str = "ON CONFLICT (gid, branch_id, op, barrier_id) DO NOTHING";
    match dialect {
        Dialect::MySql => format!("INSERT IGNORE INTO {table} ({COLUMNS}) VALUES ({VALUES})"),
        Dialect::Sqlite => format!("INSERT INTO {table} ({COLUMNS}) VALUES ({VALUES}) {CONFLICT}"),
        Dialect::Postgres => {
            const NOW: &str = "date_trunc('second', now())";
            format!(
                "INSERT INTO {table} ({COLUMNS}, create_time, update_time) VALUES ({VALUES}, {NOW}, {NOW}) {CONFLICT}"
            )
        }
    }
}

/// Deletes at most so many rows that are older than so many seconds, the oldest first.
fn purge(dialect: Dialect, table: &str) -> String {
    let oldest = |before: &str| {
        format!(
            "DELETE FROM {table} WHERE id IN \
             (SELECT id FROM {table} WHERE create_time < {before} ORDER BY create_time LIMIT ?)"
        )
    };
    match dialect {
        Dialect::MySql => {
            format!("DELETE FROM {table} WHERE create_time < now() - INTERVAL ? SECOND ORDER BY create_time LIMIT ?")
        }
        Dialect::Sqlite => oldest("datetime('now', '-' || ? || ' seconds')"),
        Dialect::Postgres => oldest("date_trunc('second', now()) - ?::bigint * INTERVAL '1 second'"),
    }
}
