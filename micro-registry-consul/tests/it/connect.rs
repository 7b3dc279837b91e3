//! Connecting: what an unreachable agent looks like, and which settings are refused.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use micro_core::ErrorKind;
use micro_registry_consul::{ConsulConfig, ConsulRegistry};
use micro_testkit::{eventually, ready};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::agent::{Agent, PATIENCE, blocking};

#[tokio::test]
async fn an_unreachable_agent_is_one_line_with_backend_address_cause_and_advice() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let config = ConsulConfig::from_url(&format!("consul://{free}?token=canary")).unwrap();
    let error = ConsulRegistry::connect(config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let line = error.report();
    for part in ["backend=consul", &format!("address={free}"), "refused", "start one there, or correct the address"] {
        assert!(line.contains(part), "{line}");
    }
    assert!(!line.contains('\n') && !line.contains("canary"), "{line}");
}

#[tokio::test]
async fn an_agent_that_is_silent_is_given_up_at_the_connect_timeout() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = ConsulConfig::from_url(&format!("consul://{}", silent.local_addr().unwrap())).unwrap();
    config.connect_timeout = Duration::from_millis(300);
    config.request_timeout = Duration::from_secs(60);
    let began = Instant::now();
    let error = ConsulRegistry::connect(config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(error.report().contains("timeout=300ms"), "{error:?}");
}

#[tokio::test]
async fn an_agent_without_a_leader_is_given_up_at_the_connect_timeout() {
    let Some(agent) = ready::<Agent>().await else { return };
    let lonely = Lonely::start(&agent).await;
    let mut config = ConsulConfig::from_url(&lonely.url).unwrap();
    config.connect_timeout = Duration::from_millis(500);
    let line = eventually(PATIENCE, "the server answers that it has no leader", || async {
        let error = ConsulRegistry::connect(config.clone()).await.expect_err("there is none");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let line = error.report();
        if line.contains("with a leader") { Ok(line) } else { Err(line) }
    })
    .await;
    assert!(line.contains("timeout=500ms"), "{line}");
}

/// A server that waits for two others.
struct Lonely {
    url: String,
    process: Child,
    _data: tempfile::TempDir,
}

impl Lonely {
    async fn start(agent: &Agent) -> Self {
        let program = agent.program();
        blocking(move || {
            let data = tempfile::tempdir().expect("a folder");
            let [http, lan, server] = [(); 3].map(|()| dev_servers::free_port());
            let ports = format!("ports {{ http={http} grpc=-1 dns=-1 serf_wan=-1 serf_lan={lan} server={server} }}");
            let process = Command::new(program)
                .args(["agent", "-server", "-bootstrap-expect=3", "-bind=127.0.0.1", "-node=lonely"])
                .arg(format!("-data-dir={}", data.path().display()))
                .args(["-hcl", &ports, "-hcl", "disable_update_check = true"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("it starts");
            Self { url: format!("consul://127.0.0.1:{http}"), process, _data: data }
        })
        .await
    }
}

impl Drop for Lonely {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn another_server_at_the_address_is_told_as_such() {
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = ConsulConfig::from_url(&format!("consul://{}", other.local_addr().unwrap())).unwrap();
    let answering = tokio::spawn(async move {
        let (mut stream, _) = other.accept().await.unwrap();
        assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>").await.unwrap();
        stream
    });
    let error = ConsulRegistry::connect(config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataLoss);
    assert!(error.report().contains("is there another server at this address?"), "{error:?}");
    drop(answering.await);
}

#[cfg(not(feature = "tls"))]
#[tokio::test]
async fn https_without_the_feature_says_which_one_to_turn_on() {
    let config = ConsulConfig::from_url("consul+https://127.0.0.1:1").unwrap();
    let error = ConsulRegistry::connect(config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.report().contains("feature tls"), "{error:?}");
}
