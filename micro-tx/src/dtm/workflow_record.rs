//! What is recorded of a workflow's branch: what it was, and what it gave.

use bytes::Bytes;
use reqwest::Url;

use super::WorkflowStep;

/// How a record begins that was made here.
const MARK: &[u8] = b"micro:";
/// How much of a label is kept: what a branch gave has the rest of the column.
pub(super) const LABEL_CHARS_MAX: usize = 200;
pub(super) const SUCCEEDED: &str = "succeed";
pub(super) const FAILED: &str = "failed";

/// What a branch does, by which a run that resumes knows it again: the workflow's name, and the method
/// that is called, without the host, which may be another one by then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Label(String);

impl Label {
    /// That of a call.
    pub(super) fn of_call(workflow: &str, url: &str) -> Self {
        let is_http = url.starts_with("http://") || url.starts_with("https://");
        let method = match Url::parse(url) {
            // In JSON-RPC all methods of a service are at one path.
            Ok(url) if is_http => match url.query_pairs().find(|(name, _)| name == "method") {
                Some((_, method)) => format!("{}?method={method}", url.path()),
                None => url.path().to_owned(),
            },
            _ => url.split_once('/').map_or(url, |(_, method)| method).to_owned(),
        };
        Self::new(workflow, &format!("call {method}"))
    }

    /// That of work of the process's own.
    pub(super) fn new(workflow: &str, work: &str) -> Self {
        let text = format!("{workflow}: {work}");
        Self(text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LABEL_CHARS_MAX).collect())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// What DTM is to keep: the mark, the label, a line break, what the branch gave. A text where that is
    /// one.
    pub(super) fn record(&self, data: &[u8]) -> Bytes {
        [MARK, self.0.as_bytes(), b"\n", data].concat().into()
    }
}

/// What was recorded of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// `None` for what another client recorded, and for what ends a branch.
    pub(super) label: Option<Label>,
    pub(super) is_failure: bool,
    /// What it gave, or the text of its refusal.
    pub(super) data: Bytes,
}

impl From<&WorkflowStep> for Record {
    fn from(step: &WorkflowStep) -> Self {
        let (label, data) = match labelled(&step.data) {
            Some((label, length)) => (Some(Label(label)), step.data.slice(length..)),
            None => (None, step.data.clone()),
        };
        Self { label, is_failure: step.status == FAILED, data }
    }
}

/// The label, and where what follows it begins.
fn labelled(data: &[u8]) -> Option<(String, usize)> {
    let rest = data.strip_prefix(MARK)?;
    let length = rest.iter().position(|byte| *byte == b'\n')?;
    let label = std::str::from_utf8(&rest[..length]).ok()?;
    Some((label.to_owned(), MARK.len() + length + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(data: Bytes) -> Record {
        Record::from(&WorkflowStep::new("01".to_owned(), "action".to_owned(), SUCCEEDED.to_owned(), data))
    }

    #[test]
    fn a_record_is_read_as_it_was_made() {
        let label = Label::new("pay", "tx");
        for data in [&b""[..], b"one row", b"a\nb\n", b"\xff\x00\n", b"micro:pay: tx\n"] {
            let record = read(label.record(data));
            assert_eq!((record.label.as_ref(), &record.data[..]), (Some(&label), data));
        }
    }

    #[test]
    fn what_another_client_recorded_is_taken_as_it_is() {
        for data in [&b""[..], b"moved", b"a\nb", b"micro:", b"micro:no line", b"micro:\xff\n"] {
            let record = read(Bytes::copy_from_slice(data));
            assert_eq!((record.label, &record.data[..]), (None, data));
        }
    }

    #[test]
    fn a_call_is_known_by_its_method_whatever_the_host() {
        for (url, expected) in [
            ("10.0.0.1:9000/shop.Product/Deduct", "pay: call shop.Product/Deduct"),
            ("product.shop:9000/shop.Product/Deduct", "pay: call shop.Product/Deduct"),
            ("http://h:1/api/deduct?sku=7", "pay: call /api/deduct"),
            ("https://h/api/deduct", "pay: call /api/deduct"),
            ("http://h/rpc?method=Deduct&v=2", "pay: call /rpc?method=Deduct"),
            ("nowhere", "pay: call nowhere"),
        ] {
            assert_eq!(Label::of_call("pay", url).as_str(), expected);
        }
        let long = Label::new("p\nq", &"é".repeat(300));
        assert!(long.as_str().starts_with("p q: é") && long.as_str().chars().count() == LABEL_CHARS_MAX);
    }
}
