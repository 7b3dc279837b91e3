//! go-micro's JSON of a service, which is the value of a key: written with one instance, read with
//! any number.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Weak},
};

use micro_core::{
    Error, ErrorKind,
    registry::{
        Endpoint, Instance,
        bounded::{FirstOf, JsonSize, Pairs},
    },
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::limits::{
    ANSWER_BYTES_MAX, ENDPOINT_DEPTH_MAX, ENDPOINT_VALUES_MAX, ENDPOINTS_MAX, INSTANCES_MAX, METADATA_BYTES_MAX,
    METADATA_COUNT_MAX, NODES_MAX, TOGETHER_VALUES_MAX, VALUE_BYTES_MAX, VERSION_BYTES_MAX,
};

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
struct Read<'a> {
    name: Option<String>,
    version: Option<String>,
    /// A list, which is not looked at where it is known.
    #[serde(borrow)]
    endpoints: Option<&'a RawValue>,
    #[serde(default)]
    nodes: FirstOf<Option<ReadNode>, NODES_MAX>,
}

#[derive(Debug, Default, Deserialize)]
struct ReadNode {
    #[serde(default)]
    metadata: Pairs<METADATA_COUNT_MAX, METADATA_BYTES_MAX>,
    id: Option<String>,
    address: Option<String>,
}

impl ReadNode {
    /// The instance, and how many pairs of metadata it is without; why it cannot be called.
    fn instance(self, service: &str, version: &str) -> Result<(Instance, usize), String> {
        let mut instance = Instance::new(service, self.address.unwrap_or_default())
            .with_id(self.id.unwrap_or_default())
            .with_version(version);
        instance.metadata = self.metadata.kept;
        match instance.validate() {
            Ok(()) => Ok((instance, self.metadata.left_out)),
            Err(refusal) => Err(format!("an instance is left out: {refusal}")),
        }
    }
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
/// `InvalidArgument`, with what there is too much of.
pub(crate) fn check(instance: &Instance) -> micro_core::Result<()> {
    let cause = match Reader::default().decode(&instance.service, &encode(instance)) {
        Ok((_, complaints)) if complaints.is_empty() => return Ok(()),
        Ok((_, mut complaints)) => complaints.swap_remove(0),
        Err(reason) => reason,
    };
    let message = "the instance says more in its metadata, endpoints and version than anybody would read";
    let error = Error::new(ErrorKind::InvalidArgument, "registry.register", message);
    Err(error.with_context("id", &instance.id).with_context("cause", cause))
}

/// The name of the service that a value tells of, if one of its instances can be called.
pub fn service_name(value: &[u8]) -> Option<String> {
    let service = parsed(value).ok()?;
    let name = service.name.unwrap_or_default();
    let is_callable = service.nodes.kept.into_iter().flatten().any(|node| node.instance(&name, "").is_ok());
    is_callable.then_some(name)
}

/// Reads the values of one service's keys. Those with the same endpoints share them.
#[derive(Debug, Default)]
pub struct Reader {
    /// By their text, of which nothing was left out.
    whole: HashMap<String, Weak<Vec<Endpoint>>>,
    /// Each list, and how many JSON values it is.
    held: Vec<(Weak<Vec<Endpoint>>, usize)>,
    /// How many those are together.
    values: usize,
    /// The bytes of the texts.
    text_bytes: usize,
}

impl Reader {
    /// The instances of a service that a value tells of, and why some of what it says is left out, each
    /// reason once. What is another service's is passed over.
    ///
    /// Members that are not known are passed over; what is not there is empty. An instance that cannot
    /// be called is left out, and so is what is above a limit of `limits.rs`.
    ///
    /// # Errors
    ///
    /// Why nothing of it can be read.
    pub fn decode(&mut self, service: &str, value: &[u8]) -> Result<(Vec<Instance>, Vec<String>), String> {
        let Read { name, version, endpoints, nodes } = parsed(value)?;
        if name.unwrap_or_default() != service {
            return Ok((Vec::new(), Vec::new()));
        }
        let version = version.unwrap_or_default();
        if version.len() > VERSION_BYTES_MAX {
            return Err(format!("its version is longer than {VERSION_BYTES_MAX} bytes"));
        }
        let (mut instances, mut complaints) = (Vec::new(), Reasons::default());
        let endpoints = endpoints.map(|text| self.endpoints(text.get(), &mut complaints)).unwrap_or_default();
        if nodes.left_out > 0 {
            complaints.add(format!("of more than {NODES_MAX} instances the rest is left out"));
        }
        for node in nodes.kept {
            match node.unwrap_or_default().instance(service, &version) {
                Ok((mut instance, left_out)) => {
                    if left_out > 0 {
                        complaints.add("metadata of more than 1000 pairs or 512 KiB is left out".to_owned());
                    }
                    instance.endpoints = endpoints.clone();
                    instances.push(instance);
                }
                Err(reason) => complaints.add(reason),
            }
        }
        Ok((instances, complaints.0))
    }

