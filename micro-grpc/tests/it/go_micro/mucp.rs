//! A Rust server takes calls in mucp, go-micro's own RPC: of Go's client, and of whoever says anything.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use micro_core::app::Component as _;
use micro_grpc::{GoMicroConfig, GrpcServerBuilder, GrpcServerConfig, StatusCompat};
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt as _, net::TcpStream, sync::Semaphore};
use tonic::body::Body;
use tower::util::MapRequestLayer;

use super::{
    greeter::{Greeter, SERVICE, builder, builder_of, started, started_server},
    http1::{self, exchange, exchange_on, post},
    peer::{self, peer},
    protos::DESCRIPTORS,
    raw::unary,
};
use crate::fixture::{PATIENCE, Running, eventually};

const JSON: (&str, &str) = ("Content-Type", "application/json");
const HELLO: (&str, &str) = ("Micro-Endpoint", "Greeter.Hello");

fn mucp_builder(config: GrpcServerConfig) -> GrpcServerBuilder {
    let go_micro = GoMicroConfig::default().with_mucp("127.0.0.1:0");
    builder().config(config).descriptors(DESCRIPTORS.clone()).go_micro(go_micro)
}

/// A server that takes calls in mucp, and where it does.
pub(super) async fn serve() -> (Running, String) {
    let (running, _) = started(mucp_builder(GrpcServerConfig::default())).await;
    let address = running.server.mucp_local_addr().unwrap().to_string();
    (running, address)
}

/// What Go's client in mucp says of one call.
async fn call(address: &str, arguments: &[&str]) -> Vec<Value> {
    peer::call(address, &[&["--protocol", "mucp"], arguments].concat()).await
}

