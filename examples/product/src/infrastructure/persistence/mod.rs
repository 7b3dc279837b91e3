//! The ports of the domain as SQL statements.

mod catalogue;
mod catalogue_queries;
mod columns;
mod ledger;
mod pieces;
mod restock_queries;
mod restocks;
mod sales_queries;
mod stocks;
mod supply_queries;

pub use catalogue::SqlCatalogue;
pub use ledger::SqlLedger;
pub use restocks::SqlRestocks;
pub use stocks::SqlStocks;

use micro_tx::{SqlDatabase, Value};

/// The questions, answered with what is committed.
#[derive(Clone, Debug)]
pub struct SqlQueries {
    database: SqlDatabase,
}

impl SqlQueries {
    /// Asks `database`.
    pub fn new(database: SqlDatabase) -> Self {
        Self { database }
    }
}

fn values(ids: &[i64]) -> Vec<Value> {
    ids.iter().map(|id| Value::from(*id)).collect()
}
