//! The tables `products` and `product_skus`, to write.

use micro_core::{Error, ErrorKind, Result, Tx};
use micro_tx::{SqlDatabase, SqlTxExt};

use crate::{
    domain::{Catalogue, NewProduct},
    infrastructure::dialect::Dialect,
};

/// The catalogue of a database.
#[derive(Clone, Copy, Debug)]
pub struct SqlCatalogue {
    dialect: Dialect,
}

impl SqlCatalogue {
    /// That of `database`, whose transactions it is used in.
    pub fn new(database: &SqlDatabase) -> Self {
        Self { dialect: Dialect::of(database) }
    }
}

impl Catalogue for SqlCatalogue {
    async fn add(&self, tx: &mut Tx, product: &NewProduct) -> Result<i64> {
        let sql = tx.sql()?;
        let insert = "INSERT INTO products (product_no, product_name, category_id, description, created_at, updated_at) \
                      VALUES (?, ?, ?, ?, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)";
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
        let insert = format!(
            "INSERT INTO product_skus (product_id, sku_no, sku_name, price, created_at, updated_at) \
             VALUES (?, ?, ?, {}, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)",
            self.dialect.decimal_value()
        );
        let values = [id.into(), (&product.number).into(), (&product.name).into(), product.price.to_string().into()];
        sql.execute(&insert, &values).await.map_err(|error| taken(error, product))?;
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
