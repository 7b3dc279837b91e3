//! Two-phase commit: a transaction that is prepared on one connection and ended on any.

#[cfg(feature = "mysql")]
use std::time::Duration;

use micro_core::{Error, ErrorKind, Result, transaction::shielded};
#[cfg(feature = "mysql")]
use sqlx::Row as _;
use sqlx::error::DatabaseError;

#[cfg(feature = "mysql")]
use super::Lease;
#[cfg(feature = "mysql")]
use super::statements::Statements;
use super::{Driver, ServerConnections, ServerTx, pool};
#[cfg(feature = "mysql")]
use crate::error::{from_sqlx, is_denied};

/// How many times a prepared transaction that a connection still holds is asked for.
#[cfg(feature = "mysql")]
const HELD_COUNT_MAX: u32 = 10;
/// The pause between.
#[cfg(feature = "mysql")]
const HELD_PAUSE: Duration = Duration::from_millis(50);
/// How long the list of what is prepared may take.
#[cfg(feature = "mysql")]
const LIST_TIMEOUT: Duration = Duration::from_secs(5);
/// Has MariaDB part what is prepared from its connection within XA PREPARE, as it does for what it replicates.
/// Else it does so while the connection is closed, and for some microseconds in between the server knows the
/// branch and its storage engine does not: a commit on another connection that comes then is answered with
/// success and does nothing, and nobody can end the branch before the server is started again. The comments are
/// MariaDB's alone: MySQL parts them by itself.
#[cfg(feature = "mysql")]
const PART: &str = "SET @micro_xa = 1 /*M! , SESSION pseudo_slave_mode = 1 */";
#[cfg(feature = "mysql")]
const UNPART: &str = "SET @micro_xa = NULL /*M! , SESSION pseudo_slave_mode = 0 */";

impl<D: Driver> ServerConnections<D> {
    /// Runs a text of statements without values; running it twice is as running it once.
    async fn script(&self, operation: &'static str, script: &str) -> Result<()> {
        match self.script_once(operation, script).await {
            Err(error) if pool::is_dead_connection(&error) => self.script_once(operation, script).await,
            outcome => outcome,
        }
    }

    async fn script_once(&self, operation: &'static str, script: &str) -> Result<()> {
        let mut lease = self.pool.lease(operation).await?;
        let script = script.to_owned();
        shielded(operation, async move {
            lease.connect(operation).await?;
            lease.script(operation, &script).await
        })
        .await
    }
}

#[cfg(feature = "mysql")]
impl ServerConnections<sqlx::MySql> {
    /// Begins a branch, which belongs to its connection until it is prepared.
    pub(crate) async fn begin_xa(&self, xid: &str) -> Result<ServerTx<sqlx::MySql>> {
        let mut lease = self.pool.lease("xa.begin").await?;
        let (statements, start) = (self.statements.clone(), start(xid));
        let lease = shielded("xa.begin", async move {
            match begin(&mut lease, &statements, &start).await {
                // Nothing was done on it: another one is as good.
                Err(error) if pool::is_dead_connection(&error) => begin(&mut lease, &statements, &start).await?,
                begun => begun?,
            }
            Ok(lease)
        })
        .await?;
        Ok(ServerTx::new(lease, self.statements.clone()))
    }

    /// Commits or rolls back a prepared branch. One that is not known was ended before.
    ///
    /// # Errors
    ///
    /// `Aborted` for one that a connection still holds, which another client prepared: the server does not
    /// know it on another connection, and it must not be taken for one that was ended.
    pub(crate) async fn end_xa(&self, xid: &str, is_commit: bool) -> Result<()> {
        let (operation, verb) = if is_commit { ("xa.commit", "COMMIT") } else { ("xa.rollback", "ROLLBACK") };
        for _ in 0..HELD_COUNT_MAX {
            match self.script(operation, &format!("XA {verb} '{xid}'")).await {
                Err(error) if is_code(&error, "XAE04") => {}
                outcome => return outcome,
            }
            match self.is_prepared(operation, xid).await {
                Ok(true) => tokio::time::sleep(HELD_PAUSE).await,
                Ok(false) => return Ok(()),
                // A MySQL that parts what is prepared holds back nothing of what it does not know.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    let mut lease = self.pool.lease(operation).await?;
                    lease.connect(operation).await?;
                    let version = version(&mut lease, &self.statements, operation).await?;
                    return if version.parts_by_itself() { Ok(()) } else { Err(error) };
                }
                Err(error) => return Err(error),
            }
        }
        let message = "the connection that prepared this branch still holds it: ask again";
        Err(Error::new(ErrorKind::Aborted, operation, message).with_context("xid", xid))
    }

    /// Whether the server lists it as prepared, by whichever connection.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` on a MySQL 8 without the privilege of seeing the list.
    pub(crate) async fn is_prepared(&self, operation: &'static str, xid: &str) -> Result<bool> {
        // Closed when it is dropped, so that it may be dropped in the middle of an answer.
        let mut lease = self.pool.dedicated(operation).await?;
        let connection = lease.connection().expect("a lease of its own is connected");
        // A prepared statement is not allowed here on MySQL.
        let listing = sqlx::raw_sql("XA RECOVER").fetch_all(connection);
        let listed = tokio::time::timeout(LIST_TIMEOUT, listing).await.map_err(|_| {
            Error::new(ErrorKind::DeadlineExceeded, operation, "the server gave no list of prepared branches in time")
        })?;
        let is_listed = |row: &sqlx::mysql::MySqlRow| {
            let data: std::result::Result<Vec<u8>, _> = row.try_get_unchecked("data");
            data.is_ok_and(|data| data == xid.as_bytes())
        };
        match listed.map_err(|error| from_sqlx(operation, error)) {
            Ok(rows) => Ok(rows.iter().any(is_listed)),
            Err(error) if is_code(&error, "XAE03") || is_denied(&error) => {
                let message = "MySQL does not tell whether this branch is prepared: grant XA_RECOVER_ADMIN";
                let error = Error::new(ErrorKind::PermissionDenied, operation, message).with_source(error);
                Err(error.with_context("xid", xid))
            }
            Err(error) => Err(error),
        }
    }
}

