//! Takes the goods of orders for callers that wait for the answer, each at most once: by itself, or as
//! a branch of a global transaction.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use micro_core::{
    Error, ErrorKind, Result, TransactionManager, TransactionManagerExt, Tx,
    barrier::{Barrier, BarrierStore, Passage},
    branch::Branch,
    transaction::{RetryPolicy, retrying},
};

use super::{DeductStock, ReturnStock};
use crate::domain::{Deducted, Ledger, PaidOrder, ProductEvents, Refused, Stocks};

const OPERATION: &str = "product.deduct";

/// Takes goods, or gives them back, before it answers.
pub struct DeductNow<S, L> {
    transactions: Arc<dyn TransactionManager>,
    barriers: Arc<dyn BarrierStore>,
    deduct: DeductStock<S, L>,
    give_back: ReturnStock<S, L>,
    retry: RetryPolicy,
}

/// An order whose goods are asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The order.
    pub order: PaidOrder,
    /// The branch that the caller asks for, where a coordinator calls.
    pub branch: Option<Branch>,
}

impl<S: Stocks, L: Ledger> DeductNow<S, L> {
    /// The use case over these ports; `retry` repeats attempts that lost against other orders.
    pub fn new(
        transactions: Arc<dyn TransactionManager>,
        barriers: Arc<dyn BarrierStore>,
        deduct: DeductStock<S, L>,
        give_back: ReturnStock<S, L>,
        retry: RetryPolicy,
    ) -> Self {
        Self { transactions, barriers, deduct, give_back, retry }
    }

    /// Takes the goods of these orders in one transaction, and answers for each in slice order. An order
    /// whose goods were taken before is answered as if they were taken now.
    ///
    /// # Errors
    ///
    /// An order's own: `FailedPrecondition` where its goods cannot be had; nothing is left of it, so that
    /// a repeated call is decided anew. The outer one says that nothing was written.
    pub async fn deduct(&self, asked: &[Asked]) -> Result<Vec<Result<()>>> {
        let mut refused: HashMap<i64, String> = HashMap::new();
        loop {
            let open: Vec<&Asked> =
                asked.iter().filter(|asked| !refused.contains_key(&asked.order.order_id())).collect();
            let more = retrying(self.retry, || self.attempt(&open)).await?;
            if more.is_empty() {
                break;
            }
            // Without them: what a refused branch leaves must be nothing, its barrier's rows included.
            refused.extend(more.into_iter().map(|refused| (refused.order.order_id(), refused.reason)));
        }
        let answer = |asked: &Asked| match refused.get(&asked.order.order_id()) {
            None => Ok(()),
            Some(reason) => Err(cannot_be_had(asked.order.order_id()).with_context("reason", reason)),
        };
        Ok(asked.iter().map(answer).collect())
    }

    /// Gives the goods of an order back, once; of an order of which none were taken nothing.
    ///
    /// # Errors
    ///
    /// Those of [`ReturnStock::give_back`].
    pub async fn give_back(&self, order_id: i64, branch: Option<&Branch>) -> Result<()> {
        let attempt = || async {
            let give_back = async |tx: &mut Tx| {
                let passage = Barrier::new(branch.cloned()).enter(&*self.barriers, tx).await?;
                if passage == Passage::Proceed && self.deduct.is_taken(tx, order_id).await? {
                    self.give_back.give_back(tx, order_id).await?;
                }
                Ok(())
            };
            self.transactions.run(give_back).await
        };
        retrying(self.retry, attempt).await
    }

    /// Everything, or nothing and who is refused.
    async fn attempt(&self, asked: &[&Asked]) -> Result<Vec<Refused>> {
        let body = async |tx: &mut Tx| self.take(tx, asked).await;
        match self.transactions.run(body).await {
            Ok(()) => Ok(Vec::new()),
            Err(Undone::Refused(refused)) => Ok(refused),
            Err(Undone::Failed(error)) => Err(error),
        }
    }

    async fn take(&self, tx: &mut Tx, asked: &[&Asked]) -> Result<(), Undone> {
        let mut orders = Vec::with_capacity(asked.len());
        for asked in asked {
            if Barrier::new(asked.branch.clone()).enter(&*self.barriers, tx).await? == Passage::Proceed {
                orders.push(asked.order.clone());
            }
        }
        let decisions = Decisions::default();
        self.deduct.deduct(tx, &decisions, &orders).await?;
        let (told, mut refused) = decisions.into_parts();
        // What was decided before is told to nobody, and may have been a refusal.
        for order in orders.into_iter().filter(|order| !told.contains(&order.order_id())) {
            if !self.deduct.is_taken(tx, order.order_id()).await? {
                refused.push(Refused { order, reason: "it was refused before".to_owned() });
            }
        }
        if refused.is_empty() { Ok(()) } else { Err(Undone::Refused(refused)) }
    }
}

/// Why a transaction was rolled back.
enum Undone {
    Refused(Vec<Refused>),
    Failed(Error),
}

impl From<Error> for Undone {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Keeps what was decided for the answer, instead of publishing it.
#[derive(Default)]
struct Decisions(Mutex<(HashSet<i64>, Vec<Refused>)>);

impl Decisions {
    /// The orders that were decided now, and those that were refused.
    fn into_parts(self) -> (HashSet<i64>, Vec<Refused>) {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProductEvents for Decisions {
    async fn decided(&self, _: &mut Tx, deducted: &[Deducted], refused: &[Refused]) -> Result<()> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.0.extend(deducted.iter().map(|order| order.order_id));
        kept.0.extend(refused.iter().map(|refused| refused.order.order_id()));
        kept.1.extend_from_slice(refused);
        Ok(())
    }
}

fn cannot_be_had(order_id: i64) -> Error {
    let message = "the goods of this order cannot be had";
    Error::new(ErrorKind::FailedPrecondition, OPERATION, message).with_context("order_id", order_id)
}
