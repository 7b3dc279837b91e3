//! The table `order_audit`.

use std::collections::HashMap;

use micro_core::{Result, Tx};
use micro_tx::{SqlDatabase, SqlTxExt, Value};

use super::pieces::{filled, list, pieces};
use crate::{
    domain::{AuditTrail, AuditTrails},
    infrastructure::dialect::Dialect,
};

/// The audits of a database.
#[derive(Clone, Copy, Debug)]
pub struct SqlAuditTrails {
    dialect: Dialect,
}

impl SqlAuditTrails {
    /// Those of `database`, whose transactions they are used in.
    pub fn new(database: &SqlDatabase) -> Self {
        Self { dialect: Dialect::of(database) }
    }
}

impl AuditTrails for SqlAuditTrails {
    async fn find(&self, tx: &mut Tx, ids: &[i64]) -> Result<HashMap<i64, AuditTrail>> {
        let sql = tx.sql()?;
        let mut trails = HashMap::with_capacity(ids.len());
        for piece in filled(ids) {
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
            let statement = format!(
                "INSERT INTO order_audit (order_id, applied_seq, out_of_order) VALUES {} {}",
                list("(?, ?, ?)", piece.len()),
                self.dialect.or_update("order_id", &["applied_seq", "out_of_order"]),
            );
            let values = piece.iter().flat_map(|(id, trail)| {
                [Value::from(*id), Value::from(trail.applied_seq), Value::from(trail.out_of_order)]
            });
            sql.execute(&statement, &values.collect::<Vec<_>>()).await?;
        }
        Ok(())
    }
}
