//! Bodies and answers that do what a test tells them.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use micro_core::{
    broker::{Delivery, Message},
    consume::DeliveryBatch,
};

/// One thing that a body does when it is polled.
#[derive(Debug)]
pub(crate) enum Step {
    Data(Bytes),
    Trailers(HeaderMap),
    /// Pending, and nobody wakes it.
    Wait,
    Panic,
}

/// A body that does one step a poll and then ends.
#[derive(Debug, Default)]
pub(crate) struct Script(VecDeque<Step>);

impl Script {
    pub(crate) fn of(steps: impl IntoIterator<Item = Step>) -> Self {
        Self(steps.into_iter().collect())
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.0.pop_front() {
            None => Poll::Ready(None),
            Some(Step::Data(data)) => Poll::Ready(Some(Ok(Frame::data(data)))),
            Some(Step::Trailers(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Some(Step::Wait) => {
                self.0.push_front(Step::Wait);
                Poll::Pending
            }
            Some(Step::Panic) => panic!("the stream broke"),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

/// A gRPC message: prefix and payload.
pub(crate) fn message(payload: &[u8]) -> Bytes {
    let length = u32::try_from(payload.len()).unwrap();
    [&[0], &length.to_be_bytes()[..], payload].concat().into()
}

pub(crate) fn trailers(code: u32) -> Step {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.into());
    Step::Trailers(trailers)
}

pub(crate) const PATH: &str = "/order.Orders/PayNotify";

pub(crate) fn request() -> Request<Script> {
    request_to(PATH)
}

pub(crate) fn request_to(path: &str) -> Request<Script> {
    let body = Script::of([Step::Data(message(b"hello"))]);
    Request::builder().uri(path).header("content-type", "application/grpc").body(body).unwrap()
}

/// An answer with a message and this status in its trailers.
pub(crate) fn answer(code: u32) -> Response<Script> {
    let body = Script::of([Step::Data(message(b"hi")), trailers(code)]);
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

/// An answer that is a head with this status and nothing else ("trailers-only").
pub(crate) fn refusal(code: u32) -> Response<Script> {
    let head = Response::builder().header("content-type", "application/grpc").header("grpc-status", code);
    head.body(Script::default()).unwrap()
}

/// The status in the head.
pub(crate) fn status<B>(response: &Response<B>) -> Option<&str> {
    response.headers().get("grpc-status").map(|status| status.to_str().unwrap())
}

/// Reads a body to its end: its data and the status in its trailers.
pub(crate) async fn read<B>(body: B) -> (Vec<u8>, Option<String>)
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    use http_body_util::BodyExt as _;
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let status = trailers.get("grpc-status").map(|status| status.to_str().unwrap().to_owned());
    (collected.to_bytes().to_vec(), status)
}

pub(crate) fn batch() -> DeliveryBatch {
    let delivery = Delivery {
        message: Message::keyed("OrderEvent", "17", "body"),
        partition: 0,
        offset: 3,
        timestamp: std::time::SystemTime::UNIX_EPOCH,
    };
    DeliveryBatch::new("product", [delivery])
}

/// Counts, and can be shared with a service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count(Arc<AtomicUsize>);

impl Count {
    /// Adds one and answers how many there were before.
    pub(crate) fn next(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst)
    }

    pub(crate) fn value(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// Counts when it is dropped.
pub(crate) struct CountsDrop(pub(crate) Count);

impl Drop for CountsDrop {
    fn drop(&mut self) {
        self.0.next();
    }
}
