//! Finds an order by its id.

use micro_core::Result;

use super::unknown_order;
use crate::domain::{Order, OrderQueries};

/// Finds orders.
pub struct FindOrder<Q> {
    orders: Q,
}

impl<Q: OrderQueries> FindOrder<Q> {
    /// The use case over this port.
    pub fn new(orders: Q) -> Self {
        Self { orders }
    }

    /// The order with its lines.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is none of this id.
    pub async fn find(&self, id: i64) -> Result<Order> {
        let order = self.orders.find(id).await?;
        order.ok_or_else(|| unknown_order("order.find").with_context("order_id", id))
    }
}
