//! Through which client a topic's messages go, and which of them wait while that changes.
//!
//! Kafka measures a batch against a topic's `max.message.bytes`, and refuses all that is in it. So a
//! topic's limit is asked for when the first message goes there, and a client that cuts its batches
//! small enough takes the messages. What is refused in company all the same, because the limit was
//! lowered or may not be asked for, is sent again, each message in a batch of its own.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use bytes::Bytes;

use crate::receipts::{Order, Ticket};

/// Above so many names those that nothing is under way to are forgotten.
const TOPIC_COUNT_MAX: usize = 10_000;

/// How the batches of a client are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cut {
    /// No batch holds more bytes, unless it is one message.
    Bytes(u32),
    /// As the settings say.
    Usual,
}

impl Cut {
    /// Each message in a batch of its own.
    pub(crate) const ALONE: Self = Self::Bytes(1);

    /// The next cut for a topic that takes `limit` bytes, if that is known, where the settings cut at
    /// `usual_bytes`. Batches of this one may have been larger than the topic takes.
    pub(crate) fn for_limit(self, limit: Option<u32>, usual_bytes: u32, is_too_large: bool) -> Self {
        // Rounded down to a power of two, so that there are few clients.
        let fitting = match limit {
            Some(limit) if limit >= usual_bytes => Self::Usual,
            Some(limit) => Self::Bytes(1 << limit.max(1).ilog2()),
            None => self,
        };
        if is_too_large && fitting >= self { Self::ALONE } else { fitting }
    }
}

/// The topics that messages went to.
#[derive(Default)]
pub(crate) struct Topics {
    by_name: RwLock<HashMap<Arc<str>, Arc<Topic>>>,
}

impl Topics {
    /// The topic of that name, and whether it is new: then its limit is to be asked for.
    pub(crate) fn of(&self, name: &Arc<str>) -> (Arc<Topic>, bool) {
        if let Some(topic) = self.by_name.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return (topic.clone(), false);
        }
        let mut by_name = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(topic) = by_name.get(name) {
            return (topic.clone(), false);
        }
        if by_name.len() >= TOPIC_COUNT_MAX {
            by_name.retain(|_, topic| Arc::strong_count(topic) > 1);
        }
        let topic = Arc::new(Topic::new(name.clone()));
        by_name.insert(name.clone(), topic.clone());
        (topic, true)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Topic>> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// A topic, and where its messages are.
pub(crate) struct Topic {
    pub(crate) name: Arc<str>,
    flow: Mutex<Flow>,
}

/// Held while a message is handed in or reported, so that nothing overtakes a [`Turn`].
pub(crate) struct Flow {
    /// How many messages librdkafka has.
    pub(crate) out_count: usize,
    /// The client that they go through, by its cut.
    pub(crate) cut: Cut,
    /// Set while messages wait.
    pub(crate) turn: Option<Turn>,
}

impl Topic {
    /// A topic whose limit is being asked for.
    pub(crate) fn new(name: Arc<str>) -> Self {
        let flow = Flow { out_count: 0, cut: Cut::Usual, turn: Some(Turn::new(Step::Asking)) };
        Self { name, flow: Mutex::new(flow) }
    }

