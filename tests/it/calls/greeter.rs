//! The Go peer's handler in Rust, in a service that a registry knows.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _};
use micro_rs::{
    core::{
        app::{App, AppConfig, RunningApp},
        registry::{RegisterOptions, Registry},
    },
    grpc::{GoMicroConfig, GoMicroError, GrpcServer, metadata_of},
};
use micro_testkit::{eventually, unique};
use tonic::{Code, Request, Response, Status, Streaming};

use super::proto::{
    CountRequest, Everything, FailRequest, HelloReply, HelloRequest, InspectReply, InspectRequest, Number, WaitRequest,
    greeter_server,
};
use crate::peer::PATIENCE;

struct Greeter;

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl greeter_server::Greeter for Greeter {
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(greeting(request.into_inner())))
    }

    async fn fail(&self, request: Request<FailRequest>) -> Result<Response<HelloReply>, Status> {
        let FailRequest { code, detail, how } = request.into_inner();
        Err(match how.as_str() {
            "micro" => GoMicroError::new("of.its.own", code, detail).into(),
            _ => Status::new(Code::from(code), detail),
        })
    }

    async fn inspect(&self, request: Request<InspectRequest>) -> Result<Response<InspectReply>, Status> {
        let metadata = metadata_of(&request);
        let timeout_ms = metadata.remaining().map_or(-1, |left| i64::try_from(left.as_millis()).unwrap());
        let metadata = metadata.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Ok(Response::new(InspectReply { metadata, timeout_ms }))
    }

    async fn echo(&self, request: Request<Everything>) -> Result<Response<Everything>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    async fn wait(&self, request: Request<WaitRequest>) -> Result<Response<HelloReply>, Status> {
        tokio::time::sleep(Duration::from_millis(request.into_inner().wait_ms.unsigned_abs())).await;
        Ok(Response::new(HelloReply { greeting: "waited".to_owned() }))
    }

    type CountStream = Replies<Number>;

    async fn count(&self, request: Request<CountRequest>) -> Result<Response<Self::CountStream>, Status> {
        let numbers = (0..request.into_inner().count).map(|value| Ok(Number { value }));
        Ok(Response::new(Box::pin(futures_util::stream::iter(numbers))))
    }

    async fn sum(&self, request: Request<Streaming<Number>>) -> Result<Response<Number>, Status> {
        let mut numbers = request.into_inner();
        let mut value = 0;
        while let Some(number) = numbers.message().await? {
            value += number.value;
        }
        Ok(Response::new(Number { value }))
    }

    type ChatStream = Replies<HelloReply>;

    async fn chat(&self, request: Request<Streaming<HelloRequest>>) -> Result<Response<Self::ChatStream>, Status> {
        Ok(Response::new(Box::pin(request.into_inner().map(|name| name.map(greeting)))))
    }
}

fn greeting(request: HelloRequest) -> HelloReply {
    HelloReply { greeting: format!("Hello {}", request.name) }
}

/// The descriptors of Go's proto, which this service is one of.
fn descriptors() -> Vec<u8> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join("interop/go-peer/pb");
    let set = protox::compile(["greeter.proto"], [folder]).expect("the proto compiles");
    prost::Message::encode_to_vec(&set)
}

/// A service of a name of its own that the registry knows, and the name.
pub(super) async fn serve(registry: &Arc<dyn Registry>, config: GoMicroConfig) -> (RunningApp, String) {
    let name = unique("go.micro.service.greeter");
    let server = GrpcServer::builder(&name)
        .add_service(greeter_server::GreeterServer::new(Greeter))
        .descriptors(descriptors())
        .go_micro(config)
        .build()
        .unwrap();
    let mut config = AppConfig::default();
    (config.flush_timeout, config.close_timeout) = (PATIENCE, PATIENCE);
    let app = App::builder(name.as_str()).registry(registry.clone(), RegisterOptions::default()).config(config);
    let running = app.component(server).build().start().await.unwrap();
    eventually(PATIENCE, "the registry knows it", || async {
        registry.instances(&name).await.is_ok_and(|instances| !instances.is_empty())
    })
    .await;
    (running, name)
}
