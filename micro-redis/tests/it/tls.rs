//! TLS: certificates of one side or both, and what is told where it does not come about.

use std::{fs, path::Path, process::Command, time::Duration};

use micro_core::{ErrorKind, Result, barrier::Prepared};
use micro_redis::{RedisBarrier, RedisConfig};

use crate::server::{blocking, own_with, patient};

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output();
    let output = output.expect("openssl is there: Debian's openssl");
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Two authorities, and what the first one signed for a server on loopback and for a client.
fn certificates(folder: &Path) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    for name in ["ca", "stranger"] {
        openssl(folder, &format!("req -x509 {key} -days 2 -subj /CN={name} -keyout {name}.key -out {name}.pem"));
    }
    fs::write(folder.join("server.ext"), "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n").unwrap();
    fs::write(folder.join("client.ext"), "extendedKeyUsage=clientAuth\n").unwrap();
    for name in ["server", "client"] {
        openssl(folder, &format!("req {key} -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        let signed = format!("-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile {name}.ext -out {name}.pem");
        openssl(folder, &format!("x509 -req -in {name}.csr {signed}"));
    }
}

/// Connects and asks.
async fn asked(config: &RedisConfig) -> Result<Prepared> {
    RedisBarrier::connect(config.clone()).await?.prepared("order-1").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_comes_about_with_certificates_of_both_sides_or_says_in_time_what_to_check() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_owned();
    blocking(move || certificates(&place)).await;
    let file = |name: &str| folder.path().join(name);
    let shown = |name: &str| file(name).display().to_string();
    let port = dev_servers::free_port();
    // It also listens in plain text, by which is found out that it is ready.
    let settings = vec![
        ("tls-port", port.to_string()),
        ("tls-cert-file", shown("server.pem")),
        ("tls-key-file", shown("server.key")),
        ("tls-ca-cert-file", shown("ca.pem")),
        ("tls-auth-clients", "yes".to_owned()),
        ("requirepass", "sesame".to_owned()),
    ];
    let Some(server) = own_with(settings).await else { return };
    let mut both = patient(&format!("rediss://:sesame@127.0.0.1:{port}"));
    (both.ca_file, both.cert_file, both.key_file) =
        (Some(file("ca.pem")), Some(file("client.pem")), Some(file("client.key")));
    assert_eq!(asked(&both).await.unwrap(), Prepared::RolledBack);

    let with = |change: &dyn Fn(&mut RedisConfig)| {
        let mut changed = both.clone();
        change(&mut changed);
        changed
    };
    for (changed, what) in [
        (with(&|config| config.ca_file = None), "the system knows no such authority"),
        (with(&|config| config.ca_file = Some(file("stranger.pem"))), "another authority"),
        (with(&|config| config.url = format!("rediss://:sesame@localhost:{port}")), "another host's certificate"),
        (with(&|config| (config.cert_file, config.key_file) = (None, None)), "the server wants a certificate"),
        (
            with(&|config| {
                (config.cert_file, config.key_file) = (Some(file("stranger.pem")), Some(file("stranger.key")))
            }),
            "a stranger's",
        ),
    ] {
        let error = asked(&changed).await.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{what}: {}", error.report());
        let told = error.report();
        assert!(
            told.contains("check ca_file")
                && told.contains(&format!("address={}", changed.url.rsplit('@').next().unwrap())),
            "{what}: {told}"
        );
        assert!(!told.contains("sesame"), "{told}");
    }
    for (changed, part) in [
        (with(&|config| config.ca_file = Some(file("nowhere.pem"))), "a file of TLS cannot be read (file="),
        (with(&|config| config.ca_file = Some(file("server.ext"))), "expected a PEM file (file="),
        (with(&|config| config.key_file = Some(file("ca.pem"))), "cert_file and key_file"),
    ] {
        let error = asked(&changed).await.expect_err(part);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{}", error.report());
        assert!(error.report().contains(part), "{part}: {}", error.report());
    }
    let mut no_tls = both.clone();
    no_tls.connect_timeout = Duration::from_secs(3);
    no_tls.url = format!("rediss://:sesame@127.0.0.1:{}", server.port());
    let error = asked(&no_tls).await.expect_err("TLS to a port of plain text");
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{}", error.report());
    assert!(error.report().contains("TLS for rediss:// alone"), "{}", error.report());
    let plain = patient(&format!("redis://:sesame@127.0.0.1:{port}"));
    let error = asked(&plain).await.expect_err("plain text to a port of TLS");
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Unknown), "{}", error.report());
}
