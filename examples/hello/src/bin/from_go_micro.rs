//! The service of docs/from-go-micro.md, to the letter: a Go service's greeter in Rust.

use micro_rs::{backends, go_micro::GoMicroSettings, grpc::GrpcServer, prelude::App, signals};
use proto::{HelloReply, HelloRequest, greeter_server::GreeterServer};
use tonic::{Request, Response, Status};

mod proto {
    tonic::include_proto!("hello");
    pub(crate) const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("descriptors");
}

struct Greeter;

#[tonic::async_trait]
impl proto::greeter_server::Greeter for Greeter {
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(HelloReply { message: format!("Hello {}", request.into_inner().name) }))
    }
}

#[tokio::main]
async fn main() -> micro_rs::core::Result<()> {
    let said = GoMicroSettings::from_env()?;
    let name = said.name.as_deref().unwrap_or("go.micro.service.greeter");
    let registry = backends::registry(said.registry.as_deref().unwrap_or("consul://127.0.0.1:8500")).await?;
    let server = GrpcServer::builder(name)
        .config(said.server())
        .add_service(GreeterServer::new(Greeter))
        .descriptors(proto::DESCRIPTORS)
        .go_micro(said.go_micro())
        .build()?;
    App::builder(name)
        .registry(registry, said.register.unwrap_or_default())
        .component(server)
        .build()
        .run_until(signals::termination()?)
        .await
}
