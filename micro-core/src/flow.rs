//! What a tower layer may know of a request and of its answer, whatever flows: an RPC request, a
//! batch to publish, a batch received.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use futures_util::future::BoxFuture;
use tower_service::Service;

use crate::{
    Error, ErrorKind, Result,
    broker::{Broker, Message, Receipt},
    consume::DeliveryBatch,
};

/// The three things that flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flow {
    /// A call.
    Rpc,
    /// Messages on their way to the broker.
    Publish,
    /// Deliveries on their way to their handlers.
    Consume,
}

impl Flow {
    /// The word in metrics and spans.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rpc => "rpc",
            Self::Publish => "publish",
            Self::Consume => "consume",
        }
    }
}

/// What a layer may know of a request.
pub trait Operation {
    /// Which of the three flows it belongs to.
    const FLOW: Flow;

    /// Its name, of few values: a gRPC path, a topic, a group. For metrics and spans.
    fn operation(&self) -> &str;

    /// A value that travels beside it: of an RPC its metadata, of a batch that of its first message.
    fn metadata(&self, name: &str) -> Option<&str>;

    /// Sets such a value; on each message of a batch that does not have it yet.
    fn set_metadata(&mut self, name: &str, value: &str);

    /// By when it must be answered.
    fn deadline(&self) -> Option<Instant>;
}

/// What a layer may know of an answer: whether it is a failure, and of which kind.
///
/// A gRPC failure is an `Ok` response whose status stands in a header or trailer; the failure of
/// a publish is per message, and the first one counts.
pub trait Outcome {
    /// The kind of the failure, `None` for success.
    fn error_kind(&self) -> Option<ErrorKind>;
}

impl Outcome for () {
    fn error_kind(&self) -> Option<ErrorKind> {
        None
    }
}

impl Outcome for Vec<Result<Receipt>> {
    fn error_kind(&self) -> Option<ErrorKind> {
        self.iter().find_map(|result| result.as_ref().err()).map(Error::kind)
    }
}

impl<T: Outcome> Outcome for Result<T> {
    fn error_kind(&self) -> Option<ErrorKind> {
        match self {
            Ok(answer) => answer.error_kind(),
            Err(error) => Some(error.kind()),
        }
    }
}

impl Operation for DeliveryBatch {
    const FLOW: Flow = Flow::Consume;

    fn operation(&self) -> &str {
        &self.group
    }

    fn metadata(&self, name: &str) -> Option<&str> {
        self.deliveries.first().and_then(|delivery| delivery.message.headers.get_str(name))
    }

    // What was received is data; a layer adds nothing to it.
    fn set_metadata(&mut self, _name: &str, _value: &str) {}

    fn deadline(&self) -> Option<Instant> {
        None
    }
}

/// Messages on their way to the broker, in order.
#[derive(Clone, Debug)]
pub struct PublishBatch(pub Vec<Message>);

impl Operation for PublishBatch {
    const FLOW: Flow = Flow::Publish;

    fn operation(&self) -> &str {
        self.0.first().map_or("", |message| &message.topic)
    }

    fn metadata(&self, name: &str) -> Option<&str> {
        self.0.first().and_then(|message| message.headers.get_str(name))
    }

    fn set_metadata(&mut self, name: &str, value: &str) {
        for message in self.0.iter_mut().filter(|message| message.headers.get(name).is_none()) {
            message.headers.append(name, value.to_owned());
        }
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }
}

/// The innermost service of the publish stack: hands the batch to the broker before it first
/// awaits, so that a stack whose layers do not await before the inner call keeps the order.
#[derive(Clone)]
pub struct BrokerService {
    broker: Arc<dyn Broker>,
}

impl BrokerService {
    /// A service over `broker`.
    pub fn new(broker: Arc<dyn Broker>) -> Self {
        Self { broker }
    }
}

impl Service<PublishBatch> for BrokerService {
    type Response = Vec<Result<Receipt>>;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, batch: PublishBatch) -> Self::Future {
        let broker = self.broker.clone();
        Box::pin(async move { Ok(broker.publish(batch.0).await) })
    }
}
