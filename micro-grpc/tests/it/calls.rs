//! What a caller sees: shared instances, dead ones, deadlines, sizes, panics.

use std::{collections::BTreeMap, time::Duration};

use micro_core::{Metadata, app::Component as _, registry::MemoryRegistry};
use tonic::{Code, Request};

use crate::fixture::{Greeter, builder, client, config, eventually, hello, proto::HelloRequest, run, serve};

#[tokio::test]
async fn a_call_reaches_the_service_that_the_registry_knows() {
    let registry = MemoryRegistry::new();
    let _one = serve("one", &registry).await;
    assert_eq!(hello(&client(&registry).await, "John").await.unwrap(), "one");
}

#[tokio::test]
async fn two_instances_share_the_calls() {
    let registry = MemoryRegistry::new();
    let (_one, _two) = (serve("one", &registry).await, serve("two", &registry).await);
    let client = client(&registry).await;
    let mut counts = BTreeMap::new();
    for _ in 0..100 {
        *counts.entry(hello(&client, "John").await.unwrap()).or_insert(0) += 1;
    }
    assert!(counts["one"] > 20 && counts["two"] > 20, "{counts:?}");
}

#[tokio::test]
async fn a_dead_instance_that_is_still_registered_costs_no_call() {
    let registry = MemoryRegistry::new();
    let (one, _two) = (serve("one", &registry).await, serve("two", &registry).await);
    let client = client(&registry).await;
    hello(&client, "John").await.unwrap();
    one.server.close().await.unwrap();
    for _ in 0..100 {
        assert_eq!(hello(&client, "John").await.unwrap(), "two");
    }
}

#[tokio::test]
async fn a_new_instance_is_found_by_an_old_client() {
    let registry = MemoryRegistry::new();
    let client = client(&registry).await;
    let status = hello(&client, "John").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("service=test.Greeter, registry=answers"), "{}", status.message());

    let _late = serve("late", &registry).await;
    eventually(|| async { hello(&client, "John").await.is_ok() }).await;
}

#[tokio::test]
async fn a_call_that_takes_too_long_ends_at_its_deadline_and_so_does_its_handler() {
    let registry = MemoryRegistry::new();
    let greeter = Greeter::default();
    let _server = run(builder(greeter.clone()).build().unwrap(), &registry).await;
    let mut client = client(&registry).await;
    // The connection is there: all of the time is the handler's.
    hello(&client, "John").await.unwrap();
    let mut request = Request::new(HelloRequest { name: "sleep".into() });
    request.set_timeout(Duration::from_secs(2));
    let status = client.hello(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    eventually(|| async { *greeter.dropped.lock().unwrap() == 2 }).await;
}

#[tokio::test]
async fn a_call_made_for_another_has_less_time_than_that_one() {
    let registry = MemoryRegistry::new();
    let _server = serve("one", &registry).await;
    let mut metadata = Metadata::new();
    metadata.limit_deadline(std::time::Instant::now() + Duration::from_secs(60));
    let request = micro_grpc::request(HelloRequest { name: "deadline".into() }, &metadata);
    let left = client(&registry).await.hello(request).await.unwrap().into_inner().message;
    let left = Duration::from_micros(left.parse().unwrap());
    assert!(left <= Duration::from_millis(59_990), "{left:?}");
}

#[tokio::test]
async fn a_message_that_is_too_long_is_out_of_range_both_ways_and_the_connection_lives() {
    let registry = MemoryRegistry::new();
    let _server = serve("one", &registry).await;
    let client = client(&registry).await;
    let answer = hello(&client, "big").await.unwrap_err();
    assert_eq!(answer.code(), Code::OutOfRange, "{answer:?}");
    let question = hello(&client, &"x".repeat(5 << 20)).await.unwrap_err();
    assert_eq!(question.code(), Code::OutOfRange, "{question:?}");
    assert_eq!(hello(&client, "John").await.unwrap(), "one");
}

#[tokio::test]
async fn a_handler_that_panics_answers_internal_and_the_server_lives() {
    let registry = MemoryRegistry::new();
    let _server = serve("one", &registry).await;
    let client = client(&registry).await;
    assert_eq!(hello(&client, "panic").await.unwrap_err().code(), Code::Internal);
    assert_eq!(hello(&client, "John").await.unwrap(), "one");
}

#[tokio::test]
async fn more_calls_than_the_limit_are_refused_at_once() {
    let registry = MemoryRegistry::new();
    let greeter = Greeter::default();
    let mut config = config();
    config.in_flight_count_max = 1;
    let server = run(builder(greeter.clone()).config(config).build().unwrap(), &registry).await;
    let client = client(&registry).await;
    let held = tokio::spawn({
        let client = client.clone();
        async move { hello(&client, "hold").await }
    });
    eventually(|| async { server.server.in_flight_count() == 1 }).await;
    assert_eq!(hello(&client, "John").await.unwrap_err().code(), Code::ResourceExhausted);
    greeter.release.notify_one();
    assert_eq!(held.await.unwrap().unwrap(), "released");
}

#[tokio::test]
async fn a_connection_that_breaks_in_mid_call_is_unavailable_and_the_call_is_not_repeated() {
    let registry = MemoryRegistry::new();
    let greeter = Greeter::default();
    let server = run(builder(greeter.clone()).build().unwrap(), &registry).await;
    let client = client(&registry).await;
    let held = tokio::spawn(async move { hello(&client, "hold").await });
    eventually(|| async { server.server.in_flight_count() == 1 }).await;
    // A second instance is there, and must not see the call again.
    let other = Greeter::default();
    let _other = run(builder(other.clone()).build().unwrap(), &registry).await;
    server.server.close().await.unwrap();
    assert_eq!(held.await.unwrap().unwrap_err().code(), Code::Unavailable);
    assert_eq!(*other.dropped.lock().unwrap(), 0);
}
