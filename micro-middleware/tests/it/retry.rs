//! The promises of the retry layer, on held time.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Request, Response, StatusCode};
use micro_core::{Error, ErrorKind, Metadata, Result, consume::DeliveryBatch};
use micro_middleware::{ClientDeadlineLayer, RetryConfig, RetryLayer, retry::RetryBody};
use tokio::time::Instant;
use tower::{Layer, ServiceBuilder, ServiceExt, retry::budget::TpsBudget, service_fn};

use crate::mock::{Count, PATH, Script, Step, answer, batch, message, read, refusal, request, status};

type Attempt = Request<RetryBody<Script>>;

/// How often a batch is tried whose handler always fails with `kind`.
async fn batch_attempts(layer: &RetryLayer, kind: ErrorKind) -> usize {
    let count = Count::default();
    let handler = {
        let count = count.clone();
        service_fn(move |_: DeliveryBatch| {
            count.next();
            async move { Err::<(), _>(Error::new(kind, "inbox", "it fails")) }
        })
    };
    assert_eq!(layer.layer(handler).oneshot(batch()).await.unwrap_err().kind(), kind);
    count.value()
}

/// How often a call is tried whose callee always refuses with `code`.
async fn call_attempts(layer: &RetryLayer, request: Request<Script>, code: u32) -> usize {
    let (count, response) = attempts_at(layer, request, move || refusal(code)).await;
    assert_eq!(status(&response), Some(&*code.to_string()));
    count
}

