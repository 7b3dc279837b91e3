//! The tables `sku_restock_records` and `sku_restock_audit`, to ask.

use micro_core::Result;
use micro_tx::Row;

use super::{
    SqlQueries,
    columns::{moment, text},
};
use crate::domain::{Restock, RestockAudit, RestockQueries, RestockWish};

pub(super) const RESTOCK_TABLE: &str = "sku_restock_records";

impl RestockQueries for SqlQueries {
    async fn find(&self, application_no: &str, user_id: i32) -> Result<Option<(Restock, Option<RestockAudit>)>> {
        let statement = format!(
            "SELECT {} FROM {RESTOCK_TABLE} r WHERE r.application_no = ? AND r.user_id = ? ORDER BY r.id LIMIT 1",
            restock_columns()
        );
        let row = self.database.fetch_optional(&statement, &[application_no.into(), user_id.into()]).await?;
        let Some(restock) = row.as_ref().map(restock).transpose()? else { return Ok(None) };
        let statement = format!(
            "SELECT id, restock_id, audit_user_id, audit_status, audit_failed_reason, {} AS created_at, \
             {} AS updated_at FROM sku_restock_audit WHERE restock_id = ? ORDER BY created_at DESC, id DESC LIMIT 1",
            moment("created_at"),
            moment("updated_at"),
        );
        let row = self.database.fetch_optional(&statement, &[restock.id.into()]).await?;
        let audit = row.as_ref().map(restock_audit).transpose()?;
        Ok(Some((restock, audit)))
    }
}

/// The columns that [`restock`] reads, of a table called `r`.
pub(super) fn restock_columns() -> String {
    format!(
        "r.id, r.application_no, r.user_id, r.sku_id, r.quantity, r.reason, r.status, r.failed_reason, \
         {} AS created_at",
        moment("r.created_at")
    )
}

pub(super) fn restock(row: &Row) -> Result<Restock> {
    Ok(Restock {
        id: row.get("id")?,
        application_no: row.get("application_no")?,
        wish: RestockWish { user_id: row.get("user_id")?, quantity: row.get("quantity")?, reason: row.get("reason")? },
        sku_id: row.get("sku_id")?,
        status: row.get("status")?,
        failed_reason: row.get("failed_reason")?,
        created_at: text(row, "created_at")?,
    })
}

fn restock_audit(row: &Row) -> Result<RestockAudit> {
    Ok(RestockAudit {
        id: row.get("id")?,
        restock_id: row.get("restock_id")?,
        audit_user_id: row.get("audit_user_id")?,
        status: row.get("audit_status")?,
        failed_reason: row.get("audit_failed_reason")?,
        created_at: text(row, "created_at")?,
        updated_at: text(row, "updated_at")?,
    })
}
