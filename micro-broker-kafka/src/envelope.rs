//! The envelope of go-micro v4: a record whose value is headers and body as JSON.
//!
//! `{"Header":{"name":"value",…},"Body":"<base64>"}`, as the Kafka plugin of go-micro writes it
//! (plugins v2 to v5, the broker's JSON codec). The plugin leaves the record's key and headers empty;
//! Go services that need order write the key into the header `Pkey` and have it set. Here key and
//! `Pkey` are both written, and either is read.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use micro_core::{
    Error, ErrorKind, Result,
    broker::{Headers, Message, Receipt, header},
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, IgnoredAny, MapAccess, Visitor},
};

use crate::config::KafkaConfig;

/// The record's key, for who does not read it.
const KEY: &str = "Pkey";
/// The topic, which go-micro's subscribers are called by.
const TOPIC: &str = "Micro-Topic";
/// Stands for all topics.
const ALL: &str = "*";
/// With more headers a value is no envelope: peers write some dozens.
const HEADER_COUNT_MAX: usize = 1_000;
/// What an envelope's headers may hold by default: those of events and of dead letters.
const HEADERS: [&str; 16] = [
    header::EVENT_ID,
    header::EVENT_TYPE,
    header::CONTENT_TYPE,
    header::TIMESTAMP,
    header::SOURCE,
    header::SCHEMA_VERSION,
    header::TRACEPARENT,
    "Tracestate",
    "Baggage",
    header::ERROR,
    header::ATTEMPTS,
    header::ORIGIN_TOPIC,
    header::ORIGIN_PARTITION,
    header::ORIGIN_OFFSET,
    header::ORIGIN_TIMESTAMP,
    "Trace_id",
];

/// The members in Go's order. Go matches their names whatever the case, and writes both always; it
/// reads what has other members too, and no `Body`.
#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "Header", alias = "header", alias = "HEADER", borrow, deserialize_with = "nullable")]
    header: Option<HeaderMembers<'a>>,
    #[serde(rename = "Body", alias = "body", alias = "BODY", borrow)]
    body: Option<Cow<'a, str>>,
}

/// A member that may be null and must be there: by itself serde takes one that is missing for null.
fn nullable<'de, T: Deserialize<'de>, D: Deserializer<'de>>(member: D) -> std::result::Result<Option<T>, D::Error> {
    Option::deserialize(member)
}

/// The members of `Header`, at most [`HEADER_COUNT_MAX`].
#[derive(Default, Serialize)]
struct HeaderMembers<'a>(BTreeMap<Cow<'a, str>, Option<Cow<'a, str>>>);

impl<'de: 'a, 'a> Deserialize<'de> for HeaderMembers<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = HeaderMembers<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of headers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> std::result::Result<Self::Value, A::Error> {
                let mut read = BTreeMap::new();
                while let Some((name, value)) = members.next_entry()? {
                    read.insert(name, value);
                    if read.len() > HEADER_COUNT_MAX {
                        return Err(de::Error::custom(format_args!("more than {HEADER_COUNT_MAX} headers")));
                    }
                }
                Ok(HeaderMembers(read))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// What an envelope held.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    /// The names and values, by name.
    pub headers: Headers,
    /// The header `Pkey`.
    pub key: Option<Bytes>,
    /// The body's bytes.
    pub body: Bytes,
}

/// Why a value that looks like an envelope is none.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads a record's value; `None` where it is no envelope but the body itself: it is no JSON object,
/// or one without a `Header`, or one with further members whose `Header` or `Body` is no envelope's.
///
/// Without a `Body` the whole value is the body, as in go-micro. `{"Body":…}` alone is none, where
/// go-micro would open it: events of one's own look like that, and no go-micro leaves `Header` out.
///
/// # Errors
///
/// It has an envelope's two members and no others, and they hold something else: headers that are no texts, a body that
/// is no base64, more than 1,000 headers.
pub fn open(value: &[u8]) -> Option<std::result::Result<Opened, Malformed>> {
    // Most bodies are protobuf: one look.
    if value.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    let envelope = serde_json::from_slice::<Envelope<'_>>(value).map_err(|error| Malformed(error.to_string()));
    match envelope.and_then(|envelope| opened(envelope, value)) {
        Err(_) if !looks_like_one(value) => None,
        read => Some(read),
    }
}

