//! Connecting: what is not there, what is something else, and what goes away and comes back.

use std::time::{Duration, Instant};

use micro_core::{
    ErrorKind,
    barrier::{Barrier, Prepared},
    branch::{Branch, BranchError, Mode, Op},
};
use micro_redis::{RedisBarrier, RedisConfig};
use micro_testkit::eventually;
use redis::AsyncCommands as _;
use tokio::{io::AsyncWriteExt as _, net::TcpListener};

use crate::server::{PATIENCE, blocking, connected, outsider, own, patient};

#[tokio::test]
async fn a_server_that_is_not_there_is_one_error_with_address_cause_and_what_to_try_within_the_timeout() {
    let began = Instant::now();
    let mut config = RedisConfig::from_url("redis://user:canary@127.0.0.1:1").unwrap();
    config.connect_timeout = 2 * PATIENCE;
    let error = RedisBarrier::connect(config).await.unwrap_err();
    assert!(began.elapsed() < PATIENCE);
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());
    let text = error.report();
    for part in ["backend=redis", "address=127.0.0.1:1", "refused", "start one there"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("canary") && !text.contains('\n'), "{text}");
}

#[tokio::test]
async fn a_server_that_is_silent_is_an_error_at_the_timeout() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = RedisConfig::from_url(&format!("redis://{}", silent.local_addr().unwrap())).unwrap();
    config.connect_timeout = Duration::from_millis(500);
    let began = Instant::now();
    let error = RedisBarrier::connect(config).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert!(error.to_string().contains(&format!("address={}", silent.local_addr().unwrap())), "{error}");
}

#[tokio::test]
async fn another_server_at_the_address_is_told_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let asked = async {
        let barrier = RedisBarrier::connect(patient(&url)).await?;
        barrier.prepared("order-1").await
    };
    let error = asked.await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unknown | ErrorKind::Unavailable), "{}", error.report());
    assert!(error.to_string().contains("address=127.0.0.1"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_needed_where_redis_wants_one() {
    let Some(server) = own(&[("requirepass", "sesame")]).await else { return };
    let address = format!("127.0.0.1:{}", server.port());
    for user in ["", ":canary@"] {
        let asked = async {
            RedisBarrier::connect(patient(&format!("redis://{user}{address}"))).await?.prepared("order-1").await
        };
        let error = asked.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{user:?}: {}", error.report());
        assert!(!error.report().contains("canary"), "{}", error.report());
    }
    let barrier = connected(&format!("redis://:sesame@{address}")).await;
    assert_eq!(barrier.prepared("order-1").await.unwrap(), Prepared::RolledBack);
}

/// The scripts are gone with the process, the rows are in its log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_goes_away_is_an_error_and_one_that_comes_back_is_used() {
    let Some(mut server) = own(&[]).await else { return };
    let barrier = connected(server.url()).await;
    let _: () = outsider(server.url()).await.set("stock", 100).await.unwrap();
    let call = async |op: Op| {
        let amount = if op == Op::Action { -30 } else { 30 };
        let mut call = Barrier::new(Branch::new(Mode::Saga, "order-1", "01", op).unwrap());
        barrier.adjust(&mut call, "stock", amount).await
    };
    assert_eq!(call(Op::Action).await.unwrap(), Some(70));
    server = blocking(move || {
        server.kill();
        server
    })
    .await;
    let began = Instant::now();
    let gone = call(Op::Compensate).await;
    let Err(BranchError::Other(error)) = gone else { panic!("{gone:?}") };
    assert!(error.is_retryable(), "{}", error.report());
    assert!(error.to_string().contains("address="), "{error}");
    assert!(began.elapsed() < PATIENCE, "within the request's timeout");
    let _server = blocking(move || {
        server.restart().unwrap();
        server
    })
    .await;
    eventually(PATIENCE, "the rows are honoured", async || {
        call(Op::Action).await.map_err(|error| error.to_string()).map(|done| assert_eq!(done, None))
    })
    .await;
    assert_eq!(call(Op::Compensate).await.unwrap(), Some(100));
}
