//! The settings of a Kafka broker, and what librdkafka is told because of them.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use micro_core::{Error, ErrorKind, Result, millis};
use rdkafka::ClientConfig;
use serde::{Deserialize, Serialize};

use crate::address;

const OPERATION: &str = "broker.connect";
/// librdkafka's `batch.size`.
const BATCH_BYTES: u32 = 1_000_000;
/// A member learns of a rebalance by its next heartbeat, and what moves stands still until all have:
/// more often than the 3 s of Kafka's own clients.
const HEARTBEAT_INTERVAL_MAX: Duration = Duration::from_millis(500);

/// The settings of a [`KafkaBroker`](crate::KafkaBroker). Durations are milliseconds when read from
/// a file or a URL.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct KafkaConfig {
    /// Where to begin: `host:port`, several with commas between. No default.
    pub servers: String,
    /// What the brokers' logs and quotas know this client by; default `micro-rs`.
    pub client_id: String,
    /// How long `connect`, `subscribe` and questions about topics wait for an answer; default 5 s.
    #[serde(rename = "connect_timeout_ms", with = "millis")]
    pub connect_timeout: Duration,
    /// How long a broker may take for an answer before the connection is given up; default 10 s.
    #[serde(rename = "request_timeout_ms", with = "millis")]
    pub request_timeout: Duration,

    /// Which partition a key goes to; default [`Partitioner::Fnv1a`].
    pub partitioner: Partitioner,
    /// How batches are compressed; default [`Compression::Lz4`].
    pub compression: Compression,
    /// How long a message may be on its way before its result is an error; default 30 s. The outbox
    /// tries again after that, so a long time only hides an outage.
    #[serde(rename = "delivery_timeout_ms", with = "millis")]
    pub delivery_timeout: Duration,
    /// How long a batch waits to fill; default 0: what arrives while requests are under way fills
    /// the next one.
    #[serde(rename = "linger_ms", with = "millis")]
    pub linger: Duration,
    /// Requests under way to one broker, 1 to 5 (more would break the order of an idempotent
    /// producer); default 2.
    pub in_flight_count_max: u32,
    /// The largest message in bytes, its headers included; default 1,000,000. The topic's
    /// `max.message.bytes` counts as well, and no batch is larger than that.
    pub message_bytes_max: u32,
    /// How many messages wait for their receipts, each for up to `delivery_timeout`; one more is
    /// refused at once. Default 20,000. Those that wait to be sent, or sent again, are counted apart
    /// from those that are on their way.
    pub queue_count_max: u32,
    /// How many bytes of messages wait for their receipts; default 64 MiB.
    pub queue_bytes_max: u64,
    /// How long a topic may be missing from the brokers' answers before a message to it is refused;
    /// default 1 s.
    #[serde(rename = "topic_wait_ms", with = "millis")]
    pub topic_wait: Duration,
    /// Topics whose records are written as go-micro v4 writes them, key, headers and body in a JSON
    /// envelope, for groups with members on go-micro; `*` stands for all. Default none: a message is
    /// the record's own key, headers and body. What is received may be either.
    pub envelope_topics: Vec<String>,
    /// Headers that go into an envelope beside those of events and dead letters; default none. An
    /// envelope's headers become the metadata of a go-micro handler, which sends them on with each of
    /// its calls: what is not named here stays out.
    pub envelope_headers: Vec<String>,

    /// How partitions are spread over a group; default [`Assignment::CooperativeSticky`]. All
    /// members of a group must have the same.
    pub assignment: Assignment,
    /// The member's name that outlives its restarts, so that a restart within the session timeout
    /// moves no partition; default none. Two members of one name push each other out.
    pub instance_id: Option<String>,
    /// After how long without a heartbeat a member's partitions go to others; default 10 s.
    #[serde(rename = "session_timeout_ms", with = "millis")]
    pub session_timeout: Duration,
    /// How often acked positions are committed, beside at each hand-over and at the end; default 1 s.
    #[serde(rename = "commit_interval_ms", with = "millis")]
    pub commit_interval: Duration,
    /// How long a rebalance waits for the guard of what it takes away; default 6 s, a second more
    /// than a consumer takes to hand over.
    #[serde(rename = "revoke_wait_max_ms", with = "millis")]
    pub revoke_wait_max: Duration,
    /// How long the end of a subscription or of the broker may take; default 5 s. A client that
    /// takes longer is left to itself.
    #[serde(rename = "close_timeout_ms", with = "millis")]
    pub close_timeout: Duration,
    /// Deliveries that wait to be received, paused partitions aside; default 4,096.
    pub receive_count_max: usize,
    /// Their bytes; default 16 MiB. What was received is kept in blocks of 64 KiB, each for as long as
    /// anything of it: a handler that keeps a few bytes of a delivery for long does better to copy them.
    pub receive_bytes_max: usize,
    /// What librdkafka fetches ahead of that, in bytes; default 16 MiB.
    pub prefetch_bytes_max: u32,
    /// What one fetch asks of one partition, in bytes; default 1 MiB.
    pub fetch_bytes_max: u32,

    /// Who the client is; default nobody.
    pub sasl: Option<Sasl>,
    /// Encryption; default none. Needs the feature `tls`.
    pub tls: Option<Tls>,

    /// Further properties of librdkafka, by its names. Those that have a setting above and those
    /// that the guarantees rest on are refused.
    pub properties: BTreeMap<String, String>,
}