    pub(crate) fn flow(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time from a reason to change a topic's client to the first message that goes through the
/// next one. What is handed in meanwhile waits.
pub(crate) struct Turn {
    pub(crate) step: Step,
    /// Refused in company, in the order of their reports.
    refused: Vec<Ticket>,
    /// Handed in meanwhile.
    pub(crate) held: VecDeque<Ticket>,
    /// The latest message of each key that may have been sent behind one that was refused.
    sent_behind: HashMap<Bytes, Order>,
    /// Whether a message was taken alone that was too large in company.
    pub(crate) is_cut_too_large: bool,
    /// Whether that could not be seen of a message, because it was overtaken.
    pub(crate) is_limit_doubtful: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The topic's limit is asked for.
    Asking,
    /// Something was refused in company: what librdkafka has of the topic is waited for.
    Draining,
    /// What was refused is sent again, each alone, and waited for.
    Resending,
}

impl Turn {
    pub(crate) fn new(step: Step) -> Self {
        Self {
            step,
            refused: Vec::new(),
            held: VecDeque::new(),
            sent_behind: HashMap::new(),
            is_cut_too_large: false,
            is_limit_doubtful: false,
        }
    }

    pub(crate) fn refuse(&mut self, ticket: Ticket) {
        self.refused.push(ticket);
    }

    /// Notes the report of a message that librdkafka had behind one that was refused.
    pub(crate) fn note_sent(&mut self, ticket: &Ticket) {
        if let Some(key) = &ticket.message().key {
            let latest = self.sent_behind.entry(key.clone()).or_insert(ticket.order());
            *latest = ticket.order().max(*latest);
        }
    }

    /// What was refused, in the order of `publish`, each with whether it can follow: a later
    /// message of its key must not have been sent.
    pub(crate) fn take_refused(&mut self) -> Vec<(Ticket, bool)> {
        let sent_behind = std::mem::take(&mut self.sent_behind);
        let mut refused = std::mem::take(&mut self.refused);
        refused.sort_by_key(Ticket::order);
        let can_follow = |ticket: &Ticket| {
            let key = ticket.message().key.as_ref();
            key.and_then(|key| sent_behind.get(key)).is_none_or(|sent| *sent < ticket.order())
        };
        refused.into_iter().map(|ticket| (can_follow(&ticket), ticket)).map(|(can, ticket)| (ticket, can)).collect()
    }
}

#[cfg(test)]
mod tests {
    use micro_core::broker::Message;

    use super::*;
    use crate::receipts::Call;

    #[test]
    fn batches_are_cut_to_what_the_topic_takes() {
        let usual = 1_000_000;
        for (before, limit, is_too_large, after) in [
            (Cut::Usual, Some(1_048_588), false, Cut::Usual),
            (Cut::Usual, Some(usual), false, Cut::Usual),
            (Cut::Usual, Some(999_999), false, Cut::Bytes(524_288)),
            (Cut::Usual, Some(2_000), false, Cut::Bytes(1_024)),
            (Cut::Usual, Some(0), false, Cut::ALONE),
            (Cut::Usual, None, false, Cut::Usual),
            (Cut::Bytes(1_024), None, false, Cut::Bytes(1_024)),
            // A limit that was lowered, one that cannot be asked for, one that is not the truth.
            (Cut::Usual, Some(2_000), true, Cut::Bytes(1_024)),
            (Cut::Usual, None, true, Cut::ALONE),
            (Cut::Usual, Some(1_048_588), true, Cut::ALONE),
            (Cut::Bytes(1_024), Some(2_000), true, Cut::ALONE),
        ] {
            assert_eq!(before.for_limit(limit, usual, is_too_large), after, "{before:?} of {limit:?}, {is_too_large}");
        }
    }

    #[test]
    fn what_was_refused_follows_unless_a_later_message_of_its_key_was_sent() {
        let topic = Arc::new(Topic::new("orders".into()));
        let keys = [Some("a"), Some("b"), None, Some("a"), Some("b"), Some("a")];
        let message = |key: &Option<&'static str>| match key {
            Some(key) => Message::keyed("orders", *key, ""),
            None => Message::unkeyed("orders", ""),
        };
        let (call, _results) = Call::open(Arc::default(), keys.iter().map(message).collect());
        let ticket = |index| Ticket::new(call.clone(), index, topic.clone());
        let mut turn = Turn::new(Step::Draining);
        for index in [5, 0, 1, 2] {
            turn.refuse(ticket(index));
        }
        for index in [3, 4] {
            turn.note_sent(&ticket(index));
        }
        let can_follow: Vec<(usize, bool)> =
            turn.take_refused().into_iter().map(|(ticket, can)| (ticket.order().1, can)).collect();
        assert_eq!(can_follow, [(0, false), (1, false), (2, true), (5, true)]);
    }

    #[test]
    fn names_that_nothing_is_under_way_to_are_forgotten() {
        let topics = Topics::default();
        let kept = topics.of(&"kept".into()).0;
        for number in 0..TOPIC_COUNT_MAX + 5 {
            topics.of(&format!("topic-{number}").into());
        }
        assert!(topics.all().len() <= TOPIC_COUNT_MAX);
        assert!(Arc::ptr_eq(&topics.of(&"kept".into()).0, &kept));
    }
}
