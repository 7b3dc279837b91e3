//! Who may speak to Kafka, and with whom the client speaks: SCRAM, TLS, certificates of both sides.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use micro_broker_kafka::KafkaBroker;
use micro_core::ErrorKind;
use micro_testkit::{Fixture, Missing, unique};
use tokio::time::timeout;

use crate::{
    certificates::{Certificates, KEY_PASSWORD},
    heard,
    world::{OwnKafka, PATIENCE, Reader, bodies, new_topic, numbers, publish, ready},
};

/// The password of the user `order`, and one that is wrong.
const RIGHT: &str = "right-4712";
const WRONG: &str = "canary-4712";

const SETTINGS: &[(&str, &str)] = &[
    (
        "listener.security.protocol.map",
        "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL,MUTUAL:SSL,SASL_SSL:SASL_SSL",
    ),
    ("ssl.keystore.type", "PEM"),
    ("ssl.truststore.type", "PEM"),
    ("listener.name.mutual.ssl.client.auth", "required"),
    ("sasl.enabled.mechanisms", "SCRAM-SHA-256,SCRAM-SHA-512"),
    ("listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config", SCRAM),
    ("listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config", SCRAM),
    ("listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config", SCRAM),
    ("listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config", SCRAM),
    ("format.add-scram", "SCRAM-SHA-256=[name=order,password=right-4712]"),
    ("format.add-scram", "SCRAM-SHA-512=[name=order,password=right-4712]"),
];
const SCRAM: &str = "org.apache.kafka.common.security.scram.ScramLoginModule required;";

/// One server that listens in four ways (and in clear, to itself), and the files of its clients.
struct SecuredKafka {
    /// SCRAM without TLS.
    scram: String,
    /// TLS; who the client is does not count.
    tls: String,
    /// TLS; the client shows a certificate, too.
    mutual: String,
    /// SCRAM over TLS.
    scram_tls: String,
    certificates: Certificates,
    _kafka: OwnKafka,
}