/// A MySQL or a MariaDB.
#[cfg(feature = "mysql")]
#[derive(Debug, PartialEq, Eq)]
struct Version {
    is_mariadb: bool,
    number: [u32; 3],
}

#[cfg(feature = "mysql")]
impl Version {
    /// Of what `VERSION()` says: `10.11.19-MariaDB-0+deb12u1`, `8.0.36`.
    fn read(text: &str) -> Self {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or_default());
        let number = std::array::from_fn(|_| numbers.next().unwrap_or_default());
        Self { is_mariadb: text.contains("MariaDB"), number }
    }

    /// Whether a branch can be prepared so that no connection holds it any more (MDEV-742, WL#14700).
    fn parts(&self) -> bool {
        if self.is_mariadb { self.number >= [10, 5, 2] } else { self.parts_by_itself() }
    }

    fn parts_by_itself(&self) -> bool {
        !self.is_mariadb && self.number >= [8, 0, 29]
    }
}

#[cfg(feature = "mysql")]
async fn version(lease: &mut Lease<sqlx::MySql>, statements: &Statements, operation: &'static str) -> Result<Version> {
    let rows = lease.fetch_all(operation, statements.call("sql.version", "SELECT VERSION()", &[])?).await?;
    let told: Option<String> = rows.first().map(|row| row.get(0)).transpose()?;
    Ok(Version::read(&told.unwrap_or_default()))
}

#[cfg(feature = "mysql")]
fn start(xid: &str) -> String {
    format!("SET TRANSACTION ISOLATION LEVEL READ COMMITTED; XA START '{xid}'")
}

#[cfg(feature = "mysql")]
async fn begin(lease: &mut Lease<sqlx::MySql>, statements: &Statements, start: &str) -> Result<()> {
    const OPERATION: &str = "xa.begin";
    lease.connect(OPERATION).await?;
    let version = version(lease, statements, OPERATION).await?;
    if !version.parts() {
        let message = "this server does not part what is prepared from its connection: XA needs MySQL 8.0.29 or \
                       MariaDB 10.5.2, or later";
        return Err(Error::new(ErrorKind::FailedPrecondition, OPERATION, message)
            .with_context("version", format_args!("{:?}", version.number)));
    }
    if version.parts_by_itself() {
        let call = statements.call(OPERATION, "SELECT CAST(@@xa_detach_on_prepare AS SIGNED)", &[])?;
        let rows = lease.fetch_all(OPERATION, call).await?;
        if rows.first().map(|row| row.get::<i64>(0)).transpose()? == Some(0) {
            let message = "what is prepared stays with its connection: set xa_detach_on_prepare to ON, its default";
            return Err(Error::new(ErrorKind::FailedPrecondition, OPERATION, message));
        }
    }
    // What is left half-way is undone by closing it: sqlx knows nothing of what is open.
    lease.keep(false);
    lease.script(OPERATION, start).await.map_err(|error| of_start(error, start))
}

#[cfg(feature = "mysql")]
impl ServerTx<sqlx::MySql> {
    /// Ends the first phase: the branch belongs to no connection any more, and this one goes back to the pool.
    pub(crate) async fn prepare_xa(&mut self, xid: &str) -> Result<()> {
        let mut lease = self.take_whole("xa.prepare").await?;
        let xid = xid.to_owned();
        shielded("xa.prepare", async move {
            let prepare = format!("XA END '{xid}'; {PART}; XA PREPARE '{xid}'");
            let prepared = lease.script("xa.prepare", &prepare).await;
            let after = if prepared.is_ok() { UNPART.to_owned() } else { format!("XA ROLLBACK '{xid}'; {UNPART}") };
            let is_clean = lease.script("xa.prepare", &after).await.is_ok();
            lease.keep(is_clean);
            prepared.map_err(of_mariadb)
        })
        .await
    }

