//! Finds an order by its id.

use std::sync::Arc;

use micro_core::{Result, TransactionManager, TransactionManagerExt};

use super::unknown_order;
use crate::domain::{Order, Orders};

/// Finds orders.
pub struct FindOrder<O> {
    transactions: Arc<dyn TransactionManager>,
    orders: O,
}

impl<O: Orders> FindOrder<O> {
    /// The use case over these ports.
    pub fn new(transactions: Arc<dyn TransactionManager>, orders: O) -> Self {
        Self { transactions, orders }
    }

    /// The order with its lines.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is none of this id.
    pub async fn find(&self, id: i64) -> Result<Order> {
        self.transactions
            .run(async |tx| {
                let order = self.orders.find(tx, id).await?;
                order.ok_or_else(|| unknown_order("order.find").with_context("order_id", id))
            })
            .await
    }
}
