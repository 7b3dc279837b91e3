//! The greeter, of ours or of tonic alone.

use std::sync::Arc;

use bench::{
    Result,
    greeter::{
        DESCRIPTORS, HelloReply, HelloRequest,
        greeter_server::{Greeter, GreeterServer},
    },
};
use clap::Args;
use micro_core::{app::App, registry::RegisterOptions};
use micro_grpc::{GoMicroConfig, GrpcServer};
use micro_registry_consul::{ConsulConfig, ConsulRegistry};
use serde_json::json;
use tokio::{net::TcpListener, signal::unix};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::{Kind, turns::tell};

/// What it serves and where it is found.
#[derive(Args)]
pub(crate) struct Options {
    #[arg(long, value_enum)]
    kind: Kind,
    /// `host:port` of Consul's agent, for ours.
    #[arg(long, default_value = "127.0.0.1:8500")]
    consul: String,
    /// The service's name in the registry.
    #[arg(long, default_value = "go.micro.service.greeter")]
    service: String,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    match options.kind {
        Kind::Micro => ours(options).await,
        Kind::Tonic => tonic_alone().await,
    }
}

async fn ours(Options { consul, service, .. }: Options) -> Result<()> {
    let mut stop = unix::signal(unix::SignalKind::terminate())?;
    let registry = ConsulRegistry::connect(ConsulConfig::from_url(&format!("consul://{consul}"))?).await?;
    let server = GrpcServer::builder(&service)
        .address("127.0.0.1:0")
        .add_service(GreeterServer::new(Hello))
        .descriptors(DESCRIPTORS)
        .go_micro(GoMicroConfig::default())
        .build()?;
    let server = Arc::new(server);
    let app = App::builder("rust-peer").registry(Arc::new(registry), RegisterOptions::default());
    let running = app.shared_component(server.clone()).build().start().await?;
    let address = server.local_addr().ok_or("a server that runs has an address")?;
    tell(&json!({ "ready": { "address": address.to_string() } }));
    stop.recv().await;
    Ok(running.stop().await?)
}

async fn tonic_alone() -> Result<()> {
    let mut stop = unix::signal(unix::SignalKind::terminate())?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    tell(&json!({ "ready": { "address": listener.local_addr()?.to_string() } }));
    let server = tonic::transport::Server::builder().tcp_nodelay(true).add_service(GreeterServer::new(Hello));
    let ended = async {
        stop.recv().await;
    };
    Ok(server.serve_with_incoming_shutdown(TcpListenerStream::new(listener), ended).await?)
}

/// Greets.
struct Hello;

#[tonic::async_trait]
impl Greeter for Hello {
    async fn hello(&self, request: Request<HelloRequest>) -> std::result::Result<Response<HelloReply>, Status> {
        Ok(Response::new(HelloReply { greeting: format!("Hello {}", request.into_inner().name) }))
    }
}
