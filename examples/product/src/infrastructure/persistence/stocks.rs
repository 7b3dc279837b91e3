//! The stock columns of the table `product_skus`.

use micro_core::{Result, Tx};
use micro_tx::{SqlDatabase, SqlTxExt, Value};

use super::{
    pieces::{filled, list, repeated},
    values,
};
use crate::{
    domain::{Quantity, SkuStock, Stocks},
    infrastructure::dialect::Dialect,
};

/// The stocks of a database.
#[derive(Clone, Copy, Debug)]
pub struct SqlStocks {
    dialect: Dialect,
}

impl SqlStocks {
    /// Those of `database`, whose transactions they are used in.
    pub fn new(database: &SqlDatabase) -> Self {
        Self { dialect: Dialect::of(database) }
    }

    async fn read(&self, tx: &mut Tx, sku_ids: &[i64], condition: &str) -> Result<Vec<SkuStock>> {
        let sql = tx.sql()?;
        let mut sku_ids = sku_ids.to_vec();
        sku_ids.sort_unstable();
        let mut stocks = Vec::with_capacity(sku_ids.len());
        for piece in filled(&sku_ids) {
            // Everybody locks in the order of the ids, so that nobody waits in a circle.
            let statement = format!(
                "SELECT id, stock, stock_warn FROM product_skus WHERE id IN ({}) {condition} ORDER BY id {}",
                list("?", piece.len()),
                self.dialect.for_update(),
            );
            for row in sql.fetch_all(&statement, &values(&piece)).await? {
                stocks.push(SkuStock { sku_id: row.get(0)?, stock: row.get(1)?, threshold: row.get(2)? });
            }
        }
        Ok(stocks)
    }
}

impl Stocks for SqlStocks {
    async fn on_shelf(&self, tx: &mut Tx, sku_ids: &[i64]) -> Result<Vec<SkuStock>> {
        self.read(tx, sku_ids, "AND status = 1 AND deleted_at IS NULL").await
    }

    async fn find(&self, tx: &mut Tx, sku_ids: &[i64]) -> Result<Vec<SkuStock>> {
        self.read(tx, sku_ids, "").await
    }

    async fn withdraw(&self, tx: &mut Tx, quantities: &[Quantity]) -> Result<u64> {
        let sql = tx.sql()?;
        let mut changed = 0;
        for piece in filled(quantities) {
            let quantity = quantity_of(piece.len());
            let statement = format!(
                "UPDATE product_skus SET stock = stock - {quantity}, sales = sales + {quantity}, \
                 updated_at = CURRENT_TIMESTAMP \
                 WHERE id IN ({}) AND status = 1 AND deleted_at IS NULL AND stock >= {quantity}",
                list("?", piece.len())
            );
            let quantities = quantity_values(&piece);
            let bound = [&quantities, &quantities, &ids(&piece), &quantities].map(|part| part.as_slice()).concat();
            changed += sql.execute(&statement, &bound).await?;
        }
        Ok(changed)
    }

    async fn put_back(&self, tx: &mut Tx, quantities: &[Quantity]) -> Result<u64> {
        let sql = tx.sql()?;
        let mut changed = 0;
        for piece in filled(quantities) {
            let quantity = quantity_of(piece.len());
            let statement = format!(
                "UPDATE product_skus SET stock = stock + {quantity}, sales = sales - {quantity}, \
                 updated_at = CURRENT_TIMESTAMP WHERE id IN ({})",
                list("?", piece.len())
            );
            let quantities = quantity_values(&piece);
            let bound = [&quantities, &quantities, &ids(&piece)].map(|part| part.as_slice()).concat();
            changed += sql.execute(&statement, &bound).await?;
        }
        Ok(changed)
    }
}

/// The quantity of the row's SKU: one statement changes many SKUs by different quantities.
fn quantity_of(count: usize) -> String {
    format!("CASE id {} END", repeated("WHEN ? THEN ?", " ", count))
}

fn quantity_values(quantities: &[Quantity]) -> Vec<Value> {
    quantities.iter().flat_map(|quantity| [Value::from(quantity.sku_id), Value::from(quantity.quantity)]).collect()
}

fn ids(quantities: &[Quantity]) -> Vec<Value> {
    quantities.iter().map(|quantity| Value::from(quantity.sku_id)).collect()
}
