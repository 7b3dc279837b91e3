//! Settles payments on behalf of a global transaction: each step takes effect once, whatever its
//! coordinator repeats.

use std::sync::Arc;

use micro_core::{
    Result, TransactionManager, TransactionManagerExt, Tx,
    barrier::{Barrier, BarrierStore, Passage},
    branch::Branch,
    transaction::{RetryPolicy, retrying},
};

use super::{ConfirmPayments, FailPayments};
use crate::domain::{Failure, OrderEvents, Orders};

/// Settles payments.
pub struct SettlePayments<O> {
    transactions: Arc<dyn TransactionManager>,
    barriers: Arc<dyn BarrierStore>,
    confirm: ConfirmPayments<O>,
    fail: FailPayments<O>,
    retry: RetryPolicy,
}

/// An order whose payment is to be settled.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// The order.
    pub order_id: i64,
    /// The branch that is asked for, where a coordinator calls.
    pub branch: Option<Branch>,
}

impl<O: Orders + Clone> SettlePayments<O> {
    /// The use case over these ports; `retry` repeats attempts that lost against other settlements.
    pub fn new(
        transactions: Arc<dyn TransactionManager>,
        barriers: Arc<dyn BarrierStore>,
        orders: O,
        retry: RetryPolicy,
    ) -> Self {
        let (confirm, fail) = (ConfirmPayments::new(orders.clone()), FailPayments::new(orders));
        Self { transactions, barriers, confirm, fail, retry }
    }

    /// Confirms these payments in one transaction and tells `events`.
    ///
    /// # Errors
    ///
    /// Those of [`ConfirmPayments::confirm`], for all of them.
    pub async fn confirm(&self, events: &impl OrderEvents, settlements: &[Settlement]) -> Result<()> {
        let attempt = || async {
            let body = async |tx: &mut Tx| {
                let mut ids = Vec::with_capacity(settlements.len());
                for Settlement { order_id, branch } in settlements {
                    if self.enter(tx, branch.as_ref()).await? {
                        ids.push(*order_id);
                    }
                }
                self.confirm.confirm(tx, events, &ids).await
            };
            self.transactions.run(body).await
        };
        retrying(self.retry, attempt).await
    }

    /// Ends a payment and tells `events`.
    ///
    /// Behind no barrier: it undoes what the callback did before the saga began, and an undoing without
    /// an action is what a barrier keeps out. The order's status keeps it to one effect.
    ///
    /// # Errors
    ///
    /// Those of [`FailPayments::fail`].
    pub async fn fail(&self, events: &impl OrderEvents, failure: Failure) -> Result<()> {
        let failures = [failure];
        let attempt = || self.transactions.run(async |tx: &mut Tx| self.fail.fail(tx, events, &failures).await);
        retrying(self.retry, attempt).await
    }

    async fn enter(&self, tx: &mut Tx, branch: Option<&Branch>) -> Result<bool> {
        Ok(Barrier::new(branch.cloned()).enter(&*self.barriers, tx).await? == Passage::Proceed)
    }
}
