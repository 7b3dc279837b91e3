//! The promises of the trace layer.

use std::{convert::Infallible, sync::mpsc};

use http::Request;
use micro_core::{
    Metadata, TraceContext,
    broker::{Message, header::TRACEPARENT},
    flow::PublishBatch,
};
use micro_middleware::TraceLayer;
use tower::{Layer, Service, ServiceExt, service_fn};
use tracing::subscriber::NoSubscriber;

use crate::{
    mock::{Script, answer, batch, read, request, request_to},
    spans::Spans,
};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// The `traceparent` that the inner service sees of `request`.
async fn seen(layer: TraceLayer, request: Request<Script>) -> String {
    let (sender, receiver) = mpsc::channel();
    let service = layer.layer(service_fn(move |request: Request<Script>| {
        sender.send(request.headers()["traceparent"].to_str().unwrap().to_owned()).unwrap();
        async { Ok::<_, Infallible>(answer(0)) }
    }));
    let response = service.oneshot(request).await.unwrap();
    read(response.into_body()).await;
    receiver.recv().unwrap()
}

fn request_with(traceparent: &str) -> Request<Script> {
    let mut request = request();
    request.headers_mut().insert("traceparent", traceparent.parse().unwrap());
    request
}

#[tokio::test]
async fn a_valid_traceparent_is_continued() {
    let (spans, _listening) = Spans::listen();
    for parent in [PARENT, UNSAMPLED] {
        let own: TraceContext = seen(TraceLayer::incoming(), request_with(parent)).await.parse().unwrap();
        let parent: TraceContext = parent.parse().unwrap();
        assert_eq!(own.trace_id(), parent.trace_id());
        assert_ne!(own.span_id(), parent.span_id());
        assert_eq!(own.is_sampled(), parent.is_sampled());
        let span = spans.all().pop().unwrap();
        assert_eq!(span["trace_id"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(span["parent_span_id"], "b7ad6b7169203331");
        assert_eq!(span["span_id"], format!("{:016x}", own.span_id()));
    }
}

#[tokio::test]
async fn a_malformed_traceparent_starts_a_new_trace() {
    let (spans, _listening) = Spans::listen();
    for malformed in ["", "00", "garbage", &PARENT.to_uppercase(), "00-0-0-01", &"0".repeat(10_000)] {
        let own: TraceContext = seen(TraceLayer::incoming(), request_with(malformed)).await.parse().unwrap();
        assert_ne!(own.trace_id(), PARENT.parse::<TraceContext>().unwrap().trace_id());
        assert!(own.is_sampled());
        assert!(!spans.all().pop().unwrap().contains_key("parent_span_id"));
    }
}

#[tokio::test]
async fn a_malformed_traceparent_goes_no_further_when_nobody_listens() {
    let _deaf = tracing::subscriber::set_default(NoSubscriber::new());
    for malformed in ["", "00", "garbage", &PARENT.to_uppercase(), &"0".repeat(10_000)] {
        for layer in [TraceLayer::incoming(), TraceLayer::outgoing()] {
            let own: TraceContext = seen(layer, request_with(malformed)).await.parse().unwrap();
            assert!(!own.is_sampled());
        }
    }
}

#[tokio::test]
async fn a_traceparent_is_forwarded_when_nobody_listens() {
    // Set, not only missing: tracing asks no thread's subscriber once all that there are, those of
    // other tests, want every span.
    let _deaf = tracing::subscriber::set_default(NoSubscriber::new());
    assert_eq!(seen(TraceLayer::incoming(), request_with(PARENT)).await, PARENT);
    assert_eq!(seen(TraceLayer::outgoing(), request_with(UNSAMPLED)).await, UNSAMPLED);
    // A trace that nobody records is begun by nobody: who listens further on begins their own, and is
    // not told that theirs is not sampled.
    for layer in [TraceLayer::incoming(), TraceLayer::outgoing()] {
        let mut inner = layer.layer(service_fn(|request: Request<Script>| async move {
            assert!(!request.headers().contains_key("traceparent"));
            Ok::<_, Infallible>(answer(0))
        }));
        inner.call(request()).await.unwrap();
    }
}

#[tokio::test]
async fn an_outgoing_call_carries_the_trace_of_its_metadata() {
    let (_spans, _listening) = Spans::listen();
    let mut metadata = Metadata::new();
    metadata.insert(TraceContext::METADATA_NAME, PARENT);
    let mut request = request();
    request.extensions_mut().insert(metadata);
    let own: TraceContext = seen(TraceLayer::outgoing(), request).await.parse().unwrap();
    assert_eq!(own.trace_id(), PARENT.parse::<TraceContext>().unwrap().trace_id());
}

#[tokio::test]
async fn messages_with_a_traceparent_keep_it() {
    let (spans, _listening) = Spans::listen();
    let (sender, receiver) = mpsc::channel();
    let mut service = TraceLayer::outgoing().layer(service_fn(move |batch: PublishBatch| {
        sender.send(batch.0).unwrap();
        async { Ok::<_, micro_core::Error>(Vec::new()) }
    }));
    let messages = vec![
        Message::keyed("OrderEvent", "1", "a").with_header("traceparent", PARENT),
        Message::keyed("OrderEvent", "2", "b"),
    ];
    service.call(PublishBatch(messages)).await.unwrap();
    let sent = receiver.recv().unwrap();
    assert_eq!(sent[0].headers.get_str(TRACEPARENT), Some(PARENT));
    assert_eq!(sent[0].headers.len(), 1);
    let of_batch: TraceContext = sent[1].headers.get_str(TRACEPARENT).unwrap().parse().unwrap();
    let span = spans.only();
    assert_eq!(span["span_id"], format!("{:016x}", of_batch.span_id()));
    assert_eq!((&*span["flow"], &*span["direction"], &*span["operation"]), ("publish", "out", "OrderEvent"));
    assert_eq!(span["outcome"], "ok");
}

#[tokio::test]
async fn a_call_is_recorded_once_after_its_body() {
    let (spans, _listening) = Spans::listen();
    let service = TraceLayer::incoming().layer(service_fn(|_: Request<Script>| async {
        assert_eq!(tracing::Span::current().metadata().unwrap().name(), "request");
        Ok::<_, Infallible>(answer(5))
    }));
    let response = service.clone().oneshot(request()).await.unwrap();
    assert!(!spans.only().contains_key("outcome"));
    // The subscriber fails the test at a second record of one field.
    read(response.into_body()).await;
    assert_eq!(spans.only()["outcome"], "not_found");

    drop(service.oneshot(request()).await.unwrap());
    assert_eq!(spans.all()[1]["outcome"], "cancelled");
}

#[tokio::test]
async fn a_huge_operation_name_is_cut() {
    let (spans, _listening) = Spans::listen();
    seen(TraceLayer::incoming(), request_to(&format!("/{}", "a".repeat(50_000)))).await;
    assert_eq!(spans.only()["operation"].len(), 200);
}

#[tokio::test]
async fn a_batch_that_fails_is_recorded_with_its_kind() {
    let (spans, _listening) = Spans::listen();
    let service = TraceLayer::incoming().layer(service_fn(|_: micro_core::consume::DeliveryBatch| async {
        Err::<(), _>(micro_core::Error::new(micro_core::ErrorKind::Aborted, "inbox", "deadlock"))
    }));
    service.oneshot(batch()).await.unwrap_err();
    let span = spans.only();
    assert_eq!((&*span["flow"], &*span["operation"], &*span["outcome"]), ("consume", "product", "aborted"));
}
