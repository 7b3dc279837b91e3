//! Finds SKUs and their levels.

use micro_core::{Error, ErrorKind, Result};

use super::{expect_sku_code, unknown_sku};
use crate::domain::{CatalogueQueries, SkuDetail, SkuLevel};

/// How many SKUs one question may name.
const SKU_COUNT_MAX: usize = 1000;

/// Finds SKUs.
pub struct FindSkus<Q> {
    catalogue: Q,
}

impl<Q: CatalogueQueries> FindSkus<Q> {
    /// The use case over this port.
    pub fn new(catalogue: Q) -> Self {
        Self { catalogue }
    }

    /// A SKU with its product and images.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is none of this id.
    pub async fn detail(&self, sku_id: i64) -> Result<SkuDetail> {
        let found = self.catalogue.find_detail(sku_id).await?;
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
        self.catalogue.levels(sku_ids).await
    }

    /// The level of a SKU, by its number.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an empty number, `NotFound` for an unknown one.
    pub async fn level_of(&self, sku_no: &str) -> Result<SkuLevel> {
        expect_sku_code(sku_no)?;
        let found = self.catalogue.level_of(sku_no).await?;
        found.ok_or_else(|| unknown_sku().with_context("sku_code", sku_no))
    }
}
