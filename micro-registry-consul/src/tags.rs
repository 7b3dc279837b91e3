//! What an instance's tags say, and how they are written: go-micro's encoding of metadata, endpoints
//! and version, as its Consul plugin of version 4 has it.
//!
//! A tag is `t-`, `e-` or `v-` and the hex of a zlib stream: the JSON of an object with one pair of
//! metadata, the JSON of an endpoint, or the version's bare text. Older programs wrote the plain text
//! behind `t=`, `e=` and `v=`. Of metadata and endpoints the form that comes first counts.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
};

use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};
use micro_core::{
    Error, ErrorKind, Result,
    registry::{
        Endpoint, Instance,
        bounded::{JsonSize, Pairs},
    },
};
use serde::Serialize;

use crate::limits::{
    ENDPOINT_DEPTH_MAX, ENDPOINT_VALUES_MAX, ENDPOINTS_MAX, Left, METADATA_BYTES_MAX, METADATA_COUNT_MAX,
    OWN_BYTES_MAX, TAG_BYTES_MAX, UNPACKED_BYTES_MAX,
};

/// What the tags of one registration say, as far as they can be read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tags {
    /// Empty where no tag says one.
    pub version: String,
    /// `None` where no tag is of metadata.
    pub metadata: Option<BTreeMap<String, String>>,
    /// The endpoints, in the order of their tags.
    pub endpoints: Vec<Endpoint>,
    /// Why some were left out, without their contents; each reason once.
    pub complaints: Vec<String>,
}

/// The tags of an instance, in the order of go-micro: metadata, endpoints, version.
pub(crate) fn encode(instance: &Instance) -> Vec<String> {
    let metadata = instance.metadata.iter().map(|(name, value)| packed_json('t', &BTreeMap::from([(name, value)])));
    let endpoints = instance.endpoints.iter().map(|endpoint| packed_json('e', endpoint));
    metadata.chain(endpoints).chain([packed('v', instance.version.as_bytes())]).collect()
}

/// Refuses an instance that nobody could read again.
///
/// # Errors
///
/// `InvalidArgument`, naming what is too large.
pub(crate) fn check(instance: &Instance) -> Result<()> {
    match decode(&encode(instance), true, &mut Left::default()).complaints.pop() {
        None => Ok(()),
        Some(complaint) => {
            let message = "the instance says more in its metadata, endpoints and version than anybody would read";
            let error = Error::new(ErrorKind::InvalidArgument, "registry.register", message);
            Err(error.with_context("id", &instance.id).with_context("cause", complaint))
        }
    }
}

/// Reads tags; what is not go-micro's is passed over. `left` is how much they may hold together, and
/// afterwards what is left of it. Those of endpoints may be known already.
pub fn decode(tags: &[String], with_endpoints: bool, left: &mut Left) -> Tags {
    let mut read = Tags::default();
    let own_bytes = left.metadata_bytes.min(OWN_BYTES_MAX);
    let mut own = Left { bytes: own_bytes, values: usize::MAX, metadata_bytes: 0 };
    for tag in of_kind(tags, 't', true) {
        read.metadata.get_or_insert_default();
        match json(tag, usize::MAX, &mut own).and_then(pairs) {
            Ok(found) => read.say(found),
            Err(reason) => read.complain("metadata", reason),
        }
    }
    if let Some(tag) = of_kind(tags, 'v', false).next() {
        let text = text(tag, &mut own).and_then(|bytes| String::from_utf8(bytes).map_err(|_| NOT_TEXT));
        match text {
            Ok(version) => read.version = version,
            Err(reason) => read.complain("the version", reason),
        }
    }
    left.metadata_bytes -= own_bytes - own.bytes;
    for tag in of_kind(tags, 'e', true).filter(|_| with_endpoints) {
        if read.endpoints.len() == ENDPOINTS_MAX {
            read.complain("an endpoint", TOO_MANY_ENDPOINTS);
            break;
        }
        match json(tag, ENDPOINT_VALUES_MAX, left).and_then(endpoint) {
            Ok(endpoint) => read.endpoints.push(endpoint),
            Err(reason) => read.complain("an endpoint", reason),
        }
    }
    read
}

