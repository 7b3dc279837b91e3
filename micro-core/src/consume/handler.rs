//! What a user writes to consume: [`Handler`] or [`BatchHandler`], one a type of event.

use async_trait::async_trait;

use crate::{Result, Tx, event::Event, event::Received};

/// Handles one event in the inbox's transaction. The result is the acknowledgement.
///
/// What it writes through `tx` is applied once however often the event is delivered; what it does
/// outside (a call, a file) may happen again.
///
/// # Errors
///
/// An error undoes the transaction. A permanent kind ([`ErrorKind::is_permanent`]) makes the event
/// a dead letter, another one is tried again as the [`DeliveryPolicy`] says.
///
/// [`ErrorKind::is_permanent`]: crate::ErrorKind::is_permanent
/// [`DeliveryPolicy`]: crate::consume::DeliveryPolicy
#[async_trait]
pub trait Handler<E: Event>: Send + Sync + 'static {
    /// Handles `event`.
    async fn handle(&self, tx: &mut Tx, event: Received<E>) -> Result<()>;
}

/// Handles a slice of events of one type in the inbox's transaction, with set-based statements.
///
/// The slice holds each event once, in delivery order. It fails as a whole: the inbox halves the
/// batch until the one that fails stands alone, which is then called with a slice of one.
#[async_trait]
pub trait BatchHandler<E: Event>: Send + Sync + 'static {
    /// Handles `events`, at least one.
    async fn handle_batch(&self, tx: &mut Tx, events: &[Received<E>]) -> Result<()>;
}
