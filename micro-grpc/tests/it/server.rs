//! What a server does at its edges: health, reflection, silent clients, the end.

use std::time::Duration;

use micro_core::{HealthStatus, app::Component as _, registry::MemoryRegistry};
use micro_grpc::{GrpcClient, GrpcServer};
use prost::Message as _;
use prost_types::{
    DescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, ServiceDescriptorProto,
};
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::Instant};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::fixture::{
    Greeter, PATIENCE, SERVICE, builder, client, client_config, client_of, config, eventually, hello,
    proto::{HelloRequest, greeter_client::GreeterClient},
    run, serve,
};

async fn channel(registry: &MemoryRegistry) -> GrpcClient {
    client_of(registry.clone(), SERVICE).connect().await.unwrap()
}

#[tokio::test]
async fn health_follows_the_application_and_is_watched() {
    let registry = MemoryRegistry::new();
    let running = serve("one", &registry).await;
    let mut health = HealthClient::new(channel(&registry).await);
    let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
    let mut watch = health.watch(ask("")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    assert_eq!(health.check(ask("hello.Greeter")).await.unwrap().into_inner().status(), ServingStatus::Serving);

    running.health.set("database", HealthStatus::NotServing("gone".into()));
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert_eq!(health.check(ask("hello.Greeter")).await.unwrap().into_inner().status(), ServingStatus::NotServing);
    running.health.set("database", HealthStatus::Serving);
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    assert_eq!(health.check(ask("unknown")).await.unwrap_err().code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn a_watch_of_health_that_was_told_of_the_stop_does_not_hold_up_the_drain() {
    let registry = MemoryRegistry::new();
    let running = serve("one", &registry).await;
    let mut health = HealthClient::new(channel(&registry).await);
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    running.health.set("app", HealthStatus::NotServing("stopping".into()));
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);

    let began = Instant::now();
    running.server.drain(PATIENCE).await.unwrap();
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
    assert_eq!(watch.message().await.unwrap(), None);
}

#[tokio::test]
async fn reflection_lists_the_users_own_service() {
    let method = MethodDescriptorProto {
        name: Some("Hello".into()),
        input_type: Some(".test.HelloRequest".into()),
        output_type: Some(".test.HelloReply".into()),
        ..Default::default()
    };
    let message = |name: &str| DescriptorProto { name: Some(name.into()), ..Default::default() };
    let file = FileDescriptorProto {
        name: Some("greeter.proto".into()),
        package: Some("test".into()),
        message_type: vec![message("HelloRequest"), message("HelloReply")],
        service: vec![ServiceDescriptorProto { name: Some("Greeter".into()), method: vec![method], options: None }],
        syntax: Some("proto3".into()),
        ..Default::default()
    };
    let descriptors = FileDescriptorSet { file: vec![file] }.encode_to_vec();
    let registry = MemoryRegistry::new();
    let _running = run(builder(Greeter::default()).reflection(descriptors).build().unwrap(), &registry).await;
    let services = ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "test.Greeter"];
    assert_eq!(reflected_services(&registry).await, services);
}

async fn reflected_services(registry: &MemoryRegistry) -> Vec<String> {
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(channel(registry).await);
    let mut answers = reflection.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    names
}

#[tokio::test]
async fn connections_over_the_limit_wait_until_one_ends() {
    let mut config = config();
    config.connection_count_max = 1;
    // The silent connection must end because we end it, not because it is silent.
    config.handshake_timeout = Duration::from_secs(60);
    let registry = MemoryRegistry::new();
    let running = run(builder(Greeter::default()).config(config).build().unwrap(), &registry).await;
    let first = TcpStream::connect(running.server.local_addr().unwrap()).await.unwrap();
    let mut one = client_config();
    one.connection_count = 1;
    let client = client_of(registry, SERVICE).config(one).connect().await.unwrap();
    let client = GreeterClient::new(client);

    let mut request = tonic::Request::new(HelloRequest { name: "John".into() });
    request.set_timeout(Duration::from_millis(200));
    assert_eq!(client.clone().hello(request).await.unwrap_err().code(), tonic::Code::DeadlineExceeded);
    drop(first);
    eventually(|| async { hello(&client, "John").await.is_ok() }).await;
}

#[tokio::test]
async fn silent_connections_are_closed_at_the_handshake_timeout() {
    let mut config = config();
    config.handshake_timeout = Duration::from_millis(200);
    let registry = MemoryRegistry::new();
    let running = run(builder(Greeter::default()).config(config).build().unwrap(), &registry).await;
    let address = running.server.local_addr().unwrap();
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    for mut stream in silent {
        let closed = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 1])).await;
        assert!(matches!(closed, Ok(Ok(0) | Err(_))), "{closed:?}");
    }
}

#[tokio::test]
async fn drain_lets_calls_in_hand_end_and_does_not_wait_for_idle_clients() {
    let registry = MemoryRegistry::new();
    let greeter = Greeter::default();
    let running = run(builder(greeter.clone()).build().unwrap(), &registry).await;
    let _idle = TcpStream::connect(running.server.local_addr().unwrap()).await.unwrap();
    let client = client(&registry).await;
    let held = tokio::spawn(async move { hello(&client, "hold").await });
    eventually(|| async { running.server.in_flight_count() == 1 }).await;

    let began = Instant::now();
    let (drained, ()) = tokio::join!(running.server.drain(PATIENCE), async {
        greeter.release.notify_one();
    });
    drained.unwrap();
    assert_eq!(held.await.unwrap().unwrap(), "released");
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
}

#[tokio::test]
async fn drain_cuts_what_does_not_end_and_says_how_much() {
    let registry = MemoryRegistry::new();
    let running = serve("one", &registry).await;
    let client = client(&registry).await;
    let held = tokio::spawn(async move { hello(&client, "sleep").await });
    eventually(|| async { running.server.in_flight_count() == 1 }).await;
    let error = running.server.drain(Duration::from_millis(100)).await.unwrap_err();
    assert!(error.to_string().contains("calls=1"), "{error}");
    assert!(held.await.unwrap().is_err());
}

#[tokio::test]
async fn an_address_that_nobody_can_call_is_refused() {
    let server = GrpcServer::builder(SERVICE).address("0.0.0.0:0").build().unwrap();
    let error = server.start(&micro_core::Health::new()).await.unwrap_err();
    assert!(error.to_string().contains("advertise"), "{error}");
}