impl Tags {
    /// Takes pairs in as far as they fit.
    fn say(&mut self, found: TagPairs) {
        let known = self.metadata.get_or_insert_default();
        let mut is_whole = found.left_out == 0;
        let mut bytes: usize = known.iter().map(|(name, value)| name.len() + value.len()).sum();
        for (name, value) in found.kept {
            bytes += name.len() + value.len();
            if bytes <= METADATA_BYTES_MAX && (known.len() < METADATA_COUNT_MAX || known.contains_key(&name)) {
                known.insert(name, value);
            } else {
                is_whole = false;
            }
        }
        if !is_whole {
            self.complain("metadata", TOO_MUCH_METADATA);
        }
    }

    fn complain(&mut self, what: &str, reason: &str) {
        let complaint = complaint(what, reason);
        if !self.complaints.contains(&complaint) {
            self.complaints.push(complaint);
        }
    }
}

type TagPairs = Pairs<METADATA_COUNT_MAX, METADATA_BYTES_MAX>;

fn pairs(text: Vec<u8>) -> std::result::Result<TagPairs, &'static str> {
    serde_json::from_slice(&text).map_err(|_| NOT_JSON)
}

/// One of `null` is an empty one, as in Go.
fn endpoint(text: Vec<u8>) -> std::result::Result<Endpoint, &'static str> {
    serde_json::from_slice::<Option<Endpoint>>(&text).map(Option::unwrap_or_default).map_err(|_| NOT_JSON)
}

/// The tags of endpoints among these, by which two registrations can be seen to have the same.
pub(crate) fn of_endpoints(tags: &[String]) -> Vec<String> {
    of_kind(tags, 'e', true).map(|tag| tag.whole.to_owned()).collect()
}

/// One of go-micro's tags, without its kind.
#[derive(Clone, Copy)]
struct Tag<'a> {
    whole: &'a str,
    is_packed: bool,
    contents: &'a str,
}

/// The tags of a kind, of both forms or only of the one that comes first.
fn of_kind(tags: &[String], kind: char, is_one_form: bool) -> impl Iterator<Item = Tag<'_>> {
    let mut form = None;
    tags.iter().filter_map(move |whole| {
        let behind_kind = whole.strip_prefix(kind)?;
        let packed = behind_kind.strip_prefix('-').map(|contents| (true, contents));
        let (is_packed, contents) = packed.or_else(|| behind_kind.strip_prefix('=').map(|plain| (false, plain)))?;
        let is_wanted = !is_one_form || *form.get_or_insert(is_packed) == is_packed;
        is_wanted.then_some(Tag { whole, is_packed, contents })
    })
}

const NOT_HEX: &str = "it is not hex";
const NOT_ZLIB: &str = "it is not a whole zlib stream";
const NOT_TEXT: &str = "it is not UTF-8";
const NOT_JSON: &str = "it is not the JSON that go-micro writes";
const TOO_LONG: &str = "it is longer than a mebibyte";
const TOO_LARGE: &str = "it holds more than 256 KiB";
const TOO_MANY_ENDPOINTS: &str = "the instance has more than 1000";
const TOO_MUCH_METADATA: &str = "the instance has more than 1000 pairs or 512 KiB";
const TOO_MANY_VALUES: &str = "it holds too many values";
const TOO_DEEP: &str = "its values lie too deep in each other";
const TOO_MUCH: &str = "the answer's tags hold too much together";

fn complaint(what: &str, reason: &str) -> String {
    format!("a tag of {what} is left out: {reason}")
}

