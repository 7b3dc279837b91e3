//! A DTM that is not there, and an address at which somebody else is.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use micro_core::{
    Error, ErrorKind,
    saga::{Saga, SagaCoordinator as _, SagaOptions, Step},
};
use micro_tx::dtm::{DtmClient, DtmConfig, TwoPhaseMessage};
use tokio::net::TcpListener;

async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Settings for each wire at an address, and the address as errors name it.
fn each(address: &str) -> [(DtmConfig, String); 3] {
    let config = |url: &str| DtmConfig::from_url(url).unwrap();
    [
        (config(&format!("dtm://{address}")), address.to_owned()),
        (config(&format!("http://{address}")), format!("http://{address}/api/dtmsvr")),
        (config(&format!("jsonrpc://{address}")), format!("http://{address}/api/json-rpc")),
    ]
}

#[tokio::test]
async fn connecting_to_nobody_names_the_address_within_the_connect_timeout() {
    let address = nobody().await;
    for (config, named) in each(&address) {
        let begun = Instant::now();
        let error = DtmClient::connect(config).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains(&format!("address={named}")), "{error}");
        assert!(error.to_string().contains("start it there, or correct the address"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}

#[tokio::test]
async fn a_saga_that_nobody_takes_is_an_error_that_names_the_address() {
    let address = nobody().await;
    for (config, named) in each(&address) {
        let coordinator = DtmClient::new(config).unwrap().coordinator();
        let saga = Saga::new().step(Step::new("http://127.0.0.1:1/a"));
        let error = coordinator.submit(saga).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains(&format!("address={named}")), "{error}");
    }
}

/// Committed first, they would be handed over in vain for ever.
#[tokio::test]
async fn what_dtm_cannot_call_is_refused_without_asking_it() {
    let saga = |url: &str| Saga::new().step(Step::new(url).payload(&b"{}"[..]));
    let (named, over_grpc, over_http) = ("registry:///shop.Stock/a.B/C", "127.0.0.1:1/a.B/C", "http://127.0.0.1:1/a");
    let without_port = "product/shop.Product/Deduct";
    for (config, _) in each(&nobody().await) {
        let is_grpc = config.grpc.is_some();
        let coordinator = DtmClient::new(config).unwrap().coordinator();
        let error = coordinator.check(&saga(named)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("give it an address (") && error.to_string().contains(named), "{error}");
        let error = coordinator.submit(saga(without_port)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "it is not sent: {error}");
        assert!(error.to_string().contains(without_port), "{error}");
        for value in ["Zo\u{eb}", "a\nb"] {
            let mut options = SagaOptions::default();
            options.headers.insert("x-name".to_owned(), value.to_owned());
            let error = coordinator.submit(saga(over_grpc).options(options)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "it is not sent: {error}");
        }
        assert_eq!(coordinator.check(&saga(over_grpc)).is_ok(), is_grpc);
        coordinator.check(&saga(over_http)).unwrap();
    }
}

#[tokio::test]
async fn case_66_msg_do_and_submit_prepare_failed() {
    let address = nobody().await;
    for (config, named) in each(&address) {
        let dtm = DtmClient::new(config).unwrap();
        let url = "http://127.0.0.1:1/a";
        let message = TwoPhaseMessage::new().call(url, "").query_prepared(url);
        let was_run = AtomicBool::new(false);
        let done = dtm.do_and_submit(&message, async |_| {
            was_run.store(true, Ordering::Relaxed);
            Ok::<_, Error>(Some(()))
        });
        let error = done.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains(&format!("address={named}")), "{error}");
        assert!(!was_run.into_inner(), "the local part was not run");
    }
}

/// A listener that never answers.
#[tokio::test]
async fn a_host_that_is_silent_is_given_up_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    for (mut config, named) in each(&address) {
        config.request_timeout = Duration::from_millis(300);
        config.connect_timeout = Duration::from_millis(300);
        config.resend_count_max = 0;
        let error = DtmClient::new(config).unwrap().new_gid().await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::DeadlineExceeded | ErrorKind::Unavailable), "{error}");
        assert!(error.to_string().contains(&format!("address={named}")), "{error}");
    }
}

/// A server that is another one.
#[tokio::test]
async fn another_server_at_the_address_is_told_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = axum::Router::new().fallback(async || "<html>hello</html>");
    tokio::spawn(async move { axum::serve(listener, router).await });
    let config = DtmConfig::from_url(&format!("http://{address}")).unwrap();
    let error = DtmClient::connect(config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataLoss);
    assert!(error.to_string().contains("is there another server at this address?"), "{error}");
}
