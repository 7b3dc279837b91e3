//! What travels beside a call or an event: names and values, and the deadline.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Names and values that travel beside a call, and the point in time by which it must be answered.
///
/// Names are case-insensitive and kept in lower case, as HTTP/2 delivers them.
///
/// # Examples
///
/// ```
/// use micro_core::Metadata;
///
/// let mut metadata = Metadata::new();
/// metadata.insert("X-Region", "cn-east");
/// assert_eq!(metadata.get("x-region"), Some("cn-east"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    entries: BTreeMap<String, String>,
    deadline: Option<Instant>,
}

impl Metadata {
    /// No entry, no deadline.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of `name`, in any case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.entries.get(&name.to_ascii_lowercase()).map(String::as_str)
    }

    /// Sets `name` to `value` and returns what stood there.
    pub fn insert(&mut self, name: &str, value: impl Into<String>) -> Option<String> {
        self.entries.insert(name.to_ascii_lowercase(), value.into())
    }

    /// Removes `name` and returns its value.
    pub fn remove(&mut self, name: &str) -> Option<String> {
        self.entries.remove(&name.to_ascii_lowercase())
    }

    /// Names and values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The point in time by which the call must be answered.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Sets the deadline; an earlier one stays, for a callee cannot extend its caller's patience.
    pub fn limit_deadline(&mut self, deadline: Instant) {
        self.deadline = Some(self.deadline.map_or(deadline, |earlier| earlier.min(deadline)));
    }

    /// The time left until the deadline, zero when it passed; `None` without a deadline.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_only_gets_earlier() {
        let now = Instant::now();
        let mut metadata = Metadata::new();
        metadata.limit_deadline(now + Duration::from_secs(1));
        metadata.limit_deadline(now + Duration::from_secs(5));
        assert_eq!(metadata.deadline(), Some(now + Duration::from_secs(1)));
    }
}
