//! The gRPC service `Order`: requests to use cases, answers and errors back.

use micro_core::{
    Metadata, Result,
    batch::{BatchCall, Batcher, BatcherConfig},
};
use micro_grpc::{metadata_of, to_status};
use tonic::{Request, Response, Status};

use super::publish::OnBehalf;
use crate::{
    application::{FindOrder, PayNotify},
    domain::{Order, OrderLine, OrderQueries, Orders, Payment, PaymentOutcome},
    wire::service::{
        OrderDetail, OrderId, OrderInfo, PayNotifyRequest, PayNotifyResponse, order_server::Order as OrderService,
    },
};

/// Answers the calls of the order service.
pub struct OrderGrpc<O: Orders + Clone, Q, E: OnBehalf> {
    callbacks: Batcher<TakePayments<O, E>>,
    find_order: FindOrder<Q>,
}

/// Takes the callbacks that come at the same time in one transaction.
struct TakePayments<O, E> {
    pay_notify: PayNotify<O>,
    events: E,
}

/// A callback, and the metadata of its call.
struct Callback {
    payment: Payment,
    metadata: Metadata,
}

impl<O: Orders + Clone, Q: OrderQueries, E: OnBehalf> OrderGrpc<O, Q, E> {
    /// The calls over these use cases, which tell `events`; `batches` says how callbacks share
    /// transactions.
    pub fn new(pay_notify: PayNotify<O>, find_order: FindOrder<Q>, events: E, batches: BatcherConfig) -> Self {
        Self { callbacks: Batcher::new(TakePayments { pay_notify, events }, batches), find_order }
    }

    async fn take_payment(&self, metadata: Metadata, request: PayNotifyRequest) -> Result<PayNotifyResponse> {
        let payment = Payment::new(request.out_trade_no, request.trade_no, request.status_code)?;
        // Accepted, declined or a duplicate: the provider's message was taken either way, and it
        // need not send it again.
        self.callbacks.call(Callback { payment, metadata }).await?;
        Ok(PayNotifyResponse { status_code: "0000".to_owned(), msg: "SUCCESS".to_owned() })
    }
}

#[tonic::async_trait]
impl<O: Orders + Clone, E: OnBehalf> BatchCall for TakePayments<O, E> {
    type Request = Callback;
    type Response = PaymentOutcome;

    async fn call(&self, callbacks: &[Callback]) -> Result<Vec<Result<PaymentOutcome>>> {
        let calls = callbacks.iter().map(|callback| (callback.payment.order_code.as_str(), &callback.metadata));
        let payments: Vec<Payment> = callbacks.iter().map(|callback| callback.payment.clone()).collect();
        self.pay_notify.take(&self.events.of_calls(calls), &payments).await
    }
}

#[tonic::async_trait]
impl<O: Orders + Clone, Q: OrderQueries, E: OnBehalf> OrderService for OrderGrpc<O, Q, E> {
    async fn get_order_by_id(&self, request: Request<OrderId>) -> Result<Response<OrderInfo>, Status> {
        let order = self.find_order.find(request.into_inner().order_id).await.map_err(to_status)?;
        Ok(Response::new(order_info(&order)))
    }

    async fn pay_notify(&self, request: Request<PayNotifyRequest>) -> Result<Response<PayNotifyResponse>, Status> {
        let metadata = metadata_of(&request);
        self.take_payment(metadata, request.into_inner()).await.map(Response::new).map_err(to_status)
    }
}

fn order_info(order: &Order) -> OrderInfo {
    OrderInfo {
        id: order.id,
        pay_status: order.pay_status.code(),
        ship_status: order.ship_status.code(),
        price: order.price.to_f64(),
        order_detail: order.lines.iter().map(|line| order_detail(order.id, line)).collect(),
    }
}

fn order_detail(order_id: i64, line: &OrderLine) -> OrderDetail {
    OrderDetail {
        id: line.id,
        product_id: line.product_id,
        // The field is an int32; a quantity beyond it cannot be told otherwise.
        product_num: i32::try_from(line.quantity).unwrap_or(i32::MAX),
        product_size_id: line.sku_id,
        product_price: line.unit_price.cents(),
        order_id,
    }
}
