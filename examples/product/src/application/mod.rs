//! The use cases of the product service, a file each.

mod add_product;
mod apply_for_restock;
mod count_sales;
mod deduct_now;
mod deduct_stock;
mod find_restock;
mod find_skus;
mod find_suppliers;
mod return_stock;

pub use add_product::AddProduct;
pub use apply_for_restock::ApplyForRestock;
pub use count_sales::CountSales;
pub use deduct_now::{Asked, DeductNow};
pub use deduct_stock::DeductStock;
pub use find_restock::FindRestock;
pub use find_skus::FindSkus;
pub use find_suppliers::FindSuppliers;
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

fn expect_sku_code(sku_no: &str) -> Result<()> {
    if sku_no.is_empty() {
        return Err(Error::new(ErrorKind::InvalidArgument, "product.find_sku", "sku_code cannot be empty"));
    }
    Ok(())
}

fn unknown_sku() -> Error {
    Error::new(ErrorKind::NotFound, "product.find_sku", "sku not found")
}
