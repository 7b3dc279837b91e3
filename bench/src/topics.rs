//! The topics of a round: removed and created anew, so that no round reads another's records.

use std::time::{Duration, Instant};

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    types::RDKafkaErrorCode,
};

use crate::Result;

/// What the chains write and read, whoever they are.
const TOPICS: [&str; 6] =
    ["OrderEvent", "ProductEvent", "OrderStatus", "OrderEventDLQ", "ProductEventDLQ", "OrderStatusDLQ"];
const GROUPS: [&str; 3] = ["order-consumer", "product-consumer", "order-audit"];
/// Of each topic, but of a topic of dead letters one.
pub const PARTITION_COUNT: i32 = 8;
const TIMEOUT: Duration = Duration::from_secs(60);

/// Removes the topics and groups of the round before and creates the topics empty.
pub async fn renew(brokers: &str) -> Result<()> {
    let (admin, options) = (admin(brokers)?, options());
    for answer in admin.delete_topics(&TOPICS, &options).await? {
        expect(answer, RDKafkaErrorCode::UnknownTopicOrPartition)?;
    }
    let began = Instant::now();
    for answer in delete_groups(&admin, &options, began).await? {
        expect(answer, RDKafkaErrorCode::GroupIdNotFound)?;
    }
    // A broker takes a moment to forget a topic.
    let mut missing: Vec<&str> = TOPICS.to_vec();
    while !missing.is_empty() {
        let new = missing.iter().map(|name| NewTopic::new(name, partition_count(name), TopicReplication::Fixed(1)));
        let answers = admin.create_topics(&new.collect::<Vec<_>>(), &options).await?;
        missing.retain(|name| !answers.iter().any(|answer| answer.as_deref() == Ok(name)));
        if began.elapsed() > TIMEOUT {
            return Err(format!("topics {missing:?} cannot be created: {answers:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Creates a topic whose name nobody had.
pub async fn create(brokers: &str, name: &str) -> Result<()> {
    let new = NewTopic::new(name, PARTITION_COUNT, TopicReplication::Fixed(1));
    for answer in admin(brokers)?.create_topics([&new], &options()).await? {
        answer.map_err(|(name, code)| format!("{name} cannot be created: {code}"))?;
    }
    Ok(())
}

/// Removes a topic.
pub async fn remove(brokers: &str, name: &str) -> Result<()> {
    for answer in admin(brokers)?.delete_topics(&[name], &options()).await? {
        expect(answer, RDKafkaErrorCode::UnknownTopicOrPartition)?;
    }
    Ok(())
}

fn admin(brokers: &str) -> Result<AdminClient<DefaultClientContext>> {
    Ok(ClientConfig::new().set("bootstrap.servers", brokers).set("log_level", "3").create()?)
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(TIMEOUT)).request_timeout(Some(TIMEOUT))
}

/// A broker that has just come up still loads its groups, and one whose member was killed waits for it.
async fn delete_groups(
    admin: &AdminClient<DefaultClientContext>,
    options: &AdminOptions,
    began: Instant,
) -> Result<Vec<std::result::Result<String, (String, RDKafkaErrorCode)>>> {
    loop {
        let answers = admin.delete_groups(&GROUPS, options).await?;
        let is_loading = |code: &RDKafkaErrorCode| {
            matches!(
                code,
                RDKafkaErrorCode::CoordinatorLoadInProgress
                    | RDKafkaErrorCode::CoordinatorNotAvailable
                    | RDKafkaErrorCode::NotCoordinator
                    | RDKafkaErrorCode::NonEmptyGroup
            )
        };
        if began.elapsed() > TIMEOUT
            || !answers.iter().any(|answer| matches!(answer, Err((_, code)) if is_loading(code)))
        {
            return Ok(answers);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn partition_count(topic: &str) -> i32 {
    if topic.ends_with("DLQ") { 1 } else { PARTITION_COUNT }
}

fn expect(answer: std::result::Result<String, (String, RDKafkaErrorCode)>, absent: RDKafkaErrorCode) -> Result<()> {
    match answer {
        Err((_, code)) if code == absent => Ok(()),
        Err((name, code)) => Err(format!("{name} cannot be removed: {code}").into()),
        Ok(_) => Ok(()),
    }
}
