//! Streams as go-micro's clients open them: as of both sides, and never ended by the client.

use micro_core::registry::MemoryRegistry;
use micro_grpc::{StatusCompat, from_status};
use serde_json::json;
use tonic::Code;

use super::{
    greeter::{builder, serve, started},
    peer::{GoServer, call, client_of, peer},
    protos::{
        DESCRIPTORS,
        peer::{CountRequest, HelloRequest, Number, greeter_client::GreeterClient},
    },
    raw::{exchange, frame},
};
use crate::fixture::run;

const HEADERS: [(&str, &str); 2] = [("te", "trailers"), ("content-type", "application/grpc")];
const COUNT: &str = "/peer.Greeter/Count";

/// The frames of the numbers from 0 to below `count`.
fn numbers(count: u8) -> Vec<u8> {
    (0..count).flat_map(|value| if value == 0 { frame(&[]) } else { frame(&[8, value]) }).collect()
}

#[tokio::test]
async fn a_method_that_answers_with_a_stream_begins_after_the_first_message() {
    // Not a matter of go-micro alone: every server that knows its methods does.
    let (_running, address) = started(builder().descriptors(DESCRIPTORS.clone())).await;
    for (message, count) in [(&[8, 3][..], 3), (&[], 0)] {
        let whole = frame(message);
        let in_bytes: Vec<_> = whole.iter().map(|byte| vec![*byte]).collect();
        for parts in [vec![whole], in_bytes] {
            let answer = exchange(&address, COUNT, &HEADERS, &parts, false).await;
            assert_eq!(answer.status().code(), Code::Ok);
            assert_eq!(answer.data, numbers(count));
        }
    }
}

#[tokio::test]
async fn a_client_that_ends_its_side_is_answered_the_same() {
    let (_running, address) = started(builder().descriptors(DESCRIPTORS.clone())).await;
    let answer = exchange(&address, COUNT, &HEADERS, &[frame(&[8, 2])], true).await;
    assert_eq!((answer.status().code(), answer.data), (Code::Ok, numbers(2)));
    let mut client = GreeterClient::new(client_of(&address).connect().await.unwrap());
    for _ in 0..100 {
        let mut stream = client.count(CountRequest { count: 200 }).await.unwrap().into_inner();
        let mut next = 0;
        while let Some(number) = stream.message().await.unwrap() {
            assert_eq!(number.value, next);
            next += 1;
        }
        assert_eq!(next, 200);
    }
}

#[tokio::test]
async fn what_a_client_says_after_the_first_message_changes_nothing() {
    let (_running, address) = started(builder().descriptors(DESCRIPTORS.clone())).await;
    let together = vec![[frame(&[8, 3]), frame(&[8, 9])].concat()];
    let flood = [vec![frame(&[8, 3])], vec![frame(&[8, 9]); 1_000]].concat();
    for (parts, is_ended) in [(&together, false), (&together, true), (&flood, false), (&flood, true)] {
        let answer = exchange(&address, COUNT, &HEADERS, parts, is_ended).await;
        assert_eq!((answer.status().code(), answer.data), (Code::Ok, numbers(3)));
    }
}

#[tokio::test]
async fn a_failure_after_messages_stands_in_the_trailers_in_each_form() {
    let message = [&[8][..], &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]].concat(); // -2
    let (_plain, plain) = started(builder().descriptors(DESCRIPTORS.clone())).await;
    let (_real, real) = serve(StatusCompat::Real).await;
    let (_v4, v4) = serve(StatusCompat::V4).await;
    for (address, code, begin) in [
        (plain, Code::Aborted, "no more"),
        (real, Code::Aborted, r#"{"id":"go.micro.service.greeter","code":500,"detail":"no more""#),
        (v4, Code::Unknown, "rpc error: code = Aborted desc = no more"),
    ] {
        let answer = exchange(&address, COUNT, &HEADERS, &[frame(&message)], false).await;
        let status = answer.status();
        assert!(answer.trailers.is_some() && answer.data == numbers(1));
        assert_eq!(status.code(), code);
        assert!(status.message().starts_with(begin), "{}", status.message());
        let error = from_status("count", status);
        assert_eq!((error.kind(), error.message()), (micro_core::ErrorKind::Aborted, "no more"));
    }
}

