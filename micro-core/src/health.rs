//! Health: what each part says of itself, and the sum.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;

/// Whether a part can do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthStatus {
    /// It can.
    Serving,
    /// It serves its callers, but what it hands on waits (events, while the broker is away); the
    /// text says why, without secrets.
    Degraded(String),
    /// It cannot now; the text says why, without secrets.
    NotServing(String),
}

/// The health of an application's parts, by name. Cheap to clone; clones share it.
///
/// An application is ready when no part is [`HealthStatus::NotServing`]: one that is degraded keeps
/// its place among those that are called.
///
/// # Examples
///
/// ```
/// use micro_core::{Health, HealthStatus};
///
/// let health = Health::new();
/// assert!(health.is_serving());
/// health.set("database", HealthStatus::NotServing("no connection".into()));
/// assert!(!health.is_serving());
/// health.set("database", HealthStatus::Serving);
/// health.set("relay", HealthStatus::Degraded("no broker".into()));
/// assert!(health.is_serving());
/// ```
#[derive(Clone, Debug)]
pub struct Health {
    parts: Arc<watch::Sender<BTreeMap<String, HealthStatus>>>,
}

impl Default for Health {
    fn default() -> Self {
        Self { parts: Arc::new(watch::Sender::new(BTreeMap::new())) }
    }
}

impl Health {
    /// No part: serving.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what a part says; watchers wake only when it changed.
    pub fn set(&self, part: &str, status: HealthStatus) {
        self.parts.send_if_modified(|parts| parts.insert(part.to_owned(), status.clone()).as_ref() != Some(&status));
    }

    /// Forgets a part.
    pub fn remove(&self, part: &str) {
        self.parts.send_if_modified(|parts| parts.remove(part).is_some());
    }

    /// What the parts say.
    pub fn parts(&self) -> BTreeMap<String, HealthStatus> {
        self.parts.borrow().clone()
    }

    /// Whether every part is serving, be it degraded.
    pub fn is_serving(&self) -> bool {
        !self.parts.borrow().values().any(|status| matches!(status, HealthStatus::NotServing(_)))
    }

    /// Wakes at every change of a part.
    pub fn watch(&self) -> watch::Receiver<BTreeMap<String, HealthStatus>> {
        self.parts.subscribe()
    }
}
