//! What an outbox store of one process needs: a signal that never misses a commit, and shard locks.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio::sync::watch;

use super::{SHARD_COUNT, ShardSet};
use crate::{Error, ErrorKind, Result};

/// Wakes a relay when rows were committed; for [`OutboxStore::committed`](super::OutboxStore::committed).
///
/// Everybody who waits is woken by one commit; a commit that nobody waited for is kept for the
/// next who does.
#[derive(Clone, Debug)]
pub struct CommitSignal(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    commits: watch::Sender<[u64; SHARD_COUNT as usize]>,
    seen: [AtomicU64; SHARD_COUNT as usize],
}

impl Default for CommitSignal {
    fn default() -> Self {
        Self(Arc::new(Counts { commits: watch::Sender::default(), seen: Default::default() }))
    }
}

impl CommitSignal {
    /// Says that a transaction which added rows to these shards committed.
    pub fn notify(&self, shards: ShardSet) {
        self.0.commits.send_modify(|commits| shards.iter().for_each(|shard| commits[usize::from(shard)] += 1));
    }

    /// Resolves at the first commit that was not waited for yet, with the shards of all such.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a commit counts as seen only when this resolves.
    pub async fn wait(&self) -> ShardSet {
        let seen: [u64; SHARD_COUNT as usize] = std::array::from_fn(|shard| self.0.seen[shard].load(Ordering::Acquire));
        let is_news = |commits: &[u64; SHARD_COUNT as usize]| commits.iter().zip(seen).any(|(now, seen)| *now > seen);
        let mut commits = self.0.commits.subscribe();
        let commits = *commits.wait_for(is_news).await.expect("self holds the sender");
        for (seen, now) in self.0.seen.iter().zip(commits) {
            seen.fetch_max(now, Ordering::AcqRel);
        }
        (0..SHARD_COUNT).filter(|shard| commits[usize::from(*shard)] > seen[usize::from(*shard)]).collect()
    }
}

/// Shard locks within one process; clones share them.
#[derive(Clone, Debug, Default)]
pub struct ShardLocks(Arc<[AtomicBool; SHARD_COUNT as usize]>);

impl ShardLocks {
    /// Takes a shard until the lease is dropped; `None` while it is taken.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a shard that does not exist.
    pub fn own(&self, shard: u16) -> Result<Option<ShardLease>> {
        let Some(is_owned) = self.0.get(usize::from(shard)) else {
            return Err(Error::new(ErrorKind::InvalidArgument, "outbox.own", "there is no such shard")
                .with_context("shard", shard)
                .with_context("shard_count", SHARD_COUNT));
        };
        let was_owned = is_owned.swap(true, Ordering::AcqRel);
        Ok((!was_owned).then(|| ShardLease { locks: self.clone(), shard }))
    }
}

/// A taken shard; its drop frees it.
#[derive(Debug)]
pub struct ShardLease {
    locks: ShardLocks,
    shard: u16,
}

impl ShardLease {
    /// The shard.
    pub fn shard(&self) -> u16 {
        self.shard
    }
}

impl Drop for ShardLease {
    fn drop(&mut self) {
        self.locks.0[usize::from(self.shard)].store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_commit_that_nobody_waited_for_is_kept_once() {
        let signal = CommitSignal::default();
        signal.notify([3].into_iter().collect());
        signal.notify([3, 15].into_iter().collect());
        let shards = signal.wait().now_or_never().unwrap();
        assert_eq!(shards.iter().collect::<Vec<_>>(), [3, 15]);
        assert!(signal.wait().now_or_never().is_none());
    }

    #[tokio::test]
    async fn one_commit_wakes_everybody_who_waits() {
        let signal = CommitSignal::default();
        let waits = futures_util::future::join(signal.wait(), signal.wait());
        let ((), ()) = futures_util::future::join(waits.map(drop), async { signal.notify(ShardSet::ALL) }).await;
    }

    #[test]
    fn a_dropped_lease_frees_its_shard() {
        let locks = ShardLocks::default();
        let lease = locks.own(3).unwrap().unwrap();
        assert!(locks.own(3).unwrap().is_none());
        drop(lease);
        assert_eq!(locks.own(3).unwrap().unwrap().shard(), 3);
        assert_eq!(locks.own(SHARD_COUNT).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}
