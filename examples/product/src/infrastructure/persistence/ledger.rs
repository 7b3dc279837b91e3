//! The tables `order_inventory_events` and `inventory_stock_change_records`.

use std::collections::HashSet;

use micro_core::{Error, ErrorKind, Result, Tx};
use micro_tx::{SqlTxExt, Value};

use super::{
    pieces::{filled, list, pieces},
    values,
};
use crate::domain::{Decided, Ledger, LedgerEntry, Quantity, Source};

/// The ledger of the database that opened the transaction.
#[derive(Clone, Copy, Debug, Default)]
pub struct SqlLedger;

impl Ledger for SqlLedger {
    async fn decided(&self, tx: &mut Tx, order_ids: &[i64]) -> Result<HashSet<i64>> {
        let sql = tx.sql()?;
        let mut decided = HashSet::with_capacity(order_ids.len());
        for piece in filled(order_ids) {
            let statement =
                format!("SELECT order_id FROM order_inventory_events WHERE order_id IN ({})", list("?", piece.len()));
            for row in sql.fetch_all(&statement, &values(&piece)).await? {
                decided.insert(row.get(0)?);
            }
        }
        Ok(decided)
    }

    async fn add_decided(&self, tx: &mut Tx, decided: &[Decided]) -> Result<()> {
        let sql = tx.sql()?;
        for piece in pieces(decided) {
            let statement = format!(
                "INSERT INTO order_inventory_events (event_id, order_id, created_at, updated_at) VALUES {}",
                list("(?, ?, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)", piece.len())
            );
            let values = piece.iter().flat_map(|order| [Value::from(&order.event_id), Value::from(order.order_id)]);
            sql.execute(&statement, &values.collect::<Vec<_>>()).await.map_err(overtaken)?;
        }
        Ok(())
    }

    async fn add_changes(&self, tx: &mut Tx, source: Source, entries: &[LedgerEntry]) -> Result<()> {
        let sql = tx.sql()?;
        for piece in pieces(entries) {
            let statement = format!(
                "INSERT INTO inventory_stock_change_records \
                 (order_id, sku_id, source_type, quantity, before_stock, after_stock, created_at, updated_at) VALUES {}",
                list("(?, ?, ?, ?, ?, ?, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)", piece.len())
            );
            let values = piece.iter().flat_map(|entry| entry_values(source, entry)).collect::<Vec<_>>();
            sql.execute(&statement, &values).await.map_err(overtaken)?;
        }
        Ok(())
    }

    async fn changed(&self, tx: &mut Tx, source: Source, order_id: i64) -> Result<Vec<Quantity>> {
        let statement = "SELECT sku_id, quantity FROM inventory_stock_change_records \
                         WHERE order_id = ? AND source_type = ? AND deleted_at IS NULL ORDER BY sku_id";
        let rows = tx.sql()?.fetch_all(statement, &[order_id.into(), source.code().into()]).await?;
        rows.iter().map(|row| Ok(Quantity { sku_id: row.get(0)?, quantity: row.get(1)? })).collect()
    }
}

fn entry_values(source: Source, entry: &LedgerEntry) -> [Value; 6] {
    [
        entry.order_id.into(),
        entry.change.sku_id.into(),
        source.code().into(),
        entry.change.quantity.into(),
        entry.change.before.into(),
        entry.change.after.into(),
    ]
}

/// A row that another transaction wrote since this one looked is a lost conflict, not a fault of
/// the event: the attempt is repeated and finds the row.
fn overtaken(error: Error) -> Error {
    if error.kind() != ErrorKind::AlreadyExists {
        return error;
    }
    Error::new(ErrorKind::Aborted, "ledger.add", "another transaction decided an order in between").with_source(error)
}
