//! An open transaction on a server.

use std::sync::Arc;

use micro_core::{Error, ErrorKind, Result, transaction::shielded};

use super::{Driver, Lease, statements::Statements};
use crate::{row::Row, value::Value};

/// An open transaction. Each statement runs to its end whatever its caller does, so that the
/// connection never stands in the middle of an answer; what a dropped one leaves is rolled back.
pub(crate) struct ServerTx<D: Driver> {
    /// Away while a statement runs; gone for good when its caller was dropped meanwhile, or after a
    /// failure that ended the transaction.
    lease: Option<Lease<D>>,
    statements: Arc<Statements>,
    /// The transaction cannot commit; what follows would run outside of it, or fail anyway.
    is_broken: bool,
    /// Somebody had the driver's connection: what failed there is not known here.
    is_lent: bool,
}

impl<D: Driver> ServerTx<D> {
    pub(super) fn new(lease: Lease<D>, statements: Arc<Statements>) -> Self {
        Self { lease: Some(lease), statements, is_broken: false, is_lent: false }
    }

    pub(crate) async fn execute(&mut self, operation: &'static str, statement: &str, values: &[Value]) -> Result<u64> {
        let call = self.statements.call::<D>(operation, statement, values)?;
        let mut lease = self.take(operation)?;
        let running = async move {
            let outcome = lease.execute(operation, call).await;
            Ok((lease, outcome))
        };
        let (lease, outcome) = shielded(operation, running).await?;
        self.put_back(lease, outcome)
    }

    pub(crate) async fn fetch_all(
        &mut self,
        operation: &'static str,
        statement: &str,
        values: &[Value],
    ) -> Result<Vec<Row>> {
        let call = self.statements.call::<D>(operation, statement, values)?;
        let mut lease = self.take(operation)?;
        let running = async move {
            let outcome = lease.fetch_all(operation, call).await;
            Ok((lease, outcome))
        };
        let (lease, outcome) = shielded(operation, running).await?;
        self.put_back(lease, outcome)
    }

    pub(crate) async fn execute_script(&mut self, operation: &'static str, script: &str) -> Result<()> {
        let mut lease = self.take(operation)?;
        let script = script.to_owned();
        let running = async move {
            let outcome = lease.script(operation, &script).await;
            Ok((lease, outcome))
        };
        let (lease, outcome) = shielded(operation, running).await?;
        self.put_back(lease, outcome)
    }

    /// sqlx's connection; `None` when the transaction is broken.
    pub(crate) fn connection(&mut self) -> Option<&mut D::Connection> {
        if self.is_broken {
            return None;
        }
        self.is_lent = true;
        self.lease.as_mut().and_then(Lease::connection)
    }

    pub(crate) async fn commit(mut self) -> Result<()> {
        self.take_whole("tx.commit").await?.commit("tx.commit").await
    }

    /// The connection of a transaction that can commit; what follows here is refused.
    pub(super) async fn take_whole(&mut self, operation: &'static str) -> Result<Lease<D>> {
        if self.is_lent && !self.is_broken {
            // PostgreSQL answers a COMMIT of a failed transaction by rolling back, without an
            // error: a statement is asked for its answer first.
            self.execute(operation, "SELECT 1", &[]).await?;
        }
        self.take(operation)
    }

    /// The connection, whatever state the transaction is in.
    #[cfg(all(feature = "dtm", feature = "mysql"))]
    pub(super) fn take_any(&mut self) -> Option<Lease<D>> {
        self.lease.take()
    }

    pub(crate) async fn rollback(mut self) {
        if let Some(lease) = self.lease.take() {
            lease.rollback().await;
        }
    }

    fn take(&mut self, operation: &'static str) -> Result<Lease<D>> {
        let lease = if self.is_broken { None } else { self.lease.take() };
        lease.ok_or_else(|| {
            let message = "a statement of this transaction failed or was dropped half-way: roll it back";
            Error::new(ErrorKind::Aborted, operation, message)
        })
    }

    fn put_back<T>(&mut self, lease: Lease<D>, outcome: Result<T>) -> Result<T> {
        self.is_broken = !lease.is_connected() || outcome.as_ref().is_err_and(|error| D::DIALECT.is_ended_by(error));
        self.lease = Some(lease);
        outcome
    }
}