#[tokio::test]
async fn gos_client_calls_in_mucp_in_json_and_protobuf() {
    if peer().await.is_none() {
        return;
    }
    let (_running, address) = serve().await;
    for content_type in ["application/json", "application/protobuf"] {
        let arguments = ["--content-type", content_type, "--message", r#"{"name":"micro"}"#, "--count", "3"];
        let said = call(&address, &arguments).await;
        assert_eq!(said, vec![json!({"reply": {"greeting": "Hello micro"}}); 3], "{content_type}");
        let wait = ["--content-type", content_type, "--endpoint", "Greeter.Wait", "--message", r#"{"wait_ms":1}"#];
        assert_eq!(call(&address, &wait).await, [json!({"reply": {"greeting": "waited"}})], "{content_type}");
    }
    let everything = json!({"anInt64": "-9223372036854775808", "aUint64": "18446744073709551615", "someBytes": "AP8=",
        "aColour": "COLOUR_BLUE", "nested": {"aString": "é\n"}, "someNumbers": ["1", "2"],
        "numbersByName": {"one": "1"}, "maybe": 0});
    let text = everything.to_string();
    let echo = ["--endpoint", "Greeter.Echo", "--message", &text];
    let said = call(&address, &[&echo[..], &["--content-type", "application/protobuf"]].concat()).await;
    assert_eq!(said, [json!({ "reply": everything })]);
    // Go writes a oneof as no JSON of protobuf has it, and its own server reads it as little.
    let said = call(&address, &echo).await;
    assert!(said[0]["error"]["detail"].as_str().unwrap().contains("unrecognized field name 'Choice'"), "{said:?}");
}

#[tokio::test]
async fn gos_client_reads_failures_in_mucp() {
    if peer().await.is_none() {
        return;
    }
    let (_running, address) = serve().await;
    for (how, code, number, text) in [
        ("micro", 418, 418, "I'm a teapot"),
        ("status", 5, 404, "Not Found"),
        ("status", 14, 503, "Service Unavailable"),
    ] {
        let message = json!({"how": how, "code": code, "detail": "no such thing: é"}).to_string();
        let said = call(&address, &["--endpoint", "Greeter.Fail", "--message", &message]).await;
        let expected = json!({"id": SERVICE, "code": number, "detail": "no such thing: é", "status": text});
        assert_eq!(said[0]["error"], expected, "{how} {code}");
    }
    let message = json!({"how": "panic", "detail": "no such thing"}).to_string();
    let said = call(&address, &["--endpoint", "Greeter.Fail", "--message", &message]).await;
    assert_eq!((&said[0]["error"]["id"], &said[0]["error"]["code"]), (&json!("go.micro.server"), &json!(500)));
    let said = call(&address, &["--endpoint", "Greeter.Nope"]).await;
    assert_eq!(said[0]["error"]["detail"], "unknown service Greeter.Nope");
    let said = call(&address, &["--endpoint", "Greeter.Count", "--kind", "server", "--message", "{}"]).await;
    assert!(said[0].to_string().contains("mucp has no streams here"), "{said:?}");
}

#[tokio::test]
async fn metadata_and_time_limit_of_gos_client_arrive_in_mucp() {
    if peer().await.is_none() {
        return;
    }
    let (_running, address) = serve().await;
    let arguments = ["--endpoint", "Greeter.Inspect", "--metadata", "X-Peer_Trace=abc", "--connection-timeout", "30s"];
    let reply = call(&address, &arguments).await.remove(0)["reply"].clone();
    // The trace is this side's, where somebody listens.
    let names = reply["metadata"].as_object().unwrap().keys().filter(|name| *name != "traceparent");
    let names: Vec<_> = names.map(String::as_str).collect();
    assert_eq!((names, &reply["metadata"]["x-peer_trace"]), (vec!["x-peer_trace"], &json!("abc")));
    let left: i64 = reply["timeoutMs"].as_str().unwrap().parse().unwrap();
    // More than Go's default, which is 5 s.
    assert!((5_001..=30_000).contains(&left), "{reply}");
    let wait = r#"{"wait_ms":120000}"#;
    let said = call(&address, &["--endpoint", "Greeter.Wait", "--message", wait, "--timeout", "200ms"]).await;
    assert_eq!(said[0]["error"]["code"], 408);
    assert!(said[0]["after_ms"].as_u64().unwrap() < 30_000);
}

#[tokio::test]
async fn a_call_in_mucp_ends_at_its_time_limit() {
    let (_running, address) = serve().await;
    let headers = [JSON, ("Micro-Endpoint", "Greeter.Wait"), ("Timeout", "50000000")];
    let began = Instant::now();
    let answer = exchange(&address, &post(&headers, br#"{"wait_ms":120000}"#)).await;
    assert_eq!(answer.error()["code"], 408, "{answer:?}");
    assert!(began.elapsed() < Duration::from_secs(30));
    // One whose message never comes ends there too.
    let whole = post(&headers, b"{}");
    let answer = exchange(&address, &whole[..whole.len() - 1]).await;
    assert_eq!(answer.error()["code"], 408, "{answer:?}");
}

#[tokio::test]
async fn the_registry_is_told_of_mucp_in_place_of_grpc_which_is_served_as_well() {
    let (running, address) = serve().await;
    let instances = running.server.instances();
    assert_eq!(instances.len(), 1);
    assert_eq!(instances[0].address, address);
    for (name, value) in [("protocol", "mucp"), ("server", "mucp"), ("transport", "http")] {
        assert_eq!(instances[0].metadata[name], value);
    }
    assert!(instances[0].endpoints.iter().any(|endpoint| endpoint.name == "Greeter.Hello"));
    let grpc = running.server.local_addr().unwrap().to_string();
    assert_eq!(unary(&grpc, "/Greeter/Hello", &[], b"\x0a\x05micro").await.message(), b"\x0a\x0bHello micro");
}

#[tokio::test]
async fn layers_see_a_call_in_mucp_as_one_of_grpc_and_what_is_refused_too() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let note = MapRequestLayer::new(move |request: http::Request<Body>| {
        noted.lock().unwrap().push(request.uri().path().to_owned());
        request
    });
    let server = mucp_builder(GrpcServerConfig::default()).layer(note).build().unwrap();
    let (running, _) = started_server(server).await;
    let address = running.server.mucp_local_addr().unwrap().to_string();
    for (endpoint, path) in [
        ("Greeter.Hello", "/peer.Greeter/Hello"),
        ("Greeter.Nope", "/Greeter/Nope"),
        ("a/b", "/"),
        ("Greeter.Count", "/"),
    ] {
        exchange(&address, &post(&[JSON, ("Micro-Endpoint", endpoint)], b"{}")).await;
        assert_eq!(seen.lock().unwrap().pop().unwrap(), path, "{endpoint}");
    }
}

#[tokio::test]
async fn a_message_that_makes_no_sense_is_answered_with_what_was_expected() {
    let (_running, address) = serve().await;
    for (headers, body, code, text) in [
        (&[JSON][..], "{}", 400, "Micro-Endpoint is missing"),
        (&[JSON, ("Micro-Endpoint", "Greeter")], "{}", 400, "expected Handler.Method"),
        (&[JSON, ("Micro-Endpoint", "Nope.Hello")], "{}", 501, "unknown service Nope"),
        (&[JSON, ("Micro-Endpoint", "Greeter.Count")], "{}", 501, "no streams"),
        (&[JSON, HELLO, ("Micro-Stream", "1")], "{}", 501, "no streams"),
        (&[JSON, ("Micro-Topic", "orders")], "{}", 501, "through a broker"),
        (&[HELLO], "{}", 501, "expected application/json"),
        (&[HELLO, ("Content-Type", "text/html")], "{}", 501, "expected application/json"),
        (&[HELLO, ("Content-Type", "application/json-rpc")], "{}", 501, "protocol=mucp"),
        (&[HELLO, ("Content-Type", "application/proto-rpc")], "", 501, "protocol=mucp"),
        (&[HELLO, JSON], "{", 500, "failed to unmarshal"),
        (&[HELLO, JSON], r#"{"nope":1}"#, 500, "nope"),
        (&[HELLO, ("Content-Type", "application/protobuf")], "\u{7f}", 500, "decode"),
    ] {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let answer = exchange_on(&mut stream, &post(headers, body.as_bytes())).await;
        let shown = format!("{headers:?} {body}: {answer:?}");
        assert!(answer.first_line.starts_with("HTTP/1.1 200") && answer.body.is_empty(), "{shown}");
        assert_eq!(answer.error()["code"], code, "{shown}");
        assert!(answer.error()["detail"].as_str().unwrap().contains(text), "{shown}");
        assert_eq!(answer.header("micro-error"), answer.header("x-micro-error"));
        // The connection lives on.
        let answer = exchange_on(&mut stream, &post(&[HELLO, JSON, ("Timeout", "soon")], b"")).await;
        assert_eq!(answer.body, b"{\"greeting\":\"Hello \"}\n", "{shown}");
    }
}

#[tokio::test]
async fn what_is_no_message_of_mucp_is_refused_by_http() {
    let (_running, address) = serve().await;
    let chunked = |body: &str| {
        format!(
            "POST / HTTP/1.1\r\nHost: a\r\nMicro-Endpoint: Greeter.Hello\r\nContent-Type: application/json\r\n\
             Transfer-Encoding: chunked\r\n\r\n{body}"
        )
    };
    for (bytes, expected) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "HTTP/1.1 405"),
        ("POST /Greeter/Hello HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".to_owned(), "HTTP/1.1 404"),
        ("what is this\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        (format!("POST / HTTP/1.1\r\nHost: a\r\nX-A: {}\r\n\r\n", "x".repeat(64 << 10)), "HTTP/1.1 431"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n".to_owned(), "HTTP/1.1 400"),
    ] {
        let answer = exchange(&address, bytes.as_bytes()).await;
        assert!(answer.first_line.starts_with(expected), "{answer:?}");
    }
    // gRPC's client is told by the connection's end.
    let mut stream = TcpStream::connect(&address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    assert_eq!(http1::read(&mut stream).await, None);
    let answer = exchange(&address, chunked("2\r\n{\"\r\ne\r\nname\":\"micro\"}\r\n0\r\n\r\n").as_bytes()).await;
    assert_eq!(answer.body, b"{\"greeting\":\"Hello micro\"}\n", "{answer:?}");
    let answer = exchange(&address, chunked("nonsense\r\n").as_bytes()).await;
    assert!(answer.error()["detail"].as_str().unwrap().contains("the body of the message"), "{answer:?}");
}

#[tokio::test]
async fn a_message_that_is_too_long_is_refused_however_its_length_is_told() {
    let mut config = GrpcServerConfig::default();
    config.message_bytes_max = 100;
    let (running, _) = started(mucp_builder(config)).await;
    let address = running.server.mucp_local_addr().unwrap().to_string();
    let long = vec![b' '; 101];
    let head = "POST / HTTP/1.1\r\nHost: a\r\nMicro-Endpoint: Greeter.Hello\r\nContent-Type: application/json\r\n";
    let chunked = [head.as_bytes(), b"Transfer-Encoding: chunked\r\n\r\n65\r\n", &long, b"\r\n0\r\n\r\n"].concat();
    for bytes in [post(&[JSON, HELLO], &long), chunked] {
        let answer = exchange(&address, &bytes).await;
        assert!(answer.error()["detail"].as_str().unwrap().contains("the limit is 100"), "{answer:?}");
    }
    let just = [b"{}", &long[3..]].concat();
    let answer = exchange(&address, &post(&[JSON, HELLO], &just)).await;
    assert_eq!(answer.body, b"{\"greeting\":\"Hello \"}\n");
    // An answer has the same limit.
    let name = format!(r#"{{"name":"{}"}}"#, "x".repeat(88));
    let answer = exchange(&address, &post(&[JSON, HELLO], name.as_bytes())).await;
    assert_eq!(answer.body.len(), 0, "{answer:?}");
    assert!(answer.error()["detail"].as_str().unwrap().contains("the limit is 100"), "{answer:?}");
}

#[tokio::test]
async fn a_connection_in_mucp_may_be_idle_after_a_call_and_not_before_the_first() {
    let mut config = GrpcServerConfig::default();
    config.handshake_timeout = Duration::from_secs(2);
    let (running, _) = started(mucp_builder(config)).await;
    let address = running.server.mucp_local_addr().unwrap().to_string();
    let mut silent = TcpStream::connect(&address).await.unwrap();
    let mut idle = TcpStream::connect(&address).await.unwrap();
    exchange_on(&mut idle, &post(&[JSON, HELLO], b"{}")).await;
    // It ends when its time is over, and the other, which is as old, does not.
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
    let answer = exchange_on(&mut idle, &post(&[JSON, HELLO], b"{}")).await;
    assert_eq!(answer.body, b"{\"greeting\":\"Hello \"}\n");
}

#[tokio::test]
async fn as_v4_a_failure_in_mucp_is_the_text_of_its_status() {
    let config = GoMicroConfig::default().with_status_compat(StatusCompat::V4).with_mucp("127.0.0.1:0");
    let (running, _) = started(builder().descriptors(DESCRIPTORS.clone()).go_micro(config)).await;
    let address = running.server.mucp_local_addr().unwrap().to_string();
    let headers = [JSON, ("Micro-Endpoint", "Greeter.Fail")];
    let answer = exchange(&address, &post(&headers, br#"{"how":"status","code":5,"detail":"a\nb"}"#)).await;
    assert_eq!(answer.header("micro-error"), "rpc error: code = NotFound desc = a b");
}

#[tokio::test]
async fn a_stop_waits_for_calls_in_mucp_and_not_for_silent_connections() {
    let gate = Arc::new(Semaphore::new(0));
    let greeter = Greeter { gate: Some(gate.clone()) };
    let go_micro = GoMicroConfig::default().with_mucp("127.0.0.1:0");
    let (running, _) = started(builder_of(greeter).descriptors(DESCRIPTORS.clone()).go_micro(go_micro)).await;
    let address = running.server.mucp_local_addr().unwrap().to_string();
    let mut silent = TcpStream::connect(&address).await.unwrap();
    let mut idle = TcpStream::connect(&address).await.unwrap();
    exchange_on(&mut idle, &post(&[JSON, HELLO], b"{}")).await;
    let calling = {
        let address = address.clone();
        let headers = [JSON, ("Micro-Endpoint", "Greeter.Wait")];
        tokio::spawn(async move { exchange(&address, &post(&headers, br#"{"wait_ms":1}"#)).await })
    };
    eventually(|| async { running.server.in_flight_count() == 1 }).await;
    let began = Instant::now();
    let (drained, ()) = tokio::join!(running.server.drain(PATIENCE), async { gate.close() });
    drained.unwrap();
    assert!(began.elapsed() < PATIENCE / 2);
    assert_eq!(calling.await.unwrap().body, b"{\"greeting\":\"waited\"}\n");
    for stream in [&mut silent, &mut idle] {
        assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
    }
    assert!(TcpStream::connect(&address).await.is_err());
    running.server.close().await.unwrap();
}

#[tokio::test]
async fn a_stop_cuts_calls_in_mucp_at_the_deadline_and_says_so() {
    let (running, address) = serve().await;
    let headers = [JSON, ("Micro-Endpoint", "Greeter.Wait")];
    let mut stream = TcpStream::connect(&address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, &post(&headers, br#"{"wait_ms":60000}"#)).await.unwrap();
    eventually(|| async { running.server.in_flight_count() == 1 }).await;
    let error = running.server.drain(Duration::from_millis(100)).await.unwrap_err();
    assert!(error.report().contains("calls=1"), "{error:?}");
    assert_eq!(http1::read(&mut stream).await, None);
}