    fn endpoints(&mut self, text: &str, complaints: &mut Reasons) -> Arc<Vec<Endpoint>> {
        if let Some(known) = self.whole.get(text).and_then(Weak::upgrade) {
            return known;
        }
        let complaint_count = complaints.0.len();
        let (endpoints, values) = read_endpoints(text, self.values_left(), complaints);
        let endpoints = Arc::new(endpoints);
        if complaints.0.len() == complaint_count {
            self.whole.insert(text.to_owned(), Arc::downgrade(&endpoints));
            self.text_bytes += text.len();
        }
        self.held.push((Arc::downgrade(&endpoints), values));
        self.values += values;
        endpoints
    }

    /// What nobody holds any more costs nothing; it is looked for where there may be much of it.
    fn values_left(&mut self) -> usize {
        let is_much = self.values > TOGETHER_VALUES_MAX / 2 || self.held.len() > 2 * INSTANCES_MAX;
        if is_much || self.text_bytes > ANSWER_BYTES_MAX {
            self.whole.retain(|_, endpoints| endpoints.strong_count() > 0);
            self.held.retain(|(endpoints, _)| endpoints.strong_count() > 0);
            self.values = self.held.iter().map(|(_, values)| values).sum();
            self.text_bytes = self.whole.keys().map(String::len).sum();
        }
        TOGETHER_VALUES_MAX.saturating_sub(self.values)
    }
}

/// Reasons, each once.
#[derive(Default)]
struct Reasons(Vec<String>);

impl Reasons {
    fn add(&mut self, reason: String) {
        if !self.0.contains(&reason) {
            self.0.push(reason);
        }
    }
}

fn parsed(value: &[u8]) -> Result<Read<'_>, String> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(format!("it is larger than {VALUE_BYTES_MAX} bytes"));
    }
    serde_json::from_slice(value)
        .map_err(|cause| format!("it is not the JSON that go-micro writes of a service: {cause}"))
}

/// The endpoints of a list, and how many JSON values they are, at most `values_left`.
fn read_endpoints(text: &str, values_left: usize, complaints: &mut Reasons) -> (Vec<Endpoint>, usize) {
    let mut left_out = |reason: &str| complaints.add(format!("an endpoint is left out: {reason}"));
    let list = match serde_json::from_str::<FirstOf<&RawValue, ENDPOINTS_MAX>>(text) {
        Ok(list) => list,
        Err(cause) => {
            complaints.add(format!("its endpoints are left out: {cause}"));
            return (Vec::new(), 0);
        }
    };
    if list.left_out > 0 {
        left_out("the instance has more than 1000");
    }
    let (mut endpoints, mut values) = (Vec::new(), 0);
    for text in list.kept {
        let size = JsonSize::of(text.get().as_bytes());
        match () {
            () if size.values > ENDPOINT_VALUES_MAX => left_out("it holds too many values"),
            () if size.depth > ENDPOINT_DEPTH_MAX => left_out("its values lie too deep in each other"),
            () if values + size.values > values_left => left_out("those of the service hold too much together"),
            () => match serde_json::from_str::<Option<Endpoint>>(text.get()) {
                Ok(endpoint) => {
                    values += size.values;
                    endpoints.push(endpoint.unwrap_or_default());
                }
                Err(_) => left_out("it is not the JSON that go-micro writes"),
            },
        }
    }
    (endpoints, values)
}

#[cfg(test)]
mod tests {
    use micro_core::registry::EndpointValue;
    use proptest::prelude::*;