/// Which partition a key goes to. All who write to a topic must agree, or a key's order is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Partitioner {
    /// FNV-1a, as Go's sarama and the go-micro fleet:
    /// [`fnv1a_partition`](micro_core::broker::fnv1a_partition).
    #[default]
    Fnv1a,
    /// Murmur2, as Java's producer.
    Murmur2,
    /// CRC-32, as librdkafka by default. An empty key counts as none.
    Crc32,
}

/// How batches are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Not at all.
    None,
    /// LZ4: fast.
    #[default]
    Lz4,
    /// Zstandard: small.
    Zstd,
    /// gzip, for old brokers.
    Gzip,
    /// Snappy.
    Snappy,
}

/// How partitions are spread over a group's members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Assignment {
    /// A rebalance moves only what must move; the rest goes on.
    #[default]
    CooperativeSticky,
    /// Contiguous partitions; a rebalance stops everything. For groups that Go or old Java clients
    /// are members of.
    Range,
    /// One after the other; a rebalance stops everything.
    RoundRobin,
}

/// A user and password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sasl {
    /// How they are shown to the broker; default [`SaslMechanism::Plain`].
    #[serde(default)]
    pub mechanism: SaslMechanism,
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

/// How a password is shown to the broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SaslMechanism {
    /// As it is: only over TLS or in a trusted network.
    #[default]
    Plain,
    /// SCRAM with SHA-256. Needs the feature `tls`.
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// SCRAM with SHA-512. Needs the feature `tls`.
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
}

/// Encryption. The system's authorities are trusted unless others are named.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Tls {
    /// PEM file of the authorities that sign brokers.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client's certificate.
    pub certificate_file: Option<PathBuf>,
    /// PEM file of its key.
    pub key_file: Option<PathBuf>,
    /// The key's password.
    pub key_password: Option<String>,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            servers: String::new(),
            client_id: "micro-rs".to_owned(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            partitioner: Partitioner::default(),
            compression: Compression::default(),
            delivery_timeout: Duration::from_secs(30),
            linger: Duration::ZERO,
            in_flight_count_max: 2,
            message_bytes_max: 1_000_000,
            queue_count_max: 20_000,
            queue_bytes_max: 64 << 20,
            topic_wait: Duration::from_secs(1),
            envelope_topics: Vec::new(),
            envelope_headers: Vec::new(),
            assignment: Assignment::default(),
            instance_id: None,
            session_timeout: Duration::from_secs(10),
            commit_interval: Duration::from_secs(1),
            revoke_wait_max: Duration::from_secs(6),
            close_timeout: Duration::from_secs(5),
            receive_count_max: 4_096,
            receive_bytes_max: 16 << 20,
            prefetch_bytes_max: 16 << 20,
            fetch_bytes_max: 1 << 20,
            sasl: None,
            tls: None,
            properties: BTreeMap::new(),
        }
    }
}

