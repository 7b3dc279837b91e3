//! Finds SKUs and their levels.

use std::sync::Arc;

use micro_core::{Error, ErrorKind, Result, TransactionManager, TransactionManagerExt};

use crate::domain::{Catalogue, SkuDetail, SkuLevel};

/// How many SKUs one question may name.
const SKU_COUNT_MAX: usize = 1000;

/// Finds SKUs.
pub struct FindSkus<C> {
    transactions: Arc<dyn TransactionManager>,
    catalogue: C,
}

impl<C: Catalogue> FindSkus<C> {
    /// The use case over these ports.
    pub fn new(transactions: Arc<dyn TransactionManager>, catalogue: C) -> Self {
        Self { transactions, catalogue }
    }

    /// A SKU with its product and images.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is none of this id.
    pub async fn detail(&self, sku_id: i64) -> Result<SkuDetail> {
        let found = self.transactions.run(async |tx| self.catalogue.find_detail(tx, sku_id).await).await?;
        found.ok_or_else(|| unknown_sku().with_context("sku_id", sku_id))
    }

    /// The levels of those of these SKUs that are on the shelf, by id.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` when too many are asked for.
    pub async fn levels(&self, sku_ids: &[i64]) -> Result<Vec<SkuLevel>> {
        if sku_ids.len() > SKU_COUNT_MAX {
            return Err(Error::new(ErrorKind::InvalidArgument, "product.levels", "too many sku_ids in one call")
                .with_context("count", sku_ids.len())
                .with_context("count_max", SKU_COUNT_MAX));
        }
        if sku_ids.is_empty() {
            return Ok(Vec::new());
        }
        self.transactions.run(async |tx| self.catalogue.levels(tx, sku_ids).await).await
    }

    /// The level of a SKU, by its number.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an empty number, `NotFound` for an unknown one.
    pub async fn level_of(&self, sku_no: &str) -> Result<SkuLevel> {
        if sku_no.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArgument, "product.level_of", "sku_code is empty"));
        }
        let found = self.transactions.run(async |tx| self.catalogue.level_of(tx, sku_no).await).await?;
        found.ok_or_else(|| unknown_sku().with_context("sku_code", sku_no))
    }
}

fn unknown_sku() -> Error {
    Error::new(ErrorKind::NotFound, "product.find_sku", "no such sku")
}
