//! A transaction manager that breaks one promise.

use std::{
    any::Any,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use micro_core::{
    Result, TransactionManager, Tx,
    transaction::{ManagerId, Transaction},
};

/// The promise that a [`BrokenTransactionManager`] breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionFault {
    /// A commit undoes.
    CommitsNothing,
    /// A rollback commits, that of a dropped transaction included.
    RollsForward,
    /// What is dropped or rolled back stays open.
    LeaksDropped,
    /// A begin that nobody waits for any more stays open.
    LeaksCancelledBegin,
    /// A commit works and leaves the transaction's lock.
    LeaksCommitted,
}

/// A manager that breaks one promise of the one inside, or none.
pub struct BrokenTransactionManager {
    manager: Arc<dyn TransactionManager>,
    fault: Option<TransactionFault>,
    leaked: Leaked,
}

/// What is kept open.
type Leaked = Arc<Mutex<Vec<Box<dyn Any + Send>>>>;

impl BrokenTransactionManager {
    /// Breaks `fault`'s promise.
    pub fn new(manager: Arc<dyn TransactionManager>, fault: impl Into<Option<TransactionFault>>) -> Self {
        Self { manager, fault: fault.into(), leaked: Leaked::default() }
    }
}

#[async_trait]
impl TransactionManager for BrokenTransactionManager {
    async fn begin(&self) -> Result<Tx> {
        let Some(fault) = self.fault else { return self.manager.begin().await };
        let tx = match fault {
            TransactionFault::LeaksCancelledBegin => begin_leaking(self.manager.clone(), self.leaked.clone()).await?,
            _ => self.manager.begin().await?,
        };
        let leaked = self.leaked.clone();
        let manager = self.manager.clone();
        Ok(tx.decorate(|transaction| Box::new(BrokenTransaction { transaction, manager, fault, leaked })))
    }

    fn id(&self) -> ManagerId {
        self.manager.id()
    }
}

async fn begin_leaking(manager: Arc<dyn TransactionManager>, leaked: Leaked) -> Result<Tx> {
    let (answer, began) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        // The caller that cancels does so while this waits.
        tokio::task::yield_now().await;
        if let Err(Ok(tx)) = answer.send(manager.begin().await) {
            leaked.lock().expect("no holder panics").push(Box::new(tx));
        }
    });
    began.await.expect("the task answers")
}

struct BrokenTransaction {
    transaction: Box<dyn Transaction>,
    manager: Arc<dyn TransactionManager>,
    fault: TransactionFault,
    leaked: Leaked,
}

#[async_trait]
impl Transaction for BrokenTransaction {
    async fn commit(self: Box<Self>) -> Result<()> {
        match self.fault {
            TransactionFault::CommitsNothing => self.transaction.rollback().await,
            TransactionFault::LeaksCommitted => {
                self.transaction.commit().await?;
                let lock = self.manager.begin().await?;
                self.leaked.lock().expect("no holder panics").push(Box::new(lock));
                Ok(())
            }
            _ => self.transaction.commit().await,
        }
    }

    async fn rollback(self: Box<Self>) -> Result<()> {
        match self.fault {
            TransactionFault::RollsForward => self.transaction.commit().await,
            TransactionFault::LeaksDropped => {
                self.leaked.lock().expect("no holder panics").push(Box::new(self.transaction));
                Ok(())
            }
            _ => self.transaction.rollback().await,
        }
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self.transaction.as_any_mut()
    }
}
