//! The ports of the domain as SQL statements.

mod catalogue;
mod ledger;
mod pieces;
mod stocks;

pub use catalogue::SqlCatalogue;
pub use ledger::SqlLedger;
pub use stocks::SqlStocks;

use micro_tx::Value;

fn values(ids: &[i64]) -> Vec<Value> {
    ids.iter().map(|id| Value::from(*id)).collect()
}
