//! The promises of the metrics layer.

use std::{convert::Infallible, future::pending};

use http::{Request, Response};
use micro_core::{Error, ErrorKind, consume::DeliveryBatch};
use micro_middleware::{MetricsLayer, metrics::OPERATION_COUNT_MAX};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::{
    mock::{Script, answer, batch, read, refusal, request, request_to},
    recorder::Sums,
};

const CALLS: &str = "flow=rpc,direction=in";
const ORDERS: &str = "operation=/order.Orders/PayNotify";

fn in_flight(sums: &Sums) -> f64 {
    sums.of(&format!("micro_requests_in_flight{{{CALLS}}}"))
}

#[tokio::test]
async fn a_request_is_counted_once_with_its_outcome() {
    let sums = Sums::default();
    let _recording = metrics::set_default_local_recorder(&sums);
    let service = MetricsLayer::incoming().layer(service_fn(|request: Request<Script>| async move {
        let is_refused = request.headers().contains_key("refuse");
        Ok::<_, Infallible>(if is_refused { refusal(8) } else { answer(5) })
    }));
    let total = |outcome| sums.of(&format!("micro_request_total{{{CALLS},{ORDERS},outcome={outcome}}}"));

    let response = service.clone().oneshot(request()).await.unwrap();
    assert!(total("not_found").is_nan());
    assert_eq!(in_flight(&sums), 1.0);
    read(response.into_body()).await;
    assert_eq!(total("not_found"), 1.0);

    let mut refused = request();
    refused.headers_mut().insert("refuse", "1".parse().unwrap());
    let response = service.clone().oneshot(refused).await.unwrap();
    assert_eq!(total("resource_exhausted"), 1.0, "a refusal has no body to wait for");
    drop(response);
    assert_eq!(total("resource_exhausted"), 1.0);

    assert_eq!(sums.of(&format!("micro_request_duration_seconds{{{CALLS},{ORDERS}}}")), 2.0);
    assert_eq!(sums.series("micro_request_total").len(), 2);
}

#[tokio::test]
async fn errors_of_a_batch_are_outcomes() {
    let sums = Sums::default();
    let _recording = metrics::set_default_local_recorder(&sums);
    let service = MetricsLayer::incoming().layer(service_fn(|_: DeliveryBatch| async {
        Err::<(), _>(Error::new(ErrorKind::Unavailable, "inbox", "no connection"))
    }));
    service.oneshot(batch()).await.unwrap_err();
    let series = "micro_request_total{flow=consume,direction=in,operation=product,outcome=unavailable}";
    assert_eq!(sums.of(series), 1.0);
}

#[tokio::test]
async fn in_flight_returns_to_zero() {
    let sums = Sums::default();
    let _recording = metrics::set_default_local_recorder(&sums);
    let mut hangs = MetricsLayer::incoming()
        .layer(service_fn(|_: Request<Script>| pending::<Result<Response<Script>, Infallible>>()));
    let (first, second) = (hangs.call(request()), hangs.call(request()));
    assert_eq!(in_flight(&sums), 2.0);
    drop(first);
    assert_eq!(in_flight(&sums), 1.0);
    drop(second);
    assert_eq!(in_flight(&sums), 0.0);

    let answers =
        MetricsLayer::incoming().layer(service_fn(|_: Request<Script>| async { Ok::<_, Infallible>(answer(0)) }));
    let response = answers.oneshot(request()).await.unwrap();
    assert_eq!(in_flight(&sums), 1.0);
    drop(response);
    assert_eq!(in_flight(&sums), 0.0);
    let cancelled = format!("micro_request_total{{{CALLS},{ORDERS},outcome=cancelled}}");
    assert_eq!(sums.of(&cancelled), 3.0);

    let panics = MetricsLayer::incoming().layer(service_fn(panicking));
    let panicked = std::panic::AssertUnwindSafe(async { panics.oneshot(request()).await.is_ok() });
    assert!(futures_util::FutureExt::catch_unwind(panicked).await.is_err());
    assert_eq!(in_flight(&sums), 0.0);
}

async fn panicking(_: Request<Script>) -> Result<Response<Script>, Infallible> {
    panic!("out of stock")
}

#[tokio::test]
async fn unknown_operations_do_not_multiply_series() {
    let sums = Sums::default();
    let _recording = metrics::set_default_local_recorder(&sums);
    let service = MetricsLayer::incoming().layer(service_fn(|request: Request<Script>| {
        let is_offered = request.uri().path().starts_with("/offered");
        async move { Ok::<_, Infallible>(refusal(if is_offered { 0 } else { 12 })) }
    }));
    let call = async |path: &str| drop(service.clone().oneshot(request_to(path)).await.unwrap());

    for number in 0..1_000 {
        call(&format!("/invented/{number}")).await;
    }
    call(&format!("/offered/{}", "a".repeat(10_000))).await;
    let other = |outcome| sums.of(&format!("micro_request_total{{{CALLS},operation=other,outcome={outcome}}}"));
    assert_eq!((other("unimplemented"), other("ok")), (1_000.0, 1.0));
    assert_eq!(sums.series("micro_request_total").len(), 2, "what is invented takes no room");

    for number in 0..2 * OPERATION_COUNT_MAX {
        call(&format!("/offered/{number}")).await;
    }
    assert_eq!(sums.series("micro_request_duration_seconds").len(), OPERATION_COUNT_MAX);
    assert_eq!(sums.of(&format!("micro_request_total{{{CALLS},operation=/offered/0,outcome=ok}}")), 1.0);
}
