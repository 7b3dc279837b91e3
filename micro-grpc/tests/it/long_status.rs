//! Statuses with long texts: what is read of another's, and what a server here says.

use std::sync::Arc;

use micro_core::{
    Error, ErrorKind,
    branch::{Branch, BranchAnswer, Mode, Op},
    registry::{Instance, MemoryRegistry, RegisterOptions, Registry},
    saga::{BranchCaller as _, BranchRequest},
};
use micro_grpc::{GrpcBranchCaller, GrpcClientConfig, GrpcServer, RawGrpcClient, from_status, to_status};
use prost::Message as _;
use tokio::{net::TcpListener, sync::Notify};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::fixture::{
    Greeter, PATIENCE, SERVICE, client, client_config, client_of, hello,
    proto::{
        HelloReply, HelloRequest,
        greeter_client::GreeterClient,
        greeter_server::{self, GreeterServer},
    },
    run,
};

/// Refuses with as many `x` as the name says, with an error whose text is long, or answers when it is let go.
#[derive(Clone, Default)]
struct Refusing {
    greeter: Greeter,
    held: Arc<Notify>,
}

#[tonic::async_trait]
impl greeter_server::Greeter for Refusing {
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let name = request.get_ref().name.clone();
        if let Ok(count) = name.parse() {
            return Err(Status::aborted("x".repeat(count)));
        }
        if name == "error" {
            let text = format!("begins{}", "库".repeat(100_000 / 3));
            return Err(to_status(Error::new(ErrorKind::NotFound, "orders.find", text)));
        }
        self.held.notify_one();
        greeter_server::Greeter::hello(&self.greeter, request).await
    }
}

/// tonic's own server, which knows no limit of a text.
async fn serve_tonic(refusing: Refusing) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = tonic::transport::Server::builder().add_service(GreeterServer::new(refusing));
    tokio::spawn(async move { server.serve_with_incoming(TcpListenerStream::new(listener)).await });
    address
}

/// One connection, so that all calls are on it.
fn one_connection(mut config: GrpcClientConfig) -> GrpcClientConfig {
    (config.connection_count, config.connect_timeout) = (1, PATIENCE);
    config
}

#[tokio::test]
async fn a_branch_that_refuses_at_length_has_refused() {
    let address = serve_tonic(Refusing::default()).await;
    let caller = GrpcBranchCaller::new(RawGrpcClient::new(one_connection(GrpcClientConfig::default())));
    let branch = Branch::new(Mode::Saga, "g-1", "01", Op::Action).unwrap();
    let url = format!("{address}/hello.Greeter/Hello");
    for count in [20_000, 80_000] {
        let payload = HelloRequest { name: count.to_string() }.encode_to_vec();
        let request = BranchRequest::new(&url, &branch).payload(payload.into()).timeout(PATIENCE);
        assert_eq!(caller.call(request).await.unwrap(), BranchAnswer::Failed("x".repeat(count)));
    }
}

#[tokio::test]
async fn a_long_text_leaves_the_other_calls_of_its_connection_alone() {
    let refusing = Refusing::default();
    let (is_held, release) = (refusing.held.clone(), refusing.greeter.release.clone());
    let registry = MemoryRegistry::new();
    let instance = Instance::new(SERVICE, serve_tonic(refusing).await);
    let _registration = registry.register(instance, RegisterOptions::default()).await.unwrap();
    let client = client_of(registry, SERVICE).config(one_connection(client_config())).connect().await.unwrap();
    let client = GreeterClient::new(client);
    let held = tokio::spawn({
        let client = client.clone();
        async move { hello(&client, "hold").await }
    });
    tokio::time::timeout(PATIENCE, is_held.notified()).await.unwrap();
    let status = hello(&client, "80000").await.unwrap_err();
    assert_eq!((status.code(), status.message().len()), (tonic::Code::Aborted, 80_000));
    // A permit that nobody waits for yet is kept for the call.
    release.notify_one();
    let held = tokio::time::timeout(PATIENCE, held).await.unwrap().unwrap();
    assert_eq!(held.unwrap(), "released");
}

#[tokio::test]
async fn an_error_with_a_long_text_comes_with_its_kind_and_its_beginning() {
    let registry = MemoryRegistry::new();
    let server = GrpcServer::builder(SERVICE).add_service(GreeterServer::new(Refusing::default())).build().unwrap();
    let _running = run(server, &registry).await;
    let error = from_status("orders.find", hello(&client(&registry).await, "error").await.unwrap_err());
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.message().starts_with("orders.find: begins库库"), "{error}");
    assert!(error.message().ends_with("库 …") && error.message().len() < 3_000, "{error}");
}
