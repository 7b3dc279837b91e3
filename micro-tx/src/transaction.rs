//! The open transaction, and how infrastructure code reaches it through a `Tx`.

use std::any::Any;

use async_trait::async_trait;
use micro_core::{Error, ErrorKind, Result, Tx, transaction::Transaction};

use crate::{row::Row, value::Value};

/// An open transaction on a SQL database.
///
/// A statement is one text with `?` for each value, whatever the database. A text that differs, an
/// upsert say, is chosen by [`SqlDatabase::dialect_name`](crate::SqlDatabase::dialect_name).
///
/// After a statement that failed a transaction on PostgreSQL can only be rolled back; on SQLite and
/// MySQL it goes on after a broken rule of a column. Code that runs on all of them lets the error
/// end the transaction, or avoids it (`ON CONFLICT DO NOTHING`, `INSERT IGNORE`).
///
/// # Cancel safety
///
/// A statement whose future is dropped may have run or not; the transaction then refuses what
/// follows, its commit included, with `Aborted`.
#[non_exhaustive]
pub enum SqlTx {
    /// On SQLite.
    #[cfg(feature = "sqlite")]
    Sqlite(crate::sqlite::SqliteTx),
    /// On MySQL or MariaDB.
    #[cfg(feature = "mysql")]
    MySql(crate::mysql::MySqlTx),
    /// On PostgreSQL.
    #[cfg(feature = "postgres")]
    Postgres(crate::postgres::PostgresTx),
}

/// The same call on each database.
macro_rules! on_each {
    ($transaction:expr, $tx:ident => $call:expr) => {
        match $transaction {
            #[cfg(feature = "sqlite")]
            Self::Sqlite($tx) => $call,
            #[cfg(feature = "mysql")]
            Self::MySql(crate::mysql::MySqlTx($tx)) => $call,
            #[cfg(feature = "postgres")]
            Self::Postgres(crate::postgres::PostgresTx($tx)) => $call,
        }
    };
}

impl SqlTx {
    /// Runs a statement and answers how many rows it changed.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` for a key that is taken, `InvalidArgument` for a value that breaks a rule of
    /// its column or a wrong number of values, `FailedPrecondition` for a broken reference,
    /// `Aborted` for a lost conflict, `Unavailable` for a server that is read-only, after a failover
    /// say, `Internal` for wrong SQL and for a right that is missing.
    pub async fn execute(&mut self, statement: &str, values: &[Value]) -> Result<u64> {
        self.execute_as("sql.execute", statement, values).await
    }

    /// Runs a statement and answers its rows.
    ///
    /// # Errors
    ///
    /// Those of [`execute`](Self::execute).
    pub async fn fetch_all(&mut self, statement: &str, values: &[Value]) -> Result<Vec<Row>> {
        self.fetch_all_as("sql.fetch_all", statement, values).await
    }

    /// Runs a statement and answers its first row, if there is one.
    ///
    /// # Errors
    ///
    /// Those of [`execute`](Self::execute).
    pub async fn fetch_optional(&mut self, statement: &str, values: &[Value]) -> Result<Option<Row>> {
        Ok(self.fetch_all_as("sql.fetch_optional", statement, values).await?.into_iter().next())
    }

    /// Runs a statement and answers its one row.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is none, and those of [`execute`](Self::execute).
    pub async fn fetch_one(&mut self, statement: &str, values: &[Value]) -> Result<Row> {
        let row = self.fetch_all_as("sql.fetch_one", statement, values).await?.into_iter().next();
        row.ok_or_else(|| Error::new(ErrorKind::NotFound, "sql.fetch_one", "the statement found no row"))
    }

    /// Runs a script of several statements, without values.
    ///
    /// # Errors
    ///
    /// Those of [`execute`](Self::execute).
    pub async fn execute_script(&mut self, script: &str) -> Result<()> {
        on_each!(self, tx => tx.execute_script("sql.execute_script", script).await)
    }

    /// sqlx's connection, where this is a transaction on SQLite; for what this type does not offer.
    #[cfg(feature = "sqlite")]
    pub fn as_sqlite(&mut self) -> Option<&mut sqlx::SqliteConnection> {
        match self {
            Self::Sqlite(tx) => Some(tx.connection()),
            #[cfg(any(feature = "mysql", feature = "postgres"))]
            _ => None,
        }
    }

    /// sqlx's connection, where this is a transaction on MySQL or MariaDB that can still commit.
    /// Leave the transaction open: no COMMIT, no ROLLBACK but to a savepoint.
    ///
    /// # Cancel safety
    ///
    /// None: a future of sqlx that is dropped half-way leaves the connection in the middle of an
    /// answer. Roll the transaction back then.
    #[cfg(feature = "mysql")]
    pub fn as_mysql(&mut self) -> Option<&mut sqlx::MySqlConnection> {
        match self {
            Self::MySql(tx) => tx.0.connection(),
            #[cfg(any(feature = "sqlite", feature = "postgres"))]
            _ => None,
        }
    }

    /// sqlx's connection, where this is a transaction on PostgreSQL that can still commit. As with
    /// [`as_mysql`](Self::as_mysql), leave the transaction open and poll futures to their end.
    #[cfg(feature = "postgres")]
    pub fn as_postgres(&mut self) -> Option<&mut sqlx::PgConnection> {
        match self {
            Self::Postgres(tx) => tx.0.connection(),
            #[cfg(any(feature = "sqlite", feature = "mysql"))]
            _ => None,
        }
    }

    pub(crate) async fn execute_as(
        &mut self,
        operation: &'static str,
        statement: &str,
        values: &[Value],
    ) -> Result<u64> {
        on_each!(self, tx => tx.execute(operation, statement, values).await)
    }

    pub(crate) async fn fetch_all_as(
        &mut self,
        operation: &'static str,
        statement: &str,
        values: &[Value],
    ) -> Result<Vec<Row>> {
        on_each!(self, tx => tx.fetch_all(operation, statement, values).await)
    }
}

#[async_trait]
impl Transaction for SqlTx {
    async fn commit(self: Box<Self>) -> Result<()> {
        on_each!(*self, tx => tx.commit().await)
    }

    async fn rollback(self: Box<Self>) -> Result<()> {
        on_each!(*self, tx => tx.rollback().await);
        Ok(())
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// Opens up a [`Tx`] where statements are written: in infrastructure code.
pub trait SqlTxExt {
    /// The SQL transaction behind it.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` when it belongs to a manager that is not one of SQL.
    fn sql(&mut self) -> Result<&mut SqlTx>;
}

impl SqlTxExt for Tx {
    fn sql(&mut self) -> Result<&mut SqlTx> {
        let manager = self.manager();
        self.downcast_any::<SqlTx>().ok_or_else(|| {
            let message = "the transaction is not one of a SQL database: begin it on a SqlDatabase";
            Error::new(ErrorKind::InvalidArgument, "tx.sql", message).with_context("actual", manager)
        })
    }
}
