//! The outbox port: events written in the business transaction, sent after it by the relay.

mod local;
mod memory;
mod relay;

pub use local::{CommitSignal, ShardLease, ShardLocks};
pub use memory::MemoryOutbox;
pub(crate) use memory::{OutboxChanges, OutboxRows};
pub use relay::{Relay, RelayBuilder, RelayConfig};

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    Error, Metadata, Result, TraceContext, Tx,
    broker::{Message, header},
    event::{Event, seal},
};

/// How many shards an outbox is cut into by the hash of its keys; one relay owns a shard.
pub const SHARD_COUNT: u16 = 16;

/// Keeps events in the business transaction until the broker has them.
///
/// # Contract
///
/// - `a_row_is_unsent_exactly_when_its_transaction_committed`.
/// - `unsent_rows_come_in_the_order_they_were_added`, per key; a row that was added earlier and
///   committed later is not skipped (no cursor over ids).
/// - `known_rows_are_left_out` and do not count for the limit.
/// - `topics_can_be_left_out`: their rows neither come nor count for the limit.
/// - `rows_of_one_key_share_a_shard`.
/// - `a_shard_has_one_owner`: while one handle lives, `own` answers `None` to others; the handle's
///   drop frees it.
/// - `sent_rows_are_gone_and_parked_rows_are_kept_with_their_cause`.
/// - `committed_misses_no_commit`.
#[async_trait]
pub trait OutboxStore: Send + Sync + 'static {
    /// Adds messages to the transaction, in slice order. Lock the business row first: then rows of
    /// one aggregate commit in the order of their ids.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for another manager's [`Tx`].
    async fn add(&self, tx: &mut Tx, messages: &[Message]) -> Result<()>;

    /// Takes a shard (`0..SHARD_COUNT`) for relaying; `None` while somebody else has it.
    async fn own(&self, shard: u16) -> Result<Option<Box<dyn OutboxShard>>>;

    /// Resolves when a transaction that added rows committed in this process, with the shards it
    /// added to, so that a relay reads those alone. May resolve without one or name too many
    /// shards; never misses one between two calls.
    async fn committed(&self) -> ShardSet;

    /// The shard (`0..SHARD_COUNT`) of a message, always the same for a key: by [`hash_shard`]
    /// where several processes share the work, one for all where one process has the database.
    fn shard_of(&self, message: &Message) -> u16;

    /// How many rows wait and how many are parked.
    async fn counts(&self) -> Result<OutboxCounts>;
}

/// A shard of an outbox, owned until it is dropped.
#[async_trait]
pub trait OutboxShard: Send {
    /// The oldest unsent rows but those whose ids are `known` and those `but_topics`, in the order
    /// they were added; at most `limit`.
    async fn unsent(&mut self, known: &[i64], but_topics: &[Arc<str>], limit: usize) -> Result<Vec<OutboxRow>>;

    /// Deletes rows the broker has a receipt for.
    async fn sent(&mut self, ids: &[i64]) -> Result<()>;

    /// Sets a row aside for good: the broker refuses it. It stays in the table with its cause.
    async fn park(&mut self, id: i64, cause: &Error) -> Result<()>;
}

/// An unsent message and its row id.
#[derive(Clone, Debug)]
pub struct OutboxRow {
    /// The row's id; increasing in the order rows were added by one transaction.
    pub id: i64,
    /// The message to send.
    pub message: Message,
}

/// How full an outbox is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboxCounts {
    /// Rows that wait for the relay.
    pub unsent: u64,
    /// Rows the broker refused for good.
    pub parked: u64,
}

/// A set of shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardSet(u16);

impl ShardSet {
    /// Every shard.
    pub const ALL: Self = Self(u16::MAX);

    /// Adds a shard (`0..SHARD_COUNT`).
    pub fn insert(&mut self, shard: u16) {
        self.0 |= 1 << shard;
    }

    /// Whether the shard is in the set.
    pub fn contains(self, shard: u16) -> bool {
        self.0 & (1 << shard) != 0
    }

    /// The shards, in order.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        (0..SHARD_COUNT).filter(move |shard| self.contains(*shard))
    }
}

impl FromIterator<u16> for ShardSet {
    fn from_iter<I: IntoIterator<Item = u16>>(shards: I) -> Self {
        let mut set = Self::default();
        shards.into_iter().for_each(|shard| set.insert(shard));
        set
    }
}

/// The shard of a message by the hash of its key, or of its body where it has none.
pub fn hash_shard(message: &Message) -> u16 {
    let key = message.key.as_ref().unwrap_or(&message.body);
    u16::try_from(crate::broker::fnv1a_partition(key, u32::from(SHARD_COUNT))).expect("below SHARD_COUNT")
}

/// The typed publisher: adds events to the outbox in the caller's transaction.
#[derive(Clone)]
pub struct Outbox {
    store: Arc<dyn OutboxStore>,
    source: Arc<str>,
    source_version: Arc<str>,
    traceparent: Option<Arc<str>>,
}

impl Outbox {
    /// A publisher for the service `source` of version `source_version`: both go into the headers.
    pub fn new(store: Arc<dyn OutboxStore>, source: impl Into<Arc<str>>, source_version: impl Into<Arc<str>>) -> Self {
        Self { store, source: source.into(), source_version: source_version.into(), traceparent: None }
    }

    /// The same publisher for what `metadata` came with: its events belong to that trace.
    #[must_use]
    pub fn on_behalf_of(&self, metadata: &Metadata) -> Self {
        let is_one = |text: &&str| text.parse::<TraceContext>().is_ok();
        let traceparent = metadata.get(TraceContext::METADATA_NAME).filter(is_one).map(Arc::from);
        Self { traceparent, ..self.clone() }
    }

    /// Adds one event; it is sent if and only if the transaction commits.
    ///
    /// # Errors
    ///
    /// Those of [`OutboxStore::add`], and of the event's encoding.
    pub async fn add<E: Event>(&self, tx: &mut Tx, event: &E) -> Result<()> {
        self.add_all(tx, std::slice::from_ref(event)).await
    }

    /// Adds events of one type in slice order, in one statement where the store can.
    pub async fn add_all<E: Event>(&self, tx: &mut Tx, events: &[E]) -> Result<()> {
        let messages = events.iter().map(|event| self.seal(event)).collect::<Result<Vec<_>>>()?;
        self.store.add(tx, &messages).await
    }

    /// The message that [`add`](Self::add) would add, for one that needs headers of its own before
    /// [`add_messages`](Self::add_messages).
    pub fn seal<E: Event>(&self, event: &E) -> Result<Message> {
        let mut message = seal(event, &self.source, &self.source_version)?;
        if let Some(traceparent) = &self.traceparent {
            message.headers.append(header::TRACEPARENT, traceparent.to_string());
        }
        Ok(message)
    }

    /// Adds messages that are sealed already (`micro_core::event::seal_payload`): for events whose
    /// type is known at run time only.
    pub async fn add_messages(&self, tx: &mut Tx, messages: &[Message]) -> Result<()> {
        self.store.add(tx, messages).await
    }

    /// The store behind it.
    pub fn store(&self) -> &Arc<dyn OutboxStore> {
        &self.store
    }
}
