//! Typed events: what belongs to the type, and the envelope that carries it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use prost::Message as _;

use crate::{
    Error, ErrorKind, Result,
    broker::{Delivery, Headers, Message, header},
};

/// A type that is published: topic, type name, key and schema version belong to it, so that
/// publishing without a key or to another topic does not compile.
///
/// `micro-build` writes this from a proto file; by hand it is a few lines.
pub trait Event: Sized + Send + Sync + 'static {
    /// The topic it is published on.
    const TOPIC: &'static str;
    /// Its name among the event types of the topic.
    const EVENT_TYPE: &'static str;
    /// The version of its schema; empty where the service's version stands for it.
    const SCHEMA_VERSION: &'static str = "";

    /// What orders it among the events of its topic: usually the aggregate's id.
    fn key(&self) -> String;

    /// Appends the payload's bytes.
    fn encode_payload(&self, payload: &mut BytesMut) -> Result<()>;

    /// Reads a payload.
    ///
    /// # Errors
    ///
    /// `DataLoss` when the bytes are not such a payload.
    fn decode_payload(payload: Bytes) -> Result<Self>;
}

/// Implements [`Event`] for a prost message:
/// `impl_event!(OnPaymentSuccess, topic: "OrderEvent", event_type: "OnPaymentSuccess", key: |event| event.order_id.to_string());`
#[macro_export]
macro_rules! impl_event {
    ($type:ty, topic: $topic:expr, event_type: $event_type:expr, key: |$event:ident| $key:expr $(,)?) => {
        impl $crate::event::Event for $type {
            const TOPIC: &'static str = $topic;
            const EVENT_TYPE: &'static str = $event_type;

            fn key(&self) -> ::std::string::String {
                let $event = self;
                $key
            }

            fn encode_payload(&self, payload: &mut $crate::event::__private::BytesMut) -> $crate::Result<()> {
                $crate::event::encode_protobuf(self, payload)
            }

            fn decode_payload(payload: $crate::event::__private::Bytes) -> $crate::Result<Self> {
                $crate::event::decode_protobuf::<Self>(payload)
            }
        }
    };
}

#[doc(hidden)]
pub mod __private {
    pub use bytes::{Bytes, BytesMut};
}

/// Encodes a prost message as an event's payload.
pub fn encode_protobuf<M: prost::Message>(message: &M, payload: &mut BytesMut) -> Result<()> {
    message.encode(payload).map_err(|error| {
        Error::new(ErrorKind::Internal, "event.encode", "the payload does not fit its buffer").with_source(error)
    })
}

/// Decodes an event's payload as a prost message.
pub fn decode_protobuf<M: prost::Message + Default>(payload: Bytes) -> Result<M> {
    M::decode(payload).map_err(|error| {
        Error::new(ErrorKind::DataLoss, "event.decode", "the payload is not such a protobuf message").with_source(error)
    })
}

/// The envelope of the go-micro order and product services: type and payload in one message.
///
/// `common.BaseEvent{timestamp:int64=2, event_type:string=3, payload:bytes=4}`; field 1 is unused.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BaseEvent {
    /// Milliseconds since the epoch.
    #[prost(int64, tag = "2")]
    pub timestamp: i64,
    /// The event's type within its topic.
    #[prost(string, tag = "3")]
    pub event_type: String,
    /// The event's own bytes.
    #[prost(bytes = "bytes", tag = "4")]
    pub payload: Bytes,
}

impl BaseEvent {
    /// Reads the envelope of a delivery.
    ///
    /// # Errors
    ///
    /// `DataLoss` when the body is not a `BaseEvent` or names no type.
    pub fn open(delivery: &Delivery) -> Result<Self> {
        let envelope = Self::decode(delivery.message.body.clone()).map_err(|error| {
            Error::new(ErrorKind::DataLoss, "event.open", "the body is not a BaseEvent").with_source(error)
        })?;
        if envelope.event_type.is_empty() {
            return Err(Error::new(ErrorKind::DataLoss, "event.open", "the BaseEvent has no event_type"));
        }
        Ok(envelope)
    }
}

/// An event ready to be sent: a new event id, the envelope, the headers of the go-micro fleet.
///
/// `source` is the service's name, `source_version` stands in for an empty
/// [`Event::SCHEMA_VERSION`].
pub fn seal<E: Event>(event: &E, source: &str, source_version: &str) -> Result<Message> {
    let mut payload = BytesMut::new();
    event.encode_payload(&mut payload)?;
    let version = if E::SCHEMA_VERSION.is_empty() { source_version } else { E::SCHEMA_VERSION };
    Ok(seal_payload(E::TOPIC, E::EVENT_TYPE, event.key(), payload.freeze(), source, version))
}

/// As [`seal`], of bytes: for events whose type is known at run time only.
pub fn seal_payload(
    topic: &str,
    event_type: &str,
    key: impl Into<Bytes>,
    payload: Bytes,
    source: &str,
    schema_version: &str,
) -> Message {
    let timestamp = unix_millis(SystemTime::now());
    let envelope = BaseEvent { timestamp, event_type: event_type.to_owned(), payload };
    let mut headers = Headers::new();
    // Version 7 begins with the time: neighbours in time are neighbours in the inboxes' indices, where
    // random ids would touch a page each.
    headers.append(header::EVENT_ID, uuid::Uuid::now_v7().to_string());
    headers.append(header::EVENT_TYPE, event_type.to_owned());
    headers.append(header::CONTENT_TYPE, "application/grpc+proto");
    headers.append(header::TIMESTAMP, timestamp.to_string());
    headers.append(header::SOURCE, source.to_owned());
    headers.append(header::SCHEMA_VERSION, schema_version.to_owned());
    Message { topic: topic.into(), key: Some(key.into()), headers, body: Bytes::from(envelope.encode_to_vec()) }
}

/// Milliseconds since the epoch; 0 before it.
pub fn unix_millis(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// The time so many milliseconds after the epoch; the epoch for negative ones.
pub fn from_unix_millis(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// An event as its handler receives it.
#[derive(Clone, Debug)]
pub struct Received<E> {
    /// The event.
    pub event: E,
    /// The event's id, as its sender gave it; the same at every delivery.
    pub event_id: String,
    /// How often its handler failed before: 0 at the first try.
    pub attempts: u32,
    /// The delivery it was read from: headers, key, origin.
    pub delivery: Delivery,
}