/// The text of a tag whose JSON, not parsed yet, holds no more than `values_max` values.
fn json(tag: Tag<'_>, values_max: usize, left: &mut Left) -> std::result::Result<Vec<u8>, &'static str> {
    let text = text(tag, left)?;
    let size = JsonSize::of(&text);
    let values_left = left.values.checked_sub(size.values);
    match () {
        () if size.values > values_max => Err(TOO_MANY_VALUES),
        () if size.depth > ENDPOINT_DEPTH_MAX => Err(TOO_DEEP),
        () => {
            left.values = values_left.ok_or(TOO_MUCH)?;
            Ok(text)
        }
    }
}

fn text(tag: Tag<'_>, left: &mut Left) -> std::result::Result<Vec<u8>, &'static str> {
    if tag.contents.len() > TAG_BYTES_MAX {
        return Err(TOO_LONG);
    }
    // Whatever becomes of it: what was unpacked is taken off, and no more is unpacked than is left.
    let limit = UNPACKED_BYTES_MAX.min(left.bytes) + 1;
    let (bytes, is_whole) = match tag.is_packed {
        true => unpacked(tag.contents, limit)?,
        false => (tag.contents.as_bytes().to_vec(), true),
    };
    let bytes_left = left.bytes.checked_sub(bytes.len());
    left.bytes = bytes_left.unwrap_or(0);
    match () {
        () if bytes.len() > UNPACKED_BYTES_MAX => Err(TOO_LARGE),
        () if bytes_left.is_none() => Err(TOO_MUCH),
        () if !is_whole => Err(NOT_ZLIB),
        () => Ok(bytes),
    }
}

/// At most `limit` bytes, and whether the stream is a whole one as far as that.
fn unpacked(hex: &str, limit: usize) -> std::result::Result<(Vec<u8>, bool), &'static str> {
    let packed = hex::decode(hex).map_err(|_| NOT_HEX)?;
    let mut bytes = Vec::new();
    let read = ZlibDecoder::new(&*packed).take(limit as u64).read_to_end(&mut bytes);
    Ok((bytes, read.is_ok()))
}

fn packed_json(kind: char, value: &impl Serialize) -> String {
    packed(kind, &serde_json::to_vec(value).expect("text and lists of text are JSON"))
}

fn packed(kind: char, text: &[u8]) -> String {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).expect("a vector takes any bytes");
    let packed = encoder.finish().expect("a vector takes any bytes");
    format!("{kind}-{}", hex::encode(packed))
}

#[cfg(test)]
mod tests {
    use micro_core::registry::EndpointValue;

    use super::*;

    fn read(tags: &[&str]) -> Tags {
        let tags: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
        decode(&tags, true, &mut Left::default())
    }

    fn packed_text(kind: char, text: &str) -> String {
        packed(kind, text.as_bytes())
    }

