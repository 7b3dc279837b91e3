//! The service: what its proto gives, and what it answers.

use proto::{HelloReply, HelloRequest, greeter_server};
use tonic::{Request, Response, Status};

pub(crate) mod proto {
    tonic::include_proto!("hello");
    pub(crate) const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("descriptors");
}

pub(crate) struct Greeter;

impl Greeter {
    pub(crate) fn server() -> greeter_server::GreeterServer<Self> {
        greeter_server::GreeterServer::new(Self)
    }
}

#[tonic::async_trait]
impl greeter_server::Greeter for Greeter {
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let message = format!("我们的口号是 ：\"{}\"", request.into_inner().name);
        Ok(Response::new(HelloReply { message }))
    }
}
