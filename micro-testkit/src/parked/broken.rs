//! Stores of parked deliveries and of dead letters that break one promise.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use micro_core::{
    Result, Tx,
    broker::Delivery,
    parked::{DeadLetter, DeadLetterStore, ParkedRow, ParkedStore, Parking},
};

/// The promise that a [`BrokenParked`] breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParkedFault {
    /// Takes any transaction, and does nothing in it.
    TakesForeignTx,
    /// Counts rows before their commit, and after their rollback.
    CountsUncommitted,
    /// Hands out what waits behind a head.
    IgnoresQueues,
    /// Hands out before the time.
    IgnoresDelays,
    /// Hands out the newest first.
    Reverses,
    /// Calls no key blocked.
    BlocksNothing,
    /// Calls every key blocked.
    BlocksEverything,
    /// Says of every row that it was removed now.
    RemovesAgain,
    /// Holds no key.
    HoldsNothing,
    /// Says of a held row that it was postponed.
    PostponesHeld,
    /// Releases no key and says that it did.
    ReleasesNothing,
}

/// A store of parked deliveries that breaks one promise of the one inside, or none.
pub struct BrokenParked {
    parked: Arc<dyn ParkedStore>,
    fault: Option<ParkedFault>,
    /// What was parked, whatever became of it.
    seen: Mutex<Vec<(String, Delivery)>>,
}

impl BrokenParked {
    /// Breaks `fault`'s promise.
    pub fn new(parked: Arc<dyn ParkedStore>, fault: impl Into<Option<ParkedFault>>) -> Self {
        Self { parked, fault: fault.into(), seen: Mutex::default() }
    }

    fn has(&self, fault: ParkedFault) -> bool {
        self.fault == Some(fault)
    }

    fn seen(&self) -> MutexGuard<'_, Vec<(String, Delivery)>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn delay(&self, delay: Option<Duration>) -> Option<Duration> {
        match (self.fault, delay) {
            (Some(ParkedFault::IgnoresDelays), Some(_)) | (Some(ParkedFault::HoldsNothing), None) => {
                Some(Duration::ZERO)
            }
            (_, delay) => delay,
        }
    }

    fn seen_rows(&self, group: &str) -> Vec<ParkedRow> {
        let seen = self.seen();
        let of_group = seen.iter().filter(|(known, _)| known == group);
        of_group.map(|(_, delivery)| ParkedRow { id: 0, delivery: delivery.clone(), attempts: 4 }).collect()
    }
}

#[async_trait]
impl ParkedStore for BrokenParked {
    async fn park(&self, tx: &mut Tx, parking: &Parking<'_>) -> Result<()> {
        if self.has(ParkedFault::TakesForeignTx) {
            return Ok(());
        }
        self.seen().push((parking.group.to_owned(), parking.delivery.clone()));
        self.parked.park(tx, &Parking { delay: self.delay(parking.delay), ..*parking }).await
    }

    async fn is_blocked(&self, tx: &mut Tx, group: &str, deliveries: &[&Delivery]) -> Result<Vec<bool>> {
        match self.fault {
            Some(ParkedFault::BlocksNothing | ParkedFault::TakesForeignTx) => Ok(vec![false; deliveries.len()]),
            Some(ParkedFault::BlocksEverything) => Ok(vec![true; deliveries.len()]),
            _ => self.parked.is_blocked(tx, group, deliveries).await,
        }
    }

    async fn due(&self, group: &str, limit: usize) -> Result<Vec<ParkedRow>> {
        if self.has(ParkedFault::IgnoresQueues) {
            return Ok(self.seen_rows(group));
        }
        let mut rows = self.parked.due(group, limit).await?;
        if self.has(ParkedFault::Reverses) {
            rows.reverse();
        }
        Ok(rows)
    }

    async fn remove(&self, tx: &mut Tx, id: i64) -> Result<bool> {
        if self.has(ParkedFault::TakesForeignTx) {
            return Ok(true);
        }
        Ok(self.parked.remove(tx, id).await? || self.has(ParkedFault::RemovesAgain))
    }