/// Properties that the guarantees rest on, or that have a setting of their own, each with the
/// reason why it is refused.
const REFUSED_PROPERTIES: &[(&str, &str)] = &[
    ("bootstrap.servers", "set servers"),
    ("metadata.broker.list", "set servers"),
    ("client.id", "set client_id"),
    ("socket.timeout.ms", "set request_timeout_ms"),
    ("partitioner", "set partitioner"),
    ("compression.type", "set compression"),
    ("compression.codec", "set compression"),
    ("message.timeout.ms", "set delivery_timeout_ms"),
    ("delivery.timeout.ms", "set delivery_timeout_ms"),
    ("linger.ms", "set linger_ms"),
    ("queue.buffering.max.ms", "set linger_ms"),
    ("max.in.flight", "set in_flight_count_max"),
    ("max.in.flight.requests.per.connection", "set in_flight_count_max"),
    ("message.max.bytes", "set message_bytes_max"),
    ("queue.buffering.max.messages", "set queue_count_max"),
    ("queue.buffering.max.kbytes", "set queue_bytes_max"),
    ("topic.metadata.propagation.max.ms", "set topic_wait_ms"),
    ("partition.assignment.strategy", "set assignment"),
    ("group.instance.id", "set instance_id"),
    ("session.timeout.ms", "set session_timeout_ms"),
    ("heartbeat.interval.ms", "it follows session_timeout_ms"),
    ("queued.max.messages.kbytes", "set prefetch_bytes_max"),
    ("fetch.message.max.bytes", "set fetch_bytes_max"),
    ("max.partition.fetch.bytes", "set fetch_bytes_max"),
    ("security.protocol", "set sasl and tls"),
    ("group.id", "the subscription names its group"),
    ("group.protocol", "the rebalance is the classic protocol's"),
    ("acks", "a receipt means that all replicas in sync have the message"),
    ("request.required.acks", "a receipt means that all replicas in sync have the message"),
    ("enable.idempotence", "without it a retry changes the order of a key"),
    ("retries", "an idempotent producer retries until delivery_timeout_ms"),
    ("message.send.max.retries", "an idempotent producer retries until delivery_timeout_ms"),
    ("transactional.id", "the outbox takes the place of Kafka's transactions"),
    ("enable.auto.commit", "what is acked is committed, and nothing else"),
    ("auto.commit.interval.ms", "set commit_interval_ms"),
    ("enable.auto.offset.store", "positions are committed after the work, never before"),
    ("auto.offset.reset", "a new group starts at the earliest message"),
    ("allow.auto.create.topics", "topics are created beforehand"),
    ("enable.partition.eof", "the end of a partition is no event"),
    ("log.queue", "the client's log lines go to tracing"),
];

impl KafkaConfig {
    /// The defaults for the cluster that is reached through `servers`.
    pub fn new(servers: impl Into<String>) -> Self {
        Self { servers: servers.into(), ..Self::default() }
    }

    /// The settings in a URL: `kafka://[user:password@]host:port[,host:port…][?option=value&…]`;
    /// `kafka+tls://…` for encryption.
    ///
    /// An option is the name of a setting as a file has it (`linger_ms=2`, `partitioner=murmur2`),
    /// lists with commas between (`envelope_topics=OrderEvent,OrderEventDLQ`),
    /// `sasl_mechanism`, `tls_ca_file`, `tls_certificate_file`, `tls_key_file`, `tls_key_password`,
    /// or, with a dot in its name, a property of librdkafka. What in the user, the password or a
    /// value is part of the URL's grammar is written as `%XX`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument`, with the name of the option and without its value.
    pub fn from_url(url: &str) -> Result<Self> {
        address::parse(url)
    }

    /// The settings of a program that has librdkafka's properties already.
    ///
    /// `bootstrap.servers`, `client.id` and `partitioner` (or its Java and Go names) are taken from
    /// it; the rest goes to [`properties`](Self::properties).
    ///
    /// # Errors
    ///
    /// `InvalidArgument` when there are no servers, or a property is among those that are refused.
    pub fn from_properties<K, V>(properties: impl IntoIterator<Item = (K, V)>) -> Result<Self>
    where
        K: Into<String>,
        V: Into<String>,
    {
        let mut config = Self::default();
        for (name, value) in properties {
            let (name, value) = (name.into(), value.into());
            match name.as_str() {
                "bootstrap.servers" | "metadata.broker.list" => config.servers = value,
                "client.id" => config.client_id = value,
                _ => drop(config.properties.insert(name, value)),
            }
        }
        config.check()?;
        Ok(config)
    }

