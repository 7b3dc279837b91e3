//! Whatever bytes an agent answers: no panic, and no more than what is allowed.

use std::io::Write as _;

use flate2::{Compression, write::ZlibEncoder};
use micro_registry_consul::reading::{Left, decode, instances};
use proptest::prelude::*;
use serde_json::{Value, json};

const LIMIT: usize = 1 << 16;

fn packed(bytes: &[u8]) -> String {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    hex::encode(encoder.finish().unwrap())
}

/// Tags near those that are right.
fn tag() -> impl Strategy<Value = String> {
    let contents = prop_oneof![
        any::<String>(),
        any::<Vec<u8>>().prop_map(hex::encode),
        any::<Vec<u8>>().prop_map(|bytes| packed(&bytes)),
        json_text().prop_map(|text| packed(text.as_bytes())),
        (json_text(), any::<prop::sample::Index>()).prop_map(|(text, cut)| {
            let packed = packed(text.as_bytes());
            packed[..cut.index(packed.len())].to_owned()
        }),
        json_text(),
    ];
    let kind = prop_oneof![Just("t-"), Just("e-"), Just("v-"), Just("t="), Just("e="), Just("v="), Just("")];
    (kind, contents).prop_map(|(kind, contents)| format!("{kind}{contents}"))
}

/// JSON with the names that are looked for.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        tag().prop_map(Value::from),
    ];
    let names = [
        "Node", "Service", "Checks", "Status", "ID", "Address", "Port", "Tags", "Meta", "request", "response",
        "metadata", "name", "type", "values",
    ];
    leaf.prop_recursive(5, 64, 6, move |inner| {
        let name = prop_oneof![prop::sample::select(names.to_vec()).prop_map(str::to_owned), ".{0,4}"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(name, inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn json_text() -> impl Strategy<Value = String> {
    prop_oneof![Just("{}".to_owned()), r#"\{"[a-z]{0,3}":"[a-z]{0,9}"\}"#, "[\\[\\]{}\":,a0]{0,40}"]
}

/// A list of entries that are nearly right, as much as may be.
fn entries() -> impl Strategy<Value = Value> {
    let entry = (prop::collection::vec(tag(), 0..6), value(), value(), any::<i64>(), ".{0,9}").prop_map(
        |(tags, meta, checks, port, id)| {
            json!({"Node": {"Address": "a"}, "Checks": checks,
                   "Service": {"Service": "web", "ID": id, "Port": port, "Tags": tags, "Meta": meta}})
        },
    );
    prop::collection::vec(prop_oneof![entry, value()], 0..4).prop_map(Value::from)
}

proptest! {
    #[test]
    fn tags_of_any_text_are_read_within_the_limit(tags in prop::collection::vec(tag(), 0..12)) {
        let limits = Left { bytes: LIMIT, values: 100, metadata_bytes: LIMIT };
        let mut left = limits;
        let read = decode(&tags, true, &mut left);
        let metadata = read.metadata.iter().flatten().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        prop_assert!(left.bytes <= LIMIT && metadata + read.version.len() <= LIMIT - left.metadata_bytes);
        prop_assert!(read.endpoints.len() + read.complaints.len() <= tags.len());
        prop_assert!(read.endpoints.len() <= limits.values - left.values);
        let read = decode(&tags, true, &mut Left { bytes: 0, values: 0, metadata_bytes: 0 });
        prop_assert!(read.version.is_empty() && read.endpoints.is_empty());
    }

    #[test]
    fn answers_of_any_bytes_are_an_error_or_instances_that_can_be_called(bytes in any::<Vec<u8>>()) {
        if let Ok(reading) = instances("web", &bytes) {
            prop_assert!(reading.instances.iter().all(|instance| instance.validate().is_ok()));
        }
    }

    #[test]
    fn answers_of_any_json_are_read_entry_by_entry(answer in prop_oneof![entries(), value()]) {
        let text = serde_json::to_vec(&answer).unwrap();
        match instances("web", &text) {
            Ok(reading) => {
                prop_assert!(reading.instances.iter().all(|instance| instance.validate().is_ok()));
                prop_assert!(reading.instances.is_sorted_by(|a, b| a.id <= b.id));
                prop_assert!(reading.complaints.iter().all(|complaint| complaint.reason.len() <= 1_200));
                prop_assert!(reading.instances.len() <= answer.as_array().map_or(0, Vec::len));
            }
            Err(_) => prop_assert!(!answer.is_array() && !answer.is_null()),
        }
    }
}
