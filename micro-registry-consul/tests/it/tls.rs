//! HTTPS to the agent: whom the client trusts, and who it is.

use std::{path::Path, process::Command};

use micro_core::{
    ErrorKind,
    registry::{Instance, Registry as _},
};
use micro_registry_consul::{ConsulConfig, ConsulRegistry};
use micro_testkit::{Fixture, Missing, eventually, ready};
use tempfile::TempDir;

use crate::agent::{Agent, PATIENCE, becomes, blocking, quick};

/// An agent with certificates of an authority of its own, which asks clients for theirs.
struct Secured {
    url: String,
    folder: TempDir,
    _agent: Agent,
}

impl Fixture for Secured {
    async fn start() -> Result<Self, Missing> {
        let any = Agent::start().await?;
        let program = any.program();
        let folder = blocking(move || {
            let folder = tempfile::tempdir().expect("a folder");
            create(&program, folder.path(), &["ca", "create"]);
            create(&program, folder.path(), &["cert", "create", "-server", "-dc=dc1"]);
            create(&program, folder.path(), &["cert", "create", "-client", "-dc=dc1"]);
            create(&program, folder.path(), &["ca", "create", "-domain=other"]);
            folder
        })
        .await;
        drop(any);
        let port = dev_servers::free_port();
        let file = |name: &str| format!("\"{}\"", folder.path().join(name).display());
        let agent = Agent::with(&[
            ("ports", &format!("{{ https = {port} }}")),
            ("verify_incoming_https", "true"),
            ("ca_file", &file("consul-agent-ca.pem")),
            ("cert_file", &file("dc1-server-consul-0.pem")),
            ("key_file", &file("dc1-server-consul-0-key.pem")),
        ])
        .await?;
        Ok(Self { url: format!("consul+https://127.0.0.1:{port}"), folder, _agent: agent })
    }

    fn patience(&self) -> std::time::Duration {
        PATIENCE
    }
}

fn create(program: &Path, folder: &Path, arguments: &[&str]) {
    let output = Command::new(program).arg("tls").args(arguments).current_dir(folder).output().expect("it runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Secured {
    fn config(&self, ca: &str, has_certificate: bool) -> ConsulConfig {
        let file = |name: &str| self.folder.path().join(name).display().to_string();
        let mut url = format!("{}?ca_file={}", self.url, file(ca));
        if has_certificate {
            url += &format!("&cert_file={}", file("dc1-client-consul-0.pem"));
            url += &format!("&key_file={}", file("dc1-client-consul-0-key.pem"));
        }
        ConsulConfig::from_url(&url).expect("the URL is right")
    }
}

#[tokio::test]
async fn an_agent_with_certificates_is_trusted_by_its_authority_and_knows_the_client() {
    let Some(secured) = ready::<Secured>().await else { return };
    let registry = ConsulRegistry::connect(secured.config("consul-agent-ca.pem", true)).await.unwrap();
    let instance = Instance::new("greeter", "127.0.0.1:9000");
    let registration = registry.register(instance.clone(), quick()).await.unwrap();
    becomes(&registry, "greeter", &[instance]).await;
    assert!(registry.watch("greeter").await.unwrap().next().await.is_some());
    registration.close().await.unwrap();
}

#[tokio::test]
async fn an_agent_of_another_authority_and_a_client_without_a_certificate_are_refused() {
    let Some(secured) = ready::<Secured>().await else { return };
    for (config, cause) in [
        (secured.config("other-agent-ca.pem", true), "UnknownIssuer"),
        (secured.config("consul-agent-ca.pem", false), "ertificate"),
    ] {
        // The agent may close the connection before its alert was read.
        eventually(PATIENCE, "the cause is told", || async {
            let error = ConsulRegistry::connect(config.clone()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
            let report = error.report();
            if report.contains(cause) { Ok(()) } else { Err(report) }
        })
        .await;
    }
    let system = ConsulConfig::from_url(&secured.url).unwrap();
    assert_eq!(ConsulRegistry::connect(system).await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_file_that_is_no_certificate_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let [missing, empty] = ["missing.pem", "empty.pem"].map(|name| folder.path().join(name));
    std::fs::write(&empty, "no certificate").unwrap();
    for file in [missing, empty] {
        let config = ConsulConfig::from_url(&format!("consul+https://127.0.0.1:1?ca_file={}", file.display()));
        let error = ConsulRegistry::connect(config.unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.report().contains(&format!("file={}", file.display())), "{error:?}");
    }
}
