//! What was said of registrations that cannot be read, so that it is said once.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

/// How many complaints are remembered. Who registers more than that is heard of no further.
const COUNT_MAX: usize = 1_000;

/// Clones share what was said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Complaints {
    said: Arc<Mutex<HashSet<(String, String)>>>,
}

/// What of a registration cannot be read, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Complaint {
    /// The id that it is registered by.
    pub id: String,
    /// What is left out, and why.
    pub reason: String,
}

impl Complaints {
    /// Logs those that are new. A watch sees the same registrations again and again.
    pub(crate) fn say(&self, complaints: Vec<Complaint>) {
        if complaints.is_empty() {
            return;
        }
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        for Complaint { id, reason } in complaints {
            if said.len() < COUNT_MAX && said.insert((id.clone(), reason.clone())) {
                // By debug formatting: another program chose the id, a line's end may be in it.
                tracing::warn!(instance = ?id, reason, "a registration in Consul cannot be read as a whole");
            }
        }
    }
}
