//! The promises of the recover layer.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
};

use http::{Request, Response};
use micro_core::{Error, ErrorKind, consume::DeliveryBatch};
use micro_middleware::RecoverLayer;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::mock::{Script, Step, answer, batch, message, read, request, status};

/// Panics where it is told to, once.
#[derive(Clone)]
struct Panics {
    in_poll_ready: bool,
    in_call: bool,
}

impl Service<Request<Script>> for Panics {
    type Response = Response<Script>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Script>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        assert!(!std::mem::take(&mut self.in_poll_ready), "not ready");
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Script>) -> Self::Future {
        assert!(!std::mem::take(&mut self.in_call), "not callable");
        ready(Ok(answer(0)))
    }
}

#[tokio::test]
async fn a_panic_is_internal_for_its_request_only() {
    for inner in [Panics { in_poll_ready: true, in_call: false }, Panics { in_poll_ready: false, in_call: true }] {
        let mut service = RecoverLayer::new().layer(inner);
        let refused = service.ready().await.unwrap().call(request()).await.unwrap();
        assert_eq!(status(&refused), Some("13"));
        assert_eq!(refused.headers()["grpc-message"], "the handler panicked", "the peer is not told the panic's text");
        let answered = service.ready().await.unwrap().call(request()).await.unwrap();
        assert_eq!(read(answered.into_body()).await.1.as_deref(), Some("0"));
    }

    let in_future = RecoverLayer::new().layer(service_fn(|_: DeliveryBatch| async {
        if std::hint::black_box(true) {
            panic!("no price for {}", 17);
        }
        Ok::<(), Error>(())
    }));
    let error = in_future.oneshot(batch()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert_eq!(error.context().collect::<Vec<_>>(), [("panic", "no price for 17")]);
}

#[tokio::test]
async fn a_panic_in_a_body_ends_it_with_internal_trailers() {
    let service = RecoverLayer::new().layer(service_fn(|_: Request<Script>| async {
        Ok::<_, Infallible>(Response::new(Script::of([Step::Data(message(b"1")), Step::Panic])))
    }));
    let response = service.oneshot(request()).await.unwrap();
    let (data, status) = read(response.into_body()).await;
    assert_eq!(data, message(b"1"));
    assert_eq!(status.as_deref(), Some("13"));
}
