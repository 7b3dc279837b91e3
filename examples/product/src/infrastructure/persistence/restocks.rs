//! The table `sku_restock_records`, to write.

use micro_core::{Error, ErrorKind, Result, Tx};
use micro_tx::SqlTxExt;

use super::restock_queries::{RESTOCK_TABLE, restock, restock_columns};
use crate::domain::{Restock, RestockWish, Restocks};

/// The applications for restocking of the database that opened the transaction.
#[derive(Clone, Copy, Debug, Default)]
pub struct SqlRestocks;

impl Restocks for SqlRestocks {
    async fn add(&self, tx: &mut Tx, sku_id: i64, wish: &RestockWish) -> Result<Restock> {
        let sql = tx.sql()?;
        // No database's way to ask for the id of a new row is every database's: the number finds it.
        let application_no = uuid::Uuid::now_v7().simple().to_string();
        let insert = format!(
            "INSERT INTO {RESTOCK_TABLE} (user_id, sku_id, quantity, reason, status, application_no, created_at, \
             updated_at) VALUES (?, ?, ?, ?, 1, ?, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)"
        );
        let values =
            [wish.user_id.into(), sku_id.into(), wish.quantity.into(), (&wish.reason).into(), (&application_no).into()];
        sql.execute(&insert, &values).await?;
        let select = format!("SELECT {} FROM {RESTOCK_TABLE} r WHERE r.application_no = ?", restock_columns());
        match sql.fetch_optional(&select, &[(&application_no).into()]).await? {
            Some(row) => restock(&row),
            None => Err(Error::new(ErrorKind::Internal, "product.restock", "the new row is gone")),
        }
    }
}
