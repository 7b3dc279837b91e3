//! The tables `suppliers` and `supplier_products`, to ask.

use micro_core::{Error, ErrorKind, Result};
use micro_tx::Row;

use super::{SqlQueries, columns::decimal};
use crate::domain::{Supplier, Supply, SupplyQueries};

impl SupplyQueries for SqlQueries {
    async fn of_sku(&self, sku_id: i64) -> Result<Vec<Supply>> {
        let statement = format!(
            "SELECT {} AS supply_price, o.min_order_quantity, o.is_preferred, s.id, s.name, s.contact_person, s.phone, \
             s.email, s.address, {} AS rating, s.lead_time_days, s.payment_terms \
             FROM supplier_products o JOIN suppliers s ON s.id = o.supplier_id \
             WHERE o.sku_id = ? AND s.deleted_at IS NULL ORDER BY o.id",
            decimal("o.supply_price"),
            decimal("s.rating"),
        );
        self.database.fetch_all(&statement, &[sku_id.into()]).await?.iter().map(supply).collect()
    }
}

fn supply(row: &Row) -> Result<Supply> {
    Ok(Supply {
        price: row.get::<String>("supply_price")?.parse()?,
        min_order_quantity: row.get("min_order_quantity")?,
        is_preferred: row.get("is_preferred")?,
        supplier: Supplier {
            id: row.get("id")?,
            name: row.get("name")?,
            contact_person: row.get("contact_person")?,
            phone: row.get("phone")?,
            email: row.get("email")?,
            address: row.get("address")?,
            rating: rating(row)?,
            lead_time_days: row.get("lead_time_days")?,
            payment_terms: row.get("payment_terms")?,
        },
    })
}

fn rating(row: &Row) -> Result<f64> {
    let text: String = row.get("rating")?;
    text.parse().map_err(|error| {
        Error::new(ErrorKind::DataLoss, "product.suppliers", "a rating is a decimal")
            .with_context("found", text)
            .with_source(error)
    })
}
