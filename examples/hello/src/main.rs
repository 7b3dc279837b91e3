//! The smallest micro-rs program: `hello serve` greets, `hello call` finds it in the registry and
//! is greeted.

mod arguments;
mod greeter;

use std::{process::ExitCode, sync::Arc, time::Duration};

use arguments::{Arguments, Job};
use clap::Parser as _;
use greeter::{Greeter, proto};
use micro_rs::{
    backends,
    core::registry::RegisterOptions,
    grpc::{GrpcClient, GrpcServer},
    prelude::{App, Error, ErrorKind, Result},
    signals,
};
use tonic::Request;

async fn serve(arguments: Arguments) -> Result<ExitCode> {
    let stop = signals::termination()?;
    let server = GrpcServer::builder(&arguments.name).address(&arguments.address);
    let server = Arc::new(server.add_service(Greeter::server()).reflection(proto::DESCRIPTORS).build()?);
    let mut app = App::builder("hello").shared_component(server.clone());
    // A written list is not registered with: --address says which of its addresses this one is.
    if !arguments.registry.starts_with("static:") {
        app = app.registry(backends::registry(&arguments.registry).await?, RegisterOptions::default());
    }
    let running = app.build().start().await?;
    let address = server.local_addr().map(|address| address.to_string()).unwrap_or_default();
    println!("{} serves at {address}", arguments.name);
    if arguments.registry.starts_with("memory:") {
        println!("memory: is known to this process only; elsewhere: --registry static:{}={address}", arguments.name);
    }
    stop.await;
    running.stop().await.map(|()| ExitCode::SUCCESS)
}

async fn call(arguments: Arguments) -> Result<ExitCode> {
    if arguments.registry.starts_with("memory:") {
        let message = "memory: is known to one process only, so nothing can be there; expected static:NAME=HOST:PORT";
        return Err(Error::new(ErrorKind::InvalidArgument, "hello.call", message));
    }
    let registry = backends::registry(&arguments.registry).await?;
    let client = GrpcClient::builder(registry).service(&arguments.name).connect().await?;
    let mut greeter = proto::greeter_client::GreeterClient::new(client);
    let mut failure_count = 0;
    for _ in 0..arguments.count {
        let mut request = Request::new(proto::HelloRequest { name: "John".to_owned() });
        if let Some(seconds) = arguments.timeout_seconds {
            request.set_timeout(Duration::from_secs(seconds));
        }
        match greeter.hello(request).await {
            Ok(reply) => println!("{}", reply.into_inner().message),
            Err(status) => {
                failure_count += 1;
                eprintln!("{}", status.message());
            }
        }
    }
    println!("{} calls, {failure_count} failures", arguments.count);
    Ok(ExitCode::from(u8::from(failure_count > 0)))
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = if arguments.job == Job::Serve { serve(arguments).await } else { call(arguments).await };
    outcome.unwrap_or_else(|error| {
        eprintln!("{}", error.report());
        ExitCode::FAILURE
    })
}
