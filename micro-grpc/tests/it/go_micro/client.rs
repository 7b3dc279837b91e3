//! A Rust client calls go-micro v4's server.

use std::time::Duration;

use micro_core::{Error, ErrorKind, Metadata};
use micro_grpc::{GrpcClient, from_status};
use tonic::{Request, Status};

use super::{
    greeter::SERVICE,
    peer::GoServer,
    protos::peer::{
        Everything, FailRequest, HelloReply, HelloRequest, InspectRequest, WaitRequest, greeter_client::GreeterClient,
    },
};

async fn fail(client: &mut GreeterClient<GrpcClient>, how: &str, code: i32) -> Error {
    let request = FailRequest { code, detail: "no such thing".to_owned(), how: how.to_owned() };
    from_status("greet", client.fail(request).await.unwrap_err())
}

#[tokio::test]
async fn it_is_answered_by_either_path() {
    let Some(server) = GoServer::start().await else { return };
    for client in [server.client(), server.client().go_micro()] {
        let mut client = GreeterClient::new(client.connect().await.unwrap());
        let reply = client.hello(HelloRequest { name: "micro".to_owned() }).await.unwrap();
        assert_eq!(reply.into_inner(), HelloReply { greeting: "Hello micro".to_owned() });
    }
}

#[tokio::test]
async fn failures_of_each_kind_are_understood() {
    let Some(server) = GoServer::start().await else { return };
    let mut client = GreeterClient::new(server.client().go_micro().connect().await.unwrap());
    for (number, kind) in [
        (400, ErrorKind::InvalidArgument),
        (401, ErrorKind::Unauthenticated),
        (403, ErrorKind::PermissionDenied),
        (404, ErrorKind::NotFound),
        (408, ErrorKind::DeadlineExceeded),
        (409, ErrorKind::AlreadyExists),
        (412, ErrorKind::FailedPrecondition),
        (418, ErrorKind::Unknown),
        (500, ErrorKind::Internal),
        (501, ErrorKind::Unimplemented),
        (503, ErrorKind::Unavailable),
    ] {
        let error = fail(&mut client, "micro", number).await;
        assert_eq!(error.kind(), kind, "{number}");
        assert_eq!(error.message(), "no such thing");
        assert_eq!(error.context().next(), Some(("id", SERVICE)));
    }
    for kind in ErrorKind::ALL {
        let error = fail(&mut client, "status", kind.code().into()).await;
        assert_eq!((error.kind(), error.message()), (kind, "no such thing"));
    }
    for (how, kind, message) in [
        ("plain", ErrorKind::Unknown, "no such thing"),
        ("panic", ErrorKind::Internal, "panic recovered: no such thing"),
        ("canceled", ErrorKind::Cancelled, "context canceled"),
        ("deadline", ErrorKind::DeadlineExceeded, "context deadline exceeded"),
        ("eof", ErrorKind::OutOfRange, "EOF"),
        ("missing", ErrorKind::NotFound, "file does not exist"),
        ("foreign", ErrorKind::Unknown, "no such thing"),
    ] {
        let error = fail(&mut client, how, 0).await;
        assert_eq!((error.kind(), error.message()), (kind, message), "{how}");
    }
}

#[tokio::test]
async fn metadata_and_deadline_reach_gos_handler() {
    let Some(server) = GoServer::start().await else { return };
    let mut client = GreeterClient::new(server.client().go_micro().connect().await.unwrap());
    let mut request = Request::new(InspectRequest {});
    request.metadata_mut().insert("x-peer_trace", "abc".parse().unwrap());
    request.set_timeout(Duration::from_secs(50));
    let reply = client.inspect(request).await.unwrap().into_inner();
    // By Go's rule: a letter after anything but a letter, a digit or `_` is raised.
    assert_eq!(reply.metadata["X-Peer_trace"], "abc");
    assert_eq!(reply.metadata["Content-Type"], "application/grpc+proto");
    assert!((1_000..=50_000).contains(&reply.timeout_ms), "{}", reply.timeout_ms);
}

#[tokio::test]
async fn a_go_server_is_given_up_at_the_deadline() {
    let Some(server) = GoServer::start().await else { return };
    let mut client = GreeterClient::new(server.client().go_micro().connect().await.unwrap());
    let mut metadata = Metadata::new();
    metadata.limit_deadline(std::time::Instant::now() + Duration::from_millis(300));
    let status: Status =
        client.wait(micro_grpc::request(WaitRequest { wait_ms: 120_000 }, &metadata)).await.unwrap_err();
    assert_eq!(from_status("greet", status).kind(), ErrorKind::DeadlineExceeded);
}

#[tokio::test]
async fn every_kind_of_field_comes_back() {
    let Some(server) = GoServer::start().await else { return };
    let mut client = GreeterClient::new(server.client().connect().await.unwrap());
    let message = Everything {
        a_double: 0.5,
        an_int64: i64::MIN,
        a_uint64: u64::MAX,
        some_bytes: vec![0, 255],
        nested: Some(Box::default()),
        maybe: Some(0),
        ..Everything::default()
    };
    assert_eq!(client.echo(message.clone()).await.unwrap().into_inner(), message);
}
