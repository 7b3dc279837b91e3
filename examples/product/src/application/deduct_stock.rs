//! Takes the goods of a batch of paid orders from stock, decided in memory and written set by set.

use micro_core::{Result, Tx};

use super::expect_changed;
use crate::domain::{
    Decided, Deducted, Ledger, LedgerEntry, PaidOrder, ProductEvents, Refused, Shelf, Source, Stocks, Verdict,
};

const OPERATION: &str = "product.deduct";

/// Takes the goods of paid orders from stock.
pub struct DeductStock<S, L> {
    stocks: S,
    ledger: L,
}

/// What a batch comes to, before it is written.
#[derive(Default)]
struct Decisions {
    decided: Vec<Decided>,
    entries: Vec<LedgerEntry>,
    deducted: Vec<Deducted>,
    refused: Vec<Refused>,
}

impl<S: Stocks, L: Ledger> DeductStock<S, L> {
    /// The use case over these ports.
    pub fn new(stocks: S, ledger: L) -> Self {
        Self { stocks, ledger }
    }

    /// Decides each order once, in slice order, and tells `events`: its goods are taken, or it is
    /// refused. The stocks are locked from their reading on; what slips past the locks fails the
    /// conditional writes.
    ///
    /// # Errors
    ///
    /// `Aborted` when another transaction changed a stock or decided an order in between.
    pub async fn deduct(&self, tx: &mut Tx, events: &impl ProductEvents, orders: &[PaidOrder]) -> Result<()> {
        let order_ids: Vec<i64> = orders.iter().map(PaidOrder::order_id).collect();
        let mut known = self.ledger.decided(tx, &order_ids).await?;
        let new: Vec<&PaidOrder> = orders.iter().filter(|order| known.insert(order.order_id())).collect();
        if new.is_empty() {
            return Ok(());
        }
        let mut shelf = Shelf::new(self.stocks.on_shelf(tx, &wanted_skus(&new)).await?);
        let decisions = decide(&mut shelf, &new);
        self.write(tx, events, &shelf, &decisions).await
    }

    /// Whether goods were taken for this order.
    ///
    /// # Errors
    ///
    /// Those of the ledger.
    pub async fn is_taken(&self, tx: &mut Tx, order_id: i64) -> Result<bool> {
        Ok(!self.ledger.changed(tx, Source::Payment, order_id).await?.is_empty())
    }

    async fn write(
        &self,
        tx: &mut Tx,
        events: &impl ProductEvents,
        shelf: &Shelf,
        decisions: &Decisions,
    ) -> Result<()> {
        let taken = shelf.taken();
        if !taken.is_empty() {
            expect_changed(OPERATION, self.stocks.withdraw(tx, taken).await?, taken.len())?;
            self.ledger.add_changes(tx, Source::Payment, &decisions.entries).await?;
        }
        self.ledger.add_decided(tx, &decisions.decided).await?;
        events.decided(tx, &decisions.deducted, &decisions.refused).await
    }
}

fn wanted_skus(orders: &[&PaidOrder]) -> Vec<i64> {
    let mut ids: Vec<i64> = orders.iter().flat_map(|order| order.wanted()).map(|wanted| wanted.sku_id).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn decide(shelf: &mut Shelf, orders: &[&PaidOrder]) -> Decisions {
    let mut decisions = Decisions::default();
    for order in orders {
        let order_id = order.order_id();
        decisions.decided.push(Decided { order_id, event_id: order.event_id().to_owned() });
        match shelf.take(order) {
            Verdict::Deducted(changes) => {
                decisions.entries.extend(changes.iter().map(|change| LedgerEntry { order_id, change: *change }));
                decisions.deducted.push(Deducted { order_id, changes });
            }
            Verdict::Refused(reason) => decisions.refused.push(Refused { order: (*order).clone(), reason }),
        }
    }
    decisions
}
