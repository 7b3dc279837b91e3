//! go-micro's JSON of a service, which is the value of a key: written with one instance, read with
//! any number.

use std::{collections::BTreeMap, sync::Arc};

use micro_core::{
    Error, ErrorKind,
    registry::{Endpoint, Instance},
};
use serde::{Deserialize, Serialize};

/// The largest value that is read: etcd itself takes no more than 1.5 MiB where nothing else is set.
const VALUE_BYTES_MAX: usize = 1 << 20;

/// A service, its members in go-micro's order.
#[derive(Debug, Serialize)]
struct Written<'a> {
    name: &'a str,
    version: &'a str,
    /// go-micro has metadata on the node alone.
    metadata: Option<()>,
    /// `null` where there are none, as Go writes an empty list.
    endpoints: Option<&'a [Endpoint]>,
    nodes: [WrittenNode<'a>; 1],
}

#[derive(Debug, Serialize)]
struct WrittenNode<'a> {
    metadata: &'a BTreeMap<String, String>,
    id: &'a str,
    address: &'a str,
}

/// What is empty may be missing or `null`.
#[derive(Debug, Deserialize)]
struct Read {
    name: Option<String>,
    version: Option<String>,
    endpoints: Option<Vec<Option<Endpoint>>>,
    nodes: Option<Vec<Option<ReadNode>>>,
}

#[derive(Debug, Deserialize)]
struct ReadNode {
    metadata: Option<BTreeMap<String, Option<String>>>,
    id: Option<String>,
    address: Option<String>,
}

/// The value of an instance's key.
pub(crate) fn encode(instance: &Instance) -> Vec<u8> {
    let node = WrittenNode { metadata: &instance.metadata, id: &instance.id, address: &instance.address };
    let endpoints = (!instance.endpoints.is_empty()).then_some(instance.endpoints.as_slice());
    let service =
        Written { name: &instance.service, version: &instance.version, metadata: None, endpoints, nodes: [node] };
    serde_json::to_vec(&service).expect("text and lists of text are JSON")
}

/// Refuses an instance that nobody could read again.
///
/// # Errors
///
/// `InvalidArgument`.
pub(crate) fn check(instance: &Instance) -> micro_core::Result<()> {
    let size = encode(instance).len();
    if size <= VALUE_BYTES_MAX {
        return Ok(());
    }
    let message = "the instance says too much in its metadata, endpoints and version: at most a mebibyte of JSON";
    let error = Error::new(ErrorKind::InvalidArgument, "registry.register", message);
    Err(error.with_context("id", &instance.id).with_context("bytes", size))
}

/// The instances that a value tells of, and why some of what it says is left out.
///
/// Members that are not known are passed over; what is not there is empty. An instance that cannot be
/// called is left out. The memory that it takes is in proportion to the value, of which no more than
/// a mebibyte is read.
///
/// # Errors
///
/// Why nothing of it can be read.
pub fn decode(value: &[u8]) -> Result<(Vec<Instance>, Vec<String>), String> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(format!("it is larger than {VALUE_BYTES_MAX} bytes"));
    }
    let service: Read = serde_json::from_slice(value)
        .map_err(|cause| format!("it is not the JSON that go-micro writes of a service: {cause}"))?;
    let name = service.name.unwrap_or_default();
    let version = service.version.unwrap_or_default();
    let endpoints: Arc<Vec<Endpoint>> = Arc::new(service.endpoints.into_iter().flatten().flatten().collect());
    let (mut instances, mut complaints) = (Vec::new(), Vec::new());
    for node in service.nodes.into_iter().flatten().flatten() {
        let metadata = node.metadata.unwrap_or_default();
        let mut instance = Instance::new(&*name, node.address.unwrap_or_default())
            .with_id(node.id.unwrap_or_default())
            .with_version(&*version);
        instance.metadata = metadata.into_iter().map(|(name, value)| (name, value.unwrap_or_default())).collect();
        instance.endpoints = endpoints.clone();
        match instance.validate() {
            Ok(()) => instances.push(instance),
            Err(refusal) => complaints.push(format!("an instance is left out: {refusal}")),
        }
    }
    Ok((instances, complaints))
}

