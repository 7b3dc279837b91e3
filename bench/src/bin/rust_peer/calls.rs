//! Closed loops of calls, by ours or by tonic alone.

use std::sync::Arc;

use bench::{
    Failure, Result,
    greeter::{HelloRequest, greeter_client::GreeterClient},
};
use bytes::Bytes;
use clap::Args;
use micro_grpc::{GrpcClient, GrpcClientConfig};
use micro_registry_consul::{ConsulConfig, ConsulRegistry};
use tonic::{body::Body, client::GrpcService, codegen};

use crate::{
    Kind,
    turns::{self, in_loops},
};

/// Whom it calls.
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
    /// `host:port` of the server, for tonic alone.
    #[arg(long, default_value = "")]
    address: String,
    /// Bytes of the name that is sent.
    #[arg(long, default_value_t = 100)]
    bytes: usize,
}

pub(crate) async fn run(Options { kind, consul, service, address, bytes }: Options) -> Result<()> {
    match kind {
        Kind::Micro => {
            let registry = ConsulRegistry::connect(ConsulConfig::from_url(&format!("consul://{consul}"))?).await?;
            let client = GrpcClient::builder(Arc::new(registry)).service(service).go_micro().connect().await?;
            call(vec![GreeterClient::new(client)], bytes).await
        }
        Kind::Tonic => {
            let mut clients = Vec::new();
            // As many connections as ours has.
            for _ in 0..GrpcClientConfig::default().connection_count {
                clients.push(GreeterClient::connect(format!("http://{address}")).await?);
            }
            call(clients, bytes).await
        }
    }
}

async fn call<C>(clients: Vec<GreeterClient<C>>, bytes: usize) -> Result<()>
where
    C: GrpcService<Body> + Clone + Send + 'static,
    C::Error: Into<codegen::StdError>,
    C::Future: Send,
    C::ResponseBody: codegen::Body<Data = Bytes> + Send + 'static,
    <C::ResponseBody as codegen::Body>::Error: Into<codegen::StdError> + Send,
{
    let name = "x".repeat(bytes);
    turns::run(async |turn| {
        in_loops(turn, |index, task| {
            let (mut client, name) = (clients[index % clients.len()].clone(), name.clone());
            async move {
                while task.goes_on() {
                    let reply = client.hello(HelloRequest { name: name.clone() }).await?;
                    let greeting = &reply.get_ref().greeting;
                    if greeting.len() != "Hello ".len() + name.len() {
                        return Err(Failure::from(format!("the greeting is {greeting:?}")));
                    }
                    task.add();
                }
                Ok(())
            }
        })
        .await
    })
    .await
}
