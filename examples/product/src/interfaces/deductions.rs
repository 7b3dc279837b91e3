//! The calls that take goods from stock and give them back: requests that come at the same time share a
//! transaction, and each may be a branch of a global one.

use std::sync::Arc;

use async_trait::async_trait;
use micro_core::{
    Error, ErrorKind, Result,
    batch::{BatchCall, Batcher, BatcherConfig},
    branch::Branch,
};

use crate::{
    application::{Asked, DeductNow},
    domain::{Ledger, PaidItem, PaidOrder, Stocks},
    wire::service::{OrderDetailReq, OrderProductResp},
};

/// Answers `DeductInvetory` and `DeductInvetoryRevert`.
pub struct DeductionCalls<S: Stocks, L: Ledger> {
    deductions: Batcher<TakeGoods<S, L>>,
    deduct_now: Arc<DeductNow<S, L>>,
}

/// Takes the goods of the orders that are asked for at the same time in one transaction.
struct TakeGoods<S, L>(Arc<DeductNow<S, L>>);

impl<S: Stocks, L: Ledger> DeductionCalls<S, L> {
    /// The calls over this use case; `batches` says how deductions share transactions.
    pub fn new(deduct_now: DeductNow<S, L>, batches: BatcherConfig) -> Self {
        let deduct_now = Arc::new(deduct_now);
        Self { deductions: Batcher::new(TakeGoods(deduct_now.clone()), batches), deduct_now }
    }

    pub(super) async fn deduct(&self, branch: Option<&Branch>, request: OrderDetailReq) -> Result<OrderProductResp> {
        let order_id = request.order_id;
        self.deductions.call(Asked { order: order(request, branch)?, branch: branch.cloned() }).await?;
        Ok(done(order_id))
    }

    pub(super) async fn revert(&self, branch: Option<&Branch>, request: OrderDetailReq) -> Result<OrderProductResp> {
        // Checked as the deduction was: what no deduction takes none can have taken.
        let order = order(request, branch)?;
        self.deduct_now.give_back(order.order_id(), branch).await?;
        Ok(done(order.order_id()))
    }
}

#[async_trait]
impl<S: Stocks, L: Ledger> BatchCall for TakeGoods<S, L> {
    type Request = Asked;
    type Response = ();

    async fn call(&self, asked: &[Asked]) -> Result<Vec<Result<()>>> {
        self.0.deduct(asked).await
    }
}

/// The order of a request. What told of it is the global transaction, or the call itself.
fn order(request: OrderDetailReq, branch: Option<&Branch>) -> Result<PaidOrder> {
    let items = request.products.into_iter().map(|item| {
        let quantity = u32::try_from(item.product_num).map_err(|_| {
            let message = "product_num is no quantity: expected 1 to 4294967295";
            Error::new(ErrorKind::InvalidArgument, "product.deduct", message)
                .with_context("order_id", request.order_id)
                .with_context("product_num", item.product_num)
        })?;
        Ok(PaidItem { product_id: item.product_id, sku_id: item.product_size_id, quantity })
    });
    let told_by = branch.map_or_else(|| format!("call-{}", request.order_id), |branch| branch.gid.clone());
    PaidOrder::new(request.order_id, told_by, items.collect::<Result<Vec<_>>>()?)
}

fn done(order_id: i64) -> OrderProductResp {
    OrderProductResp { order_id, status_code: "0000".to_owned() }
}