    /// Refuses what cannot work, before anything is started.
    pub(crate) fn check(&self) -> Result<()> {
        let refused = |message: &'static str| Err(Error::new(ErrorKind::InvalidArgument, OPERATION, message));
        if self.servers.split(',').any(|server| server.trim().is_empty()) {
            return refused("expected servers as host:port, several with commas between");
        }
        if !(1..=5).contains(&self.in_flight_count_max) {
            return refused("in_flight_count_max is 1 to 5: more would break the order of a key");
        }
        if self.receive_count_max == 0 || self.receive_bytes_max == 0 {
            return refused("receive_count_max and receive_bytes_max are at least 1");
        }
        if let Some((name, reason)) = REFUSED_PROPERTIES.iter().find(|(name, _)| self.properties.contains_key(*name)) {
            let message = "this property cannot be set beside the settings";
            return Err(Error::new(ErrorKind::InvalidArgument, OPERATION, message)
                .with_context("property", name)
                .with_context("reason", reason));
        }
        let mechanism = self.sasl.as_ref().map(|sasl| sasl.mechanism);
        let needs_tls = self.tls.is_some() || mechanism.is_some_and(|mechanism| mechanism != SaslMechanism::Plain);
        if needs_tls && cfg!(not(feature = "tls")) {
            let message = "TLS and SCRAM are not compiled in: turn on the feature tls of micro-broker-kafka";
            return Err(Error::new(ErrorKind::Unimplemented, OPERATION, message));
        }
        Ok(())
    }

    /// What all clients have in common.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.extend(self.properties.iter().map(|(name, value)| (name.clone(), value.clone())));
        client
            .set("bootstrap.servers", &self.servers)
            .set("client.id", &self.client_id)
            .set("allow.auto.create.topics", "false")
            .set("socket.timeout.ms", text_of_millis(self.request_timeout))
            .set("topic.metadata.propagation.max.ms", text_of_millis(self.topic_wait));
        let protocol = match (&self.sasl, &self.tls) {
            (None, None) => "plaintext",
            (Some(_), None) => "sasl_plaintext",
            (None, Some(_)) => "ssl",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        client.set("security.protocol", protocol);
        if let Some(sasl) = &self.sasl {
            client.set("sasl.mechanisms", sasl.mechanism.name());
            client.set("sasl.username", &sasl.user).set("sasl.password", &sasl.password);
        }
        if let Some(tls) = &self.tls {
            let files = [
                ("ssl.ca.location", &tls.ca_file),
                ("ssl.certificate.location", &tls.certificate_file),
                ("ssl.key.location", &tls.key_file),
            ];
            for (name, file) in files.into_iter().filter_map(|(name, file)| Some((name, file.as_ref()?))) {
                client.set(name, file.to_string_lossy());
            }
            if let Some(password) = &tls.key_password {
                client.set("ssl.key.password", password);
            }
        }
        client
    }

    /// What the producer is told.
    pub(crate) fn producer(&self) -> ClientConfig {
        let mut producer = self.client();
        producer
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("max.in.flight.requests.per.connection", self.in_flight_count_max.to_string())
            .set("partitioner", self.partitioner.name())
            .set("compression.type", self.compression.name())
            .set("delivery.timeout.ms", text_of_millis(self.delivery_timeout))
            .set("linger.ms", text_of_millis(self.linger))
            .set("message.max.bytes", self.message_bytes_max.to_string())
            .set("queue.buffering.max.messages", self.queue_count_max.max(1).to_string())
            .set("queue.buffering.max.kbytes", self.queue_bytes_max.div_ceil(1024).max(1).to_string());
        producer
    }

    /// How many bytes a batch of the producer holds at most, unless it is one message.
    pub(crate) fn batch_bytes(&self) -> u32 {
        let size = self.properties.get("batch.size").and_then(|size| size.parse().ok());
        size.unwrap_or(BATCH_BYTES).min(self.message_bytes_max)
    }

