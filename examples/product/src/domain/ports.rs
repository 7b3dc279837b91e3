//! What the rules need from outside: the catalogue, the stocks, the ledger, published facts.

use std::{collections::HashSet, future::Future};

use micro_core::{Result, Tx};

use super::{Decided, Deducted, LedgerEntry, NewProduct, Quantity, Refused, SkuDetail, SkuLevel, SkuStock, Source};

/// The stored stocks.
pub trait Stocks: Send + Sync + 'static {
    /// The stocks of those of these SKUs that are on the shelf.
    fn on_shelf(&self, tx: &mut Tx, sku_ids: &[i64]) -> impl Future<Output = Result<Vec<SkuStock>>> + Send;

    /// The stocks of these SKUs, on the shelf or off it; unknown ones are left out.
    fn find(&self, tx: &mut Tx, sku_ids: &[i64]) -> impl Future<Output = Result<Vec<SkuStock>>> + Send;

    /// Takes so many of each SKU, where that many are there and on the shelf; counts them as sold.
    /// Answers of how many SKUs it took. SKUs are distinct.
    fn withdraw(&self, tx: &mut Tx, quantities: &[Quantity]) -> impl Future<Output = Result<u64>> + Send;

    /// Gives so many of each SKU back. Answers how many SKUs it changed. SKUs are distinct.
    fn put_back(&self, tx: &mut Tx, quantities: &[Quantity]) -> impl Future<Output = Result<u64>> + Send;
}

/// What was decided and what it did to the stocks.
pub trait Ledger: Send + Sync + 'static {
    /// Which of these orders were decided before.
    fn decided(&self, tx: &mut Tx, order_ids: &[i64]) -> impl Future<Output = Result<HashSet<i64>>> + Send;

    /// Takes note that these orders are decided.
    ///
    /// # Errors
    ///
    /// `Aborted` when another transaction decided one in between.
    fn add_decided(&self, tx: &mut Tx, decided: &[Decided]) -> impl Future<Output = Result<()>> + Send;

    /// Takes note of changes of stock; an order changes a SKU once per source.
    ///
    /// # Errors
    ///
    /// `Aborted` when another transaction took note of one in between.
    fn add_changes(
        &self,
        tx: &mut Tx,
        source: Source,
        entries: &[LedgerEntry],
    ) -> impl Future<Output = Result<()>> + Send;

    /// What was changed for this order from this source, a SKU each.
    fn changed(&self, tx: &mut Tx, source: Source, order_id: i64)
    -> impl Future<Output = Result<Vec<Quantity>>> + Send;
}

/// The stored products and SKUs.
pub trait Catalogue: Send + Sync + 'static {
    /// Adds a product with its SKU and answers the product's id.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` when its number is taken.
    fn add(&self, tx: &mut Tx, product: &NewProduct) -> impl Future<Output = Result<i64>> + Send;

    /// A SKU with its product and images.
    fn find_detail(&self, tx: &mut Tx, sku_id: i64) -> impl Future<Output = Result<Option<SkuDetail>>> + Send;

    /// The levels of those of these SKUs that are on the shelf, by id.
    fn levels(&self, tx: &mut Tx, sku_ids: &[i64]) -> impl Future<Output = Result<Vec<SkuLevel>>> + Send;

    /// The level of a SKU, by its number, on the shelf or off it.
    fn level_of(&self, tx: &mut Tx, sku_no: &str) -> impl Future<Output = Result<Option<SkuLevel>>> + Send;
}

/// The facts others may learn, if and only if the transaction commits.
pub trait ProductEvents: Send + Sync + 'static {
    /// The goods of these orders were taken.
    fn deducted(&self, tx: &mut Tx, orders: &[Deducted]) -> impl Future<Output = Result<()>> + Send;

    /// The goods of these orders cannot be had.
    fn refused(&self, tx: &mut Tx, orders: &[Refused]) -> impl Future<Output = Result<()>> + Send;
}
