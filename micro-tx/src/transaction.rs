//! The open transaction, and how infrastructure code reaches it through a `Tx`.

use std::any::Any;

use async_trait::async_trait;
use micro_core::{Error, ErrorKind, Result, Tx, transaction::Transaction};

use crate::{row::Row, value::Value};

/// An open transaction on a SQL database.
///
/// A statement is one text with `?` for each value, whatever the database.
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
}

impl SqlTx {
    /// Runs a statement and answers how many rows it changed.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` for a key that is taken, `InvalidArgument` for a value that breaks a rule of
    /// its column or a wrong number of values, `FailedPrecondition` for a broken reference,
    /// `Aborted` for a lost conflict, `Internal` for wrong SQL.
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
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(tx) => tx.execute_script("sql.execute_script", script).await,
        }
    }

    /// sqlx's connection, where this is a transaction on SQLite; for what this type does not offer.
    #[cfg(feature = "sqlite")]
    pub fn as_sqlite(&mut self) -> Option<&mut sqlx::SqliteConnection> {
        match self {
            Self::Sqlite(tx) => Some(tx.connection()),
        }
    }

    pub(crate) async fn execute_as(
        &mut self,
        operation: &'static str,
        statement: &str,
        values: &[Value],
    ) -> Result<u64> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(tx) => tx.execute(operation, statement, values).await,
        }
    }

    pub(crate) async fn fetch_all_as(
        &mut self,
        operation: &'static str,
        statement: &str,
        values: &[Value],
    ) -> Result<Vec<Row>> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(tx) => tx.fetch_all(operation, statement, values).await,
        }
    }
}

#[async_trait]
impl Transaction for SqlTx {
    async fn commit(self: Box<Self>) -> Result<()> {
        match *self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(tx) => tx.commit().await,
        }
    }

    async fn rollback(self: Box<Self>) -> Result<()> {
        match *self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(tx) => tx.rollback().await,
        }
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
