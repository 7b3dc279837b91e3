//! Services of go-micro v4 and ours find and call each other through one registry.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::Stream;
use micro_rs::{
    core::registry::{RegisterOptions, Registry},
    grpc::{GoMicroConfig, GrpcClient, GrpcServer, from_status},
    prelude::{App, ErrorKind},
};
use micro_testkit::{eventually, unique};
use serde_json::Value;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    peer::{PATIENCE, Peer},
    registries::{Shared, on_each_registry},
};

#[allow(missing_docs, unreachable_pub)]
mod proto {
    include!("../../micro-grpc/tests/it/go_micro/generated/peer.rs");
}

use proto::{
    CountRequest, Everything, FailRequest, HelloReply, HelloRequest, InspectReply, InspectRequest, Number, WaitRequest,
    greeter_client::GreeterClient, greeter_server,
};

on_each_registry! {
    a_go_client_finds_and_calls_a_rust_service
    a_rust_client_finds_and_calls_a_go_service
    a_go_client_finds_and_calls_a_rust_service_in_mucp
    a_rust_client_finds_and_calls_a_go_service_in_mucp
}

/// Greets, and fails where it is told to; the rest is tested by address.
struct Greeter;

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl greeter_server::Greeter for Greeter {
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(HelloReply { greeting: format!("Hello {}", request.into_inner().name) }))
    }

    async fn fail(&self, request: Request<FailRequest>) -> Result<Response<HelloReply>, Status> {
        Err(Status::not_found(request.into_inner().detail))
    }

    async fn inspect(&self, _: Request<InspectRequest>) -> Result<Response<InspectReply>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn echo(&self, request: Request<Everything>) -> Result<Response<Everything>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    async fn wait(&self, _: Request<WaitRequest>) -> Result<Response<HelloReply>, Status> {
        Err(Status::unimplemented("not here"))
    }

    type CountStream = Replies<Number>;

    async fn count(&self, _: Request<CountRequest>) -> Result<Response<Self::CountStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn sum(&self, _: Request<Streaming<Number>>) -> Result<Response<Number>, Status> {
        Err(Status::unimplemented("not here"))
    }

    type ChatStream = Replies<HelloReply>;

    async fn chat(&self, _: Request<Streaming<HelloRequest>>) -> Result<Response<Self::ChatStream>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

/// The descriptors of Go's proto, which this service is one of.
fn descriptors() -> Vec<u8> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join("interop/go-peer/pb");
    let set = protox::compile(["greeter.proto"], [folder]).expect("the proto compiles");
    prost::Message::encode_to_vec(&set)
}

async fn a_go_client_finds_and_calls_a_rust_service(registry: &Arc<dyn Registry>, url: &str) {
    go_calls_rust(registry, url, "grpc", GoMicroConfig::default()).await;
}

async fn a_go_client_finds_and_calls_a_rust_service_in_mucp(registry: &Arc<dyn Registry>, url: &str) {
    go_calls_rust(registry, url, "mucp", GoMicroConfig::default().with_mucp("127.0.0.1:0")).await;
}

async fn a_rust_client_finds_and_calls_a_go_service(registry: &Arc<dyn Registry>, url: &str) {
    rust_calls_go(registry, url, "grpc").await;
}

async fn a_rust_client_finds_and_calls_a_go_service_in_mucp(registry: &Arc<dyn Registry>, url: &str) {
    rust_calls_go(registry, url, "mucp").await;
}

async fn go_calls_rust(registry: &Arc<dyn Registry>, url: &str, protocol: &str, config: GoMicroConfig) {
    let name = unique("go.micro.service.greeter");
    let server = GrpcServer::builder(&name)
        .add_service(greeter_server::GreeterServer::new(Greeter))
        .descriptors(descriptors())
        .go_micro(config)
        .build()
        .unwrap();
    let app =
        App::builder(name.as_str()).registry(registry.clone(), RegisterOptions::default()).component(server).build();
    let running = app.start().await.unwrap();

    let call = |endpoint: &'static str, message: &'static str| {
        let arguments = ["call", "--registry", url, "--service", &name, "--protocol", protocol];
        let arguments = [&arguments[..], &["--endpoint", endpoint, "--message", message]].concat();
        go_tells(arguments.into_iter().map(str::to_owned).collect())
    };
    let replies = call("Greeter.Hello", r#"{"name":"Go"}"#).await;
    assert_eq!(replies[0]["reply"]["greeting"], "Hello Go", "{replies:?}");
    let replies = call("Greeter.Fail", r#"{"detail":"no such thing"}"#).await;
    assert_eq!((&replies[0]["error"]["code"], &replies[0]["error"]["detail"]), (&404.into(), &"no such thing".into()));
    running.stop().await.unwrap();
}

async fn rust_calls_go(registry: &Arc<dyn Registry>, url: &str, protocol: &str) {
    let name = unique("go.micro.service.greeter");
    let program = blocking(|| dev_servers::go_peer().expect("the Go peer is built")).await;
    let mut go = Peer::start(&program, &["serve", "--registry", url, "--service", &name, "--protocol", protocol]);
    assert!(go.told().await["ready"].is_object());
    let client = GrpcClient::builder(registry.clone()).service(&name).go_micro().connect().await.unwrap();
    let greeter = GreeterClient::new(client);
    let reply = eventually(PATIENCE, "the service is found", || async {
        let request = HelloRequest { name: "Rust".to_owned() };
        greeter.clone().hello(request).await.map(Response::into_inner).map_err(|status| status.to_string())
    })
    .await;
    assert_eq!(reply.greeting, "Hello Rust");
    let request = FailRequest { code: 404, detail: "no such thing".to_owned(), how: "micro".to_owned() };
    let error = from_status("greet", greeter.clone().fail(request).await.unwrap_err());
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.report().contains("no such thing"), "{}", error.report());
    let mut slow = Request::new(WaitRequest { wait_ms: 10_000 });
    slow.set_timeout(Duration::from_millis(200));
    let error = from_status("wait", greeter.clone().wait(slow).await.unwrap_err());
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{}", error.report());
}

/// What one run of the Go program tells, a line of JSON each.
async fn go_tells(arguments: Vec<String>) -> Vec<Value> {
    blocking(move || {
        let program = dev_servers::go_peer().expect("the Go peer is built");
        let output = std::process::Command::new(program).args(&arguments).output().expect("it runs");
        let told = String::from_utf8(output.stdout).expect("UTF-8");
        let lines: Vec<_> = told.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert!(!lines.is_empty(), "{arguments:?}: {told}{}", String::from_utf8_lossy(&output.stderr));
        lines
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("no panic")
}
