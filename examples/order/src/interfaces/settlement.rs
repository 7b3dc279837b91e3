//! The gRPC service `Settlement`: the steps of a payment's saga that are the order service's own.

use std::sync::Arc;

use micro_core::{
    Error, ErrorKind, Result,
    batch::{BatchCall, Batcher, BatcherConfig},
    branch::{Branch, BranchError},
};
use micro_grpc::BranchCall;
use tonic::{Request, Response, Status};

use super::publish::OnBehalf;
use crate::{
    application::{SettlePayments, Settlement},
    domain::{Failure, Orders, pay_error},
    wire::service::{OrderId, Settled, settlement_server::Settlement as SettlementService},
};

/// Answers the calls that settle payments.
pub struct SettlementGrpc<O: Orders + Clone, E: OnBehalf> {
    confirmations: Batcher<Confirm<O, E>>,
    settle: Arc<SettlePayments<O>>,
    events: E,
}

/// Confirms the payments that are asked for at the same time in one transaction.
struct Confirm<O, E> {
    settle: Arc<SettlePayments<O>>,
    events: E,
}

impl<O: Orders + Clone, E: OnBehalf + Clone> SettlementGrpc<O, E> {
    /// The calls over this use case, which tell `events`; `batches` says how confirmations share
    /// transactions.
    pub fn new(settle: SettlePayments<O>, events: E, batches: BatcherConfig) -> Self {
        let settle = Arc::new(settle);
        let confirm = Confirm { settle: settle.clone(), events: events.clone() };
        Self { confirmations: Batcher::new(confirm, batches), settle, events }
    }

    async fn confirm(&self, branch: Option<&Branch>, request: OrderId) -> Result<Settled> {
        let settlement = settlement(branch, request)?;
        let order_id = settlement.order_id;
        self.confirmations.call(settlement).await?;
        Ok(Settled { order_id })
    }

    async fn fail(&self, branch: Option<&Branch>, request: OrderId) -> Result<Settled> {
        let order_id = settlement(branch, request)?.order_id;
        let gid = branch.map_or("none", |branch| branch.gid.as_str());
        let reason = pay_error(&format!("the goods could not be had: saga {gid} was rolled back"));
        self.settle.fail(&self.events, Failure { order_id, reason }).await?;
        Ok(Settled { order_id })
    }
}

#[tonic::async_trait]
impl<O: Orders + Clone, E: OnBehalf> BatchCall for Confirm<O, E> {
    type Request = Settlement;
    type Response = ();

    async fn call(&self, settlements: &[Settlement]) -> Result<Vec<Result<()>>> {
        self.settle.confirm(&self.events, settlements).await?;
        Ok(settlements.iter().map(|_| Ok(())).collect())
    }
}

#[tonic::async_trait]
impl<O: Orders + Clone, E: OnBehalf + Clone> SettlementService for SettlementGrpc<O, E> {
    async fn confirm_payment(&self, request: Request<OrderId>) -> Result<Response<Settled>, Status> {
        let call = BranchCall::of(&request)?;
        let outcome = self.confirm(call.branch(), request.into_inner()).await;
        call.answer(outcome.map_err(BranchError::from))
    }

    async fn fail_payment(&self, request: Request<OrderId>) -> Result<Response<Settled>, Status> {
        let call = BranchCall::of(&request)?;
        let outcome = self.fail(call.branch(), request.into_inner()).await;
        call.answer(outcome.map_err(BranchError::from))
    }
}

fn settlement(branch: Option<&Branch>, request: OrderId) -> Result<Settlement> {
    if request.order_id > 0 {
        return Ok(Settlement { order_id: request.order_id, branch: branch.cloned() });
    }
    let message = "the call names no order: expected an order_id above 0";
    Err(Error::new(ErrorKind::InvalidArgument, "order.settle", message).with_context("order_id", request.order_id))
}