impl Fixture for SecuredKafka {
    async fn start() -> Result<Self, Missing> {
        let certificates = Certificates::make()?;
        let file = |name: &str| certificates.file(name).display().to_string();
        let [scram, tls, mutual, scram_tls] = [(); 4].map(|()| format!("127.0.0.1:{}", dev_servers::free_port()));
        let listeners = format!(
            "PLAINTEXT://127.0.0.1:${{port}},SASL_PLAINTEXT://{scram},SSL://{tls},MUTUAL://{mutual},SASL_SSL://{scram_tls}"
        );
        let of_this_one = [
            ("listeners", format!("{listeners},CONTROLLER://127.0.0.1:${{other}}")),
            ("advertised.listeners", listeners),
            ("ssl.keystore.location", file("broker.pem")),
            ("ssl.truststore.location", file("authority.pem")),
        ];
        let of_this_one = of_this_one.iter().map(|(name, value)| (*name, value.as_str()));
        let kafka = OwnKafka::start_with(&SETTINGS.iter().copied().chain(of_this_one).collect::<Vec<_>>())?;
        Ok(Self { scram, tls, mutual, scram_tls, certificates, _kafka: kafka })
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

/// Files as options of a URL.
impl SecuredKafka {
    fn trusting(&self, authority: &str) -> String {
        format!("tls_ca_file={}", self.certificates.file(authority).display())
    }

    fn shown(&self, key_password: &str) -> String {
        let [certificate, key] = ["client.pem", "client-key.pem"].map(|name| self.certificates.file(name));
        let files = format!("tls_certificate_file={}&tls_key_file={}", certificate.display(), key.display());
        format!("{files}&tls_key_password={key_password}")
    }
}

/// Connects, publishes, reads it back.
async fn works(url: &str) {
    let broker = KafkaBroker::connect_url(&format!("{url}&connect_timeout_ms=30000")).await.expect(url);
    let topic = new_topic(&broker, 1).await;
    publish(&broker, &topic, "a", &numbers(0..1)).await;
    let reader = Reader::join(&broker, &unique("group"), &topic).await;
    assert_eq!(bodies(&reader.take(1).await), numbers(0..1), "{url}");
    reader.close().await;
    shows_no_secret(&format!("{broker:?}"));
}

fn shows_no_secret(text: &str) {
    for secret in [RIGHT, WRONG, KEY_PASSWORD] {
        assert!(!text.contains(secret), "{text}");
        assert!(heard::lines_of(secret, "").is_empty(), "{:?}", heard::lines_of(secret, ""));
    }
}

/// The one line of the error that this is.
async fn refused(url: &str, kind: ErrorKind) -> String {
    let error = KafkaBroker::connect_url(url).await.expect_err(url);
    shows_no_secret(&format!("{error:?} {error} {}", error.report()));
    assert_eq!(error.kind(), kind, "{url}: {error:?}");
    let report = error.report();
    assert!(!report.contains('\n'), "{url}: {report}");
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn scram_lets_in_the_right_password_alone_and_shows_none_with_tls_and_without() {
    let kafka = ready!(SecuredKafka);
    let tls = kafka.trusting("authority.pem");
    for (scheme, servers, mechanism) in [
        ("kafka", &kafka.scram, "scram-sha-256"),
        ("kafka", &kafka.scram, "scram-sha-512"),
        ("kafka+tls", &kafka.scram_tls, "scram-sha-512"),
    ] {
        let tls = if scheme == "kafka" { "" } else { &tls };
        let url = |password| format!("{scheme}://order:{password}@{servers}?sasl_mechanism={mechanism}&{tls}");
        works(&url(RIGHT)).await;
        let began = Instant::now();
        // Soon, and not only when the time to connect is over.
        let wrong = format!("{}&connect_timeout_ms=60000", url(WRONG));
        let report = refused(&wrong, ErrorKind::Unauthenticated).await;
        assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
        assert!(report.contains("check user, password") && report.contains(servers), "{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_comes_about_with_certificates_of_one_side_or_both_or_says_in_time_what_to_check() {
    let kafka = ready!(SecuredKafka);
    let SecuredKafka { scram, tls, mutual, .. } = &kafka;
    let [authority, stranger] = ["authority.pem", "stranger.pem"].map(|name| kafka.trusting(name));
    works(&format!("kafka+tls://{tls}?{authority}")).await;
    works(&format!("kafka+tls://{mutual}?{authority}&{}", kafka.shown(KEY_PASSWORD))).await;

    let elsewhere = tls.replace("127.0.0.1", "localhost");
    let (away, never) = (ErrorKind::Unavailable, ErrorKind::InvalidArgument);
    let began = Instant::now();
    let refusals = [
        // An authority that did not sign it; the system's, of which none did; another host.
        (format!("kafka+tls://{tls}?{stranger}"), away, "check tls_ca_file"),
        (format!("kafka+tls://{tls}?"), away, "check tls_ca_file"),
        (format!("kafka+tls://{elsewhere}?{authority}&broker.address.family=v4"), away, "certificate is for this host"),
        // A client that does not say who it is.
        (format!("kafka+tls://{mutual}?{authority}"), away, "the client's"),
        // Listeners that speak something else.
        (format!("kafka+tls://{scram}?{authority}"), away, "speaks TLS"),
        (format!("kafka://{tls}?"), away, "wants TLS (kafka+tls://)"),
        // Files that cannot be read.
        (format!("kafka+tls://{mutual}?{authority}&{}", kafka.shown(WRONG)), never, "tls_key_password"),
        (format!("kafka+tls://{tls}?tls_ca_file=nowhere"), never, "check that tls_ca_file"),
    ];
    let all = join_all(refusals.iter().map(async |(url, kind, advice)| {
        let report = refused(&format!("{url}&connect_timeout_ms=10000"), *kind).await;
        assert!(report.contains(advice), "{url}: {report}");
    }));
    timeout(PATIENCE, all).await.expect("every connect ends");
    // All of them side by side, each within its 10 s, which a busy machine draws out; one after the
    // other they would take a minute.
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
}
