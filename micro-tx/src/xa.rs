//! A branch of XA on a database: begun, prepared, and ended on whatever connection.

use micro_core::{Error, ErrorKind, Result, TransactionManager as _, Tx, branch::Branch};

#[cfg(feature = "mysql")]
use crate::mysql::MySqlTx;
use crate::{
    database::{Connections, SqlDatabase},
    dialect::Dialect,
    transaction::SqlTx,
};

/// MySQL's limit of a branch's name, in bytes.
const MYSQL_BYTES_MAX: usize = 64;
/// PostgreSQL's.
const POSTGRES_BYTES_MAX: usize = 199;

/// A branch's name in the database, which can stand between quotes: `GID-BRANCH`, as DTM's clients name it.
#[derive(Clone, Debug)]
pub(crate) struct Xid(String);

impl Xid {
    /// # Errors
    ///
    /// `InvalidArgument` for one that the database does not keep, or that cannot stand in a statement;
    /// `Unimplemented` on SQLite.
    pub(crate) fn new(database: &SqlDatabase, branch: &Branch) -> Result<Self> {
        let bytes_max = match database.dialect() {
            Dialect::MySql => MYSQL_BYTES_MAX,
            Dialect::Postgres => POSTGRES_BYTES_MAX,
            Dialect::Sqlite => {
                let message = "SQLite has no two-phase commit: MySQL, MariaDB and PostgreSQL have";
                return Err(Error::new(ErrorKind::Unimplemented, "xa.begin", message));
            }
        };
        let xid = format!("{}-{}", branch.gid, branch.id);
        let refused = |message: &'static str| {
            Error::new(ErrorKind::InvalidArgument, "xa.begin", message).with_context("xid", xid.escape_debug())
        };
        if xid.len() > bytes_max {
            let error = refused("the database keeps no longer name of a branch: GID-BRANCH, take a shorter gid");
            return Err(error.with_context("bytes", xid.len()).with_context("bytes_max", bytes_max));
        }
        if !xid.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'\'' | b'"' | b'\\' | b'`' | b';')) {
            return Err(refused("the name of a branch is printable ASCII without spaces, quotes, \\ and ;"));
        }
        Ok(Self(xid))
    }
}

impl SqlDatabase {
    /// Begins a branch. Its [`Tx`] is not to be committed: it is prepared or undone.
    pub(crate) async fn begin_xa(&self, xid: &Xid) -> Result<Tx> {
        let _ = xid;
        match self.connections() {
            #[cfg(feature = "mysql")]
            Connections::MySql(connections) => {
                let begun = connections.begin_xa(&xid.0).await?;
                Ok(Tx::new(self.id(), SqlTx::MySql(MySqlTx(begun))))
            }
            // Any transaction can be prepared.
            #[cfg(feature = "postgres")]
            Connections::Postgres(_) => self.begin().await,
            #[cfg(feature = "sqlite")]
            Connections::Sqlite(_) => Err(unnamed(xid)),
        }
    }

    /// Ends the first phase: what was done can be committed, whatever becomes of this process.
    pub(crate) async fn prepare_xa(&self, tx: &mut Tx, xid: &Xid) -> Result<()> {
        match self.opened(tx, "xa.prepare")? {
            #[cfg(feature = "mysql")]
            SqlTx::MySql(tx) => tx.0.prepare_xa(&xid.0).await,
            #[cfg(feature = "postgres")]
            SqlTx::Postgres(tx) => tx.0.prepare_xa(&xid.0).await,
            #[cfg(feature = "sqlite")]
            SqlTx::Sqlite(_) => Err(unnamed(xid)),
        }
    }

    /// Undoes what is not prepared.
    pub(crate) async fn undo_xa(&self, tx: Tx, xid: &Xid) {
        #[cfg(feature = "mysql")]
        let tx = {
            let mut tx = tx;
            if let Ok(SqlTx::MySql(tx)) = self.opened(&mut tx, "xa.undo") {
                tx.0.undo_xa(&xid.0).await;
            }
            tx
        };
        let _ = xid;
        if let Err(error) = tx.rollback().await {
            tracing::warn!(error = %error.report(), "rollback of a branch that is not prepared");
        }
    }

    /// Commits or rolls back a prepared branch; one that was ended before is a success.
    pub(crate) async fn end_xa(&self, xid: &Xid, is_commit: bool) -> Result<()> {
        let _ = is_commit;
        match self.connections() {
            #[cfg(feature = "mysql")]
            Connections::MySql(connections) => connections.end_xa(&xid.0, is_commit).await,
            #[cfg(feature = "postgres")]
            Connections::Postgres(connections) => connections.end_xa(&xid.0, is_commit).await,
            #[cfg(feature = "sqlite")]
            Connections::Sqlite(_) => Err(unnamed(xid)),
        }
    }
}

/// No [`Xid`] is made on SQLite.
#[cfg(feature = "sqlite")]
fn unnamed(xid: &Xid) -> Error {
    Error::new(ErrorKind::Unimplemented, "xa.end", "SQLite has no two-phase commit").with_context("xid", &xid.0)
}
