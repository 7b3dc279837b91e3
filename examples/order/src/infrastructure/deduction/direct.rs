//! Has goods deducted by a call to the product service, within the transaction that takes the payment.
//!
//! A crash, or a lost answer, between the deduction and the commit leaves goods deducted for an order
//! that is unpaid. The deduction is idempotent, so the payment provider's next callback mends that; if
//! it sends none, nothing does.

use futures_util::future::join_all;
use micro_core::{ErrorKind, Result, Tx};
use micro_grpc::{GrpcClient, from_status};

use super::request_of;
use crate::{
    domain::{AcceptedPayment, GoodsAnswer, GoodsDeduction, Order},
    wire::product_calls::product_client::ProductClient,
};

const OPERATION: &str = "order.deduct";

/// Calls the product service.
#[derive(Clone)]
pub struct DirectDeduction {
    product: ProductClient<GrpcClient>,
}

impl DirectDeduction {
    /// Calls through this client of the product service.
    pub fn new(product: GrpcClient) -> Self {
        Self { product: ProductClient::new(product) }
    }

    async fn call(&self, order: &Order) -> Result<GoodsAnswer> {
        match self
            .product
            .clone()
            .deduct_invetory(request_of(order))
            .await
            .map_err(|status| from_status(OPERATION, status))
        {
            Ok(_) => Ok(GoodsAnswer::Deducted),
            Err(error) if error.kind() == ErrorKind::FailedPrecondition => Ok(GoodsAnswer::Refused(error.to_string())),
            Err(error) => Err(error),
        }
    }
}

impl GoodsDeduction for DirectDeduction {
    async fn deduct(&self, _: &mut Tx, accepted: &[AcceptedPayment]) -> Result<Vec<GoodsAnswer>> {
        join_all(accepted.iter().map(|accepted| self.call(&accepted.order))).await.into_iter().collect()
    }
}
