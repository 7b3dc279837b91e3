//! The Go peer's handler in Rust, and a server with it.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _};
use micro_core::registry::MemoryRegistry;
use micro_grpc::{GoMicroConfig, GoMicroError, GrpcServer, GrpcServerBuilder, StatusCompat, metadata_of};
use prost::Message as _;
use tokio::sync::Semaphore;
use tonic::{Code, Request, Response, Status, Streaming};

use super::protos::{
    DESCRIPTORS,
    peer::{
        CountRequest, Everything, FailRequest, HelloReply, HelloRequest, InspectReply, InspectRequest, Number,
        WaitRequest, greeter_server,
    },
};
use crate::fixture::{Running, run};

/// The name in the registry, which is not the proto package.
pub(super) const SERVICE: &str = "go.micro.service.greeter";

#[derive(Default)]
pub(super) struct Greeter {
    /// What holds `wait` until it is closed.
    pub(super) gate: Option<Arc<Semaphore>>,
}

#[tonic::async_trait]
impl greeter_server::Greeter for Greeter {
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(greeting(request.into_inner())))
    }

    async fn fail(&self, request: Request<FailRequest>) -> Result<Response<HelloReply>, Status> {
        let FailRequest { code, detail, how } = request.into_inner();
        Err(match how.as_str() {
            "micro" => GoMicroError::new(SERVICE, code, detail).into(),
            "plain" => Status::unknown(detail),
            "status" => Status::new(Code::from(code), detail),
            "foreign" => with_error_info(Code::from(code), &detail),
            "panic" => panic!("{detail}"),
            how => Status::invalid_argument(format!("how {how:?} is not known")),
        })
    }

    async fn inspect(&self, request: Request<InspectRequest>) -> Result<Response<InspectReply>, Status> {
        let metadata = metadata_of(&request);
        let timeout = metadata.remaining().map_or(-1, |left| i64::try_from(left.as_millis()).unwrap());
        let metadata = metadata.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Ok(Response::new(InspectReply { metadata, timeout_ms: timeout }))
    }

    async fn echo(&self, request: Request<Everything>) -> Result<Response<Everything>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    async fn wait(&self, request: Request<WaitRequest>) -> Result<Response<HelloReply>, Status> {
        if let Some(gate) = &self.gate {
            gate.acquire().await.expect_err("it has no permits, and is closed in the end");
        }
        tokio::time::sleep(Duration::from_millis(request.into_inner().wait_ms.unsigned_abs())).await;
        Ok(Response::new(HelloReply { greeting: "waited".to_owned() }))
    }

    type CountStream = Pin<Box<dyn Stream<Item = Result<Number, Status>> + Send>>;

    /// A negative count is a failure after one number.
    async fn count(&self, request: Request<CountRequest>) -> Result<Response<Self::CountStream>, Status> {
        let count = request.into_inner().count;
        let numbers = (0..count.abs()).map(move |value| match (count < 0, value) {
            (true, 1..) => Err(Status::aborted("no more")),
            _ => Ok(Number { value }),
        });
        Ok(Response::new(Box::pin(futures_util::stream::iter(numbers.collect::<Vec<_>>()))))
    }

    async fn sum(&self, request: Request<Streaming<Number>>) -> Result<Response<Number>, Status> {
        let mut numbers = request.into_inner();
        let mut sum = 0;
        while let Some(number) = numbers.message().await? {
            sum += number.value;
        }
        Ok(Response::new(Number { value: sum }))
    }

    type ChatStream = Pin<Box<dyn Stream<Item = Result<HelloReply, Status>> + Send>>;

    async fn chat(&self, request: Request<Streaming<HelloRequest>>) -> Result<Response<Self::ChatStream>, Status> {
        let names = request.into_inner();
        Ok(Response::new(Box::pin(names.map(|name| name.map(greeting)))))
    }
}

fn greeting(request: HelloRequest) -> HelloReply {
    HelloReply { greeting: format!("Hello {}", request.name) }
}

#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// As a handler makes it that uses Google's details: the first and only one is an `ErrorInfo`.
fn with_error_info(code: Code, message: &str) -> Status {
    // The field `reason`, as long as a byte's length says.
    let reason = [&[0x0a, 5][..], b"STOCK"].concat();
    let info = prost_types::Any { type_url: "type.googleapis.com/google.rpc.ErrorInfo".to_owned(), value: reason };
    let status = RpcStatus { code: code as i32, message: message.to_owned(), details: vec![info] };
    Status::with_details(code, message, status.encode_to_vec().into())
}

/// The types of a status's details, in their order.
pub(super) fn detail_types(details: &[u8]) -> Vec<String> {
    RpcStatus::decode(details).unwrap().details.into_iter().map(|detail| detail.type_url).collect()
}

pub(super) fn builder() -> GrpcServerBuilder {
    builder_of(Greeter::default())
}

pub(super) fn builder_of(greeter: Greeter) -> GrpcServerBuilder {
    GrpcServer::builder(SERVICE).add_service(greeter_server::GreeterServer::new(greeter))
}

/// A server that answers go-micro's clients, and where it is.
pub(super) async fn serve(status_compat: StatusCompat) -> (Running, String) {
    let config = GoMicroConfig::default().with_status_compat(status_compat);
    started(builder().descriptors(DESCRIPTORS.clone()).go_micro(config)).await
}

pub(super) async fn started(builder: GrpcServerBuilder) -> (Running, String) {
    started_server(builder.build().unwrap()).await
}

pub(super) async fn started_server(server: GrpcServer) -> (Running, String) {
    let running = run(server, &MemoryRegistry::new()).await;
    let address = running.server.local_addr().unwrap().to_string();
    (running, address)
}
