//! go-micro's client asks the registry for a Rust service and calls it: each kind of call.

use std::sync::Arc;

use micro_rs::{core::registry::Registry, go_micro::GoMicroSettings, grpc::GoMicroConfig};
use serde_json::{Value, json};

use super::{blocking, greeter::serve};
use crate::registries::{Shared, on_each_registry};

on_each_registry! {
    a_go_client_finds_and_calls_a_rust_service
    a_go_client_finds_and_calls_a_rust_service_in_mucp
    a_go_client_reads_the_failures_of_a_rust_service_that_it_found
    a_go_client_is_told_of_its_deadline_by_a_rust_service_that_it_found
    metadata_and_deadline_of_a_go_client_reach_a_rust_service_that_it_found
    a_go_client_uses_all_kinds_of_streams_of_a_rust_service_that_it_found
    a_go_client_is_answered_in_json_by_a_rust_service_that_it_found
}

async fn a_go_client_finds_and_calls_a_rust_service(registry: &Arc<dyn Registry>, url: &str) {
    finds_and_calls(registry, url, "grpc", GoMicroConfig::default()).await;
}

async fn a_go_client_finds_and_calls_a_rust_service_in_mucp(registry: &Arc<dyn Registry>, url: &str) {
    // As a Go service is told to.
    let said = [("MICRO_SERVER", "mucp"), ("MICRO_SERVER_ADDRESS", "127.0.0.1:0")];
    let said = said.map(|(name, value)| (name.to_owned(), value.to_owned()));
    finds_and_calls(registry, url, "mucp", GoMicroSettings::from_variables(said).unwrap().go_micro()).await;
}

