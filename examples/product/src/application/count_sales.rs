//! Counts how many of a SKU were sold: what paid orders took from stock.

use std::time::SystemTime;

use micro_core::Result;

use super::{expect_sku_code, unknown_sku};
use crate::domain::{CatalogueQueries, DailySales, Day, Moment, SalesQueries, SalesVolume, Span};

/// Counts sales.
pub struct CountSales<Q> {
    queries: Q,
}

impl<Q: CatalogueQueries + SalesQueries> CountSales<Q> {
    /// The use case over these ports.
    pub fn new(queries: Q) -> Self {
        Self { queries }
    }

    /// How many were sold in a span of time, and how many a day.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an empty number, `NotFound` for an unknown one.
    pub async fn volume(&self, sku_no: &str, span: &Span<Moment>) -> Result<SalesVolume> {
        let sku_id = self.sku_id(sku_no).await?;
        let total = self.queries.volume(sku_id, span).await?;
        Ok(SalesVolume::over(total, span.day_count(SystemTime::now())))
    }

    /// How many were sold on each day that had a sale, by day.
    ///
    /// # Errors
    ///
    /// As [`volume`](Self::volume).
    pub async fn by_day(&self, sku_no: &str, span: &Span<Day>) -> Result<Vec<DailySales>> {
        let sku_id = self.sku_id(sku_no).await?;
        self.queries.by_day(sku_id, span).await
    }

    async fn sku_id(&self, sku_no: &str) -> Result<i64> {
        expect_sku_code(sku_no)?;
        let sku = self.queries.level_of(sku_no).await?;
        sku.map(|sku| sku.sku_id).ok_or_else(|| unknown_sku().with_context("sku_code", sku_no))
    }
}
