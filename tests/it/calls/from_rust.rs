//! A Rust client asks the registry for a Go service and calls it: each kind of call.

use std::{sync::Arc, time::Duration};

use futures_util::Stream;
use micro_rs::{
    core::registry::Registry,
    grpc::{GrpcClient, GrpcClientConfig, from_status},
    middleware::{ClientDeadlineLayer, MetricsLayer, RetryLayer, TraceLayer},
    prelude::{Error, ErrorKind},
};
use micro_testkit::{eventually, unique};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tonic::{Request, Response};
use tower::ServiceBuilder;

use super::{
    blocking,
    proto::{
        CountRequest, Everything, FailRequest, HelloRequest, InspectRequest, Number, WaitRequest,
        greeter_client::GreeterClient,
    },
};
use crate::{
    peer::{PATIENCE, Peer},
    registries::{Shared, on_each_registry},
};

on_each_registry! {
    a_rust_client_finds_and_calls_a_go_service
    a_rust_client_finds_and_calls_a_go_service_in_mucp
    a_rust_client_understands_the_failures_of_a_go_service_that_it_found
    a_rust_client_gives_a_go_service_that_it_found_up_at_the_deadline
    metadata_and_deadline_of_a_rust_client_reach_a_go_service_that_it_found
    a_rust_client_uses_all_kinds_of_streams_of_a_go_service_that_it_found
    every_kind_of_field_comes_back_from_a_go_service_that_was_found
}

async fn a_rust_client_finds_and_calls_a_go_service(registry: &Arc<dyn Registry>, url: &str) {
    finds_and_calls(&mut Found::start(registry, url, "grpc").await.client).await;
}

async fn a_rust_client_finds_and_calls_a_go_service_in_mucp(registry: &Arc<dyn Registry>, url: &str) {
    finds_and_calls(&mut Found::start(registry, url, "mucp").await.client).await;
}

async fn finds_and_calls(client: &mut GreeterClient<GrpcClient>) {
    let reply = client.hello(HelloRequest { name: "Rust".to_owned() }).await.unwrap();
    assert_eq!(reply.into_inner().greeting, "Hello Rust");
    let error = failure(client, "micro", 404).await;
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.report().contains("no such thing"), "{}", error.report());
    let mut slow = Request::new(WaitRequest { wait_ms: 60_000 });
    slow.set_timeout(Duration::from_millis(200));
    let error = from_status("wait", client.wait(slow).await.unwrap_err());
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{}", error.report());
}

async fn failure(client: &mut GreeterClient<GrpcClient>, how: &str, code: i32) -> Error {
    let request = FailRequest { code, detail: "no such thing".to_owned(), how: how.to_owned() };
    from_status("greet", client.fail(request).await.unwrap_err())
}

async fn a_rust_client_understands_the_failures_of_a_go_service_that_it_found(registry: &Arc<dyn Registry>, url: &str) {
    let mut go = Found::start(registry, url, "grpc").await;
    for (how, code, kind, message) in [
        ("micro", 400, ErrorKind::InvalidArgument, "no such thing"),
        ("micro", 412, ErrorKind::FailedPrecondition, "no such thing"),
        ("micro", 418, ErrorKind::Unknown, "no such thing"),
        ("status", 10, ErrorKind::Aborted, "no such thing"),
        ("plain", 0, ErrorKind::Unknown, "no such thing"),
        ("panic", 0, ErrorKind::Internal, "panic recovered: no such thing"),
        ("missing", 0, ErrorKind::NotFound, "file does not exist"),
    ] {
        let error = failure(&mut go.client, how, code).await;
        assert_eq!((error.kind(), error.message()), (kind, message), "{how} {code}");
    }
}

async fn a_rust_client_gives_a_go_service_that_it_found_up_at_the_deadline(registry: &Arc<dyn Registry>, url: &str) {
    let mut go = Found::start(registry, url, "grpc").await;
    let mut slow = Request::new(WaitRequest { wait_ms: 60_000 });
    slow.set_timeout(Duration::from_millis(300));
    let began = std::time::Instant::now();
    let error = from_status("wait", go.client.wait(slow).await.unwrap_err());
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{}", error.report());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    // Within its limit it is answered.
    let mut quick = Request::new(WaitRequest { wait_ms: 1 });
    quick.set_timeout(Duration::from_secs(20));
    assert_eq!(go.client.wait(quick).await.unwrap().into_inner().greeting, "waited");
}

