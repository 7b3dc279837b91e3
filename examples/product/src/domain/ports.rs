//! What the rules need from outside: stored things to write, to ask for, and published facts.

use std::{collections::HashSet, future::Future};

use micro_core::{Result, Tx};

use super::{
    DailySales, Day, Decided, Deducted, LedgerEntry, Moment, NewProduct, Quantity, Refused, Restock, RestockAudit,
    RestockWish, SkuDetail, SkuLevel, SkuStock, Source, Span, Supply,
};

/// The stored stocks.
pub trait Stocks: Send + Sync + 'static {
    /// The stocks of those of these SKUs that are on the shelf, locked until the transaction ends.
    fn on_shelf(&self, tx: &mut Tx, sku_ids: &[i64]) -> impl Future<Output = Result<Vec<SkuStock>>> + Send;

    /// The stocks of these SKUs, on the shelf or off it, locked; unknown ones are left out.
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

/// The stored products and SKUs, to write.
pub trait Catalogue: Send + Sync + 'static {
    /// Adds a product with its SKU and answers the product's id.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` when its number is taken.
    fn add(&self, tx: &mut Tx, product: &NewProduct) -> impl Future<Output = Result<i64>> + Send;
}

/// The products and SKUs as they are committed; asking waits for no transaction.
pub trait CatalogueQueries: Send + Sync + 'static {
    /// A SKU with its product and images.
    fn find_detail(&self, sku_id: i64) -> impl Future<Output = Result<Option<SkuDetail>>> + Send;

    /// The levels of those of these SKUs that are on the shelf, by id.
    fn levels(&self, sku_ids: &[i64]) -> impl Future<Output = Result<Vec<SkuLevel>>> + Send;

    /// The level of a SKU, by its number, on the shelf or off it.
    fn level_of(&self, sku_no: &str) -> impl Future<Output = Result<Option<SkuLevel>>> + Send;
}

/// The stored applications for restocking, to write.
pub trait Restocks: Send + Sync + 'static {
    /// Adds an application and answers it with its id, its number and its time.
    fn add(&self, tx: &mut Tx, sku_id: i64, wish: &RestockWish) -> impl Future<Output = Result<Restock>> + Send;
}

/// The applications for restocking as they are committed.
pub trait RestockQueries: Send + Sync + 'static {
    /// A user's application by its number, with its latest audit.
    fn find(
        &self,
        application_no: &str,
        user_id: i32,
    ) -> impl Future<Output = Result<Option<(Restock, Option<RestockAudit>)>>> + Send;
}

/// What was sold, as it is committed.
pub trait SalesQueries: Send + Sync + 'static {
    /// How many of a SKU were sold.
    fn volume(&self, sku_id: i64, span: &Span<Moment>) -> impl Future<Output = Result<i64>> + Send;

    /// How many of a SKU were sold on each day that had a sale, by day.
    fn by_day(&self, sku_id: i64, span: &Span<Day>) -> impl Future<Output = Result<Vec<DailySales>>> + Send;
}

/// Who supplies what, as it is committed.
pub trait SupplyQueries: Send + Sync + 'static {
    /// What suppliers offer of a SKU.
    fn of_sku(&self, sku_id: i64) -> impl Future<Output = Result<Vec<Supply>>> + Send;
}

/// The facts others may learn, if and only if the transaction commits.
pub trait ProductEvents: Send + Sync + 'static {
    /// The goods of these orders were taken, and of those they cannot be had.
    fn decided(
        &self,
        tx: &mut Tx,
        deducted: &[Deducted],
        refused: &[Refused],
    ) -> impl Future<Output = Result<()>> + Send;
}
