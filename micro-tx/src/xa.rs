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

/// Refuses a database without two-phase commit.
///
/// # Errors
///
/// `Unimplemented` on SQLite.
pub(crate) fn checked(database: &SqlDatabase) -> Result<()> {
    if database.dialect() == Dialect::Sqlite { Err(unimplemented("xa.begin")) } else { Ok(()) }
}

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
            Dialect::Sqlite => return Err(unimplemented("xa.begin")),
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
    /// Runs `work` in a branch, and prepares it where that gives `Some`; else nothing is left.
    pub(crate) async fn run_xa<T, E, F>(&self, xid: &Xid, work: F) -> Result<Option<T>, E>
    where
        F: AsyncFnOnce(&mut Tx) -> Result<Option<T>, E>,
        E: From<Error>,
    {
        let mut tx = self.begin_xa(xid).await?;
        let done = match work(&mut tx).await {
            Ok(Some(value)) => self.prepare_xa(&mut tx, xid).await.map(|()| Some(value)).map_err(E::from),
            undone => undone,
        };
        if !matches!(done, Ok(Some(_))) {
            self.undo_xa(tx, xid).await;
        }
        done
    }

    /// Whether this branch is prepared, and neither committed nor rolled back.
    pub(crate) async fn is_prepared(&self, xid: &Xid) -> Result<bool> {
        const OPERATION: &str = "xa.recover";
        match self.connections() {
            #[cfg(feature = "mysql")]
            Connections::MySql(connections) => connections.is_prepared(OPERATION, &xid.0).await,
            #[cfg(feature = "postgres")]
            Connections::Postgres(_) => {
                let select = "SELECT gid FROM pg_prepared_xacts WHERE gid = ? AND database = current_database()";
                let rows = self.fetch_all_as(OPERATION, select, &[xid.0.as_str().into()]).await?;
                Ok(!rows.is_empty())
            }
            #[cfg(feature = "sqlite")]
            Connections::Sqlite(_) => Err(unnamed(OPERATION, xid)),
        }
    }

    /// Begins a branch. Its [`Tx`] is not to be committed: it is prepared or undone.
    async fn begin_xa(&self, xid: &Xid) -> Result<Tx> {
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
            Connections::Sqlite(_) => Err(unnamed("xa.begin", xid)),
        }
    }

    /// Ends the first phase: what was done can be committed, whatever becomes of this process.
    async fn prepare_xa(&self, tx: &mut Tx, xid: &Xid) -> Result<()> {
        match self.opened(tx, "xa.prepare")? {
            #[cfg(feature = "mysql")]
            SqlTx::MySql(tx) => tx.0.prepare_xa(&xid.0).await,
            #[cfg(feature = "postgres")]
            SqlTx::Postgres(tx) => tx.0.prepare_xa(&xid.0).await,
            #[cfg(feature = "sqlite")]
            SqlTx::Sqlite(_) => Err(unnamed("xa.prepare", xid)),
        }
    }

    /// Undoes what is not prepared.
    async fn undo_xa(&self, tx: Tx, xid: &Xid) {
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
            Connections::Sqlite(_) => Err(unnamed("xa.end", xid)),
        }
    }
}

/// No [`Xid`] is made on SQLite.
#[cfg(feature = "sqlite")]
fn unnamed(operation: &'static str, xid: &Xid) -> Error {
    unimplemented(operation).with_context("xid", &xid.0)
}

fn unimplemented(operation: &'static str) -> Error {
    let message = "SQLite has no two-phase commit: MySQL, MariaDB and PostgreSQL have";
    Error::new(ErrorKind::Unimplemented, operation, message)
}
