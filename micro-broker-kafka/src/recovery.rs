//! Positions that the log no longer holds: found, told, and begun again at the earliest message.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use micro_core::broker::TopicPartition;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _, RebalanceProtocol},
    error::{KafkaError, KafkaResult},
    types::RDKafkaErrorCode as Code,
};

use crate::{
    holdings::Start,
    member::Shared,
    rebalance::{MemberContext, list_of},
};

/// How long one look at a partition waits for its broker, and after how long a round of looks ends:
/// the poll thread does nothing else meanwhile. What does not answer is last in the next round.
const LOOK_WAIT: Duration = Duration::from_secs(1);
/// How long there is only polling after a round in which a look failed.
const ROUND_INTERVAL: Duration = Duration::from_secs(1);

type Client = BaseConsumer<MemberContext>;

/// The partitions that are still to be looked into. The client says that it gave one up, not which.
#[derive(Default)]
pub(crate) struct Recovery {
    open: VecDeque<TopicPartition>,
    /// When the next round is; `None` for at once.
    due_at: Option<Instant>,
}

impl Recovery {
    /// One of these was given up by the client.
    pub(crate) fn open(&mut self, held: impl IntoIterator<Item = TopicPartition>) {
        for id in held {
            if !self.open.contains(&id) {
                self.open.push_back(id);
            }
        }
    }

    /// Looks into what is open, each partition for itself: one that cannot be looked into now (no
    /// leader, a topic that is being deleted) holds up no other one.
    pub(crate) fn look_if_due(&mut self, shared: &Shared, client: &Client) {
        let began = Instant::now();
        if self.open.is_empty() || self.due_at.is_some_and(|at| began < at) {
            return;
        }
        let mut has_failed = false;
        for _ in 0..self.open.len() {
            let Some(id) = self.open.pop_front() else { break };
            if let Err(error) = look_into(shared, client, &id) {
                tracing::warn!(
                    group = %shared.group, topic = %id.topic, partition = id.partition, %error,
                    "a position was not looked into, which is tried again"
                );
                self.open.push_back(id);
                has_failed = true;
            }
            if began.elapsed() >= LOOK_WAIT {
                break;
            }
        }
        self.due_at = has_failed.then(|| Instant::now() + ROUND_INTERVAL);
    }
}

/// Begins a partition again at its earliest message where the log does not hold its position: what
/// is missing is an alarm, and nothing that is there is skipped. One whose committed position could not
/// be read begins there.
fn look_into(shared: &Shared, client: &Client, id: &TopicPartition) -> KafkaResult<()> {
    let Some(next) = shared.holdings().next(id) else {
        // Taken away meanwhile.
        return Ok(());
    };
    let wait = shared.settings.connect_timeout.min(LOOK_WAIT);
    let position = match next {
        Start::At(offset) => Some(offset),
        Start::Beginning => None,
        Start::Unknown => committed(client, id, wait)?,
    };
    let (earliest, end) = client.fetch_watermarks(&id.topic, id.partition, wait)?;
    match position {
        Some(position) if (earliest..=end).contains(&position) => {
            return if next == Start::Unknown { begin_again(shared, client, id, position) } else { Ok(()) };
        }
        Some(position) => {
            tracing::error!(
                group = %shared.group, topic = %id.topic, partition = id.partition,
                position, earliest, end, missing_count = (earliest - position).max(0),
                "the log no longer holds the group's position: messages were deleted before they were \
                 handled, or the topic was made anew; going on at the earliest message"
            );
            let labels = [("group", shared.group.to_string()), ("topic", id.topic.to_string())];
            metrics::counter!("micro_kafka_truncated_total", &labels).increment(1);
            shared.resume_paused(client, std::slice::from_ref(id));
            let mut holdings = shared.holdings();
            holdings.lose(std::slice::from_ref(id));
            // Without a position until the client has taken one: so it is begun again, and told
            // once, however often that takes.
            holdings.assign([(id.clone(), Start::Beginning)]);
            drop(holdings);
            shared.received.notify_one();
        }
        None => {}
    }
    begin_again(shared, client, id, earliest)
}

/// The group's position; `None` before its first commit.
fn committed(client: &Client, id: &TopicPartition, wait: Duration) -> KafkaResult<Option<i64>> {
    let committed = client.committed_offsets(list_of(std::slice::from_ref(id)), wait)?;
    let element = committed.find_partition(&id.topic, id.partition);
    let element = element.ok_or(KafkaError::OffsetFetch(Code::UnknownPartition))?;
    element.error()?;
    Ok(match element.offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    })
}

/// Gives a partition back to the client with a position; it takes no seek of one that it gave up.
fn begin_again(shared: &Shared, client: &Client, id: &TopicPartition, start: i64) -> KafkaResult<()> {
    // The client would remember a pause of which the new ownership knows nothing.
    shared.resume_paused(client, std::slice::from_ref(id));
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&id.topic, id.partition, Offset::Offset(start))?;
    match client.rebalance_protocol() {
        RebalanceProtocol::Cooperative => {
            if let Err(error) = client.incremental_unassign(&list_of(std::slice::from_ref(id))) {
                // An earlier try came as far as this; where it is anything else, the next line says so.
                tracing::debug!(group = %shared.group, %error, "a partition is not the client's");
            }
            client.incremental_assign(&list)?;
        }
        _ => {
            for (other, next) in shared.holdings().partitions().filter(|(other, _)| *other != id) {
                let offset = match next {
                    Start::At(offset) => Offset::Offset(offset),
                    Start::Beginning => Offset::Beginning,
                    Start::Unknown => Offset::Stored,
                };
                list.add_partition_offset(&other.topic, other.partition, offset)?;
            }
            client.assign(&list)?;
        }
    }
    shared.holdings().assign([(id.clone(), Start::At(start))]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_open_once_however_often_the_client_gives_one_up() {
        let mut recovery = Recovery::default();
        let id = |partition| TopicPartition { topic: "t".into(), partition };
        recovery.open([id(0), id(1)]);
        recovery.open([id(1), id(2)]);
        assert_eq!(recovery.open, [id(0), id(1), id(2)]);
    }
}
