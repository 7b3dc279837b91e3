//! An outbox that breaks one promise.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use micro_core::{
    Error, ErrorKind, Result, Tx,
    broker::Message,
    outbox::{OutboxCounts, OutboxRow, OutboxShard, OutboxStore, SHARD_COUNT, ShardSet},
};

/// The promise that a [`BrokenOutbox`] breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutboxFault {
    /// Takes any transaction, and does nothing in it.
    TakesForeignTx,
    /// Adds nothing.
    LosesRows,
    /// Shows rows before their commit, and after their rollback.
    ShowsUncommitted,
    /// Hands the newest rows out first.
    Reverses,
    /// Hands a row out once, whether it was sent or not.
    HasACursor,
    /// Hands out rows that are known.
    ForgetsKnown,
    /// Hands out rows of topics that are left out.
    ForgetsTopics,
    /// Hands every second row out in the next shard.
    Scatters,
    /// Gives a shard to everybody who asks.
    SharesShards,
    /// Keeps a shard that was dropped.
    KeepsShards,
    /// Keeps rows that were sent.
    KeepsSent,
    /// Removes rows that were parked.
    LosesParked,
    /// Keeps another cause.
    ForgetsCauses,
    /// Tells no commit.
    MissesCommits,
}

/// An outbox that breaks one promise of the one inside, or none.
pub struct BrokenOutbox {
    outbox: Arc<dyn OutboxStore>,
    fault: Option<OutboxFault>,
    state: State,
}

type State = Arc<Mutex<Inner>>;

#[derive(Default)]
struct Inner {
    /// Rows that are shown in a shard though they are not there.
    shown: Vec<(u16, OutboxRow)>,
    /// Shards whose drop is kept from the outbox.
    kept: Vec<Box<dyn OutboxShard>>,
    /// The highest row id that was handed out.
    cursor: i64,
}

impl BrokenOutbox {
    /// Breaks `fault`'s promise.
    pub fn new(outbox: Arc<dyn OutboxStore>, fault: impl Into<Option<OutboxFault>>) -> Self {
        Self { outbox, fault: fault.into(), state: State::default() }
    }

    fn has(&self, fault: OutboxFault) -> bool {
        self.fault == Some(fault)
    }
}

#[async_trait]
impl OutboxStore for BrokenOutbox {
    async fn add(&self, tx: &mut Tx, messages: &[Message]) -> Result<()> {
        if self.has(OutboxFault::TakesForeignTx) || self.has(OutboxFault::LosesRows) {
            return Ok(());
        }
        if self.has(OutboxFault::ShowsUncommitted) {
            let rows = messages.iter().map(|message| (self.shard_of(message), row(0, message)));
            lock(&self.state).shown.extend(rows);
        }
        self.outbox.add(tx, messages).await
    }

    async fn own(&self, shard: u16) -> Result<Option<Box<dyn OutboxShard>>> {
        let inner = self.outbox.own(shard).await?;
        if inner.is_none() && self.has(OutboxFault::SharesShards) {
            return Ok(Some(Box::new(NoShard)));
        }
        let state = self.state.clone();
        let fault = self.fault;
        Ok(inner.map(|inner| Box::new(BrokenShard { inner: Some(inner), shard, fault, state }) as Box<_>))
    }

    async fn committed(&self) -> ShardSet {
        if self.has(OutboxFault::MissesCommits) {
            std::future::pending::<()>().await;
        }
        self.outbox.committed().await
    }

    fn shard_of(&self, message: &Message) -> u16 {
        self.outbox.shard_of(message)
    }

    async fn counts(&self) -> Result<OutboxCounts> {
        self.outbox.counts().await
    }
}

struct BrokenShard {
    inner: Option<Box<dyn OutboxShard>>,
    shard: u16,
    fault: Option<OutboxFault>,
    state: State,
}

impl BrokenShard {
    fn inner(&mut self) -> &mut dyn OutboxShard {
        &mut **self.inner.as_mut().expect("only the drop takes it")
    }

    fn scattered(&self, rows: Vec<OutboxRow>) -> Vec<OutboxRow> {
        let (moved, mut rows): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.id % 2 == 1);
        let mut state = lock(&self.state);
        let arrived = state.shown.iter().filter(|(shard, _)| *shard == self.shard).map(|(_, row)| row.clone());
        rows.extend(arrived);
        let next = (self.shard + 1) % SHARD_COUNT;
        state.shown.extend(moved.into_iter().map(|row| (next, row)));
        rows
    }
}

#[async_trait]
impl OutboxShard for BrokenShard {
    async fn unsent(&mut self, known: &[i64], but_topics: &[Arc<str>], limit: usize) -> Result<Vec<OutboxRow>> {
        let known = if self.fault == Some(OutboxFault::ForgetsKnown) { &[] } else { known };
        let but_topics = if self.fault == Some(OutboxFault::ForgetsTopics) { &[] } else { but_topics };
        let mut rows = self.inner().unsent(known, but_topics, limit).await?;
        match self.fault {
            Some(OutboxFault::Reverses) => rows.reverse(),
            Some(OutboxFault::HasACursor) => {
                let mut state = lock(&self.state);
                rows.retain(|row| row.id > state.cursor);
                state.cursor = rows.last().map_or(state.cursor, |row| row.id);
            }
            Some(OutboxFault::Scatters) => rows = self.scattered(rows),
            Some(OutboxFault::ShowsUncommitted) => {
                let state = lock(&self.state);
                rows =
                    state.shown.iter().filter(|(shard, _)| *shard == self.shard).map(|(_, row)| row.clone()).collect();
            }
            _ => {}
        }
        Ok(rows)
    }

    async fn sent(&mut self, ids: &[i64]) -> Result<()> {
        match self.fault {
            Some(OutboxFault::KeepsSent) => Ok(()),
            _ => self.inner().sent(ids).await,
        }
    }

    async fn park(&mut self, id: i64, cause: &Error) -> Result<()> {
        match self.fault {
            Some(OutboxFault::LosesParked) => self.inner().sent(&[id]).await,
            Some(OutboxFault::ForgetsCauses) => {
                self.inner().park(id, &Error::new(ErrorKind::Unknown, "broken", "something")).await
            }
            _ => self.inner().park(id, cause).await,
        }
    }
}

impl Drop for BrokenShard {
    fn drop(&mut self) {
        if self.fault == Some(OutboxFault::KeepsShards) {
            lock(&self.state).kept.extend(self.inner.take());
        }
    }
}

/// A shard that somebody else owns.
struct NoShard;

#[async_trait]
impl OutboxShard for NoShard {
    async fn unsent(&mut self, _known: &[i64], _but_topics: &[Arc<str>], _limit: usize) -> Result<Vec<OutboxRow>> {
        Ok(Vec::new())
    }

    async fn sent(&mut self, _ids: &[i64]) -> Result<()> {
        Ok(())
    }

    async fn park(&mut self, _id: i64, _cause: &Error) -> Result<()> {
        Ok(())
    }
}

fn row(id: i64, message: &Message) -> OutboxRow {
    OutboxRow { id, message: message.clone() }
}

fn lock(state: &State) -> MutexGuard<'_, Inner> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