    #[test]
    fn versions_as_the_plugins_own_tests_have_them_are_read() {
        for (tag, version) in
            [("v-789c32d433d03300040000ffff02ce00ee", "1.0.0"), ("v-789cca492c492d2e01040000ffff08cc028e", "latest")]
        {
            assert_eq!(read(&[tag]).version, version);
            assert_eq!(read(&[&packed_text('v', version)]).version, version);
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let hello = EndpointValue::new("Hello", "Hello").with_values([EndpointValue::new("name", "string")]);
        let instance = Instance::new("greeter", "a:1")
            .with_version("")
            .with_metadata("zone", "östlich 1")
            .with_metadata("", "")
            .with_endpoints([Endpoint::new("Greeter.Hello").with_request(hello), Endpoint::new("Greeter.Bye")]);
        let found = decode(&encode(&instance), true, &mut Left::default());
        let expected = Tags {
            version: String::new(),
            metadata: Some(instance.metadata.clone()),
            endpoints: instance.endpoints.to_vec(),
            complaints: Vec::new(),
        };
        assert_eq!(found, expected);
    }

    /// However many there are: together they make no more work than what may be held.
    #[test]
    fn what_was_unpacked_in_vain_is_taken_off_as_well() {
        let bomb = packed_text('e', &"x".repeat(2 * UNPACKED_BYTES_MAX));
        let tags: Vec<String> = std::iter::repeat_n(bomb, 10).collect();
        let mut left = Left { bytes: 3 * (UNPACKED_BYTES_MAX + 1) + 10, ..Left::default() };
        let found = decode(&tags, true, &mut left);
        assert_eq!(found.complaints, [TOO_LARGE, TOO_MUCH].map(|reason| complaint("an endpoint", reason)));
        assert_eq!(left.bytes, 0);
    }

    #[test]
    fn an_instance_that_nobody_could_read_again_is_refused() {
        let instance = Instance::new("greeter", "a:1");
        check(&instance.clone().with_metadata("a", "x".repeat(200_000))).unwrap();
        let error = check(&instance.with_metadata("a", "x".repeat(300_000))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.report().contains("metadata") && error.report().contains(TOO_LARGE), "{error:?}");
    }

    #[test]
    fn of_metadata_and_endpoints_the_form_that_comes_first_counts_and_of_the_version_the_first_tag() {
        let [old, new] = [r#"t={"a":"old"}"#.to_owned(), packed_text('t', r#"{"a":"new","b":"new"}"#)];
        let metadata = |tags: &[&str]| read(tags).metadata.unwrap();
        assert_eq!(metadata(&[&old, &new]), BTreeMap::from([("a".to_owned(), "old".to_owned())]));
        assert_eq!(metadata(&[&new, &old])["a"], "new");

        let [old, new] = [r#"e={"name":"old"}"#.to_owned(), packed_text('e', r#"{"name":"new"}"#)];
        assert_eq!(read(&[&old, &new]).endpoints, [Endpoint::new("old")]);
        assert_eq!(read(&[&new, &old]).endpoints, [Endpoint::new("new")]);

        assert_eq!(read(&["v=1", &packed_text('v', "2")]).version, "1");
        assert_eq!(read(&[&packed_text('v', "2"), "v=1"]).version, "2");
    }

    #[test]
    fn what_is_not_go_micros_is_passed_over_without_a_word() {
        let strange = ["", "t", "e", "v", "vip", "eu-west", "türkis", "ö", "e:1", "urlprefix-/", "version=8", "T-00"];
        assert_eq!(read(&strange), Tags::default());
        let mixed = read(&["eu-west", "t", r#"e={"name":"a"}"#]);
        assert_eq!(mixed.endpoints, [Endpoint::new("a")], "go-micro would take `u` for the form");
    }

    #[test]
    fn what_cannot_be_read_is_left_out_with_its_reason_and_the_rest_is_read() {
        let whole = packed_text('t', r#"{"a":"1"}"#);
        let cut = &whole[..whole.len() - 20];
        let bomb = packed('e', &vec![b' '; UNPACKED_BYTES_MAX + 1]);
        for (tag, reason) in [
            (cut, NOT_ZLIB),
            ("t-", NOT_ZLIB),
            ("t-789c", NOT_ZLIB),
            ("t-xyz", NOT_HEX),
            ("t-789", NOT_HEX),
            ("t-öö", NOT_HEX),
            (&packed_text('t', r#"{"a":1}"#), NOT_JSON),
            (&packed_text('t', "[]"), NOT_JSON),
            (&packed('v', b"\xff"), NOT_TEXT),
            (&bomb, TOO_LARGE),
            (&format!("e={}", " ".repeat(UNPACKED_BYTES_MAX + 1)), TOO_LARGE),
            (&format!("v-{}", "0".repeat(TAG_BYTES_MAX + 2)), TOO_LONG),
        ] {
            let found = read(&[tag, r#"e={"name":"a"}"#, r#"e-"#, &whole]);
            let shown = &tag[..tag.len().min(40)];
            assert!(found.complaints.iter().any(|complaint| complaint.ends_with(reason)), "{shown}: {found:?}");
            if tag.starts_with("t-") {
                assert_eq!((found.metadata.unwrap()["a"].as_str(), found.endpoints.len()), ("1", 1), "{shown}");
            }
        }
    }

    /// Ten megabytes of such a tag would unpack to ten gigabytes.
    #[test]
    fn a_tag_that_unpacks_to_a_thousand_times_its_size_costs_no_more_than_the_limit() {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        for _ in 0..16 {
            encoder.write_all(&vec![0; 1 << 20]).unwrap();
        }
        let bomb = hex::encode(encoder.finish().unwrap());
        assert!(bomb.len() < TAG_BYTES_MAX, "{}", bomb.len());
        assert_eq!(unpacked(&bomb, UNPACKED_BYTES_MAX + 1).unwrap().0.len(), UNPACKED_BYTES_MAX + 1);
        assert_eq!(read(&[&format!("v-{bomb}")]).version, "");
        let ten_megabytes = format!("v-{}", bomb.repeat((10 << 20) / bomb.len() + 1));
        assert_eq!(read(&[&ten_megabytes]).complaints, [complaint("the version", TOO_LONG)]);
    }

    #[test]
    fn the_tags_of_an_answer_hold_only_so_much_together() {
        let tags = vec![packed_text('e', &format!(r#"{{"name":"{}"}}"#, "a".repeat(1000))); 10];
        let mut left = Left { bytes: 5_100, ..Left::default() };
        let found = decode(&tags, true, &mut left);
        assert_eq!((found.endpoints.len(), found.complaints.len()), (5, 1));
        assert_eq!(found.complaints[0], complaint("an endpoint", TOO_MUCH));
        assert!(left.bytes < 1_000);

        let found = decode(&tags, true, &mut Left { values: 11, ..Left::default() });
        assert_eq!((found.endpoints.len(), found.complaints), (5, vec![complaint("an endpoint", TOO_MUCH)]));
    }

    #[test]
    fn endpoints_without_end_leave_the_metadata_and_the_version_of_the_next_instance() {
        let bomb = packed_text('e', &"x".repeat(UNPACKED_BYTES_MAX));
        let mut left = Left { bytes: UNPACKED_BYTES_MAX, ..Left::default() };
        decode(&[bomb], true, &mut left);
        assert_eq!(left.bytes, 0);
        let next = [packed_text('t', r#"{"protocol":"mucp"}"#), packed_text('v', "7"), packed_text('e', "{}")];
        let found = decode(&next, true, &mut left);
        assert_eq!((found.metadata.unwrap()["protocol"].as_str(), found.version.as_str()), ("mucp", "7"));
        assert_eq!(found.complaints, [complaint("an endpoint", TOO_MUCH)]);
    }

    #[test]
    fn null_is_what_it_is_in_go() {
        let found = read(&[r#"t={"a":null}"#, "t=null", r#"e={"name":"a","request":{"values":[null]}}"#, "e=null"]);
        assert_eq!(found.metadata, Some(BTreeMap::from([("a".to_owned(), String::new())])));
        let request = EndpointValue::default().with_values([EndpointValue::default()]);
        assert_eq!(found.endpoints, [Endpoint::new("a").with_request(request), Endpoint::default()]);
        assert_eq!(found.complaints, [] as [String; 0]);
    }

    #[test]
    fn what_is_above_a_limit_is_left_out_with_one_complaint_and_the_rest_is_read() {
        let many: Vec<String> = (0..ENDPOINTS_MAX + 2).map(|n| format!(r#"e={{"name":"{n}"}}"#)).collect();
        let found = decode(&many, true, &mut Left::default());
        assert_eq!(found.endpoints.len(), ENDPOINTS_MAX);
        assert_eq!(found.complaints, [complaint("an endpoint", TOO_MANY_ENDPOINTS)]);

        let [wide, wider, deep] = [
            format!(r#"e={{"request":{{"values":[{}null]}}}}"#, "null,".repeat(50_000)),
            format!(r#"e={{"request":{{"values":[{}{{}}]}}}}"#, "{},".repeat(80_000)),
            format!(r#"e={{"request":{}{}}}"#, r#"{"values":["#.repeat(40), "]}".repeat(40)),
        ];
        assert_eq!(read(&[&wide]).endpoints[0].request.as_ref().unwrap().values.len(), 50_001);
        let found = read(&[&wider, &deep, r#"e={"name":"a"}"#]);
        assert_eq!(found.endpoints, [Endpoint::new("a")]);
        assert_eq!(found.complaints, [TOO_MANY_VALUES, TOO_DEEP].map(|reason| complaint("an endpoint", reason)));

        let pairs = |from: usize| (from..from + 600).map(|n| format!(r#""{n}":"""#)).collect::<Vec<_>>().join(",");
        let found = read(&[&format!("t={{{}}}", pairs(0)), &format!("t={{{}}}", pairs(600)), r#"t={"5":"again"}"#]);
        let metadata = found.metadata.unwrap();
        assert_eq!((metadata.len(), &*metadata["5"]), (METADATA_COUNT_MAX, "again"));
        assert_eq!(found.complaints, [complaint("metadata", TOO_MUCH_METADATA)]);
        let long = |name: &str| format!(r#"t={{"{name}":"{}"}}"#, "x".repeat(200_000));
        let found = read(&[&long("a"), &long("b"), &long("c"), r#"t={"d":"1"}"#]);
        assert_eq!(found.metadata.unwrap().into_keys().collect::<String>(), "abd");
        assert_eq!(found.complaints, [complaint("metadata", TOO_MUCH_METADATA)]);
    }
}
