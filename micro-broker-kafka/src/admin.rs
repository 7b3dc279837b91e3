//! Questions and orders about topics and groups, beside the port.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use micro_core::{Error, ErrorKind, Result, broker::TopicPartition};
use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    config::FromClientConfig as _,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
    metadata::Metadata,
    producer::Producer as _,
    types::RDKafkaErrorCode as Code,
};

use crate::{
    broker::{KafkaBroker, blocking},
    config::KafkaConfig,
    error::from_kafka,
};

const LAG: &str = "broker.lag";
const TOPIC_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A topic to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicSpec {
    /// Its name.
    pub name: String,
    /// Its partitions, at least 1. A key's partition depends on their number: it is for good.
    pub partition_count: u32,
    /// On how many brokers each partition is; default 1. Three is usual where data matters.
    pub replication_count: u32,
    /// The topic's own settings, by Kafka's names (`retention.ms`).
    pub settings: Vec<(String, String)>,
}

impl TopicSpec {
    /// A topic on one replica.
    pub fn new(name: impl Into<String>, partition_count: u32) -> Self {
        Self { name: name.into(), partition_count, replication_count: 1, settings: Vec::new() }
    }

    /// Sets on how many brokers each partition is.
    #[must_use]
    pub fn with_replication_count(mut self, count: u32) -> Self {
        self.replication_count = count;
        self
    }

    /// Sets one of the topic's settings, by Kafka's name.
    #[must_use]
    pub fn with_setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }
}

/// How far a group is behind in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionLag {
    /// The partition.
    pub partition: TopicPartition,
    /// The group's committed position; `None` before its first commit.
    pub committed: Option<i64>,
    /// The offset that the next message will have.
    pub end: i64,
    /// How many offsets are not committed.
    pub lag: i64,
}

impl KafkaBroker {
    /// Creates topics, and waits until the broker that is asked knows a leader of each partition; a topic
    /// that is there already is left as it is.
    ///
    /// # Errors
    ///
    /// Of the first topic that could not be created: `InvalidArgument` for its name or numbers,
    /// `PermissionDenied`, `Unavailable`. `Unavailable` where all were created and one has no leader known
    /// within `connect_timeout`; whoever may not look at topics does not wait.
    pub async fn create_topics(&self, topics: &[TopicSpec]) -> Result<()> {
        const OPERATION: &str = "broker.create_topics";
        if topics.is_empty() {
            return Ok(());
        }
        let wait = self.config().connect_timeout;
        let client_config = self.config().client();
        let made = move || AdminClient::from_config(&client_config).map_err(|error| from_kafka(OPERATION, error));
        let admin: AdminClient<DefaultClientContext> = blocking(OPERATION, made).await?;
        let new_topics: Vec<NewTopic<'_>> = topics.iter().map(new_topic).collect::<Result<_>>()?;
        let options = AdminOptions::new().request_timeout(Some(wait)).operation_timeout(Some(wait));
        let results = admin.create_topics(&new_topics, &options).await;
        // Its drop waits for its thread.
        blocking(OPERATION, move || {
            drop(admin);
            Ok(())
        })
        .await?;
        for result in results.map_err(|error| from_kafka(OPERATION, error))? {
            match result {
                Ok(name) | Err((name, Code::TopicAlreadyExists)) => self.producer().note_known(&name),
                Err((name, code)) => {
                    return Err(from_kafka(OPERATION, KafkaError::AdminOp(code)).with_context("topic", name));
                }
            }
        }
        let (broker, names) = (self.clone(), topics.iter().map(|topic| topic.name.clone()).collect::<Vec<_>>());
        let known = move || {
            let end = Instant::now() + wait;
            names.iter().try_for_each(|name| broker.wait_until_led(end, OPERATION, name))
        };
        blocking(OPERATION, known).await
    }

    /// How far a group is behind in each partition of these topics: nothing is left to do when the
    /// sum is 0. What is acked is committed within `commit_interval`.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is no such topic, `Unavailable` when no broker answers.
    pub async fn lag<T: Into<Arc<str>>>(
        &self,
        group: impl Into<Arc<str>>,
        topics: impl IntoIterator<Item = T>,
    ) -> Result<Vec<PartitionLag>> {
        let (broker, group) = (self.clone(), group.into());
        let topics: Vec<Arc<str>> = topics.into_iter().map(Into::into).collect();
        blocking(LAG, move || broker.lag_of(&group, &topics)).await
    }

