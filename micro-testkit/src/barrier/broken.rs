//! A barrier that breaks one promise.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use micro_core::{
    Result, Tx,
    barrier::{BarrierCall, BarrierStore, Passage, Prepared},
};

/// The promise that a [`BrokenBarrier`] breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarrierFault {
    /// Takes any transaction, and does nothing in it.
    TakesForeignTx,
    /// Lets a duplicate through.
    LetsDuplicatesThrough,
    /// Remembers a passage whatever becomes of the transaction.
    EntersAtOnce,
    /// Lets an undoing through whose action never came.
    LetsEmptyThrough,
    /// Lets an action through whose undoing came first.
    LetsOvertakenThrough,
    /// Lets an undoing through as little as its action.
    RefusesUndoings,
    /// Has one barrier for all of a call.
    HasOneBarrier,
    /// Takes each branch for the first one.
    MixesBranches,
    /// Takes every transaction for the same one.
    MixesTransactions,
    /// Says that a message's local transaction did not commit, and does not forbid it.
    ForbidsNothing,
    /// Says that every message's local transaction committed.
    BelievesInMessages,
    /// Forgets whatever its age.
    PurgesYoung,
    /// Forgets nothing and says that it did not.
    PurgesNothing,
    /// Forgets without a limit.
    PurgesAll,
}

/// A barrier that breaks one promise of the one inside, or none.
pub struct BrokenBarrier {
    barrier: Arc<dyn BarrierStore>,
    fault: Option<BarrierFault>,
    entered: Mutex<HashSet<[String; 4]>>,
}

impl BrokenBarrier {
    /// Breaks `fault`'s promise.
    pub fn new(barrier: Arc<dyn BarrierStore>, fault: impl Into<Option<BarrierFault>>) -> Self {
        Self { barrier, fault: fault.into(), entered: Mutex::default() }
    }

    /// Whether a call of this transaction came.
    fn is_known(&self, gid: &str) -> bool {
        self.entered.lock().expect("no holder panics").iter().any(|id| id[0] == gid)
    }

    fn enter_at_once(&self, call: &BarrierCall<'_>) -> Passage {
        let branch = call.branch;
        let id = [&branch.gid, &branch.id, branch.op.as_str(), &call.barrier_id].map(str::to_owned);
        match self.entered.lock().expect("no holder panics").insert(id) {
            true => Passage::Proceed,
            false => Passage::Duplicate,
        }
    }
}

#[async_trait]
impl BarrierStore for BrokenBarrier {
    async fn enter(&self, tx: &mut Tx, call: &BarrierCall<'_>) -> Result<Passage> {
        let mut branch = call.branch.clone();
        let mut number = call.barrier_id.parse().unwrap_or(1);
        match self.fault {
            Some(BarrierFault::TakesForeignTx) => return Ok(Passage::Proceed),
            Some(BarrierFault::EntersAtOnce) => return Ok(self.enter_at_once(call)),
            Some(BarrierFault::HasOneBarrier) => number = 1,
            Some(BarrierFault::MixesBranches) => branch.id = "01".to_owned(),
            Some(BarrierFault::MixesTransactions) => branch.gid = "gid".to_owned(),
            _ => {}
        }
        self.enter_at_once(call);
        let passage = self.barrier.enter(tx, &BarrierCall::new(&branch, number)).await?;
        Ok(match (self.fault, passage) {
            (Some(BarrierFault::LetsDuplicatesThrough), Passage::Duplicate)
            | (Some(BarrierFault::LetsEmptyThrough), Passage::Empty)
            | (Some(BarrierFault::LetsOvertakenThrough), Passage::Overtaken) => Passage::Proceed,
            (Some(BarrierFault::RefusesUndoings), Passage::Proceed) if branch.op.origin().is_some() => {
                Passage::Duplicate
            }
            _ => passage,
        })
    }

    async fn prepared(&self, gid: &str) -> Result<Prepared> {
        match self.fault {
            Some(BarrierFault::ForbidsNothing) if !self.is_known(gid) => Ok(Prepared::RolledBack),
            Some(BarrierFault::BelievesInMessages) => Ok(Prepared::Committed),
            _ => self.barrier.prepared(gid).await,
        }
    }

    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64> {
        match self.fault {
            Some(BarrierFault::PurgesYoung) => self.barrier.purge(Duration::ZERO, limit).await,
            Some(BarrierFault::PurgesNothing) => Ok(0),
            Some(BarrierFault::PurgesAll) => self.barrier.purge(older_than, usize::MAX).await,
            _ => self.barrier.purge(older_than, limit).await,
        }
    }
}
