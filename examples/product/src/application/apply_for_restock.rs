//! Applies for more of a SKU.

use std::sync::Arc;

use micro_core::{Error, ErrorKind, Result, TransactionManager, TransactionManagerExt};

use super::unknown_sku;
use crate::domain::{CatalogueQueries, Restock, RestockWish, Restocks, SkuLevel};

/// Applies for restocking.
pub struct ApplyForRestock<Q, R> {
    transactions: Arc<dyn TransactionManager>,
    catalogue: Q,
    restocks: R,
}

impl<Q: CatalogueQueries, R: Restocks> ApplyForRestock<Q, R> {
    /// The use case over these ports.
    pub fn new(transactions: Arc<dyn TransactionManager>, catalogue: Q, restocks: R) -> Self {
        Self { transactions, catalogue, restocks }
    }

    /// Applies for more of the SKU of this number; answers the application and the SKU.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an empty number and as [`RestockWish::checked`], `NotFound` for an
    /// unknown SKU, `FailedPrecondition` as [`RestockWish::check_against`].
    pub async fn apply(&self, sku_no: &str, wish: RestockWish) -> Result<(Restock, SkuLevel)> {
        if sku_no.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArgument, "product.restock", "sku_id cannot be empty"));
        }
        let wish = wish.checked()?;
        // Read outside the transaction: a stock that changes meanwhile makes the application no
        // less true when it was made.
        let sku = self.catalogue.level_of(sku_no).await?;
        let sku = sku.ok_or_else(|| unknown_sku().with_context("sku_no", sku_no))?;
        wish.check_against(&sku)?;
        let restock = self.transactions.run(async |tx| self.restocks.add(tx, sku.sku_id, &wish).await).await?;
        Ok((restock, sku))
    }
}
