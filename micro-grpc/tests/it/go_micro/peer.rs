//! The Go peer: one call of its client, and its server for as long as a test wants it.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use micro_core::registry::StaticRegistry;
use micro_grpc::GrpcClientBuilder;
use serde_json::Value;

use super::greeter::SERVICE;
use crate::fixture;

/// The program; without it the reason is printed and the test passes or, under
/// `MICRO_TEST_REQUIRE=1`, fails.
pub(super) async fn peer() -> Option<PathBuf> {
    let built = tokio::task::spawn_blocking(dev_servers::go_peer).await.unwrap();
    built
        .inspect_err(|reason| {
            let is_required = std::env::var("MICRO_TEST_REQUIRE").is_ok_and(|value| value == "1");
            assert!(!is_required, "go-micro is missing and required: {reason}");
            eprintln!("skipped, go-micro is missing: {reason}");
        })
        .ok()
}

/// What Go's client says of one call: a line of JSON for each reply, and the failure.
pub(super) async fn call(address: &str, arguments: &[&str]) -> Vec<Value> {
    let Some(peer) = peer().await else { panic!("a test asks for the peer before it calls") };
    let mut command = Command::new(peer);
    command.args(["call", "--address", address, "--service", SERVICE]).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let (said, log) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(matches!(output.status.code(), Some(0 | 1)), "{arguments:?} ended with {}: {said}{log}", output.status);
    assert!(!log.contains("panic"), "{log}");
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A Go server, which ends with this.
pub(super) struct GoServer {
    process: Child,
    pub(super) address: String,
}

impl GoServer {
    pub(super) async fn start() -> Option<Self> {
        Self::start_with("grpc").await
    }

    pub(super) async fn start_with(protocol: &str) -> Option<Self> {
        let peer = peer().await?;
        let mut command = Command::new(peer);
        command
            .args(["serve", "--service", SERVICE, "--protocol", protocol])
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let started = tokio::task::spawn_blocking(move || {
            let mut process = command.spawn().unwrap();
            let mut line = String::new();
            BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
            let ready: Value = serde_json::from_str(&line).unwrap();
            Self { process, address: ready["ready"]["address"].as_str().unwrap().to_owned() }
        });
        Some(started.await.unwrap())
    }

    pub(super) fn client(&self) -> GrpcClientBuilder {
        client_of(&self.address)
    }
}

impl Drop for GoServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A client of the one instance at this address.
pub(super) fn client_of(address: &str) -> GrpcClientBuilder {
    let registry: StaticRegistry = format!("{SERVICE}={address}").parse().unwrap();
    fixture::client_of(registry, SERVICE)
}