fn opened(envelope: Envelope<'_>, value: &[u8]) -> std::result::Result<Opened, Malformed> {
    // As Go reads it: without a body the whole value is the body.
    let body = match envelope.body {
        Some(text) => STANDARD.decode(text.as_bytes()).map_err(|error| Malformed(format!("Body: {error}")))?,
        None => value.to_vec(),
    };
    let HeaderMembers(header) = envelope.header.unwrap_or_default();
    // Go reads null as the empty text.
    let text = |value: Option<Cow<'_, str>>| value.unwrap_or_default().into_owned();
    let headers: Headers = header.into_iter().map(|(name, value)| (name, text(value))).collect();
    Ok(Opened { key: headers.get(KEY).filter(|key| !key.is_empty()).cloned(), headers, body: body.into() })
}

/// Whether it is an object of exactly the envelope's members, whatever is in them: with others it is
/// rather an event of one's own, which is nothing to warn of.
fn looks_like_one(value: &[u8]) -> bool {
    let Ok(members) = serde_json::from_slice::<BTreeMap<Cow<'_, str>, IgnoredAny>>(value) else { return false };
    let has = |wanted: &str| members.keys().any(|name| name.eq_ignore_ascii_case(wanted));
    has("Body") && has("Header") && members.len() == 2
}

/// Writes those messages whose topics want it as envelopes; what cannot be one is refused, with its
/// place in the call.
pub(crate) fn seal_all(config: &KafkaConfig, messages: Vec<Message>) -> (Vec<Message>, Refusals) {
    if config.envelope_topics.is_empty() {
        return (messages, Refusals(Vec::new()));
    }
    let mut sealed = Vec::with_capacity(messages.len());
    let mut refusals = Vec::new();
    for (index, message) in messages.into_iter().enumerate() {
        let is_wanted = config.envelope_topics.iter().any(|topic| topic == ALL || **topic == *message.topic);
        match if is_wanted { seal(&message, &config.envelope_headers) } else { Ok(message) } {
            Ok(message) => sealed.push(message),
            Err(error) => refusals.push((index, error)),
        }
    }
    (sealed, Refusals(refusals))
}

/// What was refused of a call before it was handed in.
pub(crate) struct Refusals(Vec<(usize, Error)>);

impl Refusals {
    /// Puts the refusals among the results of the others.
    pub(crate) fn merge(self, results: Vec<Result<Receipt>>) -> Vec<Result<Receipt>> {
        let mut merged = results;
        // By rising places: each goes where it was.
        self.0.into_iter().for_each(|(index, error)| merged.insert(index, Err(error)));
        merged
    }
}

