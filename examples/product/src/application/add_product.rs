//! Adds a product with its SKU.

use std::sync::Arc;

use micro_core::{Result, TransactionManager, TransactionManagerExt};

use crate::domain::{Catalogue, NewProduct};

/// Adds products.
pub struct AddProduct<C> {
    transactions: Arc<dyn TransactionManager>,
    catalogue: C,
}

impl<C: Catalogue> AddProduct<C> {
    /// The use case over these ports.
    pub fn new(transactions: Arc<dyn TransactionManager>, catalogue: C) -> Self {
        Self { transactions, catalogue }
    }

    /// Adds the product and answers its id.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` as [`NewProduct::checked`], `AlreadyExists` when its number is taken.
    pub async fn add(&self, product: NewProduct) -> Result<i64> {
        let product = product.checked()?;
        self.transactions.run(async |tx| self.catalogue.add(tx, &product).await).await
    }
}
