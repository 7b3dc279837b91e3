//! The promises of the deadline layers, on held time.

use std::{
    convert::Infallible,
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Request, Response};
use micro_core::{ErrorKind, Metadata, Result, consume::DeliveryBatch};
use micro_middleware::{ClientDeadlineLayer, DeadlineConfig, DeadlineLayer, ServerDeadlineLayer};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::mock::{Count, CountsDrop, Script, Step, answer, batch, message, read, request, status};

const EXCEEDED: Option<&str> = Some("4");

fn with_timeout(timeout: &str) -> Request<Script> {
    let mut request = request();
    request.headers_mut().insert("grpc-timeout", timeout.parse().unwrap());
    request
}

fn with_remaining(remaining: Duration) -> Request<Script> {
    let mut metadata = Metadata::new();
    metadata.limit_deadline((Instant::now() + remaining).into_std());
    let mut request = request();
    request.extensions_mut().insert(metadata);
    request
}

/// A service that never answers and counts the drops of its futures.
fn hanging(
    drops: &Count,
) -> impl Service<Request<Script>, Response = Response<Script>, Error = Infallible, Future: Send> + Clone + use<> {
    let drops = drops.clone();
    service_fn(move |_| {
        let guard = CountsDrop(drops.clone());
        async move {
            pending::<()>().await;
            drop(guard);
            Ok(answer(0))
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_at_its_callers_deadline() {
    let drops = Count::default();
    let mut service = ServerDeadlineLayer::default().layer(hanging(&drops));
    let begin = Instant::now();
    let mut call = Box::pin(service.ready().await.unwrap().call(with_timeout("70m")));
    let response = (&mut call).await.unwrap();
    assert_eq!(begin.elapsed(), Duration::from_millis(70));
    assert_eq!(status(&response), EXCEEDED);
    assert_eq!(drops.value(), 1, "the handler's future is dropped although the call's is alive");
    drop(call);

    let response = service.oneshot(with_timeout("0n")).await.unwrap();
    assert_eq!((status(&response), drops.value()), (EXCEEDED, 1), "a call that is late is not begun");
}

#[tokio::test(start_paused = true)]
async fn a_call_without_timeout_ends_at_the_default_and_none_lives_longer_than_the_maximum() {
    let limits = DeadlineConfig::default().with_default(Duration::from_secs(3)).with_max(Duration::from_secs(7));
    let service = ServerDeadlineLayer::new(limits).layer(hanging(&Count::default()));
    for (request, seconds) in [(request(), 3), (with_timeout("99999999H"), 7), (with_timeout("5S"), 5)] {
        let begin = Instant::now();
        assert_eq!(status(&service.clone().oneshot(request).await.unwrap()), EXCEEDED);
        assert_eq!(begin.elapsed(), Duration::from_secs(seconds));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_at_its_callers_deadline_with_trailers() {
    let service = ServerDeadlineLayer::default().layer(service_fn(|_: Request<Script>| async {
        Ok::<_, Infallible>(Response::new(Script::of([Step::Data(message(b"1")), Step::Wait])))
    }));
    let begin = Instant::now();
    let response = service.clone().oneshot(with_timeout("60S")).await.unwrap();
    let (data, status) = read(response.into_body()).await;
    assert_eq!(begin.elapsed(), Duration::from_secs(60), "our own maximum of 30 s is for the head only");
    assert_eq!((data, status.as_deref()), (message(b"1").to_vec(), EXCEEDED));

    let response = service.oneshot(request()).await.unwrap();
    let endless = tokio::time::timeout(Duration::from_secs(3600), read(response.into_body()));
    assert!(endless.await.is_err(), "a stream whose caller sets no deadline has none");
}

#[tokio::test(start_paused = true)]
async fn the_handler_finds_metadata_and_deadline_in_the_extensions() {
    let seen = Arc::new(Mutex::new(None));
    let handler = {
        let seen = seen.clone();
        service_fn(move |request: Request<Script>| {
            *seen.lock().unwrap() = request.extensions().get::<Metadata>().cloned();
            async { Ok::<_, Infallible>(answer(0)) }
        })
    };
    let mut request = with_timeout("900m");
    for (name, value) in [
        ("traceparent", "00-a"),
        ("x-region", "cn-east"),
        ("blob-bin", "AAAA"),
        ("te", "trailers"),
        ("authorization", "Bearer 1"),
        ("cookie", "a=b"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request.headers_mut().append("x-region", "eu-west".parse().unwrap());
    request.extensions_mut().insert({
        let mut metadata = Metadata::new();
        metadata.insert("x-user", "17");
        metadata.limit_deadline((Instant::now() + Duration::from_millis(800)).into_std());
        metadata
    });
    ServerDeadlineLayer::default().layer(handler).oneshot(request).await.unwrap();
    let metadata = seen.lock().unwrap().take().unwrap();
    assert_eq!(
        metadata.iter().collect::<Vec<_>>(),
        [("traceparent", "00-a"), ("x-region", "cn-east, eu-west"), ("x-user", "17")]
    );
    assert_eq!(metadata.deadline(), Some((Instant::now() + Duration::from_millis(800)).into_std()));
}

#[tokio::test(start_paused = true)]
async fn a_malformed_grpc_timeout_is_refused() {
    let drops = Count::default();
    for malformed in ["", "S", "5", "5s", "-5S", "123456789S", "five S"] {
        let served = ServerDeadlineLayer::default().layer(hanging(&drops)).oneshot(with_timeout(malformed)).await;
        let made = ClientDeadlineLayer::default().layer(hanging(&drops)).oneshot(with_timeout(malformed)).await;
        for response in [served.unwrap(), made.unwrap()] {
            assert_eq!(status(&response), Some("13"), "{malformed}");
            let message = response.headers()["grpc-message"].to_str().unwrap();
            assert!(message.contains("malformed grpc-timeout, expected 1 to 8 digits"), "{message}");
        }
    }
    assert_eq!(drops.value(), 0, "no handler was called");
}

/// The `grpc-timeout` that the callee sees of `request`, with a limit of 2 s.
async fn sent(request: Request<Script>) -> String {
    let seen = Arc::new(Mutex::new(String::new()));
    let callee = {
        let seen = seen.clone();
        service_fn(move |request: Request<Script>| {
            *seen.lock().unwrap() = request.headers()["grpc-timeout"].to_str().unwrap().to_owned();
            async { Ok::<_, Infallible>(answer(0)) }
        })
    };
    ClientDeadlineLayer::default().layer(callee).oneshot(request).await.unwrap();
    Arc::into_inner(seen).unwrap().into_inner().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_call_made_always_carries_a_timeout() {
    assert_eq!(sent(request()).await, "2000000u");
    assert_eq!(sent(with_timeout("30S")).await, "30000000u", "a call's own timeout replaces the limit");
    assert_eq!(sent(with_remaining(Duration::from_secs(60))).await, "2000000u");
    assert_eq!(sent(with_remaining(Duration::from_millis(510))).await, "500000u");
    assert_eq!(sent(with_remaining(Duration::from_millis(6))).await, "3000000n");
    let mut both = with_remaining(Duration::from_millis(110));
    both.headers_mut().insert("grpc-timeout", "30S".parse().unwrap());
    assert_eq!(sent(both).await, "100000u", "nothing extends what remains");
}

#[tokio::test(start_paused = true)]
async fn too_little_time_left_refuses_to_send() {
    let drops = Count::default();
    for remaining in [Duration::ZERO, Duration::from_micros(4_999)] {
        let service = ClientDeadlineLayer::default().layer(hanging(&drops));
        let response = service.oneshot(with_remaining(remaining)).await.unwrap();
        assert_eq!(status(&response), EXCEEDED);
        assert_eq!(response.headers()["grpc-message"], "too little time is left to make the call");
    }
    assert_eq!(drops.value(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_callee_that_does_not_answer_is_given_up_at_the_deadline() {
    let drops = Count::default();
    let begin = Instant::now();
    let response = ClientDeadlineLayer::default().layer(hanging(&drops)).oneshot(request()).await.unwrap();
    assert_eq!((status(&response), begin.elapsed(), drops.value()), (EXCEEDED, Duration::from_secs(2), 1));

    let stalls =
        service_fn(|_: Request<Script>| async { Ok::<_, Infallible>(Response::new(Script::of([Step::Wait]))) });
    let begin = Instant::now();
    let response = ClientDeadlineLayer::default().layer(stalls).oneshot(request()).await.unwrap();
    assert_eq!(read(response.into_body()).await.1.as_deref(), EXCEEDED);
    assert_eq!(begin.elapsed(), Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn the_earlier_of_limit_and_deadline_ends_a_request() {
    let service = DeadlineLayer::new(Duration::from_secs(1));
    let begin = Instant::now();
    let error =
        service.layer(service_fn(|_: DeliveryBatch| pending::<Result<()>>())).oneshot(batch()).await.unwrap_err();
    assert_eq!((error.kind(), begin.elapsed()), (ErrorKind::DeadlineExceeded, Duration::from_secs(1)));

    let begin = Instant::now();
    let call = service.layer(hanging(&Count::default())).oneshot(with_remaining(Duration::from_millis(300)));
    assert_eq!(status(&call.await.unwrap()), EXCEEDED);
    assert_eq!(begin.elapsed(), Duration::from_millis(300));
}