/// A message as the envelope of a record with the same key and no headers. `more_headers` are let in
/// beside those of events.
///
/// # Errors
///
/// `InvalidArgument` for a header whose value is not UTF-8: JSON has no place for it.
pub fn seal(message: &Message, more_headers: &[String]) -> Result<Message> {
    let mut header: BTreeMap<Cow<'_, str>, Option<Cow<'_, str>>> = BTreeMap::new();
    for (name, value) in message.headers.iter() {
        let mut known = HEADERS.into_iter().chain(more_headers.iter().map(String::as_str));
        if !known.any(|known| known.eq_ignore_ascii_case(name)) {
            continue;
        }
        let value = std::str::from_utf8(value).map_err(|error| {
            let reason = "this header goes into a JSON envelope and is not UTF-8";
            Error::new(ErrorKind::InvalidArgument, "broker.publish", reason)
                .with_context("topic", &message.topic)
                .with_context("header", name)
                .with_source(error)
        })?;
        // The first of a name, as everywhere.
        header.entry(name.into()).or_insert_with(|| Some(value.into()));
    }
    header.insert(TOPIC.into(), Some((&*message.topic).into()));
    if let Some(key) = message.key.as_deref().and_then(|key| std::str::from_utf8(key).ok()) {
        header.insert(KEY.into(), Some(key.into()));
    }
    let body = STANDARD.encode(&message.body).into();
    let envelope = Envelope { header: Some(HeaderMembers(header)), body: Some(body) };
    let value = serde_json::to_vec(&envelope).map_err(|error| {
        Error::new(ErrorKind::Internal, "broker.publish", "no envelope can be written").with_source(error)
    })?;
    Ok(Message { topic: message.topic.clone(), key: message.key.clone(), headers: Headers::new(), body: value.into() })
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use micro_core::{
        broker::{Delivery, fnv1a_partition},
        event::{self, BaseEvent},
    };
    use proptest::prelude::*;

    use super::*;

    fn opened(value: &str) -> Opened {
        open(value.as_bytes()).expect("an envelope").expect("a whole one")
    }

    fn malformed(value: &str) -> String {
        open(value.as_bytes()).expect("an envelope").expect_err("a broken one").to_string()
    }

    #[test]
    fn what_go_micro_wrote_is_read_byte_for_byte() {
        let records = include_str!("../tests/vectors/kafka-kcat.txt");
        let values: Vec<_> = records.lines().filter(|line| line.starts_with('{')).collect();
        assert_eq!(values.len(), 3);
        let first = opened(values[0]);
        assert_eq!(first.headers.get_str("event-type"), Some("OnHello"));
        assert_eq!(first.headers.get_str(TOPIC), Some("peer.cap.default"));
        assert_eq!(first.key.as_deref(), Some(&b"order-0"[..]));
        assert_eq!(&first.body[..], b"\n\x01n\x12\x10abcdefghijklmnop");
        let last = opened(values[2]);
        assert_eq!(last.key, None);
        assert_eq!(last.headers.get_str(header::CONTENT_TYPE), Some("application/json"));
        assert_eq!(&last.body[..], br#"{"name":"n", "payload":"YWJjZGVmZ2hpamtsbW5vcA=="}"#);
    }

    #[test]
    fn what_is_written_is_what_go_micro_writes() {
        let records = include_str!("../tests/vectors/kafka-order-event.txt");
        let mut count = 0;
        for (place, value) in records.lines().zip(records.lines().skip(1)).filter(|(_, value)| value.starts_with('{')) {
            let Opened { headers, key, body } = opened(value);
            let key = key.expect("a key");
            assert!(place.contains(&format!("key={} ", String::from_utf8_lossy(&key))), "{place}");
            let message = Message { topic: "peer.OrderEvent".into(), key: Some(key), headers, body };
            let sealed = seal(&message, &[]).unwrap();
            assert_eq!(sealed.body, value.as_bytes());
            assert_eq!((sealed.key, sealed.headers.len()), (message.key, 0));
            count += 1;
        }
        assert!(count >= 2, "{count} records");
    }

    /// Records as a consumer saw them: a line of `name=value`, then the value.
    fn captured(text: &str) -> Vec<(BTreeMap<String, String>, &str)> {
        let lines: Vec<_> = text.lines().collect();
        let places = lines.iter().zip(lines.iter().skip(1)).filter(|(_, value)| value.starts_with('{'));
        let field = |word: &str| {
            let (name, value) = word.split_once('=')?;
            Some((name.to_owned(), value.trim_matches(['[', ']']).to_owned()))
        };
        places.map(|(place, value)| (place.split(' ').filter_map(field).collect(), *value)).collect()
    }

    #[test]
    fn what_the_go_services_wrote_has_the_event_its_headers_and_the_partition_of_its_key() {
        let records = [
            captured(include_str!("../tests/vectors/kafka-keyed.txt")),
            captured(include_str!("../tests/vectors/kafka-DLQ.txt")),
            captured(include_str!("../tests/vectors/kafka-OrderEventDLQ.txt")),
            captured(include_str!("../tests/vectors/kafka-unkeyed-OrderEvent.txt")),
        ]
        .concat();
        assert!(records.len() >= 10, "{} records", records.len());
        for (place, value) in records {
            let Opened { headers, key, body } = opened(value);
            let key = key.expect("Pkey is in each");
            // One producer left the record's key empty: then Pkey stands for it, wherever it went.
            if !place["key"].is_empty() {
                assert_eq!(key, place["key"].as_bytes());
                // What a test program wrote by hand went to any.
                if headers.get_str(header::SOURCE) != Some("tester") {
                    assert_eq!(fnv1a_partition(&key, 4).to_string(), place["part"], "{place:?}");
                }
            }
            let message = Message { topic: (&*place["topic"]).into(), key: Some(key), headers, body };
            let delivery = Delivery { message, partition: 0, offset: 0, timestamp: SystemTime::UNIX_EPOCH };
            let event = BaseEvent::open(&delivery).expect("a BaseEvent");
            let of_header = delivery.message.headers.get_str(header::EVENT_TYPE).expect("Event-Type");
            assert_eq!(of_header.trim_end_matches("DLQ"), event.event_type.trim_end_matches("DLQ"));
            for name in [header::EVENT_ID, header::SOURCE, header::SCHEMA_VERSION, header::CONTENT_TYPE] {
                assert!(delivery.message.headers.get_str(name).is_some(), "{name} of {place:?}");
            }
            let written_at = delivery.message.headers.get_str(header::TIMESTAMP).map(str::parse::<i64>);
            assert!(written_at.expect("Timestamp").expect("milliseconds").abs_diff(event.timestamp) < 10_000);
        }
    }

    #[test]
    fn an_event_of_ours_has_the_headers_and_the_bytes_of_one_of_gos() {
        let (place, value) = captured(include_str!("../tests/vectors/kafka-keyed.txt")).remove(0);
        let go = opened(value);
        let of_go = |name| go.headers.get_str(name).unwrap_or_else(|| panic!("{name} is in the vector"));
        // Field 2, a time of six bytes; what follows are the type and the payload.
        let (time, rest) = go.body.split_at(7);
        let key = place["key"].clone();
        let message = Message::keyed(&*place["topic"], key.clone(), go.body.clone());
        let delivery = Delivery { message, partition: 0, offset: 0, timestamp: SystemTime::UNIX_EPOCH };
        let payload = BaseEvent::open(&delivery).expect("a BaseEvent").payload;
        let (source, version) = (of_go(header::SOURCE), of_go(header::SCHEMA_VERSION));
        let sent_at = event::unix_millis(SystemTime::now());
        let message = event::seal_payload(&place["topic"], of_go(header::EVENT_TYPE), key, payload, source, version)
            .with_header(header::TRACEPARENT, of_go(header::TRACEPARENT).to_owned());
        let sealed = seal(&message, &[]).unwrap();

        let json: serde_json::Value = serde_json::from_slice(&sealed.body).unwrap();
        assert!(json.as_object().unwrap().keys().eq(["Body", "Header"]), "{json}");
        let ours = open(&sealed.body).unwrap().unwrap();
        assert_eq!((&ours.body[..1], &ours.body[7..]), (&time[..1], rest));
        for name in ["Content-Type", "Micro-Topic", "Event-Type", "Source", "Schema_version", "Pkey", "Traceparent"] {
            assert_eq!(json["Header"][name], of_go(name), "{name}");
        }
        let text = |name: &str| json["Header"][name].as_str().unwrap_or_else(|| panic!("{name}")).to_owned();
        let written_at: i64 = text("Timestamp").parse().unwrap();
        assert!((sent_at..sent_at + 60_000).contains(&written_at), "{written_at}");
        // Go's are of version 4: both are a UUID in 36 letters.
        let dashes = |id: &str| id.match_indices('-').map(|(index, _)| index).collect::<Vec<_>>();
        for id in [&*text("Event_id"), of_go(header::EVENT_ID)] {
            assert_eq!((id.len(), dashes(id)), (36, vec![8, 13, 18, 23]), "{id}");
            assert!(id.chars().all(|letter| letter == '-' || matches!(letter, '0'..='9' | 'a'..='f')), "{id}");
        }
        assert_eq!(json["Header"].as_object().unwrap().len(), 9, "and nothing else: {json}");
    }

    #[test]
    fn a_go_subscriber_was_handed_what_is_read_here() {
        let handed = include_str!("../tests/vectors/kafka-sub-dump.txt");
        let headers: Vec<BTreeMap<String, String>> = handed
            .lines()
            .filter_map(|line| line.strip_prefix("topic=peer.cap.default header="))
            .map(|json| serde_json::from_str(json).unwrap())
            .collect();
        let records = captured(include_str!("../tests/vectors/kafka-kcat.txt"));
        assert_eq!((headers.len(), records.len()), (3, 3));
        for ((_, value), expected) in records.iter().zip(headers) {
            let read = opened(value).headers;
            let read: BTreeMap<String, String> =
                read.iter().map(|(name, value)| (name.to_owned(), String::from_utf8_lossy(value).into())).collect();
            assert_eq!(read, expected);
        }
    }

    #[test]
    fn headers_that_are_not_an_events_stay_out_unless_they_are_named() {
        let message = Message::keyed("OrderEvent", "17", "body")
            .with_header("Authorization", "Bearer secret")
            .with_header("Cookie", "secret")
            .with_header(":Authority", "127.0.0.1")
            .with_header("X-Tenant", "north")
            .with_header("traceparent", "00-1")
            .with_header(header::EVENT_ID, "a-1");
        let names = |more: &[String]| {
            let sealed = seal(&message, more).unwrap();
            let opened = open(&sealed.body).unwrap().unwrap();
            opened.headers.iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&[]), ["Event_id", "Micro-Topic", "Pkey", "traceparent"]);
        assert_eq!(names(&["x-tenant".to_owned()]), ["Event_id", "Micro-Topic", "Pkey", "X-Tenant", "traceparent"]);
    }

    #[test]
    fn a_header_that_json_cannot_hold_is_refused_in_its_place_and_its_neighbours_go() {
        let config = KafkaConfig { envelope_topics: vec![ALL.to_owned()], ..KafkaConfig::default() };
        let message = |value: &'static [u8]| Message::keyed("t", "k", "b").with_header(header::SOURCE, value);
        let (sealed, refusals) = seal_all(&config, vec![message(b"a"), message(b"\xff"), message(b"c")]);
        assert_eq!(sealed.len(), 2);
        let receipt = |offset| Receipt { partition: 0, offset };
        let results = refusals.merge(vec![Ok(receipt(1)), Ok(receipt(2))]);
        let error = results[1].as_ref().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.report().contains("header=Source"), "{}", error.report());
        let offsets = [0, 2].map(|index| results[index].as_ref().unwrap().offset);
        assert_eq!(offsets, [1, 2]);
    }

    #[test]
    fn only_topics_that_are_named_are_written_so() {
        let config = KafkaConfig { envelope_topics: vec!["OrderEvent".to_owned()], ..KafkaConfig::default() };
        let messages = vec![Message::keyed("OrderEvent", "k", "b"), Message::keyed("OrderEventDLQ", "k", "b")];
        let (sealed, _) = seal_all(&config, messages);
        assert!(open(&sealed[0].body).is_some());
        assert_eq!(&sealed[1].body[..], b"b");
    }

    #[test]
    fn null_headers_other_cases_and_white_space_are_read() {
        for value in [
            r#"{"Header":null,"Body":"aGk="}"#,
            r#"{"body":"aGk=","header":null}"#,
            " {\"BODY\" : \"aGk=\", \"header\" : {} }",
        ] {
            assert_eq!(opened(value), Opened { headers: Headers::new(), key: None, body: Bytes::from("hi") });
        }
        assert_eq!(opened(r#"{"Header":{"a":null,"Pkey":""},"Body":""}"#).headers.get_str("a"), Some(""));
        let without_body = r#"{"Header":{"a":"b"},"Body":null}"#;
        assert_eq!(opened(without_body).body, without_body.as_bytes());
        assert_eq!(opened(without_body).headers.get_str("a"), Some("b"));
        assert_eq!(opened(r#"{"Header":{"Pkey":"\u00fc"},"Body":""}"#).key.as_deref(), Some("ü".as_bytes()));
    }

    #[test]
    fn other_members_do_not_matter_and_the_body_may_be_missing() {
        let more = opened(r#"{"Header":{"Event_id":"e","Pkey":"k"},"Footer":{"x":[1]},"Body":"aGk="}"#);
        assert_eq!((&more.body[..], more.key.as_deref()), (&b"hi"[..], Some(&b"k"[..])));
        assert_eq!(more.headers.get_str(header::EVENT_ID), Some("e"));
        for value in [r#"{"Header":{"a":"b"}}"#, r#"{"order_id":7,"Header":{"a":"b"}}"#] {
            let without_body = opened(value);
            assert_eq!(without_body.body, value.as_bytes());
            assert_eq!(without_body.headers.get_str("a"), Some("b"));
        }
    }

    #[test]
    fn bodies_that_are_no_envelopes_are_left_alone() {
        for value in [
            "",
            "\x08\x01",
            "[]",
            "{}",
            "{",
            r#"{"order_id":7,"name":"plain json"}"#,
            r#"{"header":{"level":1},"order_id":7}"#,
            r#"{"header":"Paid","body":"Thank you!"}x"#,
            r#"{"header":{"a":"b"},"body":"Thank you!","order_id":7}"#,
            r#"{"body":"test"}"#,
            r#"{"Body":"hi there"}"#,
        ] {
            assert_eq!(open(value.as_bytes()), None, "{value}");
        }
    }

    #[test]
    fn broken_envelopes_say_what_is_wrong() {
        for (value, reason) in [
            (r#"{"Header":{},"Body":"not base64!"}"#, "Body: "),
            (r#"{"Header":{},"Body":"aGk"}"#, "Body: "),
            (r#"{"Header":{},"Body":7}"#, "integer `7`"),
            (r#"{"Header":{"a":1},"Body":"aGk="}"#, "integer `1`"),
            (r#"{"Header":["a"],"Body":"aGk="}"#, "sequence"),
        ] {
            assert!(malformed(value).contains(reason), "{value}: {}", malformed(value));
        }
    }

    #[test]
    fn with_very_many_headers_it_is_none() {
        let value = |count: usize| {
            let headers: Vec<_> = (0..count).map(|number| format!("\"{number}\":\"\"")).collect();
            format!("{{\"Header\":{{{}}},\"Body\":\"\"}}", headers.join(","))
        };
        assert_eq!(opened(&value(HEADER_COUNT_MAX)).headers.len(), HEADER_COUNT_MAX);
        for count in [HEADER_COUNT_MAX + 1, 100_000] {
            assert!(malformed(&value(count)).contains("more than 1000 headers"), "{}", malformed(&value(count)));
        }
    }

    proptest! {
        #[test]
        fn whatever_was_sealed_is_opened(body: Vec<u8>, key: String, value: String) {
            let message = Message::keyed("t", key.clone(), body.clone()).with_header(header::SOURCE, value.clone());
            let sealed = seal(&message, &[]).unwrap();
            let opened = open(&sealed.body).unwrap().unwrap();
            prop_assert_eq!(&opened.body[..], &body[..]);
            prop_assert_eq!(opened.headers.get_str(header::SOURCE), Some(&*value));
            prop_assert_eq!(opened.headers.get_str(KEY), Some(&*key));
        }

        #[test]
        fn whatever_comes_is_read_or_refused(value: Vec<u8>, text in "[{}\\[\\]\"Headrboy:,nul=\\\\ 0-9]{0,60}") {
            open(&value);
            open(text.as_bytes());
            open(format!("{{\"Header\":{text},\"Body\":{text}}}").as_bytes());
        }
    }
}
