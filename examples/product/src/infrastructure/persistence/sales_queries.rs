//! What was sold: the payments in the table `inventory_stock_change_records`.

use std::fmt::Display;

use micro_core::{Error, ErrorKind, Result};
use micro_tx::{Row, Value};

use super::{
    SqlQueries,
    columns::{day, moment},
};
use crate::domain::{DailySales, Day, Moment, SalesQueries, Source, Span};

impl SalesQueries for SqlQueries {
    async fn volume(&self, sku_id: i64, span: &Span<Moment>) -> Result<i64> {
        let (condition, values) = sold(sku_id, &moment("created_at"), span);
        let statement = format!("SELECT {SUM} AS volume FROM inventory_stock_change_records WHERE {condition}");
        match self.database.fetch_optional(&statement, &values).await? {
            Some(row) => volume(&row),
            None => Ok(0),
        }
    }

    async fn by_day(&self, sku_id: i64, span: &Span<Day>) -> Result<Vec<DailySales>> {
        let day = day("created_at");
        let (condition, values) = sold(sku_id, &day, span);
        let statement = format!(
            "SELECT {day} AS sold_on, {SUM} AS volume FROM inventory_stock_change_records \
             WHERE {condition} GROUP BY 1 ORDER BY 1"
        );
        let rows = self.database.fetch_all(&statement, &values).await?;
        rows.iter().map(|row| Ok(DailySales { date: row.get("sold_on")?, volume: volume(row)? })).collect()
    }
}

/// As a text: a sum is a decimal on some databases.
const SUM: &str = "CONCAT(COALESCE(SUM(ABS(quantity)), 0), '')";

/// The condition of what was sold of a SKU while `time` was in the span. Times are compared as
/// texts, which sort as the times do.
fn sold<T: Display>(sku_id: i64, time: &str, span: &Span<T>) -> (String, Vec<Value>) {
    let mut condition = "sku_id = ? AND source_type = ? AND deleted_at IS NULL".to_owned();
    let mut values = vec![sku_id.into(), Source::Payment.code().into()];
    for (end, comparison) in [(&span.from, ">="), (&span.to, "<=")] {
        if let Some(end) = end {
            condition.push_str(&format!(" AND {time} {comparison} ?"));
            values.push(end.to_string().into());
        }
    }
    (condition, values)
}

fn volume(row: &Row) -> Result<i64> {
    let text: String = row.get("volume")?;
    text.parse().map_err(|error| {
        Error::new(ErrorKind::DataLoss, "product.sales", "the sum of sales is no whole number")
            .with_context("found", text)
            .with_source(error)
    })
}
