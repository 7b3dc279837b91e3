//! The Rust client calls in mucp whoever the registry says to speak it: Go's server, and ours.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::stream;
use micro_core::{
    ErrorKind, Metadata,
    registry::{Endpoint, Instance, MemoryRegistry, RegisterOptions, Registration, Registry as _},
};
use micro_grpc::{GrpcClient, from_status};
use tokio::{io::AsyncWriteExt as _, net::TcpListener};
use tonic::{Code, Request};

use super::{
    greeter::SERVICE,
    http1, mucp,
    peer::GoServer,
    protos::peer::{
        CountRequest, Everything, FailRequest, HelloRequest, InspectRequest, Number, WaitRequest,
        greeter_client::GreeterClient,
    },
};
use crate::fixture;

fn instance(address: &str) -> Instance {
    let mut instance = Instance::new(SERVICE, address).with_id(address).with_metadata("protocol", "mucp");
    instance.endpoints = Arc::new(vec![Endpoint::new("Greeter.Count").with_metadata("stream", "true")]);
    instance
}

async fn registered(addresses: &[&str]) -> (MemoryRegistry, Vec<Registration>) {
    let registry = MemoryRegistry::new();
    let mut registrations = Vec::new();
    for address in addresses {
        registrations.push(registry.register(instance(address), RegisterOptions::default()).await.unwrap());
    }
    (registry, registrations)
}

/// A client of the one instance at this address, which speaks mucp, and what keeps it registered.
pub(super) async fn client_of(address: &str) -> (GreeterClient<GrpcClient>, Vec<Registration>) {
    let (registry, registrations) = registered(&[address]).await;
    let client = fixture::client_of(registry, SERVICE).connect().await.unwrap();
    (GreeterClient::new(client), registrations)
}

fn hello() -> HelloRequest {
    HelloRequest { name: "micro".to_owned() }
}

#[tokio::test]
async fn gos_server_is_called_in_mucp() {
    let Some(server) = GoServer::start_with("mucp").await else { return };
    let (mut client, _registered) = client_of(&server.address).await;
    for _ in 0..3 {
        assert_eq!(client.hello(hello()).await.unwrap().into_inner().greeting, "Hello micro");
    }
    let message = Everything {
        an_int64: i64::MIN,
        a_uint64: u64::MAX,
        some_bytes: vec![0, 255],
        nested: Some(Box::default()),
        maybe: Some(0),
        ..Everything::default()
    };
    assert_eq!(client.echo(message.clone()).await.unwrap().into_inner(), message);
    let calls = (0..20).map(|_| {
        let mut client = client.clone();
        async move { client.hello(hello()).await.unwrap().into_inner().greeting }
    });
    assert!(futures_util::future::join_all(calls).await.iter().all(|greeting| greeting == "Hello micro"));
}

#[tokio::test]
async fn failures_of_gos_server_in_mucp_are_understood() {
    let Some(server) = GoServer::start_with("mucp").await else { return };
    let (mut client, _registered) = client_of(&server.address).await;
    for (how, code, kind, message) in [
        ("micro", 404, ErrorKind::NotFound, "no such thing"),
        ("micro", 409, ErrorKind::AlreadyExists, "no such thing"),
        ("micro", 418, ErrorKind::Unknown, "no such thing"),
        ("micro", 503, ErrorKind::Unavailable, "no such thing"),
        ("plain", 0, ErrorKind::Unknown, "no such thing"),
        // Go's server never answers a call in mucp whose handler ended with a panic.
        ("panic", 0, ErrorKind::DeadlineExceeded, "the deadline passed before the answer"),
        ("canceled", 0, ErrorKind::Cancelled, "context canceled"),
        ("deadline", 0, ErrorKind::DeadlineExceeded, "context deadline exceeded"),
        ("status", 9, ErrorKind::FailedPrecondition, "no such thing"),
    ] {
        let mut request = Request::new(FailRequest { code, detail: "no such thing".to_owned(), how: how.to_owned() });
        if how == "panic" {
            request.set_timeout(Duration::from_secs(2));
        }
        let error = from_status("greet", client.fail(request).await.unwrap_err());
        assert_eq!((error.kind(), error.message()), (kind, message), "{how} {code}");
        if how == "micro" {
            assert_eq!(error.context().next(), Some(("id", SERVICE)));
        }
    }
}

