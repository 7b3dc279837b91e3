//! Connecting: what is not there, and what is something else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use micro_core::{
    ErrorKind,
    registry::{Instance, Registry as _},
};
use micro_etcd::{EtcdConfig, EtcdRegistry};
use micro_testkit::ready;
use tokio::{
    io::{AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

use crate::server::{Own, PATIENCE, Shared, becomes, lasting};

#[tokio::test]
async fn a_server_that_is_not_there_is_one_error_with_address_cause_and_what_to_try_within_the_timeout() {
    let began = Instant::now();
    let mut config = EtcdConfig::from_url("etcd://user:canary@127.0.0.1:1,127.0.0.1:2").unwrap();
    config.connect_timeout = PATIENCE * 2;
    let error = EtcdRegistry::connect(config).await.unwrap_err();
    assert!(began.elapsed() < PATIENCE);
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let text = error.report();
    for part in ["backend=etcd", "address=127.0.0.1:1,127.0.0.1:2", "refused", "start one there"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("canary") && !text.contains('\n'), "{text}");
}

#[tokio::test]
async fn a_server_that_is_silent_is_an_error_at_the_timeout() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = EtcdConfig::from_url(&format!("etcd://{}", silent.local_addr().unwrap())).unwrap();
    config.connect_timeout = Duration::from_millis(500);
    let began = Instant::now();
    let error = EtcdRegistry::connect(config).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.report().contains("in time"), "{error:?}");
}

#[tokio::test]
async fn a_server_that_is_no_etcd_is_an_error_within_the_timeout() {
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = EtcdConfig::from_url(&format!("etcd://{}", other.local_addr().unwrap())).unwrap();
    config.connect_timeout = Duration::from_secs(2);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = other.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    let error = tokio::time::timeout(PATIENCE, EtcdRegistry::connect(config)).await.unwrap().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Unknown), "{error:?}");
}

/// etcd closes connections that are asked more often than it permits while nothing is open on them.
#[tokio::test]
async fn an_idle_connection_is_left_alone() {
    let Some(shared) = ready::<Shared>().await else { return };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = EtcdConfig::from_url(&format!("etcd://{}", listener.local_addr().unwrap())).unwrap();
    config.keepalive_interval = Duration::from_secs(1);
    let (connection_count, server) = (Arc::<AtomicUsize>::default(), shared.url.replace("etcd://", ""));
    let count = connection_count.clone();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let server = server.clone();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(server).await.unwrap();
                let _ = copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    let registry = EtcdRegistry::connect(config).await.unwrap();
    let before = connection_count.load(Ordering::SeqCst);
    // Pings each second would have ended it at the third.
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(registry.instances("nothing of this name").await.unwrap(), []);
    assert_eq!(connection_count.load(Ordering::SeqCst), before);
}

#[tokio::test]
async fn one_server_of_several_is_enough() {
    let Some(shared) = ready::<Shared>().await else { return };
    let url = shared.url.replace("etcd://", "etcd://127.0.0.1:1,");
    let registry = EtcdRegistry::connect(EtcdConfig::from_url(&url).unwrap()).await.unwrap();
    assert_eq!(registry.instances("nobody").await.unwrap(), []);
}

#[tokio::test]
async fn what_one_server_cannot_do_is_asked_of_the_next() {
    let (Some(first), Some(second)) = (ready::<Own>().await, ready::<Own>().await) else { return };
    // Not of one cluster, so that it shows who was asked.
    let mut config = first.config();
    config.servers.extend(second.config().servers);
    let registry = EtcdRegistry::connect(config).await.unwrap();
    let instance = Instance::new("greeter", "127.0.0.1:9000");
    let _registration = registry.register(instance.clone(), lasting()).await.unwrap();
    assert_eq!(second.registry().await.instances("greeter").await.unwrap(), []);
    let first = first.kill().await;
    becomes(&registry, "greeter", std::slice::from_ref(&instance)).await;
    becomes(&second.registry().await, "greeter", &[instance]).await;
    drop(first);
}

#[tokio::test]
async fn a_user_is_no_fault_where_none_is_needed() {
    let Some(own) = ready::<Own>().await else { return };
    let mut config = own.config();
    (config.user, config.password) = (Some("root".to_owned()), Some("canary".to_owned()));
    EtcdRegistry::connect(config).await.unwrap();
}