#[tokio::test]
async fn gos_client_uses_all_kinds_of_streams() {
    if peer().await.is_none() {
        return;
    }
    let (_running, address) = serve(StatusCompat::Real).await;
    for content_type in ["application/grpc+proto", "application/json"] {
        let kind = |kind, endpoint| ["--kind", kind, "--endpoint", endpoint, "--content-type", content_type];
        let said =
            call(&address, &[&kind("server", "Greeter.Count")[..], &["--message", r#"{"count":3}"#]].concat()).await;
        assert_eq!(said, [json!({"reply": {}}), json!({"reply": {"value": 1}}), json!({"reply": {"value": 2}})]);
        let numbers = ["--message", r#"{"value":3}"#, "--message", r#"{"value":4}"#];
        let said = call(&address, &[&kind("client", "Greeter.Sum")[..], &numbers].concat()).await;
        assert_eq!(said, [json!({"reply": {"value": 7}})]);
        // It sends the second name when it has the first answer.
        let names = ["--message", r#"{"name":"a"}"#, "--message", r#"{"name":"b"}"#];
        let said = call(&address, &[&kind("bidi", "Greeter.Chat")[..], &names].concat()).await;
        assert_eq!(said, [json!({"reply": {"greeting": "Hello a"}}), json!({"reply": {"greeting": "Hello b"}})]);
    }
}

#[tokio::test]
async fn gos_client_reads_a_streams_failure() {
    if peer().await.is_none() {
        return;
    }
    let (_running, address) = serve(StatusCompat::V4).await;
    let said =
        call(&address, &["--kind", "server", "--endpoint", "Greeter.Count", "--message", r#"{"count":-2}"#]).await;
    assert_eq!(said[0], json!({"reply": {}}));
    let status = json!({"code": 2, "details": [], "message": "rpc error: code = Aborted desc = no more"});
    assert_eq!(said[1]["status"], status);
    let said = call(&address, &["--kind", "server", "--endpoint", "Greeter.Nope"]).await;
    assert_eq!(said[0]["status"], json!({"code": 12, "details": [], "message": "unknown service Greeter.Nope"}));
}

#[tokio::test]
async fn the_rust_client_uses_all_kinds_of_streams_of_gos_server() {
    let Some(server) = GoServer::start().await else { return };
    for client in [server.client(), server.client().go_micro()] {
        let mut client = GreeterClient::new(client.connect().await.unwrap());
        let mut stream = client.count(CountRequest { count: 3 }).await.unwrap().into_inner();
        for value in 0..3 {
            assert_eq!(stream.message().await.unwrap(), Some(Number { value }));
        }
        assert_eq!(stream.message().await.unwrap(), None);
        let numbers = tokio_stream::iter([3, 4].map(|value| Number { value }));
        assert_eq!(client.sum(numbers).await.unwrap().into_inner().value, 7);
        let (sender, names) = tokio::sync::mpsc::channel(1);
        let names = tokio_stream::wrappers::ReceiverStream::new(names);
        let hello = |name: &str| HelloRequest { name: name.to_owned() };
        // Go's server answers nothing, not even a head, before its handler's first message.
        sender.send(hello("a")).await.unwrap();
        let mut answers = client.chat(names).await.unwrap().into_inner();
        assert_eq!(answers.message().await.unwrap().unwrap().greeting, "Hello a");
        sender.send(hello("b")).await.unwrap();
        assert_eq!(answers.message().await.unwrap().unwrap().greeting, "Hello b");
        drop(sender);
        assert_eq!(answers.message().await.unwrap(), None);
    }
}

#[tokio::test]
async fn go_micro_without_descriptors_is_refused_when_the_server_is_built() {
    let error = builder().go_micro(micro_grpc::GoMicroConfig::default()).build().unwrap_err();
    assert!(error.to_string().contains("descriptors") && error.to_string().contains("service=peer.Greeter"), "{error}");
    // Without go-micro they are not needed.
    let _running = run(builder().build().unwrap(), &MemoryRegistry::new()).await;
}
