//! Has goods deducted by a saga that begins when the payment commits: fail the payment, deduct the
//! goods, confirm the payment.

use std::sync::Arc;

use micro_core::{
    Result, Tx,
    saga::{Saga, SagaOptions, SagaOutbox, Step},
};

use super::request_of;
use crate::{
    domain::{AcceptedPayment, GoodsAnswer, GoodsDeduction, Order},
    wire::service::OrderId,
};

/// Where a saga's coordinator reaches the two services: what stands before `/package.Service/Method`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchAddresses {
    /// The order service's.
    pub order: String,
    /// The product service's.
    pub product: String,
}

/// Hands a saga over for each paid order.
#[derive(Clone)]
pub struct SagaDeduction {
    sagas: Arc<dyn SagaOutbox>,
    addresses: BranchAddresses,
    options: SagaOptions,
}

impl SagaDeduction {
    /// Hands sagas with these options over to `sagas`.
    pub fn new(sagas: Arc<dyn SagaOutbox>, addresses: BranchAddresses, options: SagaOptions) -> Self {
        Self { sagas, addresses, options }
    }

    /// The first step does nothing: it is there for its compensation, which comes last.
    fn saga(&self, order: &Order) -> Saga {
        let BranchAddresses { order: orders, product: products } = &self.addresses;
        let order_id = OrderId { order_id: order.id };
        let fail = Step::new("").compensation(format!("{orders}/go.micro.service.Settlement/FailPayment"));
        let deduct = Step::new(format!("{products}/go.micro.service.Product/DeductInvetory"))
            .compensation(format!("{products}/go.micro.service.Product/DeductInvetoryRevert"));
        let confirm = Step::new(format!("{orders}/go.micro.service.Settlement/ConfirmPayment"));
        Saga::new()
            .step(fail.message(&order_id))
            .step(deduct.message(&request_of(order)))
            .step(confirm.message(&order_id))
            .options(self.options.clone())
    }
}

impl GoodsDeduction for SagaDeduction {
    async fn deduct(&self, tx: &mut Tx, accepted: &[AcceptedPayment]) -> Result<Vec<GoodsAnswer>> {
        for AcceptedPayment { order, .. } in accepted {
            self.sagas.add(tx, &self.saga(order)).await?;
        }
        Ok(accepted.iter().map(|_| GoodsAnswer::Awaited).collect())
    }
}
