//! What others know of a server: grpcurl by reflection, and the registry.

use std::process::Command;

use micro_core::{app::Component as _, registry::Endpoint};
use micro_grpc::{GoMicroConfig, GrpcServerBuilder, StatusCompat};
use serde_json::{Value, json};

use super::{
    greeter::{builder, started},
    protos::DESCRIPTORS,
};

/// What grpcurl prints, on either stream; `None` where it cannot be had and need not be.
async fn grpcurl(arguments: &[&str]) -> Option<String> {
    let arguments: Vec<_> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let said = tokio::task::spawn_blocking(move || {
        let program = dev_servers::grpcurl()
            .inspect_err(|reason| {
                let is_required = std::env::var("MICRO_TEST_REQUIRE").is_ok_and(|value| value == "1");
                assert!(!is_required, "grpcurl is missing and required: {reason}");
                eprintln!("skipped, grpcurl is missing: {reason}");
            })
            .ok()?;
        let output = Command::new(program).arg("-plaintext").args(arguments).output().unwrap();
        Some(String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    });
    said.await.unwrap()
}

async fn calls_by_reflection(builder: GrpcServerBuilder, failure: &str) {
    let (_running, address) = started(builder.reflection(DESCRIPTORS.clone())).await;
    let Some(services) = grpcurl(&[&address, "list"]).await else { return };
    let services: Vec<_> = services.lines().collect();
    for service in ["peer.Greeter", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"] {
        assert!(services.contains(&service), "{services:?}");
    }
    let described = grpcurl(&[&address, "describe", "peer.Greeter.Count"]).await.unwrap();
    assert!(described.contains("rpc Count ( .peer.CountRequest ) returns ( stream .peer.Number );"), "{described}");

    let reply = grpcurl(&["-d", r#"{"name":"micro"}"#, &address, "peer.Greeter/Hello"]).await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&reply).unwrap(), json!({"greeting": "Hello micro"}));
    let numbers = grpcurl(&["-d", r#"{"count":2}"#, &address, "peer.Greeter/Count"]).await.unwrap();
    assert_eq!(numbers.split_whitespace().collect::<String>(), r#"{}{"value":1}"#);
    let health = grpcurl(&[&address, "grpc.health.v1.Health/Check"]).await.unwrap();
    assert!(health.contains("SERVING"), "{health}");
    let fail = json!({"how": "status", "code": 9, "detail": "no such thing"}).to_string();
    let failed = grpcurl(&["-d", &fail, &address, "peer.Greeter/Fail"]).await.unwrap();
    assert!(failed.contains(failure), "{failed}");
}

#[tokio::test]
async fn grpcurl_calls_a_server_by_reflection() {
    calls_by_reflection(builder(), "Code: FailedPrecondition\n  Message: no such thing\n").await;
}

#[tokio::test]
async fn grpcurl_calls_a_server_for_go_micro_by_reflection() {
    let real = GoMicroConfig::default();
    let message = r#"Message: {"id":"go.micro.service.greeter","code":412,"detail":"no such thing""#;
    calls_by_reflection(builder().go_micro(real.clone()), &format!("Code: FailedPrecondition\n  {message}")).await;
    let flattened = "Code: Unknown\n  Message: rpc error: code = FailedPrecondition desc = no such thing";
    calls_by_reflection(builder().go_micro(real.with_status_compat(StatusCompat::V4)), flattened).await;
}

#[tokio::test]
async fn a_server_for_go_micro_tells_the_registry_of_its_methods_and_another_does_not() {
    let (other, _) = started(builder().descriptors(DESCRIPTORS.clone())).await;
    assert_eq!(other.server.instances()[0].endpoints.len(), 0);

    let server = builder().descriptors(DESCRIPTORS.clone()).go_micro(GoMicroConfig::default());
    let (running, _) = started(server).await;
    let instance = running.server.instances().remove(0);
    let names: Vec<_> = instance.endpoints.iter().map(|endpoint| &*endpoint.name).collect();
    let methods = ["Chat", "Count", "Echo", "Fail", "Hello", "Inspect", "Sum", "Wait"];
    assert_eq!(names, methods.map(|method| format!("Greeter.{method}")));
    assert_eq!(instance.endpoints[1].metadata["stream"], "true");
    let hello = instance.endpoints[4].request.as_ref().unwrap();
    assert_eq!((&*hello.name, &*hello.values[0].name, &*hello.values[0].type_name), ("HelloRequest", "name", "string"));
}

#[tokio::test]
async fn the_topics_that_a_service_is_subscribed_to_are_told_behind_its_methods() {
    let topics = ["OrderEventDLQ", "ProductEvent", "OrderEventDLQ"];
    // Who does not answer go-micro's clients tells nothing of them.
    let plain = builder().descriptors(DESCRIPTORS.clone()).subscribed(topics);
    let (other, _) = started(plain).await;
    assert_eq!(other.server.instances()[0].endpoints.len(), 0);

    let server = builder().descriptors(DESCRIPTORS.clone()).go_micro(GoMicroConfig::default()).subscribed(topics);
    let (running, _) = started(server).await;
    let instance = running.server.instances().remove(0);
    let endpoints = &instance.endpoints;
    assert_eq!((endpoints.len(), &*endpoints[7].name), (10, "Greeter.Wait"));
    assert_eq!(endpoints[8..], ["ProductEvent", "OrderEventDLQ"].map(Endpoint::subscriber));
}
