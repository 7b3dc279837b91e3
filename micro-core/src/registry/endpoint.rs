//! What an instance can be called for: its endpoints and the shape of their messages, with the
//! JSON that go-micro writes and reads.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::bounded::Pairs;

/// One thing that an instance answers: a method, or a topic that it is subscribed to.
///
/// Its JSON is go-micro's, members in that order: `request`, `response`, `metadata`, `name`. What is
/// missing or `null` when read is empty, as Go reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Endpoint {
    /// The shape of what is sent to it; `None` where there is nothing to say.
    #[serde(default)]
    pub request: Option<EndpointValue>,
    /// The shape of its answer; `None` for one that does not answer, such as a subscriber.
    #[serde(default)]
    pub response: Option<EndpointValue>,
    /// Names and values beside it: `stream` = `true` of a streaming method, `subscriber` = `true` and
    /// `topic` of a subscriber.
    #[serde(default, deserialize_with = "pairs")]
    pub metadata: BTreeMap<String, String>,
    /// `Handler.Method`, for instance `Greeter.Hello`.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
}

impl Endpoint {
    /// An endpoint of that name, without anything else.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// A subscription to a topic as go-micro tells of one: `Func`, the name of any function, with the
    /// topic and `subscriber` = `true` in its metadata and no answer. Events come in the
    /// [`BaseEvent`](crate::event::BaseEvent) envelope, whose shape it has.
    pub fn subscriber(topic: impl Into<String>) -> Self {
        let fields = [("timestamp", "int64"), ("event_type", "string"), ("payload", "[]uint8")];
        let fields = fields.map(|(name, type_name)| EndpointValue::new(name, type_name));
        Self::new("Func")
            .with_request(EndpointValue::new("BaseEvent", "BaseEvent").with_values(fields))
            .with_metadata("subscriber", "true")
            .with_metadata("topic", topic)
    }

    /// Sets the shape of what is sent to it.
    #[must_use]
    pub fn with_request(mut self, request: EndpointValue) -> Self {
        self.request = Some(request);
        self
    }

    /// Sets the shape of its answer.
    #[must_use]
    pub fn with_response(mut self, response: EndpointValue) -> Self {
        self.response = Some(response);
        self
    }

    /// Sets one metadata value.
    #[must_use]
    pub fn with_metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }
}

/// The shape of a message or of one of its fields: go-micro's `Value`, JSON `name`, `type`, `values`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EndpointValue {
    /// The message's type, or the field's name.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// The type by its Go name: `HelloRequest`, `string`, `int64`, `[]uint8` for bytes.
    #[serde(rename = "type", default, deserialize_with = "or_default")]
    pub type_name: String,
    /// The fields of a message, in their order; empty, and `null` in JSON, for what has none.
    #[serde(default, deserialize_with = "list", serialize_with = "null_where_empty")]
    pub values: Vec<EndpointValue>,
}

impl EndpointValue {
    /// A value of that name and type, without fields.
    pub fn new(name: impl Into<String>, type_name: impl Into<String>) -> Self {
        Self { name: name.into(), type_name: type_name.into(), values: Vec::new() }
    }

    /// Sets the fields.
    #[must_use]
    pub fn with_values(mut self, values: impl IntoIterator<Item = EndpointValue>) -> Self {
        self.values = values.into_iter().collect();
        self
    }
}

/// Go writes what is empty as `null`.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<EndpointValue>, D::Error> {
    let values = <Option<Vec<Option<EndpointValue>>>>::deserialize(deserializer)?;
    Ok(values.into_iter().flatten().map(Option::unwrap_or_default).collect())
}

fn pairs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    Pairs::<{ usize::MAX }, { usize::MAX }>::deserialize(deserializer).map(|pairs| pairs.kept)
}

fn null_where_empty<S: serde::Serializer>(values: &[EndpointValue], serializer: S) -> Result<S::Ok, S::Error> {
    (!values.is_empty()).then_some(values).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As go-micro 4.11 wrote it of a streaming and of a subscribing endpoint.
    const STREAM: &str = r#"{"request":{"name":"Context","type":"Context","values":null},"response":{"name":"Stream","type":"Stream","values":null},"metadata":{"stream":"true"},"name":"Greeter.Count"}"#;
    const SUBSCRIBER: &str = r#"{"request":{"name":"BaseEvent","type":"BaseEvent","values":[{"name":"payload","type":"[]uint8","values":null}]},"response":null,"metadata":{"subscriber":"true","topic":"OrderEvent"},"name":"Func"}"#;

    #[test]
    fn an_endpoint_is_written_as_go_micro_writes_it() {
        let value = |name: &str| EndpointValue::new(name, name);
        let stream = Endpoint::new("Greeter.Count")
            .with_request(value("Context"))
            .with_response(value("Stream"))
            .with_metadata("stream", "true");
        let payload = EndpointValue::new("payload", "[]uint8");
        let subscriber = Endpoint::new("Func")
            .with_request(value("BaseEvent").with_values([payload]))
            .with_metadata("topic", "OrderEvent")
            .with_metadata("subscriber", "true");
        for (endpoint, text) in [(stream, STREAM), (subscriber, SUBSCRIBER)] {
            assert_eq!(serde_json::to_string(&endpoint).unwrap(), text);
            assert_eq!(serde_json::from_str::<Endpoint>(text).unwrap(), endpoint);
        }
    }

    #[test]
    fn what_is_null_missing_or_unknown_is_no_error() {
        for text in [
            "{}",
            r#"{"request":null,"response":null,"metadata":null,"name":null}"#,
            r#"{"added":{"later":[1]},"metadata":{}}"#,
        ] {
            assert_eq!(serde_json::from_str::<Endpoint>(text).unwrap(), Endpoint::default(), "{text}");
        }
        let text = r#"{"name":"a","request":{"name":null,"type":null,"values":[{"values":null,"more":1}]}}"#;
        let nested = EndpointValue::default().with_values([EndpointValue::default()]);
        assert_eq!(serde_json::from_str::<Endpoint>(text).unwrap(), Endpoint::new("a").with_request(nested));
    }

    #[test]
    fn null_in_lists_and_maps_is_the_empty_value_that_it_is_in_go() {
        let text = r#"{"metadata":{"a":null,"b":"1"},"response":{"name":"R","values":[null,{"name":"f"},null]}}"#;
        let fields = [EndpointValue::default(), EndpointValue::new("f", ""), EndpointValue::default()];
        let expected = Endpoint::default()
            .with_response(EndpointValue::new("R", "").with_values(fields))
            .with_metadata("a", "")
            .with_metadata("b", "1");
        assert_eq!(serde_json::from_str::<Endpoint>(text).unwrap(), expected);
    }

    #[test]
    fn a_shape_of_endless_depth_is_an_error() {
        let deep = [r#"{"values":["#.repeat(10_000), "]}".repeat(10_000)].concat();
        assert!(serde_json::from_str::<EndpointValue>(&deep).is_err());
    }
}