    async fn postpone(
        &self,
        tx: &mut Tx,
        id: i64,
        attempts: u32,
        cause: &str,
        delay: Option<Duration>,
    ) -> Result<bool> {
        if self.has(ParkedFault::TakesForeignTx) {
            return Ok(true);
        }
        let is_postponed = self.parked.postpone(tx, id, attempts, cause, self.delay(delay)).await?;
        Ok(is_postponed || self.has(ParkedFault::PostponesHeld))
    }

    async fn release(&self, tx: &mut Tx, group: &str, delivery: &Delivery) -> Result<bool> {
        if self.has(ParkedFault::TakesForeignTx) || self.has(ParkedFault::ReleasesNothing) {
            return Ok(true);
        }
        self.parked.release(tx, group, delivery).await
    }

    async fn count(&self, group: &str) -> Result<u64> {
        if self.has(ParkedFault::CountsUncommitted) {
            return Ok(self.seen_rows(group).len() as u64);
        }
        self.parked.count(group).await
    }
}

/// The promise that a [`BrokenDeadLetters`] breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadLetterFault {
    /// Takes any transaction, and does nothing in it.
    TakesForeignTx,
    /// Says of every letter that it is new.
    RepeatsLetters,
    /// Lets a second letter replace the first.
    KeepsTheLast,
    /// Keeps another cause.
    ForgetsCauses,
    /// Keeps another origin.
    ForgetsOrigins,
    /// Finds the oldest letter whatever is looked for.
    FindsTheFirst,
    /// Removes nothing and says that it did.
    RemovesNothing,
}

/// A store of dead letters that breaks one promise of the one inside, or none.
pub struct BrokenDeadLetters {
    dead_letters: Arc<dyn DeadLetterStore>,
    fault: Option<DeadLetterFault>,
}

impl BrokenDeadLetters {
    /// Breaks `fault`'s promise.
    pub fn new(dead_letters: Arc<dyn DeadLetterStore>, fault: impl Into<Option<DeadLetterFault>>) -> Self {
        Self { dead_letters, fault: fault.into() }
    }

    fn kept(&self, letter: &DeadLetter) -> DeadLetter {
        let mut letter = letter.clone();
        match self.fault {
            Some(DeadLetterFault::ForgetsCauses) => "something".clone_into(&mut letter.cause),
            Some(DeadLetterFault::ForgetsOrigins) => letter.delivery.offset = 0,
            _ => {}
        }
        letter
    }
}

#[async_trait]
impl DeadLetterStore for BrokenDeadLetters {
    async fn add(&self, tx: &mut Tx, letter: &DeadLetter) -> Result<bool> {
        match self.fault {
            Some(DeadLetterFault::TakesForeignTx) => Ok(true),
            Some(DeadLetterFault::RepeatsLetters) => {
                self.dead_letters.add(tx, letter).await?;
                Ok(true)
            }
            Some(DeadLetterFault::KeepsTheLast) => {
                let is_known = self.dead_letters.remove(tx, &letter.group, &letter.event_id).await?;
                Ok(self.dead_letters.add(tx, letter).await? && !is_known)
            }
            _ => self.dead_letters.add(tx, &self.kept(letter)).await,
        }
    }

    async fn list(&self, group: &str, limit: usize) -> Result<Vec<DeadLetter>> {
        self.dead_letters.list(group, limit).await
    }

    async fn find(&self, group: &str, event_id: &str) -> Result<Option<DeadLetter>> {
        match self.fault {
            Some(DeadLetterFault::FindsTheFirst) => Ok(self.list(group, 1).await?.pop()),
            _ => self.dead_letters.find(group, event_id).await,
        }
    }

    async fn count(&self, group: &str) -> Result<u64> {
        self.dead_letters.count(group).await
    }

    async fn remove(&self, tx: &mut Tx, group: &str, event_id: &str) -> Result<bool> {
        match self.fault {
            Some(DeadLetterFault::TakesForeignTx | DeadLetterFault::RemovesNothing) => Ok(true),
            _ => self.dead_letters.remove(tx, group, event_id).await,
        }
    }
}