#[tokio::test]
async fn metadata_and_deadline_reach_gos_handler_in_mucp() {
    let Some(server) = GoServer::start_with("mucp").await else { return };
    let (mut client, _registered) = client_of(&server.address).await;
    let mut request = Request::new(InspectRequest {});
    request.metadata_mut().insert("x-peer-trace", "abc".parse().unwrap());
    request.set_timeout(Duration::from_secs(50));
    let reply = client.inspect(request).await.unwrap().into_inner();
    assert_eq!(reply.metadata["X-Peer-Trace"], "abc");
    assert_eq!(reply.metadata["Micro-Endpoint"], "Greeter.Inspect");
    assert!((1_000..=50_000).contains(&reply.timeout_ms), "{}", reply.timeout_ms);

    let mut metadata = Metadata::new();
    metadata.limit_deadline(Instant::now() + Duration::from_millis(300));
    let request = micro_grpc::request(WaitRequest { wait_ms: 120_000 }, &metadata);
    let began = Instant::now();
    let error = from_status("greet", client.wait(request).await.unwrap_err());
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn a_call_with_a_stream_is_refused_in_mucp_and_says_why() {
    let (_running, address) = mucp::serve().await;
    let (mut client, _registered) = client_of(&address).await;
    let waiting = client.sum(stream::pending::<Number>()).await.unwrap_err();
    let two = client.sum(stream::iter([Number { value: 1 }, Number { value: 2 }])).await.unwrap_err();
    let answers = client.count(CountRequest { count: 2 }).await.unwrap_err();
    for status in [waiting, two, answers] {
        assert_eq!(status.code(), Code::Unimplemented);
        assert!(status.message().contains("streams need gRPC"), "{status:?}");
    }
    assert_eq!(client.hello(hello()).await.unwrap().into_inner().greeting, "Hello micro");
}

#[tokio::test]
async fn an_instance_in_mucp_that_cannot_be_reached_costs_no_call_anything() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone_address = gone.local_addr().unwrap().to_string();
    drop(gone);
    let (_running, address) = mucp::serve().await;
    let (registry, _registrations) = registered(&[&gone_address, &address]).await;
    let client = fixture::client_of(registry, SERVICE).connect().await.unwrap();
    let mut client = GreeterClient::new(client);
    for _ in 0..20 {
        assert_eq!(client.hello(hello()).await.unwrap().into_inner().greeting, "Hello micro");
    }
}

#[tokio::test]
async fn an_answer_that_is_none_of_mucp_is_an_error_that_says_so() {
    for (answer, code, text) in [
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", Code::Unknown, "404 Not Found"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Code::Internal, "Content-Length"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n\x0a", Code::Unavailable, "the connection broke"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n\x7f", Code::Internal, "decode"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", Code::OutOfRange, "limit"),
        ("HTTP/1.1 200 OK\r\nMicro-Error: out of cheese\r\nContent-Length: 0\r\n\r\n", Code::Unknown, "out of cheese"),
        ("what is this\r\n\r\n", Code::Unavailable, "the connection broke"),
        ("", Code::Unavailable, "the connection broke"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            http1::read(&mut stream).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let (mut client, _registered) = client_of(&address).await;
        let status = client.hello(hello()).await.unwrap_err();
        assert_eq!(status.code(), code, "{answer:?}: {status:?}");
        assert!(status.message().contains(text), "{answer:?}: {status:?}");
        server.await.unwrap();
    }
}
