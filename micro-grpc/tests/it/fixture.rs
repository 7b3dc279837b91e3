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
    registry::{MemoryRegistry, RegisterOptions, Registration, Registry as _},
};
use micro_grpc::{GrpcClient, GrpcServer, GrpcServerBuilder, GrpcServerConfig};
use tonic::{Request, Response, Status};

pub mod proto {
    include!("generated.rs");
}

use proto::{HelloReply, HelloRequest, greeter_client::GreeterClient, greeter_server};

pub const SERVICE: &str = "test.Greeter";

/// Answers with its own name; `sleep`, `panic`, `big` and `hold` do what they say.
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
            "deadline" => format!("{:?}", micro_grpc::metadata_of(&request).remaining()),
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

pub async fn client(registry: &MemoryRegistry) -> GreeterClient<GrpcClient> {
    let builder = GrpcClient::builder(Arc::new(registry.clone())).service(SERVICE);
    GreeterClient::new(builder.connect().await.unwrap()).max_decoding_message_size(64 << 20)
}

pub async fn hello(client: &GreeterClient<GrpcClient>, name: &str) -> Result<String, Status> {
    let request = HelloRequest { name: name.to_owned() };
    client.clone().hello(request).await.map(|reply| reply.into_inner().message)
}

pub fn config() -> GrpcServerConfig {
    GrpcServerConfig::default()
}

/// Polls until it holds, at most for 10 s.
pub async fn eventually<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) {
    let holds = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), holds).await.expect("it never held");
}
