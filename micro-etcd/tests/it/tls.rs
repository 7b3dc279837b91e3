//! TLS: certificates of one side or both.

use std::{fs, path::Path, process::Command};

use micro_core::{
    ErrorKind,
    registry::{Instance, Registry as _},
};
use micro_etcd::{EtcdConfig, EtcdRegistry};
use micro_testkit::Fixture as _;

use crate::server::{Own, PATIENCE, becomes, blocking, lasting};

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output();
    let output = output.expect("openssl is there: Debian's openssl");
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority, and what it signed for a server on loopback and for a client.
fn certificates(folder: &Path) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(folder, &format!("req -x509 {key} -days 2 -subj /CN=authority -keyout ca.key -out ca.pem"));
    fs::write(folder.join("server.ext"), "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
        .unwrap();
    fs::write(folder.join("client.ext"), "extendedKeyUsage=clientAuth\n").unwrap();
    for name in ["server", "client"] {
        openssl(folder, &format!("req {key} -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        let signed = format!("-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile {name}.ext -out {name}.pem");
        openssl(folder, &format!("x509 -req -in {name}.csr {signed}"));
    }
}

#[tokio::test]
async fn tls_comes_about_with_certificates_of_both_sides_or_says_in_time_what_to_check() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_owned();
    blocking(move || certificates(&place)).await;
    let file = |name: &str| folder.path().join(name).display().to_string();
    let port = dev_servers::free_port();
    // It also listens in plain text, by which the test finds out that it is ready.
    let flags = vec![
        ("listen-client-urls", format!("http://127.0.0.1:${{port}},https://127.0.0.1:{port}")),
        ("cert-file", file("server.pem")),
        ("key-file", file("server.key")),
        ("trusted-ca-file", file("ca.pem")),
        ("client-cert-auth", "true".to_owned()),
    ];
    let own = match Own::with(flags).await {
        Ok(own) => own,
        // Says why it is skipped, or fails where it is required.
        Err(missing) => {
            assert!(Own::start().await.is_err(), "{missing:?}");
            micro_testkit::ready::<Own>().await;
            return;
        }
    };
    let mut config = EtcdConfig::from_url(&format!("etcd+tls://127.0.0.1:{port}?ca_file={}", file("ca.pem"))).unwrap();
    config.connect_timeout = std::time::Duration::from_secs(3);
    let mut both = config.clone();
    both.connect_timeout = PATIENCE;
    (both.cert_file, both.key_file) = (Some(file("client.pem").into()), Some(file("client.key").into()));
    let registry = EtcdRegistry::connect(both.clone()).await.unwrap();
    let instance = Instance::new("greeter", "127.0.0.1:9000");
    let _registration = registry.register(instance.clone(), lasting()).await.unwrap();
    becomes(&registry, "greeter", &[instance]).await;

    let mut stranger = both.clone();
    stranger.ca_file = None;
    stranger.connect_timeout = config.connect_timeout;
    for (config, what) in [(config, "without its certificate"), (stranger, "with an authority that it does not trust")]
    {
        let error = EtcdRegistry::connect(config).await.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{what}: {error:?}");
    }
    let mut absent = both;
    absent.ca_file = Some(file("no-such.pem").into());
    let error = EtcdRegistry::connect(absent).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.report().contains("no-such.pem"), "{error:?}");
    drop(own);
}