/// How often a call is tried that always has this answer, and the answer.
async fn attempts_at(
    layer: &RetryLayer,
    request: Request<Script>,
    answer: impl Fn() -> Response<Script> + Clone + Send + 'static,
) -> (usize, Response<Script>) {
    let count = Count::default();
    let callee = {
        let count = count.clone();
        service_fn(move |_: Attempt| {
            count.next();
            let answer = answer();
            async move { Ok::<_, Infallible>(answer) }
        })
    };
    let response = layer.layer(callee).oneshot(request).await.unwrap();
    (count.value(), response)
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_can_pass_is_tried_again_at_most_so_often() {
    let layer = RetryLayer::new(RetryConfig::consume());
    assert_eq!(batch_attempts(&layer, ErrorKind::Aborted).await, 1 + 3);
    assert_eq!(call_attempts(&RetryLayer::default(), request(), 14).await, 1 + 2);

    let failures = Count::default();
    let recovers = service_fn(move |batch: DeliveryBatch| {
        let is_first = failures.next() == 0;
        assert_eq!(batch.deliveries[0].offset, 3);
        async move { if is_first { Err(Error::new(ErrorKind::Unavailable, "inbox", "no connection")) } else { Ok(()) } }
    });
    layer.layer(recovers).oneshot(batch()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn retries_wait_longer_each_time_and_never_longer_than_the_maximum() {
    let config = RetryConfig::default()
        .with_retry_count_max(20)
        .with_delays(Duration::from_millis(25), Duration::from_millis(100));
    let begin = Instant::now();
    assert_eq!(batch_attempts(&RetryLayer::new(config), ErrorKind::Aborted).await, 1 + 20);
    // Timers of tokio end at the next whole millisecond.
    let longest = Duration::from_millis(25 + 50 + 18 * 100 + 20);
    assert!(begin.elapsed() > Duration::ZERO && begin.elapsed() <= longest, "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_pass_is_not_tried_again() {
    let layer = RetryLayer::default();
    for kind in ErrorKind::ALL.into_iter().filter(|kind| !kind.is_retryable()) {
        assert_eq!(batch_attempts(&layer, kind).await, 1, "{kind}");
    }
    assert_eq!(call_attempts(&layer, request(), 0).await, 1);
    assert_eq!(call_attempts(&layer, request(), 5).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_is_only_tried_again_on_kinds_that_say_it_was_not_taken_up() {
    let plain = RetryLayer::default();
    let idempotent = RetryLayer::new(RetryConfig::default().with_idempotent([PATH]));
    for (kind, of_plain, of_idempotent) in [
        (ErrorKind::Unavailable, 3, 3),
        (ErrorKind::ResourceExhausted, 3, 3),
        (ErrorKind::Aborted, 1, 3),
        (ErrorKind::DeadlineExceeded, 1, 3),
        (ErrorKind::Internal, 1, 1),
    ] {
        let code = u32::from(kind.code());
        assert_eq!(call_attempts(&plain, request(), code).await, of_plain, "{kind}");
        assert_eq!(call_attempts(&idempotent, request(), code).await, of_idempotent, "{kind}");
    }
}

/// Behind a proxy the call may be going on (504), or have been done without an answer (502).
#[tokio::test(start_paused = true)]
async fn a_proxys_answer_repeats_a_call_only_where_it_was_not_taken_up() {
    let plain = RetryLayer::default();
    let idempotent = RetryLayer::new(RetryConfig::default().with_idempotent([PATH]));
    for (http, of_plain, of_idempotent) in [(429_u16, 3, 3), (502, 1, 3), (503, 3, 3), (504, 1, 3), (404, 1, 1)] {
        for (layer, expected) in [(&plain, of_plain), (&idempotent, of_idempotent)] {
            let answer = move || Response::builder().status(http).body(Script::default()).unwrap();
            let (count, response) = attempts_at(layer, request(), answer).await;
            assert_eq!((count, response.status().as_u16()), (expected, http));
        }
        // A status of gRPC's own counts for more.
        let answer = move || {
            let mut response = refusal(14);
            *response.status_mut() = StatusCode::from_u16(http).unwrap();
            response
        };
        assert_eq!(attempts_at(&plain, request(), answer).await.0, 3, "{http}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_has_begun_is_not_asked_for_again() {
    let count = Count::default();
    let callee = {
        let count = count.clone();
        service_fn(move |_: Attempt| {
            count.next();
            async { Ok::<_, Infallible>(answer(14)) }
        })
    };
    let response = RetryLayer::default().layer(callee).oneshot(request()).await.unwrap();
    assert_eq!(read(response.into_body()).await, (message(b"hi").to_vec(), Some("14".to_owned())));
    assert_eq!(count.value(), 1);
}

#[tokio::test(start_paused = true)]
async fn never_after_the_deadline() {
    let timeouts = Arc::new(Mutex::new(Vec::new()));
    let callee = {
        let timeouts = timeouts.clone();
        service_fn(move |request: Attempt| {
            timeouts.lock().unwrap().push(request.headers()["grpc-timeout"].to_str().unwrap().to_owned());
            async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                Ok::<_, Infallible>(refusal(14))
            }
        })
    };
    let mut metadata = Metadata::new();
    metadata.limit_deadline((Instant::now() + Duration::from_millis(410)).into_std());
    let mut request = request();
    request.extensions_mut().insert(metadata);
    let config = RetryConfig::default().with_retry_count_max(9).with_delays(Duration::ZERO, Duration::ZERO);
    let service =
        ServiceBuilder::new().layer(ClientDeadlineLayer::default()).layer(RetryLayer::new(config)).service(callee);
    let begin = Instant::now();
    let response = service.oneshot(request).await.unwrap();
    assert_eq!((status(&response), begin.elapsed()), (Some("4"), Duration::from_millis(400)));
    let timeouts = timeouts.lock().unwrap();
    assert_eq!(timeouts.len(), 2);
    assert_eq!(timeouts[0], "400000u");
    let second: u64 = timeouts[1].trim_end_matches(['u', 'n']).parse().unwrap();
    assert!(timeouts[1].ends_with('n') && second <= 100_000_000 || second <= 100_000, "{}", timeouts[1]);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_would_end_after_the_deadline_is_not_begun() {
    let slow = RetryConfig::default().with_delays(Duration::from_secs(3600), Duration::from_secs(3600));
    let mut metadata = Metadata::new();
    metadata.limit_deadline(Instant::now().into_std());
    let mut request = request();
    request.extensions_mut().insert(metadata);
    let begin = Instant::now();
    assert_eq!(call_attempts(&RetryLayer::new(slow), request, 14).await, 1);
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_empty_budget_stops_retries() {
    // Nothing in reserve, and half a retry for each request.
    let budget = Arc::new(TpsBudget::new(Duration::from_secs(10), 0, 0.5));
    let layer = RetryLayer::default().with_budget(budget);
    let mut attempts = 0;
    for _ in 0..100 {
        attempts += call_attempts(&layer, request(), 14).await;
    }
    assert!((100..=150).contains(&attempts), "{attempts} attempts for 100 calls");
    assert!(attempts > 120, "{attempts}: the budget is used");
}

#[tokio::test(start_paused = true)]
async fn streams_and_large_bodies_are_sent_once_and_unchanged() {
    let two = || Script::of([Step::Data(message(b"one")), Step::Data(message(b"two"))]);
    let large = || Script::of([Step::Data(message(&[7; 3_000])), Step::Data(Default::default())]);
    let not_grpc = || Script::of([Step::Data("plain".into())]);
    for body in [two as fn() -> Script, large, not_grpc] {
        let (expected, _) = read(body()).await;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let callee = {
            let seen = seen.clone();
            service_fn(move |request: Attempt| {
                let seen = seen.clone();
                async move {
                    let (data, _) = read(request.into_body()).await;
                    seen.lock().unwrap().push(data);
                    Ok::<_, Infallible>(refusal(14))
                }
            })
        };
        let layer = RetryLayer::new(RetryConfig::default().with_body_bytes_max(1_000));
        layer.layer(callee).oneshot(Request::new(body())).await.unwrap();
        assert_eq!(*seen.lock().unwrap(), [expected]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_waits_is_sent_before_its_next_message() {
    let called = Count::default();
    let callee = {
        let called = called.clone();
        service_fn(move |_: Attempt| {
            called.next();
            async { Ok::<Response<Script>, Infallible>(answer(0)) }
        })
    };
    let waits = Request::new(Script::of([Step::Data(message(b"one")), Step::Wait]));
    RetryLayer::default().layer(callee).oneshot(waits).await.unwrap();
    assert_eq!(called.value(), 1);
}

#[tokio::test(start_paused = true)]
async fn every_attempt_carries_the_whole_message() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let callee = {
        let seen = seen.clone();
        service_fn(move |request: Attempt| {
            let seen = seen.clone();
            async move {
                let path = request.uri().path().to_owned();
                let (data, _) = read(request.into_body()).await;
                seen.lock().unwrap().push((path, data));
                Err::<Response<Script>, _>(Error::new(ErrorKind::Unavailable, "channel", "connection refused"))
            }
        })
    };
    let whole = message(b"hello");
    let halves = [Step::Data(whole.slice(..3)), Step::Data(whole.slice(3..))];
    let request = Request::builder().uri(PATH).body(Script::of(halves)).unwrap();
    let answer: Result<_> = RetryLayer::default().layer(callee).oneshot(request).await;
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(*seen.lock().unwrap(), vec![(PATH.to_owned(), whole.to_vec()); 3]);
}