    /// What a member of `group` is told.
    pub(crate) fn consumer(&self, group: &str) -> ClientConfig {
        let mut consumer = self.client();
        // A fetch queue that is full looks again after 20 ms instead of 1 s, which would starve
        // what waits behind a limit as low as ours.
        if !self.properties.contains_key("fetch.queue.backoff.ms") {
            consumer.set("fetch.queue.backoff.ms", "20");
        }
        if !self.properties.contains_key("fetch.error.backoff.ms") {
            consumer.set("fetch.error.backoff.ms", "100");
        }
        // A topic that the member's broker did not know yet when it joined is looked for every 30 s, not
        // every five minutes.
        if !self.properties.contains_key("topic.metadata.refresh.interval.ms") {
            consumer.set("topic.metadata.refresh.interval.ms", "30000");
        }
        consumer
            .set("group.id", group)
            // In the background, of what is acked: nothing else is ever stored.
            .set("enable.auto.commit", "true")
            .set("auto.commit.interval.ms", text_of_millis(self.commit_interval))
            .set("enable.auto.offset.store", "false")
            // Every start position is given explicitly, so this is met only when the log no longer
            // holds a position: that must be seen, not skipped.
            .set("auto.offset.reset", "error")
            .set("partition.assignment.strategy", self.assignment.name())
            .set("session.timeout.ms", text_of_millis(self.session_timeout))
            .set("heartbeat.interval.ms", text_of_millis((self.session_timeout / 3).min(HEARTBEAT_INTERVAL_MAX)))
            .set("queued.max.messages.kbytes", (self.prefetch_bytes_max / 1024).max(1).to_string())
            .set("fetch.message.max.bytes", self.fetch_bytes_max.max(1).to_string());
        if let Some(id) = &self.instance_id {
            consumer.set("group.instance.id", id);
        }
        consumer
    }
}

fn text_of_millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

impl Partitioner {
    fn name(self) -> &'static str {
        match self {
            Self::Fnv1a => "fnv1a_random",
            Self::Murmur2 => "murmur2_random",
            Self::Crc32 => "consistent_random",
        }
    }
}

impl Compression {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
        }
    }
}

impl Assignment {
    fn name(self) -> &'static str {
        match self {
            Self::CooperativeSticky => "cooperative-sticky",
            Self::Range => "range",
            Self::RoundRobin => "roundrobin",
        }
    }
}

impl SaslMechanism {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // By destructuring, so that a new field is thought about here.
        let Self {
            servers,
            client_id,
            connect_timeout,
            request_timeout,
            partitioner,
            compression,
            delivery_timeout,
            linger,
            in_flight_count_max,
            message_bytes_max,
            queue_count_max,
            queue_bytes_max,
            topic_wait,
            envelope_topics,
            envelope_headers,
            assignment,
            instance_id,
            session_timeout,
            commit_interval,
            revoke_wait_max,
            close_timeout,
            receive_count_max,
            receive_bytes_max,
            prefetch_bytes_max,
            fetch_bytes_max,
            sasl,
            tls,
            properties,
        } = self;
        f.debug_struct("KafkaConfig")
            .field("servers", servers)
            .field("client_id", client_id)
            .field("connect_timeout", connect_timeout)
            .field("request_timeout", request_timeout)
            .field("partitioner", partitioner)
            .field("compression", compression)
            .field("delivery_timeout", delivery_timeout)
            .field("linger", linger)
            .field("in_flight_count_max", in_flight_count_max)
            .field("message_bytes_max", message_bytes_max)
            .field("queue_count_max", queue_count_max)
            .field("queue_bytes_max", queue_bytes_max)
            .field("topic_wait", topic_wait)
            .field("envelope_topics", envelope_topics)
            .field("envelope_headers", envelope_headers)
            .field("assignment", assignment)
            .field("instance_id", instance_id)
            .field("session_timeout", session_timeout)
            .field("commit_interval", commit_interval)
            .field("revoke_wait_max", revoke_wait_max)
            .field("close_timeout", close_timeout)
            .field("receive_count_max", receive_count_max)
            .field("receive_bytes_max", receive_bytes_max)
            .field("prefetch_bytes_max", prefetch_bytes_max)
            .field("fetch_bytes_max", fetch_bytes_max)
            .field("sasl", sasl)
            .field("tls", tls)
            // Any of them may be a secret.
            .field("properties", &properties.keys().collect::<Vec<_>>())
            .finish()
    }
}