async fn finds_and_calls(registry: &Arc<dyn Registry>, url: &str, protocol: &str, config: GoMicroConfig) {
    let (running, name) = serve(registry, config).await;
    let go = Go { url, service: &name, protocol };
    let told = go.calls("Greeter.Hello", &[r#"{"name":"Go"}"#], &["--count", "3"]).await;
    assert_eq!(told, vec![json!({"reply": {"greeting": "Hello Go"}}); 3]);
    let told = go.calls("Greeter.Fail", &[r#"{"code":5,"detail":"no such thing"}"#], &[]).await;
    assert_eq!((&told[0]["error"]["code"], &told[0]["error"]["detail"]), (&json!(404), &json!("no such thing")));
    running.stop().await.unwrap();
}

async fn a_go_client_reads_the_failures_of_a_rust_service_that_it_found(registry: &Arc<dyn Registry>, url: &str) {
    let (running, name) = serve(registry, GoMicroConfig::default()).await;
    let go = Go { url, service: &name, protocol: "grpc" };
    for (how, code, id, number, status) in [
        ("status", 3, &*name, 400, "Bad Request"),
        ("status", 9, &*name, 412, "Precondition Failed"),
        ("status", 10, &*name, 500, "Internal Server Error"),
        ("status", 14, &*name, 503, "Service Unavailable"),
        ("micro", 418, "of.its.own", 418, "I'm a teapot"),
    ] {
        let message = json!({"how": how, "code": code, "detail": "no such thing"}).to_string();
        let told = go.calls("Greeter.Fail", &[&message], &[]).await;
        let expected = json!({"id": id, "code": number, "detail": "no such thing", "status": status});
        assert_eq!(told[0]["error"], expected, "{how} {code}");
    }
    let told = go.calls("Greeter.Nope", &[], &[]).await;
    assert_eq!(told[0]["error"]["detail"], "unknown service Greeter.Nope");
    running.stop().await.unwrap();
}

async fn a_go_client_is_told_of_its_deadline_by_a_rust_service_that_it_found(registry: &Arc<dyn Registry>, url: &str) {
    let (running, name) = serve(registry, GoMicroConfig::default()).await;
    let go = Go { url, service: &name, protocol: "grpc" };
    for limit in ["--timeout", "--request-timeout"] {
        // Consul and etcd are asked within the same limit.
        let told = go.calls("Greeter.Wait", &[r#"{"wait_ms":60000}"#], &[limit, "10s"]).await;
        assert_eq!(told[0]["error"]["code"], 408, "{limit}: {told:?}");
        assert!(told[0]["after_ms"].as_u64().unwrap() < 40_000, "{told:?}");
    }
    running.stop().await.unwrap();
}

async fn metadata_and_deadline_of_a_go_client_reach_a_rust_service_that_it_found(
    registry: &Arc<dyn Registry>,
    url: &str,
) {
    let (running, name) = serve(registry, GoMicroConfig::default()).await;
    let go = Go { url, service: &name, protocol: "grpc" };
    let more = ["--metadata", "X-Peer_Trace=abc", "--metadata", "Zone=b", "--timeout", "20s"];
    let reply = go.calls("Greeter.Inspect", &["{}"], &more).await.remove(0)["reply"].take();
    assert_eq!((&reply["metadata"]["x-peer_trace"], &reply["metadata"]["zone"]), (&json!("abc"), &json!("b")));
    let left: u64 = reply["timeoutMs"].as_str().unwrap().parse().unwrap();
    assert!((1..=20_000).contains(&left), "{reply}");
    running.stop().await.unwrap();
}

async fn a_go_client_uses_all_kinds_of_streams_of_a_rust_service_that_it_found(
    registry: &Arc<dyn Registry>,
    url: &str,
) {
    let (running, name) = serve(registry, GoMicroConfig::default()).await;
    let go = Go { url, service: &name, protocol: "grpc" };
    let told = go.calls("Greeter.Count", &[r#"{"count":3}"#], &["--kind", "server"]).await;
    assert_eq!(told, [json!({"reply": {}}), json!({"reply": {"value": 1}}), json!({"reply": {"value": 2}})]);
    let numbers = [r#"{"value":3}"#, r#"{"value":4}"#];
    assert_eq!(go.calls("Greeter.Sum", &numbers, &["--kind", "client"]).await, [json!({"reply": {"value": 7}})]);
    // It sends the second name when it has the first answer.
    let names = [r#"{"name":"a"}"#, r#"{"name":"b"}"#];
    let told = go.calls("Greeter.Chat", &names, &["--kind", "bidi"]).await;
    assert_eq!(told, ["a", "b"].map(|name| json!({"reply": {"greeting": format!("Hello {name}")}})));
    running.stop().await.unwrap();
}

async fn a_go_client_is_answered_in_json_by_a_rust_service_that_it_found(registry: &Arc<dyn Registry>, url: &str) {
    let (running, name) = serve(registry, GoMicroConfig::default()).await;
    let go = Go { url, service: &name, protocol: "grpc" };
    let everything = r#"{"a_uint64":"18446744073709551615","some_bytes":"AP8+","a_colour":"COLOUR_BLUE"}"#;
    for content_type in ["application/json", "application/grpc+json", "application/grpc+proto"] {
        let told = go.calls("Greeter.Echo", &[everything], &["--content-type", content_type]).await;
        let expected = json!({"aUint64": "18446744073709551615", "someBytes": "AP8+", "aColour": "COLOUR_BLUE"});
        assert_eq!(told[0]["reply"], expected, "{content_type}");
    }
    running.stop().await.unwrap();
}

/// go-micro's client, which knows the name of a service and the registry.
struct Go<'a> {
    url: &'a str,
    service: &'a str,
    protocol: &'a str,
}

impl Go<'_> {
    /// What it tells of a call, a line of JSON each.
    async fn calls(&self, endpoint: &str, messages: &[&str], more: &[&str]) -> Vec<Value> {
        let mut arguments = vec!["call", "--registry", self.url, "--service", self.service];
        arguments.extend(["--protocol", self.protocol, "--endpoint", endpoint]);
        arguments.extend(messages.iter().flat_map(|message| ["--message", message]));
        arguments.extend(more);
        let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        blocking(move || {
            let program = dev_servers::go_peer().expect("the Go peer is built");
            let output = std::process::Command::new(program).args(&arguments).output().expect("it runs");
            let told = String::from_utf8(output.stdout).expect("UTF-8");
            let lines: Vec<_> = told.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            assert!(!lines.is_empty(), "{arguments:?}: {told}{}", String::from_utf8_lossy(&output.stderr));
            lines
        })
        .await
    }
}
