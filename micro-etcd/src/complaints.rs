//! What was said of values that cannot be read, so that it is said once.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

/// How many complaints are remembered. Who writes more than that is heard of no further.
const COUNT_MAX: usize = 1_000;

/// How much of a key or a reason, which others chose, is told.
const SHOWN_CHARS: usize = 300;

/// Clones share what was said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Complaints {
    said: Arc<Mutex<HashSet<(String, String)>>>,
}

impl Complaints {
    /// Logs those of a key that are new. A watch sees the same keys again and again.
    pub(crate) fn say(&self, key: &[u8], reasons: Vec<String>) {
        let shown = |text: &str| text.chars().take(SHOWN_CHARS).collect::<String>();
        for reason in reasons {
            let (key, reason) = (shown(&String::from_utf8_lossy(key)), shown(&reason));
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            if said.len() < COUNT_MAX && said.insert((key.clone(), reason.clone())) {
                // By debug formatting: a line's end may be in what another program wrote.
                tracing::warn!(?key, ?reason, "a value in etcd cannot be read as a whole");
            }
        }
    }
}
