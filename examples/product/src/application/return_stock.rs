//! Gives the goods of an order back to stock, once: its deduction could not be confirmed.

use std::collections::HashMap;

use micro_core::{Error, ErrorKind, Result, Tx};

use super::expect_changed;
use crate::domain::{Ledger, LedgerEntry, Quantity, SkuStock, Source, StockChange, Stocks};

const OPERATION: &str = "product.return";

/// Gives goods back to stock.
pub struct ReturnStock<S, L> {
    stocks: S,
    ledger: L,
}

impl<S: Stocks, L: Ledger> ReturnStock<S, L> {
    /// The use case over these ports.
    pub fn new(stocks: S, ledger: L) -> Self {
        Self { stocks, ledger }
    }

    /// Gives back what the ledger says was taken for the order, unless it was given back before.
    ///
    /// # Errors
    ///
    /// `FailedPrecondition` when nothing was taken for it, or a SKU is gone.
    pub async fn give_back(&self, tx: &mut Tx, order_id: i64) -> Result<()> {
        if !self.ledger.changed(tx, Source::Return, order_id).await?.is_empty() {
            return Ok(());
        }
        let taken = self.ledger.changed(tx, Source::Payment, order_id).await?;
        if taken.is_empty() {
            return Err(impossible("nothing was taken from stock for this order", order_id));
        }
        let sku_ids: Vec<i64> = taken.iter().map(|quantity| quantity.sku_id).collect();
        let stocks = self.stocks.find(tx, &sku_ids).await?;
        let stocks: HashMap<i64, SkuStock> = stocks.into_iter().map(|sku| (sku.sku_id, sku)).collect();
        let entries = taken.iter().map(|quantity| entry(order_id, quantity, &stocks)).collect::<Result<Vec<_>>>()?;
        expect_changed(OPERATION, self.stocks.put_back(tx, &taken).await?, taken.len())?;
        self.ledger.add_changes(tx, Source::Return, &entries).await
    }
}

fn entry(order_id: i64, taken: &Quantity, stocks: &HashMap<i64, SkuStock>) -> Result<LedgerEntry> {
    let sku = stocks.get(&taken.sku_id);
    let sku =
        sku.ok_or_else(|| impossible("a sku of this order is gone", order_id).with_context("sku_id", taken.sku_id))?;
    let after = sku.stock.checked_add(taken.quantity);
    let after = after.ok_or_else(|| impossible("the stock would not fit its column", order_id))?;
    let change = StockChange {
        sku_id: taken.sku_id,
        quantity: taken.quantity,
        before: sku.stock,
        after,
        threshold: sku.threshold,
    };
    Ok(LedgerEntry { order_id, change })
}

fn impossible(message: &'static str, order_id: i64) -> Error {
    Error::new(ErrorKind::FailedPrecondition, OPERATION, message).with_context("order_id", order_id)
}
