//! The table `order_audit`.

use std::collections::HashMap;

use micro_core::{Result, Tx};
use micro_tx::{SqlTxExt, Value};

use super::pieces::{list, pieces};
use crate::domain::{AuditTrail, AuditTrails};

/// The audits of the database that opened the transaction.
#[derive(Clone, Copy, Debug, Default)]
pub struct SqlAuditTrails;

impl AuditTrails for SqlAuditTrails {
    async fn find(&self, tx: &mut Tx, ids: &[i64]) -> Result<HashMap<i64, AuditTrail>> {
        let sql = tx.sql()?;
        let mut trails = HashMap::with_capacity(ids.len());
        for piece in pieces(ids) {
            let statement = format!(
                "SELECT order_id, applied_seq, out_of_order FROM order_audit WHERE order_id IN ({})",
                list("?", piece.len())
            );
            let ids: Vec<Value> = piece.iter().map(|id| Value::from(*id)).collect();
            for row in sql.fetch_all(&statement, &ids).await? {
                trails.insert(row.get(0)?, AuditTrail { applied_seq: row.get(1)?, out_of_order: row.get(2)? });
            }
        }
        Ok(trails)
    }

    async fn save(&self, tx: &mut Tx, trails: &HashMap<i64, AuditTrail>) -> Result<()> {
        let sql = tx.sql()?;
        // By id, so that two transactions would take their locks in one order.
        let mut rows: Vec<(i64, AuditTrail)> = trails.iter().map(|(id, trail)| (*id, *trail)).collect();
        rows.sort_unstable_by_key(|(id, _)| *id);
        for piece in pieces(&rows) {
            // Deleting and inserting is the one form of "insert or update" that every database has.
            let delete = format!("DELETE FROM order_audit WHERE order_id IN ({})", list("?", piece.len()));
            sql.execute(&delete, &piece.iter().map(|(id, _)| Value::from(*id)).collect::<Vec<_>>()).await?;
            let insert = format!(
                "INSERT INTO order_audit (order_id, applied_seq, out_of_order) VALUES {}",
                list("(?, ?, ?)", piece.len())
            );
            let values = piece.iter().flat_map(|(id, trail)| {
                [Value::from(*id), Value::from(trail.applied_seq), Value::from(trail.out_of_order)]
            });
            sql.execute(&insert, &values.collect::<Vec<_>>()).await?;
        }
        Ok(())
    }
}
