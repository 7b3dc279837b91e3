//! The recommended stacks as a whole.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::FutureExt;
use http::Request;
use micro_core::{
    Error, ErrorKind, Metadata, Result, TraceContext,
    broker::{Broker, Capabilities, Message, Receipt, SubscribeRequest, Subscription},
    consume::DeliveryBatch,
    flow::PublishBatch,
};
use micro_middleware::{
    retry::RetryBody,
    stack::{consume_stack, publish_stack, rpc_client_stack, rpc_server_stack},
};
use tower::{Service, ServiceExt, service_fn};

use crate::{
    mock::{Count, Script, answer, batch, read, refusal, request, status},
    recorder::Sums,
    spans::Spans,
};

/// Notes what it is handed before it first awaits, and then waits for its permit.
#[derive(Default)]
struct NotingBroker {
    noted: Mutex<Vec<String>>,
    permit: tokio::sync::Notify,
}

#[async_trait]
impl Broker for NotingBroker {
    async fn publish(&self, messages: Vec<Message>) -> Vec<Result<Receipt>> {
        let bodies = messages.iter().map(|message| String::from_utf8(message.body.to_vec()).unwrap());
        self.noted.lock().unwrap().extend(bodies);
        self.permit.notified().await;
        vec![Err(Error::new(ErrorKind::Unavailable, "broker.publish", "no leader"))]
    }

    async fn subscribe(&self, _: SubscribeRequest) -> Result<Arc<dyn Subscription>> {
        Err(Error::new(ErrorKind::Unimplemented, "broker.subscribe", "it only publishes"))
    }

    async fn flush(&self, _: Duration) -> Result<()> {
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(false, true, false)
    }
}

#[tokio::test]
async fn publish_reaches_the_broker_in_the_order_of_first_polls_and_is_not_tried_again() {
    let (sums, (spans, _listening)) = (Sums::default(), Spans::listen());
    let _recording = metrics::set_default_local_recorder(&sums);
    let broker = Arc::new(NotingBroker::default());
    let mut service = publish_stack(broker.clone());
    let mut calls = Vec::new();
    for body in ["a", "b", "c"] {
        let batch = PublishBatch(vec![Message::keyed("OrderEvent", "17", body)]);
        let mut call = service.ready().await.unwrap().call(batch);
        assert!((&mut call).now_or_never().is_none());
        calls.push(call);
    }
    assert_eq!(*broker.noted.lock().unwrap(), ["a", "b", "c"]);
    for call in calls {
        broker.permit.notify_one();
        assert_eq!(call.await.unwrap()[0].as_ref().unwrap_err().kind(), ErrorKind::Unavailable);
    }
    assert_eq!(broker.noted.lock().unwrap().len(), 3);
    let series = "micro_request_total{flow=publish,direction=out,operation=OrderEvent,outcome=unavailable}";
    assert_eq!((sums.of(series), spans.all().len()), (3.0, 3));
}

/// Fails in a way that can pass, once; panics on request. Shaped as an inbox service is.
#[derive(Clone, Default)]
struct Inbox {
    calls: Count,
    panics: bool,
}

