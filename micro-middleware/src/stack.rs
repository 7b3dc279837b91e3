//! The recommended stacks, with a reason on every line. The first layer is the outermost.

use std::sync::Arc;

use micro_core::{
    Error, Result,
    broker::{Broker, Receipt},
    consume::DeliveryBatch,
    flow::{BrokerService, PublishBatch},
};
use tower::{
    ServiceBuilder,
    layer::util::{Identity, Stack},
    util::BoxCloneSyncService,
};
use tower_service::Service;

use crate::{
    ClientDeadlineLayer, MetricsLayer, RecoverLayer, RetryConfig, RetryLayer, ServerDeadlineLayer, TraceLayer,
};

/// The layers of [`rpc_server_stack`].
pub type RpcServerStack =
    ServiceBuilder<Stack<ServerDeadlineLayer, Stack<RecoverLayer, Stack<MetricsLayer, Stack<TraceLayer, Identity>>>>>;

/// The layers around a gRPC server's routes:
/// `Service<http::Request<B>, Response = http::Response<Answer>>`, `Answer: Body`.
pub fn rpc_server_stack() -> RpcServerStack {
    ServiceBuilder::new()
        // Outermost, so that whatever a later layer answers or logs belongs to the call's span.
        .layer(TraceLayer::incoming())
        // Outside of everything that can refuse, so that refusals are counted as what they are.
        .layer(MetricsLayer::incoming())
        // Outside of deadline and handler, inside of trace and metrics: a panic is an outcome.
        .layer(RecoverLayer::new())
        // Innermost, so that only the handler's own time counts; it makes the handler's Metadata,
        // and what would refuse a call (load shedding, rate limit) comes before that work.
        .layer(ServerDeadlineLayer::default())
}

/// The layers of [`rpc_client_stack`].
pub type RpcClientStack =
    ServiceBuilder<Stack<RetryLayer, Stack<ClientDeadlineLayer, Stack<MetricsLayer, Stack<TraceLayer, Identity>>>>>;

/// The layers around the channels to a service:
/// `Service<http::Request<RetryBody<B>>, Response = http::Response<Answer>> + Clone`.
///
/// Every client should be made from a clone of one stack: the clones share the retry budget.
pub fn rpc_client_stack() -> RpcClientStack {
    ServiceBuilder::new()
        // Outermost: one span for the call, however many attempts it takes.
        .layer(TraceLayer::outgoing())
        // Outside of deadline and retry: one call is one record however often it was tried.
        .layer(MetricsLayer::outgoing())
        // Outside of retry: the deadline is the call's and not the attempt's.
        .layer(ClientDeadlineLayer::default())
        // Innermost, so that each attempt is balanced anew and reaches another instance.
        .layer(RetryLayer::default())
}

/// The service that the relay and `publish_now` send through.
pub type PublishService = BoxCloneSyncService<PublishBatch, Vec<Result<Receipt>>, Error>;

/// The layers around a broker. None of them awaits before the inner call, and none tries again: a
/// retry of one message would overtake the next one of its key. The relay tries again, in order.
///
/// The broker's `publish` begins when the returned future is first polled.
pub fn publish_stack(broker: Arc<dyn Broker>) -> PublishService {
    let stack = ServiceBuilder::new()
        // Outermost: messages without a trace context get the batch's before they leave.
        .layer(TraceLayer::outgoing())
        // Inside of trace: what is measured is the broker, receipts included.
        .layer(MetricsLayer::outgoing())
        .service(BrokerService::new(broker));
    // The one box: the relay's type does not depend on the layers.
    BoxCloneSyncService::new(stack)
}

/// The service that the consumer's lanes hand their batches to.
pub type ConsumeService = BoxCloneSyncService<DeliveryBatch, (), Error>;

/// The layers around an inbox service, which ends the tower part of consuming.
pub fn consume_stack<S>(inbox: S) -> ConsumeService
where
    S: Service<DeliveryBatch, Response = (), Error = Error> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let stack = ServiceBuilder::new()
        // Outermost: one span for the batch, however many attempts it takes.
        .layer(TraceLayer::incoming())
        // Outside of retry: one batch is one record however often it was tried.
        .layer(MetricsLayer::incoming())
        // Outside of retry: a panic is a bug and not something that passes, so it is not tried
        // again here; the delivery policy decides.
        .layer(RecoverLayer::new())
        // Innermost: what a transaction undid can be done again at once.
        .layer(RetryLayer::new(RetryConfig::consume()))
        .service(inbox);
    // The one box: the lanes' type does not depend on the layers.
    BoxCloneSyncService::new(stack)
}