    fn lag_of(&self, group: &Arc<str>, topics: &[Arc<str>]) -> Result<Vec<PartitionLag>> {
        let failed = |error| from_kafka(LAG, error).with_context("group", group);
        let wait = self.config().connect_timeout;
        let observer = self.observers().of(group, self.config())?;
        // Nothing comes in, for it has no partitions; its log lines are taken out of its queue.
        let _ = observer.poll(Duration::ZERO);
        let mut list = TopicPartitionList::new();
        for topic in topics {
            for partition in self.partitions(LAG, topic)? {
                list.add_partition(topic, partition);
            }
        }
        let committed = observer.committed_offsets(list, wait).map_err(failed)?;
        let mut lags = Vec::with_capacity(committed.count());
        for element in committed.elements() {
            element.error().map_err(failed)?;
            let topic = topics.iter().find(|topic| ***topic == *element.topic()).expect("the list was made of them");
            let partition = TopicPartition { topic: topic.clone(), partition: element.partition() };
            let (earliest, end) = observer.fetch_watermarks(topic, partition.partition, wait).map_err(failed)?;
            let committed = match element.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            };
            let lag = (end - committed.unwrap_or(earliest)).max(0);
            lags.push(PartitionLag { partition, committed, end, lag });
        }
        Ok(lags)
    }

    /// Waits until each partition of a topic that was just created has a leader; blocks.
    fn wait_until_led(&self, end: Instant, operation: &'static str, topic: &str) -> Result<()> {
        let session = self.producer().session()?;
        loop {
            let is_led = |metadata: Metadata| {
                let topic = metadata.topics().iter().find(|found| found.name() == topic);
                let Some(topic) = topic else { return Err(Code::UnknownTopicOrPartition) };
                match topic.error().map(Code::from) {
                    Some(Code::TopicAuthorizationFailed) => Ok(()),
                    Some(code) => Err(code),
                    None if topic.partitions().is_empty() => Err(Code::UnknownTopicOrPartition),
                    None if topic.partitions().iter().any(|partition| partition.leader() < 0) => {
                        Err(Code::LeaderNotAvailable)
                    }
                    None => Ok(()),
                }
            };
            let metadata = session.client().fetch_metadata(Some(topic), self.config().connect_timeout);
            let cause = match metadata.map(is_led) {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(code)) => KafkaError::MetadataFetch(code),
                Err(error) => error,
            };
            if Instant::now() >= end {
                let message = "the topic was created and has no leader that is known yet";
                return Err(Error::new(ErrorKind::Unavailable, operation, message)
                    .with_context("topic", topic)
                    .with_source(cause));
            }
            std::thread::park_timeout(TOPIC_POLL_INTERVAL);
        }
    }

    /// The partitions of a topic; blocks.
    ///
    /// A topic that was created a moment ago may not be known to every broker: it is asked for
    /// again within `topic_wait`.
    pub(crate) fn partitions(&self, operation: &'static str, topic: &str) -> Result<Vec<i32>> {
        let session = self.producer().session()?;
        let end = Instant::now() + self.config().topic_wait;
        loop {
            let metadata = session
                .client()
                .fetch_metadata(Some(topic), self.config().connect_timeout)
                .map_err(|error| from_kafka(operation, error).with_context("servers", &self.config().servers))?;
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            let code = match found.map(|found| (found.error(), found.partitions())) {
                Some((None, partitions)) if !partitions.is_empty() => {
                    self.producer().note_known(topic);
                    return Ok(partitions.iter().map(|partition| partition.id()).collect());
                }
                Some((Some(error), _)) => Code::from(error),
                Some((None, _)) | None => Code::UnknownTopicOrPartition,
            };
            let is_missing = matches!(code, Code::UnknownTopicOrPartition | Code::LeaderNotAvailable);
            if is_missing && Instant::now() < end {
                std::thread::park_timeout(TOPIC_POLL_INTERVAL);
                continue;
            }
            let error = match code {
                Code::UnknownTopicOrPartition => {
                    let message = "there is no such topic: create it first, nothing creates topics by itself";
                    Error::new(ErrorKind::NotFound, operation, message)
                }
                code => from_kafka(operation, KafkaError::MetadataFetch(code)),
            };
            return Err(error.with_context("topic", topic));
        }
    }

    /// Refuses topics that are not there: a member would wait for them without a word.
    pub(crate) fn check_topics(&self, topics: &[Arc<str>]) -> Result<()> {
        topics.iter().try_for_each(|topic| self.partitions("broker.subscribe", topic).map(drop))
    }
}

fn new_topic(spec: &TopicSpec) -> Result<NewTopic<'_>> {
    let number = |number: u32, what: &'static str| {
        i32::try_from(number).ok().filter(|number| *number > 0).ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, "broker.create_topics", "a number is out of its bounds")
                .with_context("topic", &spec.name)
                .with_context(what, number)
        })
    };
    let partition_count = number(spec.partition_count, "partition_count")?;
    let replication_count = number(spec.replication_count, "replication_count")?;
    let topic = NewTopic::new(&spec.name, partition_count, TopicReplication::Fixed(replication_count));
    Ok(spec.settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value)))
}

/// Clients that ask for the positions of groups without being members.
#[derive(Default)]
pub(crate) struct Observers {
    by_group: Mutex<HashMap<Arc<str>, Arc<BaseConsumer>>>,
}

impl Observers {
    fn of(&self, group: &Arc<str>, config: &KafkaConfig) -> Result<Arc<BaseConsumer>> {
        let mut by_group = self.by_group.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(observer) = by_group.get(group) {
            return Ok(observer.clone());
        }
        // A member's name is the member's alone.
        let config = KafkaConfig { instance_id: None, ..config.clone() };
        let observer = config.consumer(group).create().map(Arc::new).map_err(|error| from_kafka(LAG, error))?;
        Ok(by_group.entry(group.clone()).or_insert(observer).clone())
    }
}

impl Drop for Observers {
    /// A client's drop polls without a limit: not on a worker of the runtime.
    fn drop(&mut self) {
        let observers = std::mem::take(self.by_group.get_mut().unwrap_or_else(PoisonError::into_inner));
        if !observers.is_empty() {
            // Without a thread they are dropped here.
            drop(std::thread::Builder::new().name("kafka-drop".to_owned()).spawn(move || drop(observers)));
        }
    }
}