impl Service<DeliveryBatch> for Inbox {
    type Response = ();
    type Error = Error;
    type Future = futures_util::future::BoxFuture<'static, Result<()>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: DeliveryBatch) -> Self::Future {
        let (is_first, panics) = (self.calls.next() == 0, self.panics);
        Box::pin(async move {
            assert!(!panics, "handler bug");
            if is_first { Err(Error::new(ErrorKind::Aborted, "inbox", "deadlock")) } else { Ok(()) }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn one_batch_is_one_record_however_often_it_was_tried() {
    let (sums, (spans, _listening)) = (Sums::default(), Spans::listen());
    let _recording = metrics::set_default_local_recorder(&sums);
    let inbox = Inbox::default();
    consume_stack(inbox.clone()).oneshot(batch()).await.unwrap();
    assert_eq!(inbox.calls.value(), 2);
    assert_eq!(spans.only()["outcome"], "ok");
    assert_eq!(sums.series("micro_request_total").len(), 1);
    assert_eq!(sums.of("micro_request_total{flow=consume,direction=in,operation=product,outcome=ok}"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_is_an_internal_outcome_and_the_stack_lives_on() {
    let (spans, _listening) = Spans::listen();
    let mut service = consume_stack(Inbox { panics: true, ..Inbox::default() });
    for _ in 0..2 {
        let error = service.ready().await.unwrap().call(batch()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
    }
    let outcomes: Vec<_> = spans.all().into_iter().map(|mut span| span.remove("outcome").unwrap()).collect();
    assert_eq!(outcomes, ["internal", "internal"]);
}

#[tokio::test(start_paused = true)]
async fn one_call_is_one_record_however_often_it_was_tried() {
    let (sums, (spans, _listening)) = (Sums::default(), Spans::listen());
    let _recording = metrics::set_default_local_recorder(&sums);
    let attempts = Count::default();
    let callee = {
        let attempts = attempts.clone();
        service_fn(move |_: Request<RetryBody<Script>>| {
            let answer = if attempts.next() < 2 { refusal(14) } else { answer(0) };
            async move { Ok::<_, Error>(answer) }
        })
    };
    let response = rpc_client_stack().service(callee).oneshot(request()).await.unwrap();
    assert_eq!(read(response.into_body()).await.1.as_deref(), Some("0"));
    assert_eq!(attempts.value(), 3);
    assert_eq!(spans.only()["outcome"], "ok");
    assert_eq!(sums.series("micro_request_total").len(), 1);
    let series = "micro_request_total{flow=rpc,direction=out,operation=/order.Orders/PayNotify,outcome=ok}";
    assert_eq!(sums.of(series), 1.0);
}

#[tokio::test(start_paused = true)]
async fn refusals_of_inner_layers_are_recorded() {
    let (spans, _listening) = Spans::listen();
    let panics = service_fn(async |_: Request<Script>| {
        if std::hint::black_box(true) {
            panic!("handler bug");
        }
        Ok::<_, Infallible>(answer(0))
    });
    let response = rpc_server_stack().service(panics).oneshot(request()).await.unwrap();
    assert_eq!(status(&response), Some("13"));
    let hangs = service_fn(async |_: Request<Script>| {
        std::future::pending::<()>().await;
        Ok::<_, Infallible>(answer(0))
    });
    let response = rpc_server_stack().service(hangs).oneshot(request()).await.unwrap();
    assert_eq!(status(&response), Some("4"));
    let outcomes: Vec<_> = spans.all().into_iter().map(|mut span| span.remove("outcome").unwrap()).collect();
    assert_eq!(outcomes, ["internal", "deadline_exceeded"]);
}

/// Order calls product: the handler passes the metadata it was given, and nothing else.
#[tokio::test(start_paused = true)]
async fn trace_and_deadline_travel_from_a_call_served_to_a_call_made() {
    let (spans, _listening) = Spans::listen();
    let seen = Arc::new(Mutex::new(None));
    let product = {
        let seen = seen.clone();
        service_fn(move |request: Request<RetryBody<Script>>| {
            let headers = request.headers();
            let text = |name: &str| headers[name].to_str().unwrap().to_owned();
            *seen.lock().unwrap() = Some((text("traceparent"), text("grpc-timeout")));
            async { Ok::<_, Error>(answer(0)) }
        })
    };
    let client = rpc_client_stack().service(product);
    let order = rpc_server_stack().service(service_fn(move |served: Request<Script>| {
        let client = client.clone();
        async move {
            let metadata = served.extensions().get::<Metadata>().unwrap().clone();
            let mut made = request();
            made.extensions_mut().insert(metadata);
            client.oneshot(made).await.unwrap();
            Ok::<_, Infallible>(answer(0))
        }
    }));
    let mut incoming = request();
    incoming.headers_mut().insert("grpc-timeout", "1S".parse().unwrap());
    order.oneshot(incoming).await.unwrap();

    let (traceparent, timeout) = seen.lock().unwrap().take().unwrap();
    assert_eq!(timeout, "990000u");
    let context: TraceContext = traceparent.parse().unwrap();
    let [served, made] = <[_; 2]>::try_from(spans.all()).unwrap();
    assert_eq!((&*served["direction"], &*made["direction"]), ("in", "out"));
    assert_eq!(served["trace_id"], made["trace_id"]);
    assert_eq!(made["parent_span_id"], served["span_id"]);
    assert_eq!(made["span_id"], format!("{:016x}", context.span_id()));
}
