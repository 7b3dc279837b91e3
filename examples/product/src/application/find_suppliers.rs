//! Finds who supplies a SKU.

use micro_core::Result;

use super::{expect_sku_code, unknown_sku};
use crate::domain::{CatalogueQueries, Supply, SupplyQueries};

/// Finds suppliers.
pub struct FindSuppliers<Q> {
    queries: Q,
}

impl<Q: CatalogueQueries + SupplyQueries> FindSuppliers<Q> {
    /// The use case over these ports.
    pub fn new(queries: Q) -> Self {
        Self { queries }
    }

    /// What suppliers offer of the SKU; nothing is no error.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an empty number, `NotFound` for an unknown one.
    pub async fn of_sku(&self, sku_no: &str) -> Result<Vec<Supply>> {
        expect_sku_code(sku_no)?;
        let sku = self.queries.level_of(sku_no).await?;
        let sku = sku.ok_or_else(|| unknown_sku().with_context("sku_code", sku_no))?;
        self.queries.of_sku(sku.sku_id).await
    }
}
