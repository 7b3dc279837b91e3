//! The broker port on a Kafka cluster.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use micro_core::{
    Error, ErrorKind, Result,
    broker::{Broker, Capabilities, Message, Receipt, SubscribeRequest, Subscription},
};
use rdkafka::{producer::Producer as _, types::RDKafkaErrorCode as Code};
use tokio::time::timeout;

use crate::{admin::Observers, config::KafkaConfig, envelope, error::classify, member::Member, producer::Producer};

/// How long one question of [`KafkaBroker::connect`] waits before it looks for a reason to stop.
const CONNECT_STEP: Duration = Duration::from_millis(200);
/// How much longer than its messages may take a call of `publish` waits for librdkafka's reports. A
/// message that is sent again may take the delivery timeout twice.
const REPORT_WAIT: Duration = Duration::from_secs(10);

/// A Kafka cluster. Clones share the producer; each subscription is a client of its own.
///
/// A receipt means that all replicas in sync have the message. Keys keep their order: the producer
/// is idempotent. Topics are created beforehand, [`create_topics`](Self::create_topics) does it.
///
/// A message that its topic does not take is refused without its neighbours: batches are cut to the
/// topic's `max.message.bytes`, and a message of a batch that is refused all the same is sent again
/// in a batch of its own, unless a later message of its key has been sent: then it is `Aborted`.
///
/// Clients of librdkafka live on threads of their own; nothing here blocks a worker of the runtime.
/// Dropping the last clone sends what was handed in for as long as `close_timeout`, in the
/// background; [`flush`](Broker::flush) waits for it.
#[derive(Clone)]
pub struct KafkaBroker {
    inner: Arc<Inner>,
}

struct Inner {
    config: KafkaConfig,
    producer: Producer,
    observers: Observers,
}

impl KafkaBroker {
    /// Connects, and waits until a broker has answered.
    ///
    /// # Errors
    ///
    /// `Unavailable` when none answers within `connect_timeout`, or none with which TLS comes about;
    /// `Unauthenticated` when the password is refused, `InvalidArgument` for settings that cannot be,
    /// `Unimplemented` for TLS and SCRAM without the feature `tls`.
    pub async fn connect(config: KafkaConfig) -> Result<Self> {
        config.check()?;
        blocking("broker.connect", move || {
            let producer = Producer::start(&config)?;
            answered(&producer, &config)?;
            Ok(Self { inner: Arc::new(Inner { config, producer, observers: Observers::default() }) })
        })
        .await
    }

    /// As [`connect`](Self::connect), by a URL: [`KafkaConfig::from_url`].
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub async fn connect_url(url: &str) -> Result<Self> {
        Self::connect(KafkaConfig::from_url(url)?).await
    }

    pub(crate) fn config(&self) -> &KafkaConfig {
        &self.inner.config
    }

    pub(crate) fn observers(&self) -> &Observers {
        &self.inner.observers
    }

    pub(crate) fn producer(&self) -> &Producer {
        &self.inner.producer
    }
}

/// Blocks until a broker has answered.
fn answered(producer: &Producer, config: &KafkaConfig) -> Result<()> {
    let end = Instant::now() + config.connect_timeout;
    let session = producer.session()?;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if session.client().fetch_cluster_id(left.min(CONNECT_STEP)).is_some() {
            return Ok(());
        }
        let cause = producer.log().last_error();
        let (kind, message) = match cause.as_ref().map(|(code, _)| classify(*code)) {
            Some((ErrorKind::Unauthenticated, _)) => (
                ErrorKind::Unauthenticated,
                "Kafka does not accept the credentials: check user, password and SASL mechanism",
            ),
            _ if !left.is_zero() => continue,
            _ if cause.as_ref().is_some_and(|(code, reason)| is_tls_failure(*code, reason)) => classify(Code::SSL),
            _ if config.tls.is_some() => (
                ErrorKind::Unavailable,
                "Kafka does not answer over TLS: check that it runs there, host and port, that this listener speaks \
                 TLS, and whether it asks for the client's certificate (tls_certificate_file, tls_key_file)",
            ),
            _ => (
                ErrorKind::Unavailable,
                "Kafka does not answer: check that it runs there, host and port, and whether this listener wants TLS \
                 (kafka+tls://) or a password",
            ),
        };
        let cause = cause.map_or_else(|| "no answer in time".to_owned(), |(_, reason)| reason);
        return Err(Error::new(kind, "broker.connect", message)
            .with_context("servers", &config.servers)
            .with_context("connect_timeout_ms", config.connect_timeout.as_millis())
            .with_context("cause", cause));
    }
}

/// Whether TLS did not come about. librdkafka says so of some attempts as of any broken connection,
/// with OpenSSL's words.
fn is_tls_failure(code: Code, reason: &str) -> bool {
    code == Code::SSL || reason.contains("SSL routines:")
}

/// Runs what blocks on a thread for that.
pub(crate) async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|join| Error::new(ErrorKind::Internal, operation, "the client panicked").with_source(join))?
}

#[async_trait]
impl Broker for KafkaBroker {
    async fn publish(&self, messages: Vec<Message>) -> Vec<Result<Receipt>> {
        if messages.is_empty() {
            return Vec::new();
        }
        let (messages, refusals) = envelope::seal_all(&self.inner.config, messages);
        let count = messages.len();
        let results = self.inner.producer.enqueue(messages);
        // librdkafka keeps its delivery timeout; this is for the day it does not.
        let wait = self.inner.config.delivery_timeout * 2 + REPORT_WAIT;
        let results = match timeout(wait, results).await {
            Ok(Ok(results)) => results,
            Ok(Err(_)) | Err(_) => {
                let unknown = || {
                    Err(Error::new(ErrorKind::DeadlineExceeded, "broker.publish", "the client reported nothing")
                        .with_context("wait_ms", wait.as_millis()))
                };
                std::iter::repeat_with(unknown).take(count).collect()
            }
        };
        refusals.merge(results)
    }

    async fn subscribe(&self, request: SubscribeRequest) -> Result<Arc<dyn Subscription>> {
        check(&request)?;
        let broker = self.clone();
        blocking("broker.subscribe", move || {
            broker.check_topics(&request.topics)?;
            let member = Member::join(broker.config().clone(), request)?;
            Ok(Arc::new(member) as Arc<dyn Subscription>)
        })
        .await
    }

    async fn flush(&self, deadline: Duration) -> Result<()> {
        let calls = self.inner.producer.calls();
        timeout(deadline, calls.closed()).await.map_err(|_| {
            Error::new(ErrorKind::DeadlineExceeded, "broker.flush", "not everything handed in has its receipt")
                .with_context("unsettled", calls.message_count())
                .with_context("deadline_ms", deadline.as_millis())
        })
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(true, true, true)
    }
}

fn check(request: &SubscribeRequest) -> Result<()> {
    let refused = |what| Err(Error::new(ErrorKind::InvalidArgument, "broker.subscribe", what));
    if request.group.is_empty() || request.group.contains('\0') {
        return refused("the group's name is empty or holds a NUL byte");
    }
    // librdkafka takes a name that begins with ^ as a pattern.
    if request.topics.is_empty() || request.topics.iter().any(|topic| topic.is_empty() || topic.contains(['\0', '^'])) {
        return refused("expected at least one topic, each by its name");
    }
    Ok(())
}

impl fmt::Debug for KafkaBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaBroker").field("config", &self.inner.config).finish_non_exhaustive()
    }
}
