//! Asks the cluster how large a batch each topic takes.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use rdkafka::{
    admin::{AdminClient, AdminOptions, OwnedResourceSpecifier, ResourceSpecifier},
    client::DefaultClientContext,
    config::FromClientConfig as _,
};

use crate::{producer::Shared, topics::Topic};

/// How long the first messages of a topic wait for the answer. They go out without it after that.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(2);

/// The topics that are to be asked for; `None` while no thread does so.
#[derive(Default)]
pub(crate) struct Limits {
    pending: Mutex<Option<Vec<Arc<Topic>>>>,
    /// Those that the cluster is being asked for.
    asked: Mutex<Vec<Arc<Topic>>>,
}

impl Limits {
    /// Has the limit of a topic asked for, in the background; [`Shared::answered`] takes it. `false`
    /// when no thread can be started for that.
    pub(crate) fn ask(&self, shared: &Arc<Shared>, topic: &Arc<Topic>) -> bool {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pending) = &mut *pending {
            pending.push(topic.clone());
            return true;
        }
        let asking = Asking(shared.clone());
        let thread = thread::Builder::new().name("kafka-limits".to_owned());
        let is_started = thread.spawn(move || answer(&asking.0)).is_ok();
        *pending = is_started.then(|| vec![topic.clone()]);
        is_started
    }

    /// What was asked for meanwhile; without any, the next question starts a thread.
    fn take(&self) -> Vec<Arc<Topic>> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *pending {
            Some(topics) if !topics.is_empty() => std::mem::take(topics),
            _ => {
                *pending = None;
                Vec::new()
            }
        }
    }
}

/// The end of the thread, a panic of the driver's as well: whoever waits then goes on without an
/// answer, and the next question starts a thread.
struct Asking(Arc<Shared>);

impl Drop for Asking {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let limits = self.0.limits();
        let waiting = limits.asked.lock().unwrap_or_else(PoisonError::into_inner).split_off(0);
        let pending = limits.pending.lock().unwrap_or_else(PoisonError::into_inner).take();
        for topic in waiting.into_iter().chain(pending.unwrap_or_default()) {
            self.0.answered(&topic, None);
        }
    }
}

fn answer(shared: &Arc<Shared>) {
    // A client of its own: a producer's has no such questions.
    // Without an answer topics go on as before, so what fails here is only told.
    let untold =
        |error: &dyn std::fmt::Display| tracing::debug!(%error, "no topic's max.message.bytes can be asked for");
    let admin = AdminClient::from_config(&shared.config().client()).inspect_err(|error| untold(error)).ok();
    let runtime = tokio::runtime::Builder::new_current_thread().build().inspect_err(|error| untold(error)).ok();
    loop {
        let topics = shared.limits().take();
        if topics.is_empty() {
            return;
        }
        shared.limits().asked.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&topics);
        let mut limits = match (&admin, &runtime) {
            (Some(admin), Some(runtime)) => runtime.block_on(limits_of(admin, &topics)),
            _ => Vec::new(),
        };
        shared.limits().asked.lock().unwrap_or_else(PoisonError::into_inner).clear();
        for topic in topics {
            let found = limits.iter().position(|(name, _)| *name == *topic.name);
            let limit = found.map(|index| limits.swap_remove(index).1);
            if limit.is_none() {
                tracing::debug!(
                    topic = &*topic.name,
                    "the topic's max.message.bytes is unknown: is the client allowed to describe its configuration?"
                );
            }
            shared.answered(&topic, limit);
        }
    }
}

async fn limits_of(admin: &AdminClient<DefaultClientContext>, topics: &[Arc<Topic>]) -> Vec<(String, u32)> {
    let resources: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(&topic.name)).collect();
    let options = AdminOptions::new().request_timeout(Some(ANSWER_WAIT_MAX));
    let answers = admin.describe_configs(&resources, &options).await.unwrap_or_default();
    answers
        .into_iter()
        .flatten()
        .filter_map(|resource| {
            let limit = resource.get("max.message.bytes")?.value.as_ref()?.parse().ok()?;
            match resource.specifier {
                OwnedResourceSpecifier::Topic(name) => Some((name, limit)),
                _ => None,
            }
        })
        .collect()
}
