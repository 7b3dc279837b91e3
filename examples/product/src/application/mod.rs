//! The use cases of the product service, a file each.

mod add_product;
mod deduct_stock;
mod find_skus;
mod return_stock;

pub use add_product::AddProduct;
pub use deduct_stock::DeductStock;
pub use find_skus::FindSkus;
pub use return_stock::ReturnStock;

use micro_core::{Error, ErrorKind, Result};

/// `Aborted` when another transaction was faster than the decision of this one: the whole attempt
/// is repeated and decides anew.
fn expect_changed(operation: &'static str, changed: u64, expected: usize) -> Result<()> {
    if usize::try_from(changed).is_ok_and(|changed| changed == expected) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Aborted, operation, "another transaction changed a stock in between")
        .with_context("changed", changed)
        .with_context("expected", expected))
}
