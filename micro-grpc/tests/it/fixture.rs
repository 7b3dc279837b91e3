//! A greeter that does what the name asks for, and what a test needs around it.

#![allow(missing_docs, unreachable_pub)]

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use micro_core::{
    Health,
    app::Component as _,
    registry::{MemoryRegistry, RegisterOptions, Registration, Registry},
};
use micro_grpc::{GrpcClient, GrpcClientBuilder, GrpcClientConfig, GrpcServer, GrpcServerBuilder, GrpcServerConfig};
use micro_middleware::{ClientDeadlineLayer, MetricsLayer, RetryLayer, TraceLayer};
use tonic::{Request, Response, Status};
use tower::ServiceBuilder;

pub mod proto {
    include!("generated.rs");
}

use proto::{HelloReply, HelloRequest, greeter_client::GreeterClient, greeter_server};

pub const SERVICE: &str = "test.Greeter";

/// How long a test waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Answers with its own name; `sleep`, `panic`, `big` and `hold` do what they say, and `deadline` is told
/// the microseconds that are left.
#[derive(Clone, Default)]
pub struct Greeter {
    pub own_name: String,
    pub release: Arc<tokio::sync::Notify>,
    pub dropped: Arc<Mutex<u32>>,
}

struct CountsDrop(Arc<Mutex<u32>>);

impl Drop for CountsDrop {
    fn drop(&mut self) {
        *self.0.lock().unwrap() += 1;
    }
}

#[tonic::async_trait]
impl greeter_server::Greeter for Greeter {
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let _counts = CountsDrop(self.dropped.clone());
        let message = match request.get_ref().name.as_str() {
            "sleep" => std::future::pending().await,
            "panic" => panic!("as asked"),
            "big" => "x".repeat(5 << 20),
            "hold" => {
                self.release.notified().await;
                "released".to_owned()
            }
            "deadline" => micro_grpc::metadata_of(&request).remaining().expect("a deadline").as_micros().to_string(),
            _ => self.own_name.clone(),
        };
        Ok(Response::new(HelloReply { message }))
    }
}

pub struct Running {
    pub server: GrpcServer,
    pub health: Health,
    pub _registration: Registration,
}

pub fn builder(greeter: Greeter) -> GrpcServerBuilder {
    let service = greeter_server::GreeterServer::new(greeter).max_decoding_message_size(64 << 20);
    GrpcServer::builder(SERVICE).add_service(service)
}

pub async fn run(server: GrpcServer, registry: &MemoryRegistry) -> Running {
    let health = Health::new();
    server.start(&health).await.unwrap();
    let instance = server.instances().remove(0);
    let registration = registry.register(instance, RegisterOptions::default()).await.unwrap();
    Running { server, health, _registration: registration }
}

pub async fn serve(own_name: &str, registry: &MemoryRegistry) -> Running {
    let greeter = Greeter { own_name: own_name.to_owned(), ..Greeter::default() };
    run(builder(greeter).build().unwrap(), registry).await
}

/// A client with the usual layers and more time than they give.
pub fn client_of(registry: impl Registry, service: &str) -> GrpcClientBuilder {
    let stack = ServiceBuilder::new()
        .layer(TraceLayer::outgoing())
        .layer(MetricsLayer::outgoing())
        .layer(ClientDeadlineLayer::new(PATIENCE))
        .layer(RetryLayer::default());
    GrpcClient::builder(Arc::new(registry)).service(service).config(client_config()).stack(stack)
}

pub fn client_config() -> GrpcClientConfig {
    let mut config = GrpcClientConfig::default();
    config.connect_timeout = PATIENCE;
    config
}

pub async fn client(registry: &MemoryRegistry) -> GreeterClient<GrpcClient> {
    let client = client_of(registry.clone(), SERVICE).connect().await.unwrap();
    GreeterClient::new(client).max_decoding_message_size(64 << 20)
}

pub async fn hello(client: &GreeterClient<GrpcClient>, name: &str) -> Result<String, Status> {
    let request = HelloRequest { name: name.to_owned() };
    client.clone().hello(request).await.map(|reply| reply.into_inner().message)
}

pub fn config() -> GrpcServerConfig {
    GrpcServerConfig::default()
}

/// Polls until it holds, as long as there is patience.
pub async fn eventually<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) {
    let holds = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, holds).await.expect("it never held");
}