async fn metadata_and_deadline_of_a_rust_client_reach_a_go_service_that_it_found(
    registry: &Arc<dyn Registry>,
    url: &str,
) {
    let mut go = Found::start(registry, url, "grpc").await;
    let mut request = Request::new(InspectRequest {});
    request.metadata_mut().insert("x-peer_trace", "abc".parse().unwrap());
    request.set_timeout(Duration::from_secs(20));
    let reply = go.client.inspect(request).await.unwrap().into_inner();
    // By Go's rule: a letter after anything but a letter, a digit or `_` is raised.
    assert_eq!(reply.metadata["X-Peer_trace"], "abc");
    assert_eq!(reply.metadata["Content-Type"], "application/grpc+proto");
    assert!((1..=20_000).contains(&reply.timeout_ms), "{}", reply.timeout_ms);
}

async fn a_rust_client_uses_all_kinds_of_streams_of_a_go_service_that_it_found(
    registry: &Arc<dyn Registry>,
    url: &str,
) {
    let mut go = Found::start(registry, url, "grpc").await;
    let mut numbers = go.client.count(CountRequest { count: 3 }).await.unwrap().into_inner();
    for value in 0..3 {
        assert_eq!(numbers.message().await.unwrap(), Some(Number { value }));
    }
    assert_eq!(numbers.message().await.unwrap(), None);

    let numbers = futures_util::stream::iter([3, 4].map(|value| Number { value }));
    assert_eq!(go.client.sum(numbers).await.unwrap().into_inner().value, 7);

    let (sender, names) = told_stream();
    let hello = |name: &str| HelloRequest { name: name.to_owned() };
    // Go's server answers nothing, not even a head, before its handler's first message.
    sender.send(hello("a")).await.unwrap();
    let mut answers = go.client.chat(names).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().greeting, "Hello a");
    sender.send(hello("b")).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().greeting, "Hello b");
    drop(sender);
    assert_eq!(answers.message().await.unwrap(), None);
}

/// A stream that goes on as it is told.
fn told_stream() -> (Sender<HelloRequest>, impl Stream<Item = HelloRequest> + Send + 'static) {
    let (sender, receiver) = channel(2);
    let stream = futures_util::stream::unfold(receiver, async |mut receiver: Receiver<HelloRequest>| {
        receiver.recv().await.map(|request| (request, receiver))
    });
    (sender, stream)
}

async fn every_kind_of_field_comes_back_from_a_go_service_that_was_found(registry: &Arc<dyn Registry>, url: &str) {
    let mut go = Found::start(registry, url, "grpc").await;
    let message = Everything {
        a_double: 0.5,
        an_int64: i64::MIN,
        a_uint64: u64::MAX,
        some_bytes: vec![0, 255],
        nested: Some(Box::default()),
        maybe: Some(0),
        ..Everything::default()
    };
    assert_eq!(go.client.echo(message.clone()).await.unwrap().into_inner(), message);
}

/// A Go service, and a client that found it.
struct Found {
    client: GreeterClient<GrpcClient>,
    /// Killed with its drop.
    _go: Peer,
}

impl Found {
    async fn start(registry: &Arc<dyn Registry>, url: &str, protocol: &str) -> Self {
        let name = unique("go.micro.service.greeter");
        let program = blocking(|| dev_servers::go_peer().expect("the Go peer is built")).await;
        let mut go = Peer::start(&program, &["serve", "--registry", url, "--service", &name, "--protocol", protocol]);
        assert!(go.told().await["ready"].is_object());
        let mut config = GrpcClientConfig::default();
        config.connect_timeout = PATIENCE;
        // The usual layers, with more time than they give.
        let stack = ServiceBuilder::new()
            .layer(TraceLayer::outgoing())
            .layer(MetricsLayer::outgoing())
            .layer(ClientDeadlineLayer::new(PATIENCE))
            .layer(RetryLayer::default());
        let client = GrpcClient::builder(registry.clone()).service(&name).config(config).go_micro().stack(stack);
        let client = GreeterClient::new(client.connect().await.unwrap());
        eventually(PATIENCE, "the service is found", || async {
            let reply = client.clone().hello(HelloRequest::default()).await;
            reply.map(Response::into_inner).map_err(|status| status.to_string())
        })
        .await;
        Self { client, _go: go }
    }
}
