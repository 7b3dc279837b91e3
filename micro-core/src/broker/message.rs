//! The values of the broker port: what is sent, what is received, and where it stands.

use std::{fmt, sync::Arc, time::SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Metadata, TraceContext, event::unix_millis};

/// The header names of an event, as the go-micro fleet writes them. Look-ups ignore case.
pub mod header {
    /// A UUID that stays the same when the event is sent again: what the inbox knows it by.
    pub const EVENT_ID: &str = "Event_id";
    /// The event's type within its topic.
    pub const EVENT_TYPE: &str = "Event-Type";
    /// Media type of the body.
    pub const CONTENT_TYPE: &str = "Content-Type";
    /// Milliseconds since the epoch at which the event was recorded.
    pub const TIMESTAMP: &str = "Timestamp";
    /// Name of the service that recorded the event.
    pub const SOURCE: &str = "Source";
    /// Version of the event's schema.
    pub const SCHEMA_VERSION: &str = "Schema_version";
    /// W3C trace context: <https://www.w3.org/TR/trace-context/>.
    pub const TRACEPARENT: &str = "Traceparent";
    /// On a dead letter: the error, in one line.
    pub const ERROR: &str = "x-error";
    /// On a dead letter: how often the handler was tried.
    pub const ATTEMPTS: &str = "x-attempts";
    /// On a dead letter: the topic it was received from.
    pub const ORIGIN_TOPIC: &str = "x-origin-topic";
    /// On a dead letter: the partition it was received from.
    pub const ORIGIN_PARTITION: &str = "x-origin-partition";
    /// On a dead letter: its offset in that partition.
    pub const ORIGIN_OFFSET: &str = "x-origin-offset";
    /// On a dead letter: milliseconds since the epoch of the original.
    pub const ORIGIN_TIMESTAMP: &str = "x-origin-timestamp";
}

/// Header names and values, in the order they were added; names may repeat.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, Bytes)>);

impl Headers {
    /// No headers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a header and keeps those of the same name.
    pub fn append(&mut self, name: impl Into<String>, value: impl Into<Bytes>) {
        self.0.push((name.into(), value.into()));
    }

    /// Replaces every header of this name, whatever its case.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<Bytes>) {
        let name = name.into();
        self.remove(&name);
        self.0.push((name, value.into()));
    }

    /// Removes every header of this name, whatever its case.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
    }

    /// The first value of `name`, whatever its case.
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The first value of `name` as text; `None` when it is missing or not UTF-8.
    pub fn get_str(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// How many headers there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no header.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(name, value)| (name, value))).finish()
    }
}

impl<N: Into<String>, V: Into<Bytes>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(headers: I) -> Self {
        Self(headers.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// One header value in a store's JSON: text where it is UTF-8, a list of bytes where it is not.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum HeaderValue<'a> {
    Text(std::borrow::Cow<'a, str>),
    Bytes(Vec<u8>),
}

impl Serialize for Headers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|(name, value)| {
            let value = match std::str::from_utf8(value) {
                Ok(text) => HeaderValue::Text(text.into()),
                Err(_) => HeaderValue::Bytes(value.to_vec()),
            };
            (name, value)
        }))
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pairs = Vec::<(String, HeaderValue<'_>)>::deserialize(deserializer)
            .map_err(|error| de::Error::custom(format!("headers: {error}")))?;
        Ok(pairs
            .into_iter()
            .map(|(name, value)| {
                let value = match value {
                    HeaderValue::Text(text) => Bytes::from(text.into_owned()),
                    HeaderValue::Bytes(bytes) => Bytes::from(bytes),
                };
                (name, value)
            })
            .collect())
    }
}

/// What is sent: topic, key, headers, body.
///
/// Messages of one key reach one partition and keep their order; a message without a key has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it goes.
    pub topic: Arc<str>,
    /// What orders it; `None` where no order is needed.
    pub key: Option<Bytes>,
    /// Names and values beside the body.
    pub headers: Headers,
    /// The payload.
    pub body: Bytes,
}

impl Message {
    /// A message with a key and no headers.
    pub fn keyed(topic: impl Into<Arc<str>>, key: impl Into<Bytes>, body: impl Into<Bytes>) -> Self {
        Self { topic: topic.into(), key: Some(key.into()), headers: Headers::new(), body: body.into() }
    }

    /// A message without a key: no order is promised.
    pub fn unkeyed(topic: impl Into<Arc<str>>, body: impl Into<Bytes>) -> Self {
        Self { topic: topic.into(), key: None, headers: Headers::new(), body: body.into() }
    }

    /// About how much memory it takes, in bytes: key, headers and body, and 64 for the rest.
    pub(crate) fn bytes_count(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        64 + self.key.as_ref().map_or(0, Bytes::len) + headers + self.body.len()
    }

