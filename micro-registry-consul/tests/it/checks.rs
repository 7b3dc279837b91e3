//! Each kind of check: an instance is live while its check passes, and not when it does not.

use std::{net::SocketAddr, time::Duration};

use micro_core::registry::{Instance, Registry as _};
use micro_registry_consul::{CheckKind, ConsulConfig, ConsulRegistry};
use micro_testkit::{ready, unique};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::task::AbortOnDropHandle;

use crate::agent::{Shared, becomes, quick};

/// Registers an instance that nobody serves yet, waits until it is critical, serves it, waits until
/// it passes, and ends the server again.
async fn follows_its_server<Server: Future<Output = ()> + Send + 'static>(
    check: CheckKind,
    serve: impl Fn(TcpListener) -> Server,
) {
    let Some(shared) = ready::<Shared>().await else { return };
    let mut config = ConsulConfig::from_url(&shared.url).unwrap();
    config.check = check;
    config.check_timeout = Duration::from_millis(400);
    let registry = ConsulRegistry::connect(config).await.unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], dev_servers::free_port()));
    let instance = Instance::new(unique("checked"), address.to_string());
    let live = std::slice::from_ref(&instance);
    let registration = registry.register(instance.clone(), quick()).await.unwrap();
    becomes(&registry, &instance.service, &[]).await;

    let server = AbortOnDropHandle::new(tokio::spawn(serve(listen(address).await)));
    becomes(&registry, &instance.service, live).await;
    drop(server);
    becomes(&registry, &instance.service, &[]).await;
    registration.close().await.unwrap();
}

async fn listen(address: SocketAddr) -> TcpListener {
    TcpListener::bind(address).await.expect("the port is free")
}

#[tokio::test]
async fn a_tcp_check_passes_while_the_port_is_open() {
    follows_its_server(CheckKind::Tcp, |listener| async move {
        while let Ok(accepted) = listener.accept().await {
            drop(accepted);
        }
    })
    .await;
}

#[tokio::test]
async fn an_http_check_passes_while_its_path_answers() {
    let check = CheckKind::Http { path: "/healthz".to_owned(), port: None };
    follows_its_server(check, |listener| async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let count = stream.read(&mut request).await.unwrap_or_default();
            let is_right = request[..count].starts_with(b"GET /healthz HTTP/1.1");
            let status = if is_right { "200 OK" } else { "404 Not Found" };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_grpc_check_passes_while_the_service_says_that_it_serves() {
    let check = CheckKind::Grpc { service: "greeter.Greeter".to_owned() };
    follows_its_server(check, |listener| async move {
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_service_status("greeter.Greeter", tonic_health::ServingStatus::Serving).await;
        let incoming = TcpListenerStream::new(listener);
        tonic::transport::Server::builder().add_service(health).serve_with_incoming(incoming).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_ttl_check_passes_for_longer_than_the_ttl_while_heartbeats_come() {
    let Some(shared) = ready::<Shared>().await else { return };
    let instance = Instance::new(unique("beating"), "127.0.0.1:9000");
    let mut options = quick();
    options.ttl = Duration::from_secs(10);
    options.heartbeat = Duration::from_secs(1);
    let registration = shared.registry.register(instance.clone(), options).await.unwrap();
    becomes(&shared.registry, &instance.service, std::slice::from_ref(&instance)).await;
    let mut watch = shared.registry.watch(&instance.service).await.unwrap();
    watch.next().await.expect("a snapshot comes");
    // Longer than the TTL, without one moment in which the instance was not live.
    let change = tokio::time::timeout(Duration::from_secs(15), watch.next()).await;
    assert!(change.is_err(), "{change:?}");
    registration.close().await.unwrap();
    becomes(&shared.registry, &instance.service, &[]).await;
}