    use super::*;

    fn decode(service: &str, value: &[u8]) -> Result<(Vec<Instance>, Vec<String>), String> {
        Reader::default().decode(service, value)
    }

    #[test]
    fn a_value_is_read_and_written_to_the_byte_as_go_micro_wrote_it() {
        let (key, value) = crate::vectors::captured();
        let (instances, complaints) = decode("go.micro.service.greeter", value.as_bytes()).unwrap();
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
            assert_eq!(decode(&instance.service, &encode(&instance)).unwrap(), (vec![instance], Vec::new()));
        }
        let text = String::from_utf8(encode(&Instance::new("greeter", "a:1").with_id("x"))).unwrap();
        let expected = r#"{"name":"greeter","version":"latest","metadata":null,"endpoints":null,"nodes":[{"metadata":{},"id":"x","address":"a:1"}]}"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn an_instance_that_nobody_could_read_again_is_refused() {
        let instance = Instance::new("greeter", "a:1");
        check(&instance.clone().with_metadata("a", "x".repeat(500_000)).with_version("x".repeat(4_000))).unwrap();
        for (much, reason) in [
            (instance.clone().with_version("x".repeat(5_000)), "version"),
            (instance.clone().with_metadata("a", "x".repeat(600_000)), "metadata"),
            (instance.clone().with_metadata("a", "x".repeat(1_100_000)), "larger"),
            (instance.clone().with_endpoints(vec![Endpoint::new("A.B"); 1_001]), "endpoint"),
        ] {
            let error = check(&much).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.report().contains(reason), "{}", error.report());
        }
    }

    #[test]
    fn what_is_null_missing_or_unknown_is_no_error_and_what_cannot_be_called_is_left_out() {
        for text in ["{}", r#"{"name":null,"version":null,"endpoints":null,"nodes":null,"added":[1]}"#] {
            assert_eq!(decode("", text.as_bytes()).unwrap(), (Vec::new(), Vec::new()));
        }
        let text = r#"{"name":"web","endpoints":[null,{"name":"A.B","metadata":{"a":null}},7],
            "nodes":[null,{"id":"a","address":"h:1","metadata":{"a":null}},
            {"id":"b","address":"h"},{},{"id":"c","address":"h:2","metadata":null}]}"#;
        let (instances, complaints) = decode("web", text.as_bytes()).unwrap();
        let expected = |id: &str, address: &str| {
            let instance = Instance::new("web", address).with_id(id).with_version("");
            instance.with_endpoints([Endpoint::default(), Endpoint::new("A.B").with_metadata("a", "")])
        };
        assert_eq!(instances, [expected("a", "h:1").with_metadata("a", ""), expected("c", "h:2")]);
        // Of the endpoint that is none, of what has no id (two of them), of what has no port.
        assert_eq!(complaints.len(), 3, "{complaints:?}");
        for text in ["", "null", "7", "[]", "{", r#"{"name":7}"#, "\u{0}"] {
            assert!(decode("web", text.as_bytes()).is_err(), "{text}");
        }
        assert!(decode("web", &vec![b' '; VALUE_BYTES_MAX + 1]).unwrap_err().contains("larger"));
    }

    #[test]
    fn the_name_of_a_value_is_told_where_an_instance_can_be_called() {
        let name = |text: &str| service_name(text.as_bytes());
        assert_eq!(name(r#"{"name":"a/b","nodes":[{},{"id":"1","address":"h:1"}]}"#).as_deref(), Some("a/b"));
        for text in ["{}", "7", r#"{"name":"a"}"#, r#"{"name":"a","nodes":[{"id":"1","address":"h"}]}"#] {
            assert_eq!(name(text), None, "{text}");
        }
    }

    /// A service named by half a mebibyte, with ten thousand instances, would be ten gigabytes.
    #[test]
    fn what_is_above_a_limit_is_left_out_with_one_complaint_and_the_rest_is_read() {
        let value = |endpoints: &str, nodes: &str| {
            let text = format!(r#"{{"name":"web","endpoints":{endpoints},"nodes":[{nodes}]}}"#);
            assert!(text.len() <= VALUE_BYTES_MAX, "{}", text.len());
            decode("web", text.as_bytes()).unwrap()
        };
        let node = |id: usize| format!(r#"{{"id":"{id:04}","address":"h:1"}}"#);
        let nodes = (0..10_000).map(node).collect::<Vec<_>>().join(",");
        let (instances, complaints) = value("null", &nodes);
        assert_eq!((instances.len(), complaints.len()), (NODES_MAX, 1), "{complaints:?}");

        let pairs = (0..2_000).map(|n| format!(r#""{n:04}":"""#)).collect::<Vec<_>>().join(",");
        let (instances, complaints) = value("[]", &format!(r#"{{"id":"a","address":"h:1","metadata":{{{pairs}}}}}"#));
        assert_eq!((instances[0].metadata.len(), complaints.len()), (METADATA_COUNT_MAX, 1), "{complaints:?}");

        let [wide, deep] = [
            format!(r#"{{"request":{{"values":[{}{{}}]}}}}"#, "{},".repeat(100_000)),
            format!(r#"{{"request":{}{}}}"#, r#"{"values":["#.repeat(40), "]}".repeat(40)),
        ];
        let (instances, complaints) = value(&format!(r#"[{wide},{deep},{wide},{{"name":"a"}}]"#), &node(1));
        assert_eq!(*instances[0].endpoints, [Endpoint::new("a")]);
        assert_eq!(complaints.len(), 2, "{complaints:?}");

        let many = vec!["null"; ENDPOINTS_MAX + 10].join(",");
        let (instances, complaints) = value(&format!("[{many}]"), &node(1));
        assert_eq!((instances[0].endpoints.len(), complaints.len()), (ENDPOINTS_MAX, 1), "{complaints:?}");
    }

    #[test]
    fn of_endpoints_that_nobody_holds_any_more_the_text_is_forgotten() {
        let mut reader = Reader::default();
        let long = "x".repeat(VALUE_BYTES_MAX / 2);
        for n in 0..2 * ANSWER_BYTES_MAX / long.len() {
            let text = format!(
                r#"{{"name":"web","endpoints":[{{"name":"{n}{long}"}}],"nodes":[{{"id":"a","address":"h:1"}}]}}"#
            );
            assert_eq!(reader.decode("web", text.as_bytes()).unwrap().0[0].endpoints.len(), 1);
            assert!(reader.text_bytes <= ANSWER_BYTES_MAX + text.len());
            assert_eq!(reader.whole.keys().map(String::len).sum::<usize>(), reader.text_bytes);
        }
    }

    #[test]
    fn the_same_endpoints_are_held_once_and_all_of_a_service_only_so_much() {
        let mut reader = Reader::default();
        let mut read = |name: &str| {
            let wide = format!(r#"{{"name":"{name}","request":{{"values":[{}{{}}]}}}}"#, "{},".repeat(30_000));
            let text = format!(r#"{{"name":"web","endpoints":[{wide}],"nodes":[{{"id":"a","address":"h:1"}}]}}"#);
            let (mut instances, complaints) = reader.decode("web", text.as_bytes()).unwrap();
            (instances.remove(0).endpoints, complaints.len())
        };
        let each = 60_006;
        let mut held: Vec<_> = (0..TOGETHER_VALUES_MAX / each).map(|n| read(&format!("{n:04}"))).collect();
        assert!(held.iter().all(|(endpoints, complaints)| (endpoints.len(), *complaints) == (1, 0)));
        assert!(Arc::ptr_eq(&read("0000").0, &held[0].0));
        assert_eq!((read("more").0.len(), read("more").1), (0, 1));
        // What is gone makes room.
        held.pop();
        assert_eq!(read("more").0.len(), 1);
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
            if let Ok((instances, _)) = decode("a", &value) {
                prop_assert!(instances.iter().all(|instance| instance.validate().is_ok()));
            }
        }

        #[test]
        fn any_instance_comes_back(service in "\\PC{1,9}", id in "\\PC{1,9}", version in ".*", name in ".*", value in ".*") {
            let instance = Instance::new(service, "a:1").with_id(id).with_version(version).with_metadata(name, value);
            prop_assert_eq!(decode(&instance.service, &encode(&instance)).unwrap(), (vec![instance], Vec::new()));
        }
    }
}