    /// Sets a header.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.set(name, value);
        self
    }
}

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition, from 0.
    pub partition: i32,
}

/// How far a group is in a partition: everything below `next_offset` is done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The partition.
    pub partition: TopicPartition,
    /// The offset of the first delivery that is not done.
    pub next_offset: i64,
}

/// What the broker says of a message it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The partition it was written to.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
}

/// The longest event id that is taken from a header; stores can rely on it.
pub const EVENT_ID_BYTES_MAX: usize = 200;

/// What is received: a message and where it stands. Data only; acknowledging is the consumer's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The message as it was sent.
    pub message: Message,
    /// Its partition, from 0.
    pub partition: i32,
    /// Its offset in the partition; strictly increasing, gaps are allowed.
    pub offset: i64,
    /// When it was sent or when the broker took it, as the broker keeps it: the same at each
    /// delivery.
    pub timestamp: SystemTime,
}

impl Delivery {
    /// The partition it was received from.
    pub fn topic_partition(&self) -> TopicPartition {
        TopicPartition { topic: self.message.topic.clone(), partition: self.partition }
    }

    /// What came beside it and concerns what is done because of it: the trace.
    ///
    /// A handler hands it to [`Outbox::on_behalf_of`](crate::outbox::Outbox::on_behalf_of) and to
    /// the calls it makes.
    pub fn metadata(&self) -> Metadata {
        let mut metadata = Metadata::new();
        if let Some(traceparent) = self.message.headers.get_str(header::TRACEPARENT) {
            metadata.insert(TraceContext::METADATA_NAME, traceparent);
        }
        metadata
    }

    /// The event's id: the header [`header::EVENT_ID`], or `<topic>/<partition>/<offset>@<ms>` where
    /// it has none that can be kept (empty, longer than [`EVENT_ID_BYTES_MAX`], control characters).
    ///
    /// The milliseconds are those of the delivery's timestamp since the epoch. They belong to it
    /// because a topic that was deleted and made anew begins at offset 0 again, with other messages.
    pub fn event_id(&self) -> String {
        self.sent_event_id().map_or_else(|| self.origin(), str::to_owned)
    }

    /// What a group's inbox knows it by: `<topic>:<event id>`.
    ///
    /// The topic belongs to it because a dead letter's copy on `<Topic>DLQ` keeps the event id of
    /// its original, and one group may receive both.
    pub fn inbox_id(&self) -> String {
        match self.sent_event_id() {
            Some(id) => format!("{}:{id}", self.message.topic),
            None => self.origin(),
        }
    }

    fn sent_event_id(&self) -> Option<&str> {
        let id = self.message.headers.get_str(header::EVENT_ID)?;
        let is_kept = !id.is_empty() && id.len() <= EVENT_ID_BYTES_MAX && !id.contains(char::is_control);
        is_kept.then_some(id)
    }

    fn origin(&self) -> String {
        let millis = unix_millis(self.timestamp);
        format!("{}/{}/{}@{millis}", self.message.topic, self.partition, self.offset)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::event::from_unix_millis;

    #[test]
    fn headers_survive_json_even_when_they_are_not_text() {
        let headers: Headers =
            [("Event_id", Bytes::from("a-1")), ("trace-bin", Bytes::from(vec![0xff, 0x00]))].into_iter().collect();
        let json = serde_json::to_string(&headers).unwrap();
        assert_eq!(serde_json::from_str::<Headers>(&json).unwrap(), headers);
    }

    #[test]
    fn an_inbox_id_is_of_one_topic_and_ignores_ids_that_cannot_be_kept() {
        const ORIGIN: &str = "OrderEvent/1/7@1700000000123";
        let delivery = |topic: &str, id: &str| Delivery {
            message: Message::unkeyed(topic, "").with_header(header::EVENT_ID, id.to_owned()),
            partition: 1,
            offset: 7,
            timestamp: from_unix_millis(1_700_000_000_123) + Duration::from_nanos(456),
        };
        assert_eq!(delivery("OrderEvent", "a").inbox_id(), "OrderEvent:a");
        assert_eq!(delivery("OrderEventDLQ", "a").inbox_id(), "OrderEventDLQ:a");
        assert_eq!(delivery("OrderEvent", "").inbox_id(), ORIGIN);
        assert_eq!(delivery("OrderEvent", "a\0").event_id(), ORIGIN);
        assert_eq!(delivery("OrderEvent", &"a".repeat(EVENT_ID_BYTES_MAX + 1)).event_id(), ORIGIN);
    }

    #[test]
    fn header_names_ignore_case() {
        let mut headers = Headers::new();
        headers.set("Event_id", "1");
        headers.set("event_id", "2");
        assert_eq!(headers.len(), 1);
        assert_eq!(headers.get_str("EVENT_ID"), Some("2"));
    }
}