    /// Undoes a branch that is not prepared.
    pub(crate) async fn undo_xa(&mut self, xid: &str) {
        let Some(mut lease) = self.take_any() else { return };
        let xid = xid.to_owned();
        let undoing = shielded("xa.undo", async move {
            // One that lost a conflict cannot be ended any more, but rolled back.
            let _ = lease.script("xa.undo", &format!("XA END '{xid}'")).await;
            let undone = lease.script("xa.undo", &format!("XA ROLLBACK '{xid}'")).await;
            lease.keep(undone.is_ok());
            undone
        });
        if let Err(error) = undoing.await {
            tracing::debug!(error = %error.report(), "the server undoes a branch whose connection is closed");
        }
    }
}

#[cfg(feature = "postgres")]
impl ServerConnections<sqlx::Postgres> {
    /// Commits or rolls back a prepared branch. One that is not known was ended before.
    pub(crate) async fn end_xa(&self, xid: &str, is_commit: bool) -> Result<()> {
        let (operation, verb) = if is_commit { ("xa.commit", "COMMIT") } else { ("xa.rollback", "ROLLBACK") };
        match self.script(operation, &format!("{verb} PREPARED '{xid}'")).await {
            Err(error) if is_code(&error, "42704") => Ok(()),
            outcome => outcome,
        }
    }
}

#[cfg(feature = "postgres")]
impl ServerTx<sqlx::Postgres> {
    /// Ends the first phase; the connection goes back to the pool.
    pub(crate) async fn prepare_xa(&mut self, xid: &str) -> Result<()> {
        let mut lease = self.take_whole("xa.prepare").await?;
        let script = format!("PREPARE TRANSACTION '{xid}'");
        shielded("xa.prepare", async move {
            let prepared = lease.script("xa.prepare", &script).await;
            // sqlx counts it as open still; the server says that none is.
            lease.rollback().await;
            prepared.map_err(of_prepare)
        })
        .await
    }
}

#[cfg(feature = "mysql")]
fn of_start(error: Error, script: &str) -> Error {
    if !is_code(&error, "XAE08") {
        return error;
    }
    let message = "this branch is under way, or prepared: its coordinator ends it";
    Error::new(ErrorKind::Aborted, "xa.begin", message).with_context("statement", script).with_source(error)
}

/// Where setting the variable is not allowed.
#[cfg(feature = "mysql")]
fn of_mariadb(error: Error) -> Error {
    if !is_denied(&error) {
        return error;
    }
    let message = "MariaDB does not let this user part what is prepared from its connection: grant BINLOG REPLAY";
    Error::new(ErrorKind::FailedPrecondition, "xa.prepare", message).with_source(error)
}

/// PostgreSQL prepares none by default.
#[cfg(feature = "postgres")]
fn of_prepare(error: Error) -> Error {
    let (kind, message) = if is_code(&error, "55000") {
        let message = "PostgreSQL prepares no transactions: set max_prepared_transactions above 0 and start it again";
        (ErrorKind::FailedPrecondition, message)
    } else if is_code(&error, "53200") {
        let message = "as many transactions are prepared as PostgreSQL allows: set max_prepared_transactions higher";
        (ErrorKind::ResourceExhausted, message)
    } else if is_code(&error, "42710") {
        (ErrorKind::Aborted, "this branch is prepared already: its coordinator ends it")
    } else {
        return error;
    };
    Error::new(kind, "xa.prepare", message).with_source(error)
}

fn is_code(error: &Error, code: &str) -> bool {
    let driver = std::error::Error::source(error).and_then(|source| source.downcast_ref::<sqlx::Error>());
    let answer = driver.and_then(sqlx::Error::as_database_error);
    answer.and_then(DatabaseError::code).is_some_and(|found| found == code)
}

#[cfg(all(test, feature = "mysql"))]
mod tests {
    use super::*;

    #[test]
    fn which_server_parts_what_is_prepared_from_its_connection() {
        for (text, parts, by_itself) in [
            ("5.7.44-log", false, false),
            ("8.0.28", false, false),
            ("8.0.36-0ubuntu0.22.04.1", true, true),
            ("8.4.0", true, true),
            ("10.5.1-MariaDB", false, false),
            ("10.11.19-MariaDB-0+deb12u1", true, false),
            ("nonsense", false, false),
        ] {
            let version = Version::read(text);
            assert_eq!((version.parts(), version.parts_by_itself()), (parts, by_itself), "{text}");
        }
    }
}
