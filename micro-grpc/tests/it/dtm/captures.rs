//! What DTM 1.19 and its branches said to each other, frame by frame, as it was recorded.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::Value;

use crate::go_micro::raw::{Answer, exchange};

/// One recorded call of a branch.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    data: Vec<Vec<u8>>,
    pub(crate) answer: Recording,
}

/// Head and trailers together, for none of them says the same twice.
#[derive(Debug, Default)]
pub(crate) struct Recording {
    headers: Vec<(String, String)>,
    pub(crate) data: Vec<u8>,
}

impl Recording {
    pub(crate) fn header(&self, name: &str) -> &str {
        value(&self.headers, name)
    }
}

impl Recorded {
    pub(crate) fn header(&self, name: &str) -> &str {
        value(&self.headers, name)
    }

    /// The code and the text that the recorded branch answered.
    pub(crate) fn answered(&self) -> (i32, String) {
        let text = self.answer.header("grpc-message").replace("%20", " ");
        (self.answer.header("grpc-status").parse().unwrap(), text)
    }

    /// Sends the same to another server.
    pub(crate) async fn replay(&self, address: &str) -> Answer {
        let headers: Vec<_> = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        exchange(address, &self.path, &headers, &self.data, true).await
    }
}

/// The calls of branches that a capture has, in the order in which they came, whole ones alone.
pub(crate) fn read(name: &str) -> Vec<Recorded> {
    let mut calls: BTreeMap<(String, u64), Recorded> = BTreeMap::new();
    let mut order = Vec::new();
    for frame in lines(name) {
        let (Some(link), Some(stream)) = (frame["link"].as_str(), frame["stream"].as_u64()) else { continue };
        if !link.starts_with("->") {
            continue;
        }
        let id = (link.to_owned(), stream);
        if !calls.contains_key(&id) {
            order.push(id.clone());
        }
        let call = calls.entry(id).or_default();
        let is_of_caller = frame["dir"] == ">";
        let bytes = frame["hex"].as_str().map(|hex| hex::decode(hex).unwrap()).unwrap_or_default();
        let pairs = frame["headers"].as_array().into_iter().flatten();
        let headers = pairs.map(|pair| [0, 1].map(|index| pair[index].as_str().unwrap().to_owned()));
        for [name, value] in headers {
            match (is_of_caller, name.as_str()) {
                (true, ":path") => call.path = value,
                (_, name) if name.starts_with(':') => {}
                (true, _) => call.headers.push((name, value)),
                (false, _) => call.answer.headers.push((name, value)),
            }
        }
        match (frame["kind"] == "data", is_of_caller) {
            (true, true) => call.data.push(bytes),
            (true, false) => call.answer.data.extend(bytes),
            (false, _) => {}
        }
    }
    let whole = |call: &Recorded| !call.path.is_empty() && !call.answer.header("grpc-status").is_empty();
    let calls: Vec<_> = order.iter().map(|id| calls.remove(id).unwrap()).filter(whole).collect();
    assert!(!calls.is_empty(), "{name}");
    calls
}

/// The notes that the recorder made.
pub(crate) fn notes(name: &str) -> Vec<String> {
    lines(name).filter_map(|line| Some(line["text"].as_str()?.to_owned())).collect()
}

fn lines(name: &str) -> impl Iterator<Item = Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/dtm").join(name);
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<_>>().into_iter()
}

fn value<'a>(headers: &'a [(String, String)], name: &str) -> &'a str {
    headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
}
