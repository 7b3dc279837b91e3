//! Calls by address and path, with bytes for messages.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use micro_core::{
    ErrorKind, Metadata,
    app::Component as _,
    branch::{Branch, BranchAnswer, Mode, Op},
    registry::MemoryRegistry,
    saga::{BranchCaller as _, BranchRequest},
};
use micro_grpc::{GrpcBranchCaller, RawFailure, RawGrpcClient};
use prost::Message as _;
use tokio::net::TcpListener;
use tonic::Code;

use crate::fixture::{
    PATIENCE,
    proto::{HelloReply, HelloRequest},
    serve,
};

const HELLO: &str = "/hello.Greeter/Hello";

fn hello(name: &str) -> Bytes {
    HelloRequest { name: name.to_owned() }.encode_to_vec().into()
}

#[tokio::test]
async fn a_server_is_called_with_bytes_and_answers_with_bytes() {
    let running = serve("one", &MemoryRegistry::new()).await;
    let address = running.server.instances().remove(0).address;
    let client = RawGrpcClient::default();
    for _ in 0..2 {
        let answer = client.call(&address, HELLO, hello("x"), &Metadata::new(), PATIENCE).await.unwrap();
        assert_eq!(HelloReply::decode(answer).unwrap().message, "one");
    }
    let answer = client.call(&address, HELLO, hello("deadline"), &Metadata::new(), PATIENCE).await.unwrap();
    let left = Duration::from_micros(HelloReply::decode(answer).unwrap().message.parse().unwrap());
    assert!(!left.is_zero() && left <= PATIENCE, "the server is told the limit: {left:?}");
    match client.answer_bytes_max(4).call(&address, HELLO, hello("x"), &Metadata::new(), PATIENCE).await {
        Err(RawFailure::Answered(status)) => assert_eq!(status.code(), Code::OutOfRange, "{status}"),
        other => panic!("five bytes are more than four: {other:?}"),
    }
}

#[tokio::test]
async fn a_status_a_limit_and_a_host_that_is_not_there_are_told_apart() {
    let running = serve("one", &MemoryRegistry::new()).await;
    let address = running.server.instances().remove(0).address;
    let client = RawGrpcClient::default();
    let none = Metadata::new();
    match client.call(&address, "/hello.Greeter/Nothing", Bytes::new(), &none, PATIENCE).await {
        Err(RawFailure::Answered(status)) => assert_eq!(status.code(), Code::Unimplemented),
        other => panic!("{other:?}"),
    }
    match client.call(&address, HELLO, hello("sleep"), &none, Duration::from_millis(200)).await {
        // The server may be quicker to say so.
        Err(RawFailure::Answered(status)) => assert_eq!(status.code(), Code::DeadlineExceeded),
        Err(RawFailure::Unanswered(error)) => assert_eq!(error.kind(), ErrorKind::DeadlineExceeded),
        Ok(_) => panic!("it sleeps"),
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    match client.call(&address, HELLO, hello("x"), &none, PATIENCE).await {
        Err(RawFailure::Unanswered(error)) => {
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(error.to_string().contains(&address), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_connection_that_breaks_in_a_call_is_no_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            // It takes the request up, and ends.
            let _ = connection.accept().await;
        }
    });
    match RawGrpcClient::default().call(&address, HELLO, hello("x"), &Metadata::new(), PATIENCE).await {
        Err(RawFailure::Unanswered(error)) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_branch_is_called_with_its_metadata_and_its_answer_is_read() {
    let running = serve("one", &MemoryRegistry::new()).await;
    let address = running.server.instances().remove(0).address;
    let caller = GrpcBranchCaller::default();
    let branch = Branch::new(Mode::Saga, "g-1", "01", Op::Action).unwrap();
    let headers = BTreeMap::from([("x-trace-id".to_owned(), "t-1".to_owned())]);
    let url = format!("{address}{HELLO}");
    let request = BranchRequest::new(&url, &branch).payload(hello("x")).headers(&headers).timeout(PATIENCE);
    assert_eq!(caller.call(request).await.unwrap(), BranchAnswer::Succeeded);
    let url = format!("{address}/hello.Greeter/Nothing");
    let error = caller.call(BranchRequest::new(&url, &branch).timeout(PATIENCE)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unimplemented);
    assert!(error.to_string().contains(&url), "{error}");
}