impl fmt::Debug for Sasl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mechanism, user, password: _ } = self;
        f.debug_struct("Sasl").field("mechanism", mechanism).field("user", user).field("password", &"***").finish()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ca_file, certificate_file, key_file, key_password } = self;
        f.debug_struct("Tls")
            .field("ca_file", ca_file)
            .field("certificate_file", certificate_file)
            .field("key_file", key_file)
            .field("key_password", &key_password.as_ref().map(|_| "***"))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::{consumer::BaseConsumer, producer::BaseProducer};

    use super::*;

    #[test]
    fn librdkafka_takes_every_setting() {
        let mut config = KafkaConfig::new("127.0.0.1:1");
        config.instance_id = Some("order-0".to_owned());
        config.sasl = Some(Sasl { mechanism: SaslMechanism::Plain, user: "order".into(), password: "secret".into() });
        for partitioner in [Partitioner::Fnv1a, Partitioner::Murmur2, Partitioner::Crc32] {
            for compression in [Compression::None, Compression::Lz4, Compression::Zstd, Compression::Gzip] {
                (config.partitioner, config.compression) = (partitioner, compression);
                config.producer().create::<BaseProducer>().expect("a producer");
            }
        }
        for assignment in [Assignment::CooperativeSticky, Assignment::Range, Assignment::RoundRobin] {
            config.assignment = assignment;
            config.consumer("stock").create::<BaseConsumer>().expect("a consumer");
        }
    }

    /// Offsets are not stored at hand-over, groups begin at the earliest message or say so, retries
    /// keep the order, an outage is an error after 30 s: none of these is librdkafka's default.
    #[test]
    fn what_the_guarantees_rest_on_is_set_and_cannot_be_unset() {
        let (producer, consumer) = (KafkaConfig::new("a:1").producer(), KafkaConfig::new("a:1").consumer("stock"));
        for (client, name, value) in [
            (&producer, "enable.idempotence", "true"),
            (&producer, "acks", "all"),
            (&producer, "delivery.timeout.ms", "30000"),
            (&producer, "partitioner", "fnv1a_random"),
            (&consumer, "auto.commit.interval.ms", "1000"),
            (&consumer, "enable.auto.offset.store", "false"),
            (&consumer, "auto.offset.reset", "error"),
            (&consumer, "partition.assignment.strategy", "cooperative-sticky"),
            (&consumer, "fetch.queue.backoff.ms", "20"),
            (&consumer, "topic.metadata.refresh.interval.ms", "30000"),
        ] {
            assert_eq!(client.get(name), Some(value), "{name}");
        }
        for (name, _) in REFUSED_PROPERTIES
            .iter()
            .filter(|(name, _)| !matches!(*name, "bootstrap.servers" | "metadata.broker.list" | "client.id"))
        {
            let error = KafkaConfig::from_properties([("bootstrap.servers", "a:1"), (name, "canary")]).unwrap_err();
            let text = error.report();
            assert!(text.contains(name) && !text.contains("canary"), "{text}");
        }
        let mut config = KafkaConfig::new("a:1");
        for count in [0, 6] {
            config.in_flight_count_max = count;
            assert_eq!(config.check().unwrap_err().kind(), ErrorKind::InvalidArgument);
        }
    }

    #[test]
    fn properties_that_a_program_has_already_are_taken() {
        let config = KafkaConfig::from_properties([
            ("bootstrap.servers", "a:9092,b:9092"),
            ("client.id", "order"),
            ("socket.keepalive.enable", "true"),
        ])
        .unwrap();
        assert_eq!((config.servers.as_str(), config.client_id.as_str()), ("a:9092,b:9092", "order"));
        assert_eq!(config.producer().get("socket.keepalive.enable"), Some("true"));
        assert!(KafkaConfig::from_properties([("client.id", "order")]).is_err(), "no servers");
    }

    #[test]
    fn debug_shows_no_secret() {
        let mut config = KafkaConfig::from_url("kafka://order:canary@a:1?ssl.key.pem=canary").unwrap();
        config.tls = Some(Tls { key_password: Some("canary".into()), ..Tls::default() });
        let text = format!("{config:?}");
        assert!(text.contains("ssl.key.pem") && text.contains("order") && !text.contains("canary"), "{text}");
    }

    #[test]
    #[cfg(not(feature = "tls"))]
    fn without_the_feature_tls_and_scram_are_refused_with_its_name() {
        for url in ["kafka+tls://a:1", "kafka://u:p@a:1?sasl_mechanism=scram-sha-512"] {
            let error = KafkaConfig::from_url(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unimplemented);
            assert!(error.message().contains("feature tls"), "{error}");
        }
    }

    #[test]
    #[cfg(feature = "tls")]
    fn with_the_feature_tls_and_scram_are_taken() {
        for url in ["kafka+tls://a:1", "kafka+tls://u:p@a:1?sasl_mechanism=scram-sha-512"] {
            KafkaConfig::from_url(url).unwrap().producer().create::<BaseProducer>().expect("a producer");
        }
    }
}
