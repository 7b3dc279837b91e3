//! The tables `products` and `product_skus`, to write.

use micro_core::{Error, ErrorKind, Result, Tx};
use micro_tx::SqlTxExt;

use crate::domain::{Catalogue, NewProduct};

/// The catalogue of the database that opened the transaction.
#[derive(Clone, Copy, Debug, Default)]
pub struct SqlCatalogue;

impl Catalogue for SqlCatalogue {
    async fn add(&self, tx: &mut Tx, product: &NewProduct) -> Result<i64> {
        let sql = tx.sql()?;
        let insert = "INSERT INTO products (product_no, product_name, category_id, description) VALUES (?, ?, ?, ?)";
        let values = [
            (&product.number).into(),
            (&product.name).into(),
            product.category_id.into(),
            (&product.description).into(),
        ];
        sql.execute(insert, &values).await.map_err(|error| taken(error, product))?;
        let select = "SELECT id FROM products WHERE product_no = ?";
        let row = sql.fetch_optional(select, &[(&product.number).into()]).await?;
        let id: i64 =
            row.ok_or_else(|| Error::new(ErrorKind::Internal, "product.add", "the new row is gone"))?.get(0)?;
        let insert = "INSERT INTO product_skus (product_id, sku_no, sku_name, price) VALUES (?, ?, ?, ?)";
        let values = [id.into(), (&product.number).into(), (&product.name).into(), product.price.to_string().into()];
        sql.execute(insert, &values).await.map_err(|error| taken(error, product))?;
        Ok(id)
    }
}

fn taken(error: Error, product: &NewProduct) -> Error {
    if error.kind() != ErrorKind::AlreadyExists {
        return error;
    }
    Error::new(ErrorKind::AlreadyExists, "product.add", "a product or sku has this number already")
        .with_context("product_sku", &product.number)
        .with_source(error)
}