#[cfg(test)]
mod tests {
    use micro_core::registry::EndpointValue;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_value_is_read_and_written_to_the_byte_as_go_micro_wrote_it() {
        let (key, value) = crate::vectors::captured();
        let (instances, complaints) = decode(value.as_bytes()).unwrap();
        let [greeter] = &instances[..] else { panic!("{instances:?}") };
        assert_eq!(complaints, [] as [String; 0]);
        assert_eq!((&*greeter.service, &*greeter.version), ("go.micro.service.greeter", "1.0.0"));
        assert!(key.ends_with(&format!("/{}", greeter.id)), "{key}");
        assert_eq!((&*greeter.address, &*greeter.metadata["region"]), ("127.0.0.1:9401", "cn-east"));
        assert_eq!(greeter.endpoints.len(), 3);
        assert_eq!(String::from_utf8(encode(greeter)).unwrap(), value);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let value = EndpointValue::new("Hello", "Hello").with_values([EndpointValue::new("name", "string")]);
        let full = Instance::new("a/b", "[::1]:1")
            .with_version("")
            .with_metadata("zone.ä", "östlich")
            .with_endpoints([Endpoint::new("A.B").with_request(value)]);
        for instance in [full, Instance::new("greeter", "a:1")] {
            assert_eq!(decode(&encode(&instance)).unwrap(), (vec![instance], Vec::new()));
        }
        let text = String::from_utf8(encode(&Instance::new("greeter", "a:1").with_id("x"))).unwrap();
        let expected = r#"{"name":"greeter","version":"latest","metadata":null,"endpoints":null,"nodes":[{"metadata":{},"id":"x","address":"a:1"}]}"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn an_instance_that_nobody_could_read_again_is_refused() {
        check(&Instance::new("greeter", "a:1").with_version("x".repeat(1_000_000))).unwrap();
        let error = check(&Instance::new("greeter", "a:1").with_version("x".repeat(1_100_000))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn what_is_null_missing_or_unknown_is_no_error_and_what_cannot_be_called_is_left_out() {
        for text in ["{}", r#"{"name":null,"version":null,"endpoints":null,"nodes":null,"added":[1]}"#] {
            assert_eq!(decode(text.as_bytes()).unwrap(), (Vec::new(), Vec::new()));
        }
        let text = r#"{"name":"web","endpoints":[null,{"name":"A.B"}],"nodes":[null,{"id":"a","address":"h:1","metadata":{"a":null}},
            {"id":"b","address":"h"},{},{"id":"c","address":"h:2","metadata":null}]}"#;
        let (instances, complaints) = decode(text.as_bytes()).unwrap();
        let expected = |id: &str, address: &str| {
            let instance = Instance::new("web", address).with_id(id).with_version("");
            instance.with_endpoints([Endpoint::new("A.B")])
        };
        assert_eq!(instances, [expected("a", "h:1").with_metadata("a", ""), expected("c", "h:2")]);
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        for text in ["", "null", "7", "[]", "{", r#"{"name":7}"#, "\u{0}"] {
            assert!(decode(text.as_bytes()).is_err(), "{text}");
        }
        assert!(decode(&vec![b' '; VALUE_BYTES_MAX + 1]).unwrap_err().contains("larger"));
    }

    proptest! {
        #[test]
        fn values_of_any_bytes_are_an_error_or_instances_that_can_be_called(
            value in prop_oneof![
                any::<Vec<u8>>(),
                r#"\{"name":("a"|null|7),"nodes":\[(\{"id":"[a-z]{0,3}","address":"[a-z:0-9]{0,6}"\})?\](,"endpoints":.{0,9})?\}"#
                    .prop_map(String::into_bytes),
            ]
        ) {
            if let Ok((instances, _)) = decode(&value) {
                prop_assert!(instances.iter().all(|instance| instance.validate().is_ok()));
            }
        }

        #[test]
        fn any_instance_comes_back(service in "\\PC{1,9}", id in "\\PC{1,9}", version in ".*", name in ".*", value in ".*") {
            let instance = Instance::new(service, "a:1").with_id(id).with_version(version).with_metadata(name, value);
            prop_assert_eq!(decode(&encode(&instance)).unwrap(), (vec![instance], Vec::new()));
        }
    }
}
